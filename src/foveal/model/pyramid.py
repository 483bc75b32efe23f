"""The feature pyramid: C2 .. C5 to P_first .. P_last, all of one width (paper section 4; Lin et al. 2017, 1612.03144).

Lateral 1x1 convolutions, top-down nearest upsampling to the lateral's size (so any picture size works: 38 cells meet
75), 3x3 output convolutions; P6 is a 3x3 stride-2 convolution on C5 (or P5), P7 and above are ReLU and another such
convolution on the level below. mmdetection leaves that ReLU out (`C5_linear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class Pyramid(nn.Module):
    """Features of one width at strides 2^first .. 2^last.

    in_channels: of C2, C3, C4, C5. levels: consecutive numbers, the first at most 5 and the last at least 5.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        levels: Sequence[int],
        channels: int,
        p6_from: Literal["C5", "P5", "C5_linear"] = "C5",
    ):
        super().__init__()
        self.p6_from = p6_from
        merged = [level for level in levels if level <= 5]
        self.lateral = nn.ModuleDict({str(n): nn.Conv2d(in_channels[n - 2], channels, 1) for n in merged})
        self.output = nn.ModuleDict({str(n): nn.Conv2d(channels, channels, 3, padding=1) for n in merged})
        self.extra = nn.ModuleDict()
        for level in levels[len(merged) :]:
            first_in = in_channels[-1] if level == 6 and p6_from != "P5" else channels
            self.extra[str(level)] = nn.Conv2d(first_in, channels, 3, stride=2, padding=1)
        self._initialise()

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """P_first .. P_last, each [B, channels, ceil(H / 2^l), ceil(W / 2^l)], from C2, C3, C4, C5."""
        merged: list[Tensor] = []
        for name, lateral in reversed(list(self.lateral.items())):
            x = lateral(features[int(name) - 2])
            if merged:
                x = x.add_(F.interpolate(merged[-1], size=x.shape[-2:], mode="nearest"))
            merged.append(x)
        outputs = [conv(x) for conv, x in zip(self.output.values(), reversed(merged), strict=True)]
        x = outputs[-1] if self.p6_from == "P5" else features[-1]
        for name, conv in self.extra.items():
            if self.training and x.shape[-1] == 1:
                # The same numbers, from zeros that are written: torch 2.13's bfloat16 gradient reads some that are not.
                x = F.pad(x, (0, 1))
            x = conv(x if name == "6" or self.p6_from == "C5_linear" else F.relu(x))
            outputs.append(x)
        return outputs

    def _initialise(self) -> None:
        # The authors' "Xavier": uniform with variance 1 / fan_in.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
