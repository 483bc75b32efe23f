"""Triton kernels of matching: `matching.match_image` with one anchor a thread, all objects of its picture in a loop.

`triton_matching.py` launches them. Each IoU is the expression of `boxes.iou`, operation by operation, each rounded on
its own: they are compiled without fused multiply-add and divide as IEEE 754 does, so the answers are equal to the last
bit. No matrix is written, no list of pairs is made, and nothing is read back.
"""

import triton
import triton.language as tl

_BACKGROUND = tl.constexpr(-1)
_IGNORED = tl.constexpr(-2)


@triton.jit
def best_kernel(anchors, boxes, crowd, starts, limits, best, num_anchors, BLOCK: tl.constexpr):
    """best[g] = the best IoU of object g with any anchor inside its picture, as the bits of a float32; from 0."""
    image = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = place < num_anchors
    x1, y1, x2, y2 = _box(anchors, place, exists)
    counted = exists & _inside(x1, y1, x2, y2, limits, image)
    for g in range(tl.load(starts + image), tl.load(starts + image + 1)):
        if tl.load(crowd + g) == 0:
            bx1, by1, bx2, by2 = _box(boxes, g, True)
            shared = _shared(x1, y1, x2, y2, bx1, by1, bx2, by2)
            iou = tl.where(counted, _iou(shared, _area(bx1, by1, bx2, by2), _area(x1, y1, x2, y2)), 0.0)
            # Floats from 0 up are ordered as their bits are, and the largest does not depend on who comes first.
            highest = tl.max(iou)
            if highest > 0:
                tl.atomic_max(best + g, highest.to(tl.int32, bitcast=True))


@triton.jit
def label_kernel(
    anchors,  # N x 4
    boxes,  # G x 4, picture by picture
    crowd,  # G
    starts,  # B + 1: where the objects of a picture start
    limits,  # B x 2: what the corners' sums of an anchor inside the picture stay below, in x and in y
    best,  # G, of `best_kernel`; not read where LOW_QUALITY is none
    labels,  # B x N, written: the object an anchor answers for, or -1 background, -2 ignored
    num_anchors,
    positive_iou,
    background_iou,
    crowd_overlap,
    LOW_QUALITY: tl.constexpr,
    PADDING_IGNORED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = place < num_anchors
    x1, y1, x2, y2 = _box(anchors, place, exists)
    area = _area(x1, y1, x2, y2)
    inside = _inside(x1, y1, x2, y2, limits, image)
    first, last = tl.load(starts + image), tl.load(starts + image + 1)

    highest = tl.zeros([BLOCK], tl.float32)
    nearest = tl.full([BLOCK], _BACKGROUND, tl.int32)
    is_best = tl.zeros([BLOCK], tl.int32)
    in_crowd = tl.zeros([BLOCK], tl.int32)
    for g in range(first, last):
        bx1, by1, bx2, by2 = _box(boxes, g, True)
        shared = _shared(x1, y1, x2, y2, bx1, by1, bx2, by2)
        if tl.load(crowd + g) == 0:
            iou = tl.where(inside, _iou(shared, _area(bx1, by1, bx2, by2), area), 0.0)
            # Only what is more replaces: ties stay with the lower object.
            nearest = tl.where(iou > highest, g, nearest)
            highest = tl.maximum(highest, iou)
            if LOW_QUALITY != "none":
                bits = tl.load(best + g)
                is_best = tl.where((iou.to(tl.int32, bitcast=True) == bits) & (bits > 0), 1, is_best)
        else:
            share = tl.div_rn(shared, tl.where(area > 0, area, 1.0))
            in_crowd = tl.where((share >= crowd_overlap) & (shared > 0), 1, in_crowd)

    answers = (highest >= positive_iou) & (highest > 0)
    if LOW_QUALITY == "authors":
        answers = answers | ((is_best == 1) & (highest >= background_iou))
    elif LOW_QUALITY == "all":
        answers = answers | (is_best == 1)
    undecided = (highest >= background_iou) & (last > first)
    label = tl.where(undecided | (in_crowd == 1), _IGNORED, _BACKGROUND)
    label = tl.where(answers, nearest, label)
    if PADDING_IGNORED:
        label = tl.where(inside, label, _IGNORED)
    tl.store(labels + image * num_anchors + place, label, mask=exists)


@triton.jit
def _box(boxes, place, exists):
    corner = boxes + place * 4
    return (
        tl.load(corner, mask=exists, other=0.0),
        tl.load(corner + 1, mask=exists, other=0.0),
        tl.load(corner + 2, mask=exists, other=0.0),
        tl.load(corner + 3, mask=exists, other=0.0),
    )


@triton.jit
def _inside(x1, y1, x2, y2, limits, image):
    """`anchors.centred_inside`."""
    return (x1 + x2 < tl.load(limits + image * 2)) & (y1 + y2 < tl.load(limits + image * 2 + 1))


@triton.jit
def _area(x1, y1, x2, y2):
    return tl.maximum(x2 - x1, 0.0) * tl.maximum(y2 - y1, 0.0)


@triton.jit
def _shared(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """`boxes.intersection`."""
    width = tl.maximum(tl.minimum(ax2, bx2) - tl.maximum(ax1, bx1), 0.0)
    height = tl.maximum(tl.minimum(ay2, by2) - tl.maximum(ay1, by1), 0.0)
    return width * height


@triton.jit
def _iou(shared, area, other_area):
    """`boxes.iou`; 0 where the union is 0."""
    union = (area + other_area) - shared
    return tl.div_rn(shared, tl.where(union > 0, union, 1.0))
