"""The class loss of background over a block of logits that stays in the cache: every step of `fused.py`'s pass.

Three small buffers take all results; each step is one of torch's operations that writes into them.

Letters: R rows of W logits, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

from foveal.losses.classification import (
    ClassificationLoss,
    CrossEntropy,
    Focal,
    FocalStar,
    Hinge,
    QualityFocal,
    Varifocal,
    Weight,
    exponent_parts,
)

SURELY_BACKGROUND = -1e4
"""A logit with a background loss and a gradient of exactly 0 in float32, for FL* from a gamma of .02 on."""

NO_GAMMA = 1e-30
"""Up to this gamma FL is cross entropy: p^gamma is 1, and 1 / gamma would soon be beyond float32."""

NEAR_1 = 0.75
"""Up to this probability of the class, 1 - p in float32 is off by at most three times the rounding of p."""

Hole = tuple[slice, int, Tensor]
"""Rows of a block, a dimension, and an index along it: logits of anchors that are not background."""

Buffers = tuple[Tensor, Tensor, Tensor]
"""Three of a block's shape, in the dtype of the `arithmetic`."""


@dataclass(frozen=True)
class Background:
    """A member's loss of background: the factor, times the weight of the class, times that of `loss`, which has none.

    loss: CrossEntropy, Focal, FocalStar or Hinge, whose own weight of background is 1.
    """

    loss: ClassificationLoss
    factor: float = 1.0
    weights: tuple[float, ...] | None = None

    @classmethod
    def of(cls, loss: ClassificationLoss) -> Background:
        match loss:
            case CrossEntropy(alpha=None) | Hinge():
                return cls(loss)
            case CrossEntropy(alpha):
                return cls._weighted(CrossEntropy(), cast(Weight, alpha))
            case Focal(alpha, gamma):
                return cls._weighted(Focal(0.0, gamma), alpha)
            case FocalStar(alpha, gamma, beta):
                return cls._weighted(FocalStar(0.0, gamma, beta), alpha)
            case QualityFocal(gamma):
                return cls(Focal(0.0, gamma))
            case Varifocal(alpha, gamma):
                return cls(Focal(0.0, gamma), alpha)
        raise TypeError(f"{loss} is not of the family")

    @classmethod
    def _weighted(cls, loss: ClassificationLoss, alpha: Weight) -> Background:
        if isinstance(alpha, tuple):
            return cls(loss, weights=tuple(1 - one for one in alpha))
        return cls(loss, 1 - alpha)

    def arithmetic(self, logits: torch.dtype) -> torch.dtype:
        """float64 for FL*, whose gamma x + beta float32 rounds by 5e-6 of the loss; else float32 (float64 stays)."""
        exact = logits == torch.float64 or isinstance(self.loss, FocalStar)
        return torch.float64 if exact else torch.float32

    def of_rows(self, per_cell: int, planes: bool, dtype: torch.dtype) -> Tensor | None:
        """The classes' weights to multiply [R, W] with: [R, 1] or [1, W]."""
        if self.weights is None:
            return None
        weights_K = torch.tensor(self.weights, dtype=dtype, device="cpu")
        return weights_K.repeat(per_cell)[:, None] if planes else weights_K[None]

    def of_block(
        self,
        logits_RW: Tensor,
        holes: Sequence[Hole],
        weight: Tensor | None,
        buffers: Buffers,
        slopes_RW: Tensor | None,
        upstream: float,
    ) -> float:
        """The sum of a block's losses; `slopes_RW` gets their derivatives times `upstream`. In the holes all are 0.

        weight: of these rows, as `of_rows` has it.
        """
        x, scale, dtype = logits_RW, self.factor * upstream, buffers[0].dtype
        if x.dtype != dtype:
            x = buffers[0].copy_(x)
        if isinstance(self.loss, FocalStar):
            x = torch.mul(x, self.loss.gamma, out=buffers[0]).sub_(self.loss.beta)
        rest_known = _probabilities(x, holes, buffers)
        out = buffers[0] if slopes_RW is not None and slopes_RW.dtype != dtype else slopes_RW
        match self.loss:
            case Focal(_, gamma) if gamma > NO_GAMMA:
                total = _focal(gamma, buffers, rest_known, weight, out, scale)
            case Hinge(margin):
                total = _hinge(margin, buffers, rest_known, out, scale)
            case FocalStar(_, gamma, _):
                total = _cross_entropy(buffers, weight, out, scale) / gamma
            case _:
                total = _cross_entropy(buffers, weight, out, scale)
        if slopes_RW is not None and out is not slopes_RW:
            slopes_RW.copy_(cast(Tensor, out))
        return self.factor * total


