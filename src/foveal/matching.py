"""Which anchor answers for which object (paper section 4), and which objects have an anchor at all.

An anchor is positive for the object it overlaps most if that IoU is at least .5, background if its best IoU is below
.4, ignored (counted in no loss) in between. What the paper leaves open is a setting: best anchors of objects without a
match, crowd regions, anchors on padding.

Letters: B images, N anchors of an image, G objects, P positive anchors, I ignored ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal import compiled_matching, grid_matching, triton_matching
from foveal.anchors import Anchors, centred_inside
from foveal.boxes import area, intersection, iou
from foveal.config import AssignmentConfig
from foveal.detections import Batch
from foveal.reach import cells_inside, level_boxes, nearest_centres, pieces, shift_of, strides_and_cells

BACKGROUND = -1
IGNORED = -2

_BOXES_AT_ONCE = 2**15
"""Boxes that `best_iou` looks at together: few enough for their numbers to stay in the cache."""


@dataclass(frozen=True)
class Match:
    """The anchors of a batch that are not background: `len(positive) == len(object)`, everything else is background.

    positive: [P] int64, ascending indices into the B x N anchors of the batch, image by image.
    object: [P] int64, the packed object of the batch that each of them answers for.
    ignored: [I] int64, ascending indices into the B x N anchors: they count in no loss.
    """

    positive: Tensor
    object: Tensor
    ignored: Tensor
    num_images: int
    num_anchors: int

    def positives_per_image(self) -> Tensor:
        """[B] int64: how many anchors each image assigns to objects."""
        # Not bincount: on a GPU it waits to learn how many bins it needs.
        edges = torch.arange(self.num_images + 1, device=self.positive.device) * self.num_anchors
        return torch.searchsorted(self.positive, edges).diff()


def match_image(
    anchors_N4: Tensor, boxes_G4: Tensor, crowd_G: Tensor, size: tuple[int, int] | None, config: AssignmentConfig
) -> Tensor:
    """[N] int64: the index of the object an anchor answers for, or BACKGROUND, or IGNORED.

    size: (height, width) of the picture inside its padding; None takes every anchor as inside.
    With the default thresholds an anchor whose best IoU is .5 is positive, .4 ignored, .3999 background. Ties go to the
    lower object. An object that no anchor touches matches nothing. Crowd regions are never answered for.
    """
    inside_N = None if size is None or config.padding == "background" else centred_inside(anchors_N4, size)
    labels_N = torch.full((len(anchors_N4),), BACKGROUND, dtype=torch.int64, device=anchors_N4.device)
    if len(boxes_G4):
        iou_GN = iou(boxes_G4, anchors_N4)
        iou_GN[crowd_G] = 0
        if inside_N is not None:
            iou_GN *= inside_N
        best_N = iou_GN.amax(0)
        positive = _positive(iou_GN, best_N, config).nonzero().squeeze(1)
        labels_N[best_N >= config.background_iou] = IGNORED
        labels_N[_in_crowd(anchors_N4, boxes_G4[crowd_G], config.crowd_overlap)] = IGNORED
        labels_N[positive] = iou_GN[:, positive].argmax(0)
    if inside_N is not None:
        labels_N[~inside_N] = IGNORED
    return labels_N


def match(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> Match:
    """Matches every picture of a batch as `match_image` does, on the batch's device.

    On a GPU with Triton every anchor asks all objects of its picture. Elsewhere the objects ask the anchors in reach,
    on a CPU by a compiled kernel where it is built.
    """
    if triton_matching.takes(batch.boxes):
        found = triton_matching.assign(anchors, batch, config)
    elif compiled_matching.takes(batch):
        found = compiled_matching.assign(anchors, batch, config)
    else:
        found = grid_matching.assign(anchors, batch, config)
    return Match(*found, len(batch), anchors.count(*batch.images.shape[-2:]))


def match_plainly(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> Match:
    """Matches every picture of a batch by `match_image`: what `match` is held to."""
    height, width = batch.images.shape[-2:]
    anchors_N4 = anchors.boxes(height, width, batch.boxes.device)
    counts = torch.bincount(batch.image_index, minlength=len(batch)).tolist()
    labels, first = [], 0
    for (h, w), count in zip(batch.sizes.tolist(), counts, strict=True):
        mine = slice(first, first + count)
        labels_N = match_image(anchors_N4, batch.boxes[mine], batch.crowd[mine], (h, w), config)
        labels.append(torch.where(labels_N >= 0, labels_N + first, labels_N))
        first += count
    flat = torch.cat(labels)
    positive = (flat >= 0).nonzero().squeeze(1)
    ignored = (flat == IGNORED).nonzero().squeeze(1)
    return Match(positive, flat[positive], ignored, len(batch), len(anchors_N4))


def best_iou(anchors: Anchors, boxes_G4: Tensor, shape: tuple[int, int] | Tensor) -> Tensor:
    """[G] float32: the best IoU that any anchor reaches with each box: which objects can be learned at all.

    shape: (height, width) of the network input, or [G, 2] with one for each box; boxes are in its pixels. Anchors
    centred outside it, in the last row or column of cells, do not count.
    Of the anchors of one size and ratio the one centred nearest to the box, in x and in y, overlaps it most, so L x A
    candidates decide, wherever the box lies: a million boxes cost a second and no G x N matrix.
    """
    shift, cell_boxes = shift_of(anchors), level_boxes(anchors).unbind()
    shape_G2 = torch.as_tensor(shape, device=boxes_G4.device).reshape(-1, 2).expand(len(boxes_G4), 2)
    best = [boxes_G4.new_zeros(0)]
    for some in pieces(len(boxes_G4), _BOXES_AT_ONCE):
        side_2G1 = shape_G2[some].flip(1).t()[..., None]
        stride_2GL, cells_2GL = strides_and_cells(anchors, side_2G1)
        inside_2GL = cells_inside(side_2G1, stride_2GL, cells_2GL, shift)
        cx_LG, cy_LG = nearest_centres(boxes_G4[some], stride_2GL, inside_2GL, shift).mT.contiguous()
        best.append(_best_at(boxes_G4[some], cx_LG, cy_LG, cell_boxes))
    return torch.cat(best)


def _best_at(boxes_G4: Tensor, cx_LG: Tensor, cy_LG: Tensor, cell_boxes: Sequence[Tensor]) -> Tensor:
    """[G]: the best IoU of each box with anchors centred there. `iou` of pairs, in columns, one shape at a time."""
    x1, y1, x2, y2 = boxes_G4.unbind(-1)
    area_G = area(boxes_G4)
    best = torch.zeros_like(area_G)
    for cx, cy, boxes_A4 in zip(cx_LG, cy_LG, cell_boxes, strict=True):
        for cell_box in boxes_A4:
            left, right = cx + cell_box[0], cx + cell_box[2]
            top, bottom = cy + cell_box[1], cy + cell_box[3]
            width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
            height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
            shared = width.mul_(height)
            best = torch.maximum(best, shared / (area_G + (right - left) * (bottom - top) - shared))
    return best


def _positive(iou_GN: Tensor, best_N: Tensor, config: AssignmentConfig) -> Tensor:
    """[N] bool: anchors that answer for an object."""
    positive_N = (best_N >= config.positive_iou) & (best_N > 0)
    if config.low_quality == "none":
        return positive_N
    # Equality with a row's maximum would hold all along the row of an object that no anchor touches: 0 becomes 2.
    best_G1 = iou_GN.amax(1, keepdim=True)
    best_of_object_N = (iou_GN == best_G1.masked_fill(best_G1 == 0, 2)).any(0)
    if config.low_quality == "authors":
        best_of_object_N &= best_N >= config.background_iou
    return positive_N | best_of_object_N


def _in_crowd(anchors_N4: Tensor, crowds_C4: Tensor, overlap: float) -> Tensor:
    """[N] bool: anchors with at least this share of their area inside one crowd region."""
    shared_CN = intersection(crowds_C4, anchors_N4)
    return ((shared_CN / area(anchors_N4) >= overlap) & (shared_CN > 0)).any(0)
