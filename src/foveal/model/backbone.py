"""What all backbones share: five stages, the batch-norm modes, frozen stages.

A backbone turns pictures [B, 3, H, W] into C2 .. C5, features at strides 4, 8, 16, 32. Stage s of the five ends at
stride 2^s (the ResNet stem's pooling opens stage 2); stages are counted from the picture, so `frozen_stages=2` keeps
everything up to C2 as it was loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BatchNormMode = Literal["frozen", "evaluating", "trained"]


class Backbone(nn.Module, ABC):
    """Pictures to C2 .. C5; subclasses add the layers, under torchvision's parameter names.

    batch_norm: frozen (statistics and affine fixed), evaluating (statistics fixed, affine trained) or trained.
    frozen_stages: 0 .. 5; these stages' parameters take no gradient and their statistics never move.
    """

    channels: tuple[int, int, int, int]
    """Channels of C2, C3, C4, C5."""

    def __init__(self, batch_norm: BatchNormMode, frozen_stages: int):
        super().__init__()
        self.batch_norm = batch_norm
        self.frozen_stages = frozen_stages

    @abstractmethod
    def stages(self) -> list[Sequence[nn.Module]]:
        """The modules of each of the five stages, in order."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """C2, C3, C4, C5 of normalised pictures [B, 3, H, W]; C_l is [B, channels, ceil(H / 2^l), ceil(W / 2^l)]."""

    def freeze(self) -> Self:
        """Applies `batch_norm` and `frozen_stages` to the layers; subclasses call it when they are built.

        Frozen stages need no `no_grad`: without a parameter that wants a gradient autograd records nothing there.
        """
        for stage in self.stages()[: self.frozen_stages]:
            for module in stage:
                module.requires_grad_(False)
        if self.batch_norm == "frozen":
            for norm in _norms([self]):
                norm.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but statistics that must not move stay in evaluation mode."""
        super().train(mode)
        still = [self] if self.batch_norm != "trained" else [m for s in self.stages()[: self.frozen_stages] for m in s]
        for norm in _norms(still):
            norm.eval()
        return self


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """norm(conv(x)); with fixed statistics the norm is folded into the convolution's weights.

    The fold costs one product of the weights' size and saves reading and writing the activations once more, forward and
    backward; gradients of weights and affine are those of the unfolded layers.
    """
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    if norm.training:
        return norm(conv(x))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift_C = norm.bias - norm.running_mean * scale_C
    weight = conv.weight * scale_C[:, None, None, None]
    return F.conv2d(x, weight, shift_C, conv.stride, conv.padding, conv.dilation, conv.groups)


def initialise(backbone: Backbone) -> None:
    """The start without pretrained weights: He for convolutions, identity for norms."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _norms(modules: Sequence[nn.Module]) -> list[nn.BatchNorm2d]:
    return [m for module in modules for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
