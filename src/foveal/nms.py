"""Non-maximum suppression: of boxes that show the same object, the one with the best score stays (paper section 4.1).

Greedy: take boxes from the best score down; a box stays unless one that stayed before overlaps it by MORE than the
threshold. Ties in score go to the lower index.

Letters: D detections.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foveal import compiled
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
        stay = survivors(iou_of(boxes, boxes) > iou)
        kept.append(block[stay])
        if len(order):
            order = order[~(iou_of(boxes[stay], boxes_D4[order]) > iou).any(0)]
    return torch.cat(kept) if kept else order


def batched_nms(boxes_D4: Tensor, scores_D: Tensor, labels_D: Tensor, iou: float, limit: int | None = None) -> Tensor:
    """Indices (int64) of the boxes that stay when only boxes of one class compete, best score first.

    limit: how many are wanted at most. The best of them follow from the best boxes, so the others are not looked at.
    """
    kept = _by_kernel(boxes_D4, scores_D, labels_D, iou, limit)
    return batched_nms_plainly(boxes_D4, scores_D, labels_D, iou)[:limit] if kept is None else kept


def batched_nms_plainly(boxes_D4: Tensor, scores_D: Tensor, labels_D: Tensor, iou: float) -> Tensor:
    """`batched_nms` by `nms`, one class after the other: what the fast path is held to."""
    kept = [torch.zeros(0, dtype=torch.int64, device=boxes_D4.device)]
    for label in labels_D.unique():
        mine = (labels_D == label).nonzero().squeeze(1)
        kept.append(mine[nms(boxes_D4[mine], scores_D[mine], iou)])
    merged = torch.cat(kept).sort().values
    return merged[scores_D[merged].argsort(descending=True, stable=True)]


def survivors(overlaps_DD: Tensor, alive_D: Tensor | None = None) -> Tensor:
    """[..., D] bool for boxes sorted from the best: which stay. Leading dimensions are batches.

    overlaps_DD: [..., D, D], which boxes overlap too much. alive_D: [..., D], those that may stay; default all.
    "A box stays if no better one that stays overlaps it" has one solution, which repeated application reaches in as
    many rounds as the longest chain of boxes that displace one another: a few, where a loop would take D steps.
    """
    better_DD = overlaps_DD.triu(1)
    alive_D = better_DD.new_ones(better_DD.shape[:-1]) if alive_D is None else alive_D
    stay_D = alive_D
    while True:
        settled_D = alive_D & ~(better_DD & stay_D[..., :, None]).any(-2)
        if torch.equal(settled_D, stay_D):
            return stay_D
        stay_D = settled_D


def _by_kernel(boxes_D4: Tensor, scores_D: Tensor, labels_D: Tensor, iou: float, limit: int | None) -> Tensor | None:
    """By `csrc/nms.c`, on a CPU and in float32. None where it is not built, or may not have the plain path's answer.

    Its buffers have no shape, so what does not belong together goes to the plain path too, which refuses it.
    """
    of_its_types = boxes_D4.dtype == scores_D.dtype == torch.float32 and not labels_D.is_floating_point()
    belong_together = boxes_D4.shape == (len(scores_D), 4) and scores_D.shape == labels_D.shape
    if compiled.KERNELS is None or boxes_D4.device.type != "cpu" or not (of_its_types and belong_together):
        return None
    boxes, scores, labels = (part.detach().contiguous().numpy() for part in (boxes_D4, scores_D, labels_D.long()))
    kept = np.empty(len(scores) if limit is None else min(limit, len(scores)), dtype=np.int64)
    count = compiled.KERNELS.nms(boxes, scores, labels, iou, kept)
    if count is None:
        return None
    kept.resize(count, refcheck=False)  # the rest of its memory goes back
    return torch.from_numpy(kept)
