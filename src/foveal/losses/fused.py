"""The class loss of an image in one pass over its logits, sums and gradient together: the fast path on a CPU.

`losses/classification.py` says what is computed, and judges this file. There each step of an equation is a walk through
memory with a new buffer of the logits' size. Here a block of logits that stays in the cache goes through all steps
(`background.py`), in three small buffers that every block uses again. Only the gradient is written out: the one tensor
of the logits' size. The compiled kernel (`csrc/loss.c`), where there is one, takes all steps of a logit in registers.

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
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from foveal import compiled
from foveal.losses.background import NO_GAMMA, Background, Buffers, Hole
from foveal.losses.classification import ClassificationLoss, Focal, Hinge
from foveal.losses.once import differentiable_once

BLOCK = 1 << 19
"""float32 numbers that go through all steps at a time, 2 MB: less leaves torch's threads waiting for each other."""


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
    upstream_B: Tensor | None = None,
) -> Tensor:
    """[B] float64 class loss of each image over all levels, differentiable once; UsageError the second time.

    logits: L of [B, A, K, X], any float dtype; arithmetic is float32 (float64 for float64, and for FL*). targets_PK:
    what the logits of the levels' positive anchors should say, 0 .. 1. upstream_B: what backward will bring, if that is
    known; a wrong one costs time, no correctness. No gradient is computed under no_grad or where none is needed.
    Differentiate with `torch.autograd` or `backward()`: torch.func's transforms refuse it, as they do the plain path.
    """
    if upstream_B is not None:
        upstream_B = upstream_B.detach().clone()  # the caller may change it before backward compares
    wanted = torch.is_grad_enabled() and any(level.requires_grad for level in logits)
    return cast(Tensor, _FusedSums.apply(loss, positive, ignored, targets_PK, wanted, upstream_B, *logits))


class _FusedSums(torch.autograd.Function):
    """The gradient is made with the value and given away by the first backward; a second one makes it again.

    Half precision has it made on the way back where its factor is not known before: a loss scaler's must be in before
    it is rounded.
    """

    @staticmethod
    def forward(
        ctx: Any,
        loss: ClassificationLoss,
        positive: Sequence[Places],
        ignored: Sequence[Places],
        targets_PK: Tensor,
        wanted: bool,
        upstream_B: Tensor | None,
        *logits: Tensor,
    ) -> Tensor:
        background = Background.of(loss)
        skipped = [_Skipped.of(*level) for level in zip(logits, positive, ignored, strict=True)]
        now = wanted and (upstream_B is not None or logits[0].dtype in (torch.float32, torch.float64))
        gradients = [torch.empty_like(level) if now else None for level in logits]
        factors = [1.0] * len(logits[0]) if upstream_B is None else upstream_B.tolist()
        sums_B = torch.zeros(len(logits[0]), dtype=torch.float64, device="cpu")
        for level in zip(logits, skipped, gradients, strict=True):
            sums_B += _pass(background, *level, factors)

        own_PK = torch.cat([x[at.image, at.anchor, :, at.cell] for x, at in zip(logits, positive, strict=True)])
        image_P = torch.cat([at.image for at in positive])
        sums_B.index_add_(0, image_P, loss(own_PK, targets_PK).sum(1, dtype=torch.float64))
        if wanted:
            ctx.save_for_backward(*logits)
            ctx.background, ctx.skipped, ctx.upstream_B = background, skipped, upstream_B
            ctx.gradients = gradients if now else None
            ctx.positive, ctx.image_P, ctx.own_slopes_PK = positive, image_P, loss.derivative(own_PK, targets_PK)
        return sums_B

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, upstream_B: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if ctx.upstream_B is not None and not torch.equal(upstream_B, ctx.upstream_B.to(upstream_B.dtype)):
            gradients = None
        if gradients is None:
            gradients = [torch.empty_like(level) for level in ctx.saved_tensors]
            for level in zip(ctx.saved_tensors, ctx.skipped, gradients, strict=True):
                _pass(ctx.background, *level, upstream_B.tolist())
        elif ctx.upstream_B is None and bool((upstream_B != 1).any()):
            for gradient in gradients:
                gradient.mul_(upstream_B.to(gradient.dtype)[:, None, None, None])
        own_PK = (ctx.own_slopes_PK * upstream_B[ctx.image_P, None]).to(gradients[0].dtype)
        owns = own_PK.split([len(at.image) for at in ctx.positive])
        for gradient, at, own in zip(gradients, ctx.positive, owns, strict=True):
            gradient[at.image, at.anchor, :, at.cell] = own
        return None, None, None, None, None, None, *gradients


# -- the pass ----------------------------------------------------------------------------------------------------------


