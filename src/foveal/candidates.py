"""Which (anchor, class) pairs of a level become boxes, found from the best class of each anchor.

What is wanted are the pairs from a lowest logit on, and of them the best 1000. These belong to the 1000 anchors whose
best class is highest: for any other anchor there are 1000 whose best class comes before all of its own, ties included.
So one pass over the logits, as the convolution left them, finds each anchor's best class; only the anchors that count
are then looked at class by class. Nothing is copied to another layout but one number an anchor.

Letters: B images, N anchors of a level, A of a cell, K classes, R some anchors, P pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveal.anchors import centred_inside
from foveal.config import InferenceConfig
from foveal.reach import places

Pairs = tuple[Tensor, Tensor, Tensor]
"""(anchor [P] int64, class [P] int64, logit [P] float32), in flat order: by anchor, then by class."""

_AT_ONCE = 32
"""A reduction along rows goes by so many numbers; those left over are gone through one by one."""


@dataclass(frozen=True)
class Rule:
    """What a level's pairs must meet.

    lowest: the lowest logit that counts. limit: how many pairs at most. padding_answers: whether anchors centred
    outside the picture are asked.
    """

    lowest: float
    limit: int
    padding_answers: bool

    @classmethod
    def of(cls, config: InferenceConfig, score_threshold: float | None, padding_answers: bool) -> Rule:
        """Of arguments as `decoding.decode` has them."""
        threshold = logit(config.score_threshold if score_threshold is None else score_threshold)
        # A logit of -inf is a score of exactly 0, which is a detection nowhere.
        return cls(max(threshold, torch.finfo(torch.float32).min), config.candidates_per_level, padding_answers)


def logit(score: float) -> float:
    """The logit of a score in 0 .. 1; infinite at both ends."""
    if 0 < score < 1:
        return math.log(score / (1 - score))
    return -math.inf if score <= 0 else math.inf


def by_class(output_BCHW: Tensor, per_cell: int) -> Tensor:
    """[B, A, K, H * W]: a head's output by anchor of a cell, class and cell; a view of both memory layouts."""
    return output_BCHW.flatten(2).unflatten(1, (per_cell, -1))


def best_class(output_BCHW: Tensor, per_cell: int) -> Tensor:
    """[B, N] float32 in flat order: the logit of each anchor's best class; -inf where none is a number."""
    best_BN = _best_class(output_BCHW, per_cell)
    if bool(best_BN.isnan().any()):
        best_BN = _best_class(output_BCHW.masked_fill(output_BCHW.isnan(), -torch.inf), per_cell)
    return best_BN.float()


def best_pairs(logits_AKM: Tensor, best_N: Tensor, anchors_N4: Tensor, size: tuple[int, int], rule: Rule) -> Pairs:
    """The pairs of one level of one image of (height, width) `size`; best_N: its `best_class`."""
    counts_N, lowest = best_N >= rule.lowest, rule.lowest
    # If the last cell is in the picture, all are.
    if rule.padding_answers or bool(centred_inside(anchors_N4[-1:], size)):
        if int(counts_N.count_nonzero()) > rule.limit:
            anchor_R, lowest = _largest(best_N, rule.limit)
        else:
            anchor_R = places(counts_N)
    else:
        anchor_R = places(counts_N)
        anchor_R = anchor_R[centred_inside(anchors_N4.index_select(0, anchor_R), size)]
        if len(anchor_R) > rule.limit:
            chosen, lowest = _largest(best_N.index_select(0, anchor_R), rule.limit)
            anchor_R = anchor_R.index_select(0, chosen)
    rows_RK = rows_of(logits_AKM, anchor_R)
    pair_P = places((rows_RK >= lowest).view(-1))
    logit_P = rows_RK.view(-1).index_select(0, pair_P)
    if len(pair_P) > rule.limit:
        chosen, _ = _largest(logit_P, rule.limit)
        pair_P, logit_P = pair_P.index_select(0, chosen), logit_P.index_select(0, chosen)
    num_classes = rows_RK.shape[1]
    row_P = pair_P // num_classes
    return anchor_R.index_select(0, row_P), pair_P - row_P * num_classes, logit_P


def rows_of(output_AKM: Tensor, anchor_R: Tensor) -> Tensor:
    """[R, K] float32: what a level says of some anchors."""
    per_cell, classes, _ = output_AKM.shape
    by_anchor = output_AKM.permute(2, 0, 1)
    if by_anchor.is_contiguous():  # channels last: an anchor's classes lie together
        return by_anchor.view(-1, classes).index_select(0, anchor_R).float()
    cell_R = anchor_R // per_cell
    return output_AKM[anchor_R - cell_R * per_cell, :, cell_R].float().contiguous()


def _best_class(output_BCHW: Tensor, per_cell: int) -> Tensor:
    last = output_BCHW.permute(0, 2, 3, 1)
    if not last.is_contiguous():
        return by_class(output_BCHW, per_cell).amax(2).mT.flatten(1)
    rows_BNK = last.view(len(last), -1, output_BCHW.shape[1] // per_cell)
    num_classes = rows_BNK.shape[2]
    whole = num_classes // _AT_ONCE * _AT_ONCE
    if whole in (0, num_classes):
        return rows_BNK.amax(2)
    # Looking at some twice is twice as fast as looking at the rest one by one.
    return torch.maximum(rows_BNK[..., :whole].amax(2), rows_BNK[..., num_classes - whole :].amax(2))


def _largest(logits_X: Tensor, limit: int) -> tuple[Tensor, float]:
    """Ascending indices of the `limit` largest of more, ties to the lower index, and the least of them."""
    bar = _at_rank(logits_X, limit)
    reached = places(logits_X >= bar)
    if len(reached) > limit:
        at_bar = places(logits_X.index_select(0, reached) == bar)
        stays = torch.ones_like(reached, dtype=torch.bool)
        stays[at_bar[limit - len(reached) :]] = False
        reached = reached[stays]
    return reached, bar


def _at_rank(logits_X: Tensor, rank: int) -> float:
    """The `rank`-th largest of more."""
    if logits_X.device.type == "cpu":  # numpy partitions with the processor's vectors
        return float(np.partition(logits_X.detach().numpy(), -rank)[-rank])
    return float(logits_X.topk(rank, sorted=False).values.min())
