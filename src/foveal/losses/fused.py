"""The class loss of an image in one pass over its logits, sums and gradient together: the fast path on a CPU.

`losses/classification.py` says what is computed, and judges this file. There each step of an equation is a walk through
memory with a new buffer of the logits' size. Here a block of logits that stays in the cache goes through all steps, in
three small buffers that every block uses again. Only the gradient is written out: the one tensor of the logits' size.

The pass takes every anchor for background. Where one is not, the probabilities of its classes are replaced by 0, which
costs exactly nothing; the few logits of the positives are then added by the plain path.

Letters: B images, L levels, A anchors per cell, K classes, X cells of a level, P positive anchors. R rows of W logits
lie one after the other in memory: in the contiguous layout a row is the X cells of one anchor and class ("planes"), in
channels_last the K classes of one anchor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from foveal.losses.classification import (
    ClassificationLoss,
    CrossEntropy,
    Focal,
    FocalStar,
    Hinge,
    QualityFocal,
    Varifocal,
    Weight,
)

SURELY_BACKGROUND = -1e4
"""A logit with a background loss and a gradient of exactly 0 in float32, for FL* from a gamma of .02 on."""

BLOCK = 1 << 18
"""Logits that go through all steps at a time, 1 MB: smaller ones leave torch's threads waiting for each other."""


NEAR_1 = 0.75
"""Up to this probability of the class, 1 - p in float32 is off by at most three times the rounding of p."""


@dataclass(frozen=True)
class Places:
    """Anchors of one level by where the head's output speaks of them: three [P] int64 indices."""

    image: Tensor
    anchor: Tensor
    cell: Tensor


def has_fast_path(logits_BAKX: Tensor) -> bool:
    """On a CPU, for logits that are dense in one of the two layouts of a convolution's output."""
    dense = logits_BAKX.is_contiguous() or logits_BAKX.permute(0, 3, 1, 2).is_contiguous()
    return logits_BAKX.device.type == "cpu" and dense


def fused_sums(
    logits: Sequence[Tensor],
    loss: ClassificationLoss,
    positive: Sequence[Places],
    ignored: Sequence[Places],
    targets_PK: Tensor,
) -> Tensor:
    """[B] float64 class loss of each image over all levels, differentiable once.

    logits: L of [B, A, K, X], any float dtype; arithmetic is float32 (float64 for float64). targets_PK: what the logits
    of the levels' positive anchors should say, 0 .. 1. No gradient is computed under no_grad or where none is needed.
    """
    wanted = torch.is_grad_enabled() and any(level.requires_grad for level in logits)
    return cast(Tensor, _FusedSums.apply(loss, positive, ignored, targets_PK, wanted, *logits))


class _FusedSums(torch.autograd.Function):
    """The gradient is made with the value and given away by the first backward; a second one makes it again.

    Half precision has it made on the way back only: a loss scaler's factor must be in before it is rounded.
    """

    @staticmethod
    def forward(
        ctx: Any,
        loss: ClassificationLoss,
        positive: Sequence[Places],
        ignored: Sequence[Places],
        targets_PK: Tensor,
        wanted: bool,
        *logits: Tensor,
    ) -> Tensor:
        background = _background(loss)
        skipped = [_Skipped.of(*level) for level in zip(logits, positive, ignored, strict=True)]
        now = wanted and logits[0].dtype in (torch.float32, torch.float64)
        gradients = [torch.empty_like(level) if now else None for level in logits]
        sums_B = torch.zeros(len(logits[0]), dtype=torch.float64)
        for level in zip(logits, skipped, gradients, strict=True):
            sums_B += _pass(background, *level)
        sums_B *= background.factor

        own_PK = torch.cat([x[at.image, at.anchor, :, at.cell] for x, at in zip(logits, positive, strict=True)])
        image_P = torch.cat([at.image for at in positive])
        sums_B.index_add_(0, image_P, loss(own_PK, targets_PK).sum(1, dtype=torch.float64))
        if wanted:
            ctx.save_for_backward(*logits)
            ctx.background, ctx.skipped, ctx.gradients = background, skipped, gradients if now else None
            ctx.positive, ctx.image_P, ctx.own_slopes_PK = positive, image_P, loss.derivative(own_PK, targets_PK)
        return sums_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_B: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        scale_B = upstream_B * ctx.background.factor
        if gradients is None:
            gradients = [torch.empty_like(level) for level in ctx.saved_tensors]
            for level in zip(ctx.saved_tensors, ctx.skipped, gradients, strict=True):
                _pass(ctx.background, *level, scale_B.tolist())
        else:
            for gradient in gradients:
                gradient.mul_(scale_B.to(gradient.dtype)[:, None, None, None])
        own_PK = (ctx.own_slopes_PK * upstream_B[ctx.image_P, None]).to(gradients[0].dtype)
        owns = own_PK.split([len(at.image) for at in ctx.positive])
        for gradient, at, own in zip(gradients, ctx.positive, owns, strict=True):
            gradient[at.image, at.anchor, :, at.cell] = own
        return None, None, None, None, None, *gradients


