"""A network whose outputs are no numbers has found nothing and says nothing: it is refused, not believed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.errors import FovealError


def check_finite(outputs: Sequence[Tensor], pictures: Sequence[object]) -> None:
    """FovealError if an output [B, ...] is infinite or no number; pictures: [B] what to call them."""
    finite_B = torch.stack([torch.isfinite(output).flatten(1).all(1) for output in outputs]).all(0)
    if not finite_B.all():
        first = pictures[int((~finite_B).nonzero()[0])]
        raise FovealError(
            f"{first}: the run's outputs are not finite; its weights are damaged or its "
            "training diverged: train it again, or take other weights"
        )
