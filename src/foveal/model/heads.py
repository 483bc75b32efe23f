"""The two subnets: class logits and box offsets from every pyramid level, weights shared over levels (paper section 4).

`depth` 3x3 convolutions with ReLU, then a predicting 3x3 convolution with A x K or A x 4 channels, a-major: channel
a * K + k is class k of anchor a. The subnets share their shape and not their weights.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn


class Subnet(nn.Module):
    """One subnet, applied to one level at a time: [B, in_channels, H, W] to [B, outputs, H, W].

    norm: `group` puts group norm between each hidden convolution and its ReLU.
    init: `paper` draws every weight from N(0, .01), made for 256 channels; `scaled` gives hidden convolutions of C
    input channels He's N(0, sqrt(2 / (9 C))) and keeps .01 for the predicting one. In a tower 64 channels wide .01
    would shrink the signal to a sixth in every layer and nothing below would learn.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        depth: int,
        outputs: int,
        norm: Literal["none", "group"] = "none",
        init: Literal["paper", "scaled"] = "paper",
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(depth):
            hidden_std = math.sqrt(2 / (9 * in_channels)) if init == "scaled" else 0.01
            layers.append(_conv(in_channels, channels, hidden_std, bias=norm == "none"))
            if norm == "group":
                layers.append(nn.GroupNorm(_groups(channels), channels))
            layers.append(nn.ReLU(inplace=True))
            in_channels = channels
        self.tower = nn.Sequential(*layers)
        self.predict = _conv(in_channels, outputs, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(self.tower(x))


def prior_bias(prior: float) -> float:
    """-log((1 - prior) / prior), the logit at which a class has probability `prior` (section 4.1); .01 gives -4.595."""
    return -math.log((1 - prior) / prior)


def _groups(channels: int) -> int:
    """32 groups, as in torchvision, where that divides the channels; else the greatest common divisor."""
    groups = math.gcd(32, channels)
    # A group of one channel would make nothing of a level that has one cell.
    return groups if groups < channels else max(1, channels // 2)


def _conv(in_channels: int, out_channels: int, std: float, bias: bool = True) -> nn.Conv2d:
    """3x3, weights from N(0, std), bias 0."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
    nn.init.normal_(conv.weight, std=std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
