"""What all backbones share: five stages, the batch-norm modes, frozen stages, stages that are computed twice.

A backbone turns pictures [B, 3, H, W] into C2 .. C5, features at strides 4, 8, 16, 32. Stage s of the five ends at
stride 2^s (the ResNet stem's pooling opens stage 2); stages are counted from the picture, so `frozen_stages=2` keeps
everything up to C2 as it was loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BatchNormMode = Literal["frozen", "evaluating", "trained"]

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module, ABC):
    """Pictures to C2 .. C5.

    batch_norm: frozen (statistics and affine fixed), evaluating (statistics fixed, affine trained) or trained.
    frozen_stages: 0 .. 5; these stages' parameters take no gradient and their statistics never move.
    recompute: `segment` keeps less for the backward pass and computes more.
    """

    channels: tuple[int, int, int, int]
    """Channels of C2, C3, C4, C5."""
    pixel_mean: tuple[float, ...] = IMAGE_MEAN
    pixel_std: tuple[float, ...] = IMAGE_STD
    """Of red, green and blue in 0 .. 1, as the backbone was trained: ImageNet's unless it says otherwise."""

    def __init__(self, batch_norm: BatchNormMode, frozen_stages: int):
        super().__init__()
        self.batch_norm = batch_norm
        self.frozen_stages = frozen_stages
        self.recompute = False

    @abstractmethod
    def parameters_until(self, stage: int) -> Iterable[nn.Parameter]:
        """The parameters of the first `stage` stages."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """C2, C3, C4, C5 of normalised pictures [B, 3, H, W]; C_l is [B, channels, ceil(H / 2^l), ceil(W / 2^l)]."""

    def description(self) -> dict[str, dict[str, Any]]:
        """JSON files, by stem, that a run keeps in its folder `backbone` because its config does not say enough."""
        return {}

    def freeze(self) -> Self:
        """Applies `batch_norm` and `frozen_stages` to the layers; subclasses call it when they are built.

        Frozen stages need no `no_grad`: without a parameter that wants a gradient autograd records nothing there.
        """
        for parameter in self.parameters_until(self.frozen_stages):
            parameter.requires_grad_(False)
        if self.batch_norm == "frozen":
            for norm in _norms([self]):
                norm.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but statistics that must not move stay in evaluation mode."""
        super().train(mode)
        frozen = {id(parameter) for parameter in self.parameters_until(self.frozen_stages)}
        for norm in _norms([self]):
            if self.batch_norm != "trained" or id(norm.weight) in frozen:
                norm.eval()
        return self

    def enable_recompute(self) -> None:
        """From now on `segment` trades computation for memory; raises ConfigError if the layers are not made for it."""
        self.recompute = True

    def segment(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(*inputs); with `recompute` only inputs and result are kept, and the backward pass runs it again."""
        if self.recompute and torch.is_grad_enabled():
            return self.run_twice(function, *inputs)
        return function(*inputs)

    def run_twice(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Gradient or activation checkpointing (Chen et al. 2016, 1604.06174).

        The second time batch norm leaves its statistics alone, so that they are those of one pass.
        """
        moving = [norm for norm in _norms([self]) if norm.training]
        contexts: dict[str, Any] = {}
        if moving:
            contexts["context_fn"] = lambda: (nullcontext(), _statistics_untouched(moving))
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **contexts)


class StagedBackbone(Backbone):
    """A backbone whose five stages are modules run one after the other, under torchvision's parameter names."""

    @abstractmethod
    def stages(self) -> list[Sequence[nn.Module]]:
        """The modules of each of the five stages, in order."""

    @abstractmethod
    def stage(self, number: int, x: Tensor) -> Tensor:
        """What stage `number`, 1 .. 5, makes of the result of the one before; `x` itself is not changed."""

    def parameters_until(self, stage: int) -> Iterator[nn.Parameter]:
        for modules in self.stages()[:stage]:
            for module in modules:
                yield from module.parameters()

    def forward(self, images: Tensor) -> list[Tensor]:
        x, features = images, []
        for number in range(1, 6):
            x = self.segment(self.stage, number, x)
            features.append(x)
        return features[1:]


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


@contextmanager
def _statistics_untouched(norms: Sequence[nn.BatchNorm2d]) -> Iterator[None]:
    """Batch norm does all that it does in training, but takes nothing of the batch into its running statistics."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
