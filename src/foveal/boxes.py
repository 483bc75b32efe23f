"""Box algebra: area, overlap, offsets, and the moves that pictures make.

Boxes are xyxy pixels, float32, half-open: the width is x2 - x1. Every function takes and returns tensors of any leading
shape that is named in its docstring, on any device; nothing here looks at a value on the host.

Letters: M, N boxes, P pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""Largest dw, dh that `decode` believes; exp of a wild prediction would overflow."""


def area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...] square pixels; 0 for a box that is inverted or has no width."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def intersection(a_M4: Tensor, b_N4: Tensor) -> Tensor:
    """[..., M, N] square pixels that each box of `a` [..., M, 4] shares with each of `b` [..., N, 4]."""
    # Columns, not corner pairs: operands of [M, N] without a short last axis are several times faster on a CPU.
    ax1, ay1, ax2, ay2 = a_M4[..., :, None, :].unbind(-1)
    bx1, by1, bx2, by2 = b_N4[..., None, :, :].unbind(-1)
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)


def iou(a_M4: Tensor, b_N4: Tensor) -> Tensor:
    """[..., M, N] intersection over union in 0 .. 1; 0 where the union is 0. Leading dimensions are batches.

    The one expression that matching, decoding and their fast paths share, so that they agree to the last bit:
    separate float32 operations, no fused multiply-add.
    """
    shared = intersection(a_M4, b_N4)
    return _ratio(shared, (area(a_M4)[..., :, None] + area(b_N4)[..., None, :]).sub_(shared))


def paired_iou(a_P4: Tensor, b_P4: Tensor) -> Tensor:
    """[P] intersection over union of each pair, in 0 .. 1."""
    return iou(a_P4[:, None], b_P4[:, None]).reshape(-1)


def giou(a_P4: Tensor, b_P4: Tensor) -> Tensor:
    """[P] generalised IoU of each pair, in -1 .. 1: IoU less the share of the enclosing box that neither covers."""
    lower = torch.maximum(a_P4[..., :2], b_P4[..., :2])
    upper = torch.minimum(a_P4[..., 2:], b_P4[..., 2:])
    shared = (upper - lower).clamp(min=0).prod(-1)
    union = area(a_P4) + area(b_P4) - shared
    outer_lower = torch.minimum(a_P4[..., :2], b_P4[..., :2])
    outer_upper = torch.maximum(a_P4[..., 2:], b_P4[..., 2:])
    outer = (outer_upper - outer_lower).prod(-1)
    return _ratio(shared, union) - _ratio(outer - union, outer)


def encode(anchors_N4: Tensor, boxes_N4: Tensor) -> Tensor:
    """[N, 4] offsets (dx, dy, dw, dh) that lead from each anchor to its box (paper section 4; Faster R-CNN's form).

    dx, dy are shifts of the centre in sides of the anchor; dw, dh are logs of the ratio of the sides. Boxes have area.
    """
    ax, ay, aw, ah = _centre_and_sides(anchors_N4)
    bx, by, bw, bh = _centre_and_sides(boxes_N4)
    return torch.stack([(bx - ax) / aw, (by - ay) / ah, (bw / aw).log(), (bh / ah).log()], -1)


def decode(anchors_N4: Tensor, deltas_N4: Tensor) -> Tensor:
    """[N, 4] boxes that offsets lead to: the inverse of `encode` for dw, dh up to log(1000 / 16)."""
    ax, ay, aw, ah = _centre_and_sides(anchors_N4)
    dx, dy, dw, dh = deltas_N4.unbind(-1)
    x, y = dx * aw + ax, dy * ah + ay
    half_w = 0.5 * aw * dw.clamp(max=MAX_LOG_SCALE).exp()
    half_h = 0.5 * ah * dh.clamp(max=MAX_LOG_SCALE).exp()
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], -1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., 4] the part of each box inside a picture of (height, width); no area is left of a box outside it."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], -1)


def flip_horizontal(boxes: Tensor, width: float) -> Tensor:
    """[..., 4] boxes in the mirror image of a picture `width` pixels wide: x' = width - x."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], -1)


def flip_vertical(boxes: Tensor, height: float) -> Tensor:
    """[..., 4] boxes in the upside-down image of a picture `height` pixels high: y' = height - y."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1, height - y2, x2, height - y1], -1)


def quarter_turn(boxes: Tensor, size: tuple[int, int], turns: int) -> Tensor:
    """[..., 4] boxes after quarter turns, anticlockwise as numpy.rot90 turns them, of a picture of (height, width)."""
    height, width = size
    for _ in range(turns % 4):
        x1, y1, x2, y2 = boxes.unbind(-1)
        boxes = torch.stack([y1, width - x2, y2, width - x1], -1)
        height, width = width, height
    return boxes


def _centre_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where the whole is 0 (the part then is 0 too)."""
    return part / torch.where(whole > 0, whole, 1)