# -- the pass ----------------------------------------------------------------------------------------------------------


_Buffers = tuple[Tensor, Tensor, Tensor]
_Hole = tuple[slice, int, Tensor]
"""Rows of a block, a dimension, and an index along it: logits of anchors that are not background."""


@dataclass(frozen=True)
class _Background:
    """A member's loss of background: the factor, times the weight of the class, times that of `loss`, which has none.

    loss: CrossEntropy, Focal, FocalStar or Hinge, whose own weight of background is 1.
    """

    loss: ClassificationLoss
    factor: float = 1.0
    weights: tuple[float, ...] | None = None

    def of_rows(self, per_cell: int, planes: bool, dtype: torch.dtype) -> Tensor | None:
        """The classes' weights to multiply [R, W] with: [R, 1] or [1, W]."""
        if self.weights is None:
            return None
        weights_K = torch.tensor(self.weights, dtype=dtype)
        return weights_K.repeat(per_cell)[:, None] if planes else weights_K[None]


def _background(loss: ClassificationLoss) -> _Background:
    match loss:
        case CrossEntropy(alpha=None) | Hinge():
            return _Background(loss)
        case CrossEntropy(alpha):
            return _weighted(CrossEntropy(), cast(Weight, alpha))
        case Focal(alpha, gamma):
            return _weighted(Focal(0.0, gamma), alpha)
        case FocalStar(alpha, gamma, beta):
            return _weighted(FocalStar(0.0, gamma, beta), alpha)
        case QualityFocal(gamma):
            return _Background(Focal(0.0, gamma))
        case Varifocal(alpha, gamma):
            return _Background(Focal(0.0, gamma), alpha)
    raise TypeError(f"{loss} is not of the family")


def _weighted(loss: ClassificationLoss, alpha: Weight) -> _Background:
    if isinstance(alpha, tuple):
        return _Background(loss, weights=tuple(1 - one for one in alpha))
    return _Background(loss, 1 - alpha)


def _pass(
    background: _Background,
    logits: Tensor,
    skipped: _Skipped,
    slopes: Tensor | None,
    scale: Sequence[float] | None = None,
) -> Tensor:
    """[B] float64 sums of the background loss without its factor; `slopes` is filled with the derivative.

    scale: B numbers by which the derivative is multiplied.
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if not logits.numel():
        return torch.zeros(len(logits), dtype=torch.float64)
    planes = logits.is_contiguous()
    rows_BRW, slopes_BRW = _rows(logits, planes), None if slopes is None else _rows(slopes, planes)
    weights = background.of_rows(logits.shape[1], planes, dtype)
    sums = [0.0] * len(logits)
    for first, last, buffers in _blocks(rows_BRW, dtype):
        weight = weights[first:last] if weights is not None and planes else weights
        for image in range(len(sums)):
            out = None if slopes_BRW is None else slopes_BRW[image, first:last]
            slope = buffers[2] if out is not None and out.dtype != dtype else out
            holes = list(skipped.holes(image, first, last))
            sums[image] += _block(background.loss, rows_BRW[image, first:last], holes, weight, buffers, slope)
            if slope is not None and scale is not None:
                slope.mul_(scale[image])
            if slope is not None and slope is not out:
                cast(Tensor, out).copy_(slope)
    return torch.tensor(sums, dtype=torch.float64)


def _rows(logits_BAKX: Tensor, planes: bool) -> Tensor:
    """[B, R, W], a view."""
    images, per_cell, classes, cells = logits_BAKX.shape
    if planes:
        return logits_BAKX.view(images, per_cell * classes, cells)
    return logits_BAKX.permute(0, 3, 1, 2).view(images, cells * per_cell, classes)


def _blocks(rows_BRW: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, int, _Buffers]]:
    """Ranges of rows, as equal as they get, with three buffers of their shape."""
    _, count, width = rows_BRW.shape
    height = max(1, math.ceil(count / max(1, round(count * width / BLOCK))))
    a, b, c = torch.empty(3, height * width, dtype=dtype)
    for first in range(0, count, height):
        last = min(count, first + height)
        shape, size = (last - first, width), (last - first) * width
        yield first, last, (a[:size].view(shape), b[:size].view(shape), c[:size].view(shape))


@dataclass(frozen=True)
class _Skipped:
    """Where no anchor of the background lies: sorted indices for each of B * A planes, or for each of B images.

    within: cells of each anchor of each image; or rows of each image, cell * A + anchor, and `classes` is then None.
    """

    within: tuple[Tensor, ...]
    per_cell: int
    classes: int | None

    @classmethod
    def of(cls, logits_BAKX: Tensor, *places: Places) -> _Skipped:
        images, per_cell, classes, _ = logits_BAKX.shape
        image = torch.cat([each.image for each in places])
        anchor = torch.cat([each.anchor for each in places])
        cell = torch.cat([each.cell for each in places])
        if logits_BAKX.is_contiguous():
            return cls(_grouped(image * per_cell + anchor, cell, images * per_cell), per_cell, classes)
        return cls(_grouped(image, cell * per_cell + anchor, images), per_cell, None)

    def holes(self, image: int, first: int, last: int) -> Iterator[_Hole]:
        """Those of the block of rows first .. last."""
        if self.classes is None:
            rows = self.within[image]
            start, stop = torch.searchsorted(rows, rows.new_tensor([first, last])).tolist()
            if start < stop:
                yield slice(None), 0, rows[start:stop] - first
            return
        for anchor in range(first // self.classes, math.ceil(last / self.classes)):
            cells = self.within[image * self.per_cell + anchor]
            if len(cells):
                begin = anchor * self.classes - first
                yield slice(max(0, begin), begin + self.classes), 1, cells


def _grouped(group: Tensor, index: Tensor, groups: int) -> tuple[Tensor, ...]:
    """The indices of each group, sorted."""
    order = index.argsort()
    order = order[group[order].argsort(stable=True)]
    return index[order].split(torch.bincount(group, minlength=groups).tolist())


# -- one block ---------------------------------------------------------------------------------------------------------


def _block(
    loss: ClassificationLoss,
    block: Tensor,
    holes: Sequence[_Hole],
    weight: Tensor | None,
    buffers: _Buffers,
    slope: Tensor | None,
) -> float:
    """The sum of a block's losses; `slope` gets the derivatives and may be the third buffer."""
    x = block if block.dtype == buffers[0].dtype else buffers[0].copy_(block)
    total = -_weighted_sum(_steps(loss, x, holes, buffers, slope), weight)
    if not math.isfinite(total):
        # A logit above 88, whose exponential is no float32, or one that is not finite itself.
        x = buffers[0].copy_(block)
        _fill(x, holes, SURELY_BACKGROUND)
        total = _weighted_sum(loss(x, 0.0), weight)
        if slope is not None:
            slope.copy_(loss.derivative(x, 0.0))
    if slope is not None and weight is not None:
        slope.mul_(weight)
    return total


