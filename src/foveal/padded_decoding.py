"""Decoding and NMS in tensors of fixed shapes: no size follows from a value, so the host never waits for a GPU.

The same answers as `decoding.decode_plainly`, for all images of a batch at once. Anchors are chosen by their best class
(see `candidates.py`). Then the best box that is left is taken, and those of its class that it overlaps go, as often as
detections are wanted. That is some thirty small kernels each time, however large the batch.

Letters: B images, N anchors of a level, A of a cell, K classes, R chosen anchors, P pairs of a level, D pairs of all
levels, T detections that are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveal import boxes as algebra
from foveal.anchors import Anchors, centred_inside
from foveal.candidates import Rule, by_class
from foveal.config import InferenceConfig
from foveal.model.retinanet import Outputs

MOST_STEPS = 300
"""Up to so many detections an image this is taken; its time grows with them."""

_LAST = 2**32 - 1


@dataclass(frozen=True)
class Padded:
    """What was found in each image: the first `count` of T places, best score first; zeros follow.

    boxes: [B, T, 4] xyxy pixels. scores: [B, T] in 0 .. 1. labels: [B, T] int64. count: [B] int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    count: Tensor


def decode_padded(
    outputs: Outputs,
    anchors: Anchors,
    shape: tuple[int, int],
    sizes_B2: Tensor,
    config: InferenceConfig,
    score_threshold: float | None = None,
    padding_answers: bool = False,
) -> Padded:
    """The detections of a batch, T = `config.max_detections`; arguments as `decoding.decode` has them."""
    rule = Rule.of(config, score_threshold, padding_answers)
    device = outputs.logits[0].device
    anchors_L, sizes_B2 = anchors.levels_of(*shape, device), sizes_B2.to(device)
    levels = [
        _level(by_class(logits, anchors.per_cell), by_class(deltas, anchors.per_cell), anchors_N4, sizes_B2, rule)
        for logits, deltas, anchors_N4 in zip(outputs.logits, outputs.deltas, anchors_L, strict=True)
    ]
    boxes_BD4, logits_BD, labels_BD = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
    logits_BD, order_BD = logits_BD.sort(stable=True, dim=1, descending=True)
    boxes_BD4, labels_BD = boxes_BD4.gather(1, _wide(order_BD)), labels_BD.gather(1, order_BD)
    place_BT, found_BT = _winners(boxes_BD4, labels_BD, logits_BD > -torch.inf, config.nms_iou, config.max_detections)
    return Padded(
        boxes=torch.where(found_BT[..., None], boxes_BD4.gather(1, _wide(place_BT)), 0),
        scores=torch.where(found_BT, logits_BD.gather(1, place_BT).sigmoid(), 0),
        labels=torch.where(found_BT, labels_BD.gather(1, place_BT), 0),
        count=found_BT.sum(1),
    )


def _level(
    logits_BAKM: Tensor, deltas_BA4M: Tensor, anchors_N4: Tensor, sizes_B2: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [B, P, 4], logits [B, P] and labels [B, P] of one level's best pairs; a logit of -inf is no pair."""
    height_B1, width_B1 = sizes_B2[:, :1], sizes_B2[:, 1:]
    # A copy of the level, for `amax` passes on what is not a number; to look whether there is any, the host would wait.
    best_BN = logits_BAKM.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(2).float().mT.flatten(1)
    asked_BN = best_BN >= rule.lowest
    if not rule.padding_answers:
        asked_BN &= centred_inside(anchors_N4, (height_B1, width_B1))
    best_BN = torch.where(asked_BN, best_BN, -torch.inf)
    best_BR, anchor_BR = _top(best_BN, rule.limit)
    # In their flat order, so that of equal logits the lower pair comes first.
    anchor_BR, order_BR = anchor_BR.sort(1)
    asked_BR1 = best_BR.gather(1, order_BR)[..., None] > -torch.inf
    rows_BRK = _rows(logits_BAKM, anchor_BR)
    rows_BRK = torch.where(asked_BR1 & (rows_BRK >= rule.lowest), rows_BRK, -torch.inf)
    logits_BP, pair_BP = _top(rows_BRK.flatten(1), rule.limit)
    anchor_BP = anchor_BR.gather(1, pair_BP // rows_BRK.shape[2])
    boxes_BP4 = algebra.decode(anchors_N4[anchor_BP], _rows(deltas_BA4M, anchor_BP))
    # Comparisons with tensors, where `boxes.clip` takes numbers.
    boxes_BP4 = boxes_BP4.clamp(min=0).minimum(torch.stack([width_B1, height_B1] * 2, -1))
    logits_BP = torch.where(algebra.area(boxes_BP4) > 0, logits_BP, -torch.inf)
    return boxes_BP4, logits_BP, pair_BP % rows_BRK.shape[2]


def _winners(boxes_BD4: Tensor, labels_BD: Tensor, alive_BD: Tensor, iou: float, most: int) -> tuple[Tensor, Tensor]:
    """(place among the D, whether there is one), both [B, T], of the boxes that stay; boxes come best first."""
    places, founds = [], []
    for _ in range(most):
        # The first of equal maxima is the best box that is left.
        place_B1 = alive_BD.byte().argmax(1, keepdim=True)
        places.append(place_B1)
        founds.append(alive_BD.gather(1, place_B1))
        overlaps_BD = algebra.iou(boxes_BD4.gather(1, _wide(place_B1)), boxes_BD4)[:, 0] > iou
        rival_BD = overlaps_BD & (labels_BD == labels_BD.gather(1, place_B1))
        alive_BD = (alive_BD & ~rival_BD).scatter(1, place_B1, False)
    return torch.cat(places, 1), torch.cat(founds, 1)


def _top(values_BX: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """(values, indices), both [B, at most limit], of the largest, best first, ties to the lower index; none is NaN."""
    # Value and index in one integer, in the right order: floats are ordered as their bits are, negative ones turned
    # round. -0 is 0.
    bits = (values_BX + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
    key_BX = ordered + (_LAST - torch.arange(values_BX.shape[1], device=values_BX.device))
    index_BR = key_BX.topk(min(limit, key_BX.shape[1]), 1).indices
    return values_BX.gather(1, index_BR), index_BR


def _rows(output_BAKM: Tensor, anchor_BR: Tensor) -> Tensor:
    """[B, R, K] float32: what a level says of some anchors of each image."""
    per_cell = output_BAKM.shape[1]
    image_B1 = torch.arange(len(anchor_BR), device=anchor_BR.device)[:, None]
    return output_BAKM[image_B1, anchor_BR % per_cell, :, anchor_BR // per_cell].float()


def _wide(index_BX: Tensor) -> Tensor:
    """[B, X, 4]: an index of boxes."""
    return index_BX[..., None].expand(-1, -1, 4)
