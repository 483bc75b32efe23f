"""Gradients that cannot be differentiated again, and say so: a wrong second derivative is never given.

torch's own `once_differentiable` tells it only where the gradient that comes back needs a gradient itself. Of a sum it
needs none, and the second derivative is then taken for 0 without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from foveal.errors import UsageError

Backward = Callable[..., tuple[Tensor | None, ...]]


def differentiable_once(backward: Backward) -> Backward:
    """An autograd function's `backward` whose gradients raise UsageError when they are differentiated.

    With `create_graph=True` they are right as ever; only who follows that graph to what the function saved meets the
    error.
    """

    @wraps(backward)
    def guarded(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        if not again:
            return gradients
        of = (*upstream, *ctx.saved_tensors)
        return tuple(None if one is None else _End.apply(one, *of) for one in gradients)

    return guarded


class _End(torch.autograd.Function):
    """The first tensor as it is, as a function of all others that has no derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *of: Tensor) -> Tensor:
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        raise UsageError(
            "the detector's class loss can be differentiated once, and a second derivative is asked for (a Hessian, a "
            "penalty on a gradient): call a member of foveal.losses on the logits, such as Focal()(logits, targets)"
        )