def _weighted_sum(value: Tensor, weight: Tensor | None) -> float:
    return float((value if weight is None else value.mul_(weight)).sum())


def _steps(
    loss: ClassificationLoss, x: Tensor, holes: Sequence[_Hole], buffers: _Buffers, slope: Tensor | None
) -> Tensor:
    """MINUS the losses of background, 0 in the holes, in one of the buffers; `slope` may be the third."""
    if isinstance(loss, FocalStar):
        x = torch.mul(x, loss.gamma, out=buffers[0]).sub_(loss.beta)
    p, log_rest, rest = _probabilities(x, holes, buffers)
    match loss:
        case Focal(_, gamma) if gamma > 0:
            return _focal(gamma, p, log_rest, rest, slope)
        case Hinge(margin):
            return _hinge(margin, p, log_rest, rest, slope)
        case FocalStar(_, gamma, _):
            log_rest.div_(gamma)
    if slope is not None:  # cross entropy: -log(1 - p), whose derivative is p
        slope.copy_(p)
    return log_rest


def _probabilities(x: Tensor, holes: Sequence[_Hole], buffers: _Buffers) -> _Buffers:
    """p, log(1 - p) and 1 - p, each in one of the buffers; p is 0 in the holes. x may be the first buffer.

    Where p is not near 1 anywhere, as in nearly every block, 1 - p is exact enough. Elsewhere all come from u = exp(x):
    p = u / (1 + u), 1 - p = 1 / (1 + u), log(1 - p) = -log(1 + u). Above 88 u is infinite, and log(1 - p) or p tells.
    """
    a, b, c = buffers
    p = torch.sigmoid(x, out=c)
    _fill(p, holes, 0.0)
    if float(p.amax()) <= NEAR_1:
        rest = torch.add(torch.neg(p, out=b), 1, out=a)
        return p, b.log1p_(), rest
    u = torch.exp(x, out=a)
    _fill(u, holes, 0.0)
    torch.log1p(u, out=b).neg_()
    torch.add(u, 1, out=c)
    return u.div_(c), b, c.reciprocal_()


def _focal(gamma: float, p: Tensor, log_rest: Tensor, rest: Tensor, slope: Tensor | None) -> Tensor:
    """p^gamma -log(1 - p), whose derivative is p^gamma (p - gamma (1 - p) log(1 - p)): equation 10 for y = -1."""
    if slope is not None:
        torch.addcmul(p, log_rest, rest, value=-gamma, out=rest)
    if gamma != 1:
        p.pow_(gamma)
    log_rest.mul_(p)
    if slope is not None:
        torch.mul(rest, p, out=slope)
    return log_rest


def _hinge(margin: float, p: Tensor, spare: Tensor, rest: Tensor, slope: Tensor | None) -> Tensor:
    """max(0, margin - (1 - p)), whose derivative is p (1 - p) where that is above 0."""
    torch.neg(p, out=spare).add_(1 - margin).clamp_(max=0)
    if slope is not None:
        torch.mul(p.mul_(rest), spare.sign(), out=slope).neg_()
    return spare


def _fill(block_RW: Tensor, holes: Sequence[_Hole], number: float) -> None:
    for rows, dim, index in holes:
        block_RW[rows].index_fill_(dim, index, number)
