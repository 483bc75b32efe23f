"""ResNet-18 .. 152 and ResNeXt with torchvision's parameter names, so that its files load as they are; C2 .. C5 out.

He et al. 2016 (1512.03385), Xie et al. 2017 (1611.05431). The stride of a bottleneck sits in its 3x3 convolution, as in
torchvision, or in its first 1x1 one (`_caffe`), as in the authors' own ResNets and what was trained from them. The
classifier is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.model.backbone import BatchNormMode, StagedBackbone, conv_norm, initialise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, groups: int, base_width: int, stride_first: bool = False
    ):
        super().__init__()
        assert (groups, base_width, stride_first) == (1, 64, False), "basic blocks have one form"
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(conv_norm(x, self.conv1, self.bn1))
        y = conv_norm(y, self.conv2, self.bn2)
        return F.relu_(y.add_(_shortcut(x, self.downsample)))


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (grouped in ResNeXt), 1x1 up by 4, and the shortcut; the 3x3 has the stride, or the first 1x1."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, groups: int, base_width: int, stride_first: bool = False
    ):
        super().__init__()
        first, second = (stride, 1) if stride_first else (1, stride)
        inner, out = width * base_width // 64 * groups, width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, second, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = _downsample(in_channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(conv_norm(x, self.conv1, self.bn1))
        y = F.relu_(conv_norm(y, self.conv2, self.bn2))
        y = conv_norm(y, self.conv3, self.bn3)
        return F.relu_(y.add_(_shortcut(x, self.downsample)))


class ResNet(StagedBackbone):
    """A ResNet or ResNeXt without its classifier.

    blocks: how many of `block` layer1 .. layer4 hold. groups, base_width: 1, 64 for ResNet; 32, 4 for ResNeXt 32x4d.
    stride_first: a bottleneck's stride sits in its first convolution.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        groups: int = 1,
        base_width: int = 64,
        batch_norm: BatchNormMode = "trained",
        frozen_stages: int = 0,
        stride_first: bool = False,
    ):
        super().__init__(batch_norm, frozen_stages)
        e = block.expansion
        self.channels = (64 * e, 128 * e, 256 * e, 512 * e)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        for number, (count, out_channels) in enumerate(zip(blocks, self.channels, strict=True), 1):
            width, stride = out_channels // e, 1 if number == 1 else 2
            layers = [block(in_channels, width, stride, groups, base_width, stride_first)]
            layers += [block(out_channels, width, 1, groups, base_width) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*layers))
            in_channels = out_channels
        initialise(self)
        self.freeze()

    def stages(self) -> list[Sequence[nn.Module]]:
        return [(self.conv1, self.bn1)] + [(self.get_submodule(f"layer{number}"),) for number in (1, 2, 3, 4)]

    def stage(self, number: int, x: Tensor) -> Tensor:
        if number == 1:
            return F.relu_(conv_norm(x, self.conv1, self.bn1))
        if number == 2:
            x = F.max_pool2d(x, 3, 2, 1)
        return self.get_submodule(f"layer{number - 1}")(x)


def resnet(name: str, batch_norm: BatchNormMode = "trained", frozen_stages: int = 0) -> ResNet:
    """The ResNet of a config's `model.backbone`: one of `SHAPES`, or one of bottlenecks with `_caffe` behind it."""
    block, blocks, groups, base_width = SHAPES[name.removesuffix("_caffe")]
    return ResNet(block, blocks, groups, base_width, batch_norm, frozen_stages, name.endswith("_caffe"))


SHAPES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int], int, int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 1, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": (Bottleneck, (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": (Bottleneck, (3, 4, 23, 3), 32, 8),
}


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _shortcut(x: Tensor, downsample: nn.Sequential | None) -> Tensor:
    if downsample is None:
        return x
    conv, norm = downsample
    return conv_norm(x, conv, norm)
