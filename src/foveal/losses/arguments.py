"""What a classification loss is made of and called with: the impossible is refused, what is not kept becomes 0."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from foveal.errors import ConfigError, UsageError

Weight = float | tuple[float, ...]
"""One number, or one for each class, which is then the last dimension of the logits."""

BEYOND = 1e-3
"""By how much a target may leave 0 .. 1: an IoU that is predicted may round."""


def check_alpha(loss: str, alpha: Weight) -> None:
    """Refuses what is no share of 1, or no tuple of them."""
    numbers = alpha if isinstance(alpha, tuple) else (alpha,)
    sound = len(numbers) > 0 and all(isinstance(number, Real) and 0 <= number <= 1 for number in numbers)
    refuse_unless(sound, f"{loss}: alpha is {alpha}; give a number of 0 to 1, or a tuple with one for each class")


def refuse_unless(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def checked(
    logits: Tensor, targets: Tensor | float, weight: Tensor | float, keep: Tensor | None
) -> tuple[Tensor, Tensor | float, Tensor | float]:
    """The three of them with 0 in the places that are not kept, so that nothing there can reach a gradient."""
    for name, given in (("targets", targets), ("weight", weight), ("keep", keep)):
        if isinstance(given, Tensor) and not _fits(given, logits):
            raise UsageError(
                f"{name} of shape {_sizes(given)} do not fit logits of shape {_sizes(logits)}: give one for each "
                "logit, or a shape that broadcasts to theirs; docs/losses.md shows how class indices become targets"
            )
    if keep is not None:
        logits = torch.where(keep, logits, 0.0)
        targets = torch.where(keep, targets, 0) if isinstance(targets, Tensor) else targets
        weight = torch.where(keep, weight, 0) if isinstance(weight, Tensor) else weight
    _check_range(targets)
    return logits, targets, weight


def _check_range(targets: Tensor | float) -> None:
    """Refuses targets outside 0 .. 1: numbers, and tensors on a CPU; other devices would have to be waited for.

    Under torch.compile nothing is refused, as a look at the values would break its graph.
    """
    if torch.compiler.is_compiling():
        return
    if not isinstance(targets, Tensor):
        low, high = targets, targets
    elif targets.numel() and targets.device.type == "cpu" and targets.dtype != torch.bool:
        low, high = (float(end) for end in targets.detach().aminmax())
    else:
        return
    if low < -BEYOND or high > 1 + BEYOND:
        raise UsageError(
            f"targets go from {low:g} to {high:g}: give 0 for background, 1 for an object of the class, or a share; "
            "docs/losses.md shows how class indices become targets"
        )


def _fits(given: Tensor, logits: Tensor) -> bool:
    sizes = zip(reversed(given.shape), reversed(logits.shape), strict=False)
    return given.dim() <= logits.dim() and all(size in (1, wanted) for size, wanted in sizes)


def _sizes(tensor: Tensor) -> str:
    return str(list(tensor.shape))