# The steps below find p in the third buffer, log(1 - p) in the second and, where `rest_known`, 1 - p in the first. They
# use all three up, return the sum of the losses, and write the derivative, times weight and scale, to `slope`.


def _probabilities(x: Tensor, holes: Sequence[Hole], buffers: Buffers) -> bool:
    """Fills the buffers, with p = 0 in the holes; x may be the first. False: 1 - p is not made, for p says it.

    Where p is near 1 somewhere in the block, all comes from x: softplus and a second sigmoid, at twice the time.
    """
    rest, log_rest, p = buffers
    torch.sigmoid(x, out=p)
    _fill(p, holes, 0.0)
    if float(p.amax()) <= NEAR_1:
        torch.neg(p, out=log_rest).log1p_()
        return False
    x = rest.copy_(x)
    _fill(x, holes, SURELY_BACKGROUND)
    softplus(x, threshold=40, out=log_rest).neg_()  # type: ignore[call-arg]
    x.neg_().sigmoid_()
    return True


def _focal(
    gamma: float, buffers: Buffers, rest_known: bool, weight: Tensor | None, slope: Tensor | None, scale: float
) -> float:
    """p^gamma -log(1 - p), whose derivative is p^gamma (p - gamma (1 - p) log(1 - p)): equation 10 for y = -1.

    The bracket is -gamma times the point between log(1 - p) and -1 / gamma that is p of the way there: one step.
    """
    point, log_rest, p = buffers
    if slope is not None and rest_known:
        torch.addcmul(p, log_rest, point, value=-gamma, out=point).div_(-gamma)
    elif slope is not None:
        torch.lerp(log_rest, _number(-1 / gamma, p.dtype), p, out=point)
    high, low = exponent_parts(gamma, p.dtype)
    beyond = p.pow(low) if low else None
    p.pow_(high)
    if beyond is not None:
        p.mul_(beyond)
    if weight is not None:
        p.mul_(weight)
    if slope is not None:
        torch.addcmul(_number(0.0, p.dtype), point, p, value=-gamma * scale, out=slope)
    return -float(log_rest.mul_(p).sum())  # not `dot`, whose rounding grows with the block


def _hinge(margin: float, buffers: Buffers, rest_known: bool, slope: Tensor | None, scale: float) -> float:
    """max(0, margin - (1 - p)), whose derivative is p (1 - p) where that is above 0."""
    rest, value, p = buffers
    torch.add(p, margin - 1, out=value).clamp_(min=0)
    total = float(value.sum())
    if slope is not None:
        if not rest_known:
            torch.neg(p, out=rest).add_(1)
        torch.addcmul(_number(0.0, p.dtype), p.mul_(rest), value.sign_(), value=scale, out=slope)
    return total


def _cross_entropy(buffers: Buffers, weight: Tensor | None, slope: Tensor | None, scale: float) -> float:
    """-log(1 - p), whose derivative is p."""
    _, log_rest, p = buffers
    if weight is not None:
        log_rest.mul_(weight)
        p.mul_(weight)
    if slope is not None:
        torch.mul(p, scale, out=slope)
    return -float(log_rest.sum())


@lru_cache(maxsize=8)
def _number(value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=dtype, device="cpu")


def _fill(block_RW: Tensor, holes: Sequence[Hole], number: float) -> None:
    for rows, dim, index in holes:
        block_RW[rows].index_fill_(dim, index, number)
