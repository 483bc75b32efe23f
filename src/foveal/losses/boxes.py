"""Loss of the box offsets, element by element (paper section 4: the standard smooth L1 of Fast R-CNN)."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth_l1(error: Tensor, beta: float) -> Tensor:
    """Of the shape of `error`: error^2 / (2 beta) where |error| < beta, |error| - beta / 2 beyond; beta 0 is L1.

    At beta = 1 an error of .5 costs .125 and one of 2 costs 1.5. float32 whatever the dtype (float64 stays).
    """
    size = (error if error.dtype == torch.float64 else error.float()).abs()
    if beta == 0:
        return size
    return torch.where(size < beta, size.square() / (2 * beta), size - beta / 2)
