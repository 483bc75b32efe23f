"""The classification loss on a GPU: one Triton kernel reads a level's logits once and writes their gradient once.

The family's members that are functions of x_t, with every anchor counted: `takes()` says whether that is so. Labels are
one small integer an anchor, 1 / K of the logits; whatever is neither positive nor ignored is background.

Letters: B images, N anchors of an image (all levels), X those of one level, A anchors per cell, K classes, H W cells.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor

from foveal.config import LossConfig
from foveal.errors import UsageError
from foveal.losses.once import differentiable_once
from foveal.matching import BACKGROUND, IGNORED, Match

BLOCK, WARPS = 2048, 4
"""Logits of one program, and its warps of 32 threads: 16 logits a thread. Reasoned, not yet tuned on a card."""

_MEMBERS = ("cross_entropy", "balanced_cross_entropy", "focal", "focal_star", "hinge")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def takes(logits: Tensor, config: LossConfig) -> bool:
    """Whether `level_loss` does this: on a GPU, with Triton, no soft targets of boxes, no mining."""
    return (
        logits.is_cuda
        and find_spec("triton") is not None
        and logits.dtype in _DTYPES
        and config.name in _MEMBERS
        and config.mining == "all"
    )


def anchor_labels(match: Match, labels_G: Tensor, num_classes: int) -> Tensor:
    """[B, N] int16, or int32 for many classes: the class each anchor answers for, or BACKGROUND, or IGNORED."""
    dtype = torch.int16 if num_classes < 2**15 else torch.int32
    flat = torch.full((match.num_images * match.num_anchors,), BACKGROUND, dtype=dtype, device=labels_G.device)
    flat.index_fill_(0, match.ignored, IGNORED)
    flat.index_copy_(0, match.positive, labels_G[match.object].to(dtype))
    return flat.view(match.num_images, match.num_anchors)


def level_loss(logits_BCHW: Tensor, labels_BX: Tensor, config: LossConfig, scale_B: Tensor | None = None) -> Tensor:
    """[B] float64: the class loss of one level, summed over the anchors of each image that are not ignored.

    logits_BCHW: [B, A*K, H, W] float32, bfloat16 or float16; contiguous or channels last, neither is copied.
    labels_BX: [B, H*W*A] of `anchor_labels`, a slice of it as it is.
    scale_B: [B], what the gradient of each sum will be, if that is known (1 / the normaliser, times a loss scaler's
    factor). The gradient of the logits is then made with the value: they are read once, it is written once. Images for
    which another one arrives are done again. Without it forward reads, backward reads and writes. In either case the
    factor is in before anything is rounded to the logits' dtype: a float16 gradient of 8e-11 is not 0 under a scaler.

    Sums of blocks are added in a fixed order: the same inputs give the same bits. Differentiable once; UsageError the
    second time. The host never waits.
    """
    _check(logits_BCHW, labels_BX, config)
    channels_last = logits_BCHW.is_contiguous(memory_format=torch.channels_last)
    if not (channels_last or logits_BCHW.is_contiguous()):
        logits_BCHW = logits_BCHW.contiguous()
    if not channels_last and logits_BCHW.numel():
        cells = logits_BCHW.shape[2] * logits_BCHW.shape[3]
        labels_BX = labels_BX.unflatten(1, (cells, -1)).transpose(1, 2).flatten(1)
    wanted = torch.is_grad_enabled() and logits_BCHW.requires_grad
    if wanted and scale_B is not None:
        # A copy: whoever changes theirs before backward would otherwise make wrong gradients pass for right ones.
        scale_B = scale_B.detach().float().clone(memory_format=torch.contiguous_format)
    else:
        scale_B = None
    if labels_BX.stride(-1) != 1:
        labels_BX = labels_BX.contiguous()
    return cast(Tensor, _LevelLoss.apply(logits_BCHW, labels_BX, config, scale_B))


class _LevelLoss(torch.autograd.Function):
    """A gradient that was made with the value is given away by the first backward pass; a second one makes it again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels_BX: Tensor, config: LossConfig, scale_B: Tensor | None) -> Tensor:
        ctx.config, ctx.scale_B = config, scale_B
        ctx.gradient = None if scale_B is None else torch.empty_like(logits)
        ctx.save_for_backward(logits, labels_BX)
        return _launch(logits, labels_BX, config, ctx.gradient, scale_B).sum(1, dtype=torch.float64)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, upstream_B: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels_BX = ctx.saved_tensors
        gradient, done_B = ctx.gradient, ctx.scale_B
        if gradient is None:
            gradient, done_B = torch.empty_like(logits), None
        ctx.gradient = None
        _launch(logits, labels_BX, ctx.config, gradient, upstream_B.float().contiguous(), done_B)
        return gradient, None, None, None


def _launch(
    logits: Tensor,
    labels_BX: Tensor,
    config: LossConfig,
    gradient: Tensor | None,
    scale_B: Tensor | None,
    done_B: Tensor | None = None,
) -> Tensor:
    """[B, blocks] float32 sums; fills `gradient`, but for images whose scale is that of `done_B`."""
    from foveal.losses.loss_kernels import loss_kernel

    images, channels, height, width = logits.shape
    elements, inner = channels * height * width, height * width
    partials = torch.zeros(images, -(-elements // BLOCK), device=logits.device)
    if not partials.numel():
        return partials
    classes = elements // labels_BX.shape[1]
    positive, background = (1.0, 1.0) if config.name in ("cross_entropy", "hinge") else (config.alpha, 1 - config.alpha)
    per_class = bool(config.class_alpha) and config.name not in ("cross_entropy", "hinge")
    unread = partials
    with _on(logits):
        loss_kernel[partials.shape[1], images](
            logits,
            labels_BX,
            _on_device(config.class_alpha, logits.device) if per_class else unread,
            unread if scale_B is None else scale_B,
            unread if done_B is None else done_B,
            unread if gradient is None else gradient,
            partials,
            elements,
            labels_BX.stride(0),
            inner,
            positive,
            background,
            config.beta,
            config.margin,
            config.label_smoothing,
            LOSS=config.name,
            GAMMA=float(config.gamma),
            CLASSES=classes,
            CHANNELS_LAST=inner == 1 or not logits.is_contiguous(),
            PER_CLASS=per_class,
            SMOOTHED=config.label_smoothing > 0,
            GRADIENT=gradient is not None,
            AGAIN=done_B is not None,
            PTX=logits.is_cuda and torch.version.hip is None,
            NEAR=_power_of_2(BLOCK // classes + 2),
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return partials


def _check(logits_BCHW: Tensor, labels_BX: Tensor, config: LossConfig) -> None:
    images, channels, height, width = logits_BCHW.shape
    fits = len(labels_BX) == images
    if height * width and labels_BX.shape[1]:
        per_cell, left = divmod(labels_BX.shape[1], height * width)
        fits = fits and not left and not channels % per_cell
    if not fits:
        raise UsageError(f"labels of shape {tuple(labels_BX.shape)} do not fit logits of {tuple(logits_BCHW.shape)}")
    if config.name not in _MEMBERS or config.mining != "all" or logits_BCHW.dtype not in _DTYPES:
        raise UsageError(f"no kernel for {config.name} of {logits_BCHW.dtype} under mining {config.mining}")


@lru_cache(maxsize=8)
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied once, not in every step."""
    return torch.tensor(values, device=device)


def _on(tensor: Tensor) -> torch.cuda.device:
    """Triton launches on the current device, which may be another card than the tensor's."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)


def _power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()