def _pass(
    background: Background, logits: Tensor, skipped: _Skipped, slopes: Tensor | None, upstream: Sequence[float]
) -> Tensor:
    """[B] float64 sums of the background loss; `slopes` is filled with its derivative times the images' `upstream`."""
    dtype = background.arithmetic(logits.dtype)
    if not logits.numel():
        return torch.zeros(len(logits), dtype=torch.float64, device="cpu")
    planes = logits.is_contiguous()
    if logits.dtype == dtype == torch.float32 and compiled.KERNELS and compiled.KERNELS.class_loss_ways():
        return _compiled_pass(background, logits, skipped, slopes, upstream)
    rows_BRW, slopes_BRW = _rows(logits, planes), None if slopes is None else _rows(slopes, planes)
    weights = background.of_rows(logits.shape[1], planes, dtype)
    sums = [0.0] * len(logits)
    for first, last, buffers in _blocks(rows_BRW, dtype):
        weight = weights[first:last] if weights is not None and planes else weights
        for image in range(len(sums)):
            block_RW = rows_BRW[image, first:last]
            slopes_RW = None if slopes_BRW is None else slopes_BRW[image, first:last]
            holes = list(skipped.holes(image, first, last))
            sums[image] += background.of_block(block_RW, holes, weight, buffers, slopes_RW, upstream[image])
    return torch.tensor(sums, dtype=torch.float64, device="cpu")


def _rows(logits_BAKX: Tensor, planes: bool) -> Tensor:
    """[B, R, W], a view."""
    images, per_cell, classes, cells = logits_BAKX.shape
    if planes:
        return logits_BAKX.view(images, per_cell * classes, cells)
    return logits_BAKX.permute(0, 3, 1, 2).view(images, cells * per_cell, classes)


def _blocks(rows_BRW: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, int, Buffers]]:
    """Ranges of rows, as equal as they get, with three buffers of their shape."""
    _, count, width = rows_BRW.shape
    height = max(1, math.ceil(count / max(1, round(count * width * dtype.itemsize / 4 / BLOCK))))
    a, b, c = torch.empty(3, height * width, dtype=dtype, device="cpu")
    for first in range(0, count, height):
        last = min(count, first + height)
        shape, size = (last - first, width), (last - first) * width
        yield first, last, (a[:size].view(shape), b[:size].view(shape), c[:size].view(shape))


def _compiled_pass(
    background: Background, logits: Tensor, skipped: _Skipped, slopes: Tensor | None, upstream: Sequence[float]
) -> Tensor:
    """`_pass` by the compiled kernel."""
    planes, sums_B = logits.is_contiguous(), torch.empty(len(logits), dtype=torch.float64, device="cpu")
    kind, gamma, margin = "cross_entropy", 0.0, 0.0
    match background.loss:
        case Focal(_, gamma) if gamma > NO_GAMMA:
            kind = "focal"
        case Hinge(margin):
            kind = "hinge"
    assert compiled.KERNELS is not None
    compiled.KERNELS.class_loss(
        _memory(logits, planes),
        np.empty(0, np.float32) if slopes is None else _memory(slopes, planes),
        tuple(logits.shape),
        planes,
        skipped.index.numpy(),
        skipped.ends.numpy(),
        np.array(background.weights or (), np.float32),
        np.array(upstream) * background.factor,
        (kind, gamma, margin),
        torch.get_num_threads(),
        sums_B.numpy(),
        "",
    )
    return sums_B * background.factor


def _memory(logits_BAKX: Tensor, planes: bool) -> Any:
    """The numbers as they lie in memory."""
    return (logits_BAKX if planes else logits_BAKX.permute(0, 3, 1, 2)).detach().numpy()


@dataclass(frozen=True)
class _Skipped:
    """Where no anchor of the background lies: sorted indices for each of B * A planes, or for each of B images.

    index: [I + P] cells of each anchor of each image; or rows of each image, cell * A + anchor, and `classes` is then
    None. ends: [B * A] or [B], where in `index` the part of each ends.
    """

    index: Tensor
    ends: Tensor
    per_cell: int
    classes: int | None

    @classmethod
    def of(cls, logits_BAKX: Tensor, *places: Places) -> _Skipped:
        images, per_cell, classes, cells = logits_BAKX.shape
        image = torch.cat([each.image for each in places])
        anchor = torch.cat([each.anchor for each in places])
        cell = torch.cat([each.cell for each in places])
        if logits_BAKX.is_contiguous():
            return cls(*_grouped(image * per_cell + anchor, cell, images * per_cell, max(1, cells)), per_cell, classes)
        return cls(*_grouped(image, cell * per_cell + anchor, images, max(1, cells * per_cell)), per_cell, None)

    @cached_property
    def within(self) -> tuple[Tensor, ...]:
        """The part of `index` of each plane or image."""
        return self.index.tensor_split(self.ends[:-1])

    def holes(self, image: int, first: int, last: int) -> Iterator[Hole]:
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


def _grouped(group: Tensor, index: Tensor, groups: int, size: int) -> tuple[Tensor, Tensor]:
    """The indices, below `size`, of each group, sorted; where each group's end among them."""
    key = (group * size + index).sort().values
    return key % size, torch.bincount(group, minlength=groups).cumsum(0)
