"""Who counts: keep-masks over the anchors of a batch (the paper's baselines in section 5.1 and table 1d).

The focal loss needs no sampling: every anchor counts. Before it, detectors kept a few anchors and dropped the rest:

    ohem        the N anchors of a picture with the highest class loss, after NMS among the anchors by that loss
    ohem_1_3    the same, with at most N / 4 positives and three background anchors for each of them
    ssd         all positives, and the hardest background anchors, `ratio` of them for each positive

Everything is done for all pictures of a batch at once. Letters: B images, N anchors of an image, R a block of them, M
the most that are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveal.boxes import iou
from foveal.config import LossConfig
from foveal.nms import survivors

_BLOCK = 256


def keep_mask(
    loss_BN: Tensor, positive_BN: Tensor, counted_BN: Tensor, anchors_N4: Tensor, config: LossConfig
) -> Tensor:
    """[B, N] bool: the anchors that count under `config.mining`.

    loss_BN: class loss of each anchor, summed over the classes. positive_BN: assigned to an object. counted_BN: not
    ignored; no other anchor is ever kept.
    """
    match config.mining:
        case "all":
            return counted_BN
        case "ssd":
            return _hard_background(loss_BN, positive_BN & counted_BN, counted_BN & ~positive_BN, config.mining_ratio)
        case "ohem":
            count_B = _for_each(loss_BN, config.mining_count)
            return hardest_apart(loss_BN, counted_BN, anchors_N4, count_B, config.mining_nms)
        case "ohem_1_3":
            quarter_B = _for_each(loss_BN, config.mining_count // 4)
            foreground_BN = hardest_apart(loss_BN, positive_BN & counted_BN, anchors_N4, quarter_B, config.mining_nms)
            # A picture without positives still teaches background: three anchors, as if it had one.
            count_B = 3 * foreground_BN.sum(1).clamp(min=1)
            background_BN = hardest_apart(loss_BN, ~positive_BN & counted_BN, anchors_N4, count_B, config.mining_nms)
            return foreground_BN | background_BN


def hardest_apart(
    loss_BN: Tensor, candidates_BN: Tensor, anchors_N4: Tensor, count_B: Tensor, nms_iou: float
) -> Tensor:
    """[B, N] bool: of each picture's candidates the `count_B` hardest that overlap one another by at most `nms_iou`.

    Greedy NMS from the highest loss down, ties to the lower anchor; it stops when every picture has its number. At .5,
    of two anchors with IoU .6 only the harder is kept; at .7 both are. Fewer are kept where candidates run out.
    """
    keep_BN = torch.zeros_like(candidates_BN)
    left_B = candidates_BN.sum(1)
    # More than there are would only cost memory.
    count_B = count_B.minimum(left_B)
    images, most = len(loss_BN), int(count_B.max()) if len(count_B) else 0
    ranked_BN = torch.where(candidates_BN, loss_BN, -torch.inf).argsort(dim=1, descending=True, stable=True)
    # One more place than can be kept: those that are not kept are written there.
    kept_BM4 = anchors_N4.new_zeros(images, most + 1, 4)
    number_B = torch.zeros_like(count_B)
    for first in range(0, loss_BN.shape[1], _BLOCK):
        # Once a block, on a GPU too: it saves all the blocks that follow, and looking at empty places.
        open_B = (number_B < count_B) & (left_B > first)
        busy, filled = torch.stack([open_B.sum(), number_B.max()]).tolist() if images else (0, 0)
        if not busy:
            break
        index_BR = ranked_BN[:, first : first + _BLOCK]
        boxes_BR4 = anchors_N4[index_BR]
        free_BR = candidates_BN.gather(1, index_BR) & ~(iou(boxes_BR4, kept_BM4[:, :filled]) > nms_iou).any(2)
        stay_BR = survivors(iou(boxes_BR4, boxes_BR4) > nms_iou, free_BR)
        place_BR = number_B[:, None] + stay_BR.cumsum(1)
        stay_BR &= place_BR <= count_B[:, None]
        keep_BN.scatter_(1, index_BR, stay_BR)
        slot_BR = torch.where(stay_BR, place_BR - 1, most)
        kept_BM4.scatter_(1, slot_BR[..., None].expand(-1, -1, 4), boxes_BR4)
        number_B = number_B + stay_BR.sum(1)
    return keep_BN


def _for_each(loss_BN: Tensor, count: int) -> Tensor:
    """[B] int64: this number for every picture; all anchors where it is higher, also beyond what 64 bits hold."""
    return torch.full((len(loss_BN),), min(count, loss_BN.shape[1]), device=loss_BN.device)


def _hard_background(loss_BN: Tensor, positive_BN: Tensor, background_BN: Tensor, ratio: float) -> Tensor:
    """SSD's rule; a picture without positives keeps nothing."""
    ranked_BN = torch.where(background_BN, loss_BN, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank_BN = torch.empty_like(ranked_BN).scatter_(
        1, ranked_BN, torch.arange(ranked_BN.shape[1], device=loss_BN.device).expand_as(ranked_BN)
    )
    wanted_B1 = (ratio * positive_BN.sum(1, keepdim=True)).floor()
    return positive_BN | (background_BN & (rank_BN < wanted_B1))
