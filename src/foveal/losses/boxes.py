"""Losses of the boxes: on the four offsets, element by element, or on how well whole boxes lie.

The paper takes "the standard smooth L1" of Fast R-CNN (section 4). It goes the other way from the focal loss: smooth L1
makes the HARD examples count less than their square would, so that outliers do not lead; the focal loss makes the easy
ones count less, so that their number does not (section 2, "Robust Estimation").
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveal.boxes import decode, encode, giou
from foveal.config import LossConfig


def smooth_l1(error: Tensor, beta: float) -> Tensor:
    """Of the shape of `error`: error^2 / (2 beta) where |error| < beta, |error| - beta / 2 beyond; beta 0 is L1.

    At beta = 1 an error of .5 costs .125 and one of 2 costs 1.5. float32 whatever the dtype (float64 stays).
    """
    size = (error if error.dtype == torch.float64 else error.float()).abs()
    if beta == 0:
        return size
    return torch.where(size < beta, size.square() / (2 * beta), size - beta / 2)


def box_loss(deltas_P4: Tensor, anchors_P4: Tensor, boxes_P4: Tensor, config: LossConfig) -> Tensor:
    """[P] loss of the boxes that offsets make of their anchors, against the objects' boxes; >= 0.

    Smooth L1 and L1 are summed over the four offsets; 1 - GIoU is in 0 .. 2. No boxes give an empty loss.
    """
    deltas_P4 = deltas_P4.float()
    if config.box == "giou":
        return 1 - giou(decode(anchors_P4, deltas_P4), boxes_P4)
    return smooth_l1(deltas_P4 - encode(anchors_P4, boxes_P4), config.box_beta if config.box == "smooth_l1" else 0).sum(
        1
    )
