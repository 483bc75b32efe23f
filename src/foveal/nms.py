"""Non-maximum suppression: of boxes that show the same object, the one with the best score stays (paper section 4.1).

Greedy: take boxes from the best score down; a box stays unless one that stayed before overlaps it by MORE than the
threshold. Ties in score go to the lower index.

Letters: D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveal.boxes import iou as iou_of

_BLOCK = 256


def nms(boxes_D4: Tensor, scores_D: Tensor, iou: float) -> Tensor:
    """Indices (int64) of the boxes that stay, best score first.

    Of two boxes with IoU .6 the lower score goes at iou=.5; at iou=.6 both stay. Empty input gives no indices.
    """
    order = scores_D.argsort(descending=True, stable=True)
    kept = []
    # Block by block from the best: those that go are gone before the next block is compared with anything.
    while len(order):
        block, order = order[:_BLOCK], order[_BLOCK:]
        boxes = boxes_D4[block]
        survivors = _survivors(iou_of(boxes, boxes) > iou)
        kept.append(block[survivors])
        if len(order):
            order = order[~(iou_of(boxes[survivors], boxes_D4[order]) > iou).any(0)]
    return torch.cat(kept) if kept else order


def batched_nms(boxes_D4: Tensor, scores_D: Tensor, labels_D: Tensor, iou: float) -> Tensor:
    """Indices (int64) of the boxes that stay when only boxes of one class compete, best score first."""
    kept = [torch.zeros(0, dtype=torch.int64, device=boxes_D4.device)]
    for label in labels_D.unique():
        mine = (labels_D == label).nonzero().squeeze(1)
        kept.append(mine[nms(boxes_D4[mine], scores_D[mine], iou)])
    merged = torch.cat(kept).sort().values
    return merged[scores_D[merged].argsort(descending=True, stable=True)]


def _survivors(overlaps_DD: Tensor) -> Tensor:
    """[D] bool for boxes sorted from the best: which stay.

    "A box stays if no better one that stays overlaps it" has one solution, which repeated application reaches in as
    many rounds as the longest chain of boxes that displace one another: a few, where a loop would take D steps.
    """
    better_DD = overlaps_DD.triu(1)
    stay = torch.ones(len(better_DD), dtype=torch.bool, device=better_DD.device)
    while True:
        settled = ~(better_DD & stay[:, None]).any(0)
        if torch.equal(settled, stay):
            return stay
        stay = settled
