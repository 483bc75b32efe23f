"""MobileNetV2 with torchvision's parameter names, so that its files load as they are; C2 .. C5 out.

Sandler et al. 2018 (1801.04381). C2 .. C5 are the ends of features[3], [6], [13] and [18]: strides 4, 8, 16, 32. The
classifier is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.model.backbone import BatchNormMode, StagedBackbone, conv_norm, initialise

# Expansion, channels, blocks and first stride of each row of the paper's table 2.
_ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

# features[i:j] of each of the five stages.
_STAGES = ((0, 2), (2, 4), (4, 7), (7, 14), (14, 19))


class ConvNormReLU6(nn.Sequential):
    """Convolution, batch norm, ReLU6; the names 0 and 1 are torchvision's."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1):
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return relu6_(conv_norm(x, self[0], self[1]))


def relu6_(x: Tensor) -> Tensor:
    """min(max(x, 0), 6) in the memory of `x`, which nothing else may need; no gradient at 0 and 6 themselves."""
    if not x.requires_grad:
        return x.clamp_(0, 6)
    return F.relu6(x, inplace=True) if torch.compiler.is_compiling() else _ReLU6InPlace.apply(x)


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 depthwise, 1x1 down without activation, and the shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        inner = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        expand = [ConvNormReLU6(in_channels, inner, 1)] if expansion != 1 else []
        depthwise = ConvNormReLU6(inner, inner, 3, stride, groups=inner)
        project = (nn.Conv2d(inner, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.conv = nn.Sequential(*expand, depthwise, *project)

    def forward(self, x: Tensor) -> Tensor:
        *layers, project, norm = self.conv
        y = x
        for layer in layers:
            y = layer(y)
        y = conv_norm(y, project, norm)
        return y.add_(x) if self.shortcut else y


class MobileNetV2(StagedBackbone):
    """MobileNetV2 at width 1 without its classifier."""

    channels = (24, 32, 96, 1280)

    def __init__(self, batch_norm: BatchNormMode = "trained", frozen_stages: int = 0):
        super().__init__(batch_norm, frozen_stages)
        features: list[nn.Module] = [ConvNormReLU6(3, 32, 3, 2)]
        in_channels = 32
        for expansion, channels, blocks, stride in _ROWS:
            for block in range(blocks):
                features.append(InvertedResidual(in_channels, channels, stride if block == 0 else 1, expansion))
                in_channels = channels
        features.append(ConvNormReLU6(in_channels, self.channels[-1], 1))
        self.features = nn.Sequential(*features)
        initialise(self)
        self.freeze()

    def stages(self) -> list[Sequence[nn.Module]]:
        layers = list(self.features)
        return [layers[first:end] for first, end in _STAGES]

    def stage(self, number: int, x: Tensor) -> Tensor:
        for layer in self.stages()[number - 1]:
            x = layer(x)
        return x


class _ReLU6InPlace(torch.autograd.Function):
    """torch's in-place ReLU6 makes a copy of the activations; this one makes none and keeps only its result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, y, 0.0, 6.0)
