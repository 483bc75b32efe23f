"""An average of the weights over the last steps: what is evaluated and saved as best."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from foveal.model.retinanet import RetinaNet


class AveragedModel:
    """Exponential moving average of parameters and floating-point buffers.

    After t updates the decay is min(decay, (1 + t) / (10 + t)), so that the random start is forgotten at once.
    """

    def __init__(self, model: RetinaNet, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = [
            (mine, theirs)
            for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
            if theirs.dtype.is_floating_point
        ]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Moves towards the weights after the `updates`-th optimiser step (counted from 1)."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        mine: list[Tensor] = [pair[0] for pair in self._pairs]
        theirs: list[Tensor] = [pair[1] for pair in self._pairs]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
