"""The grid of anchors: the reference boxes that the head's outputs speak about (paper section 4, "Anchors").

Level l has cells of 2^l pixels; each cell carries A = ratios x scales anchors. The flat order is level by level,
then cells row by row, then the A anchors of a cell, ratios outer and scales inner: the first anchors of a cell
have ratio 0 with scale 0, 1, 2.

Letters: N anchors of an image (all levels), A anchors per cell, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from foveal.config import Config


@dataclass(frozen=True)
class Anchors:
    """How anchors are laid out; `boxes(height, width)` lays them.

    sizes: side of the square anchor on each of `levels`, in pixels. scales: factors on it.
    ratios: height / width, at equal area.
    offset: an anchor sits on the centre of its cell or on its upper left corner.
    round_sizes: whole-pixel sides and corners, as torchvision has them.
    stride: distance of cells: 2^level exactly, or padded side // number of cells, as torchvision has it.
    """

    levels: tuple[int, ...]
    sizes: tuple[float, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    offset: Literal["centre", "corner"] = "centre"
    round_sizes: bool = False
    stride: Literal["exact", "floor_of_padded"] = "exact"

    @classmethod
    def from_config(cls, config: Config) -> Anchors:
        a = config.anchors
        return cls(
            levels=config.model.level_numbers,
            sizes=tuple(config.anchor_sizes),
            scales=tuple(a.scales),
            ratios=tuple(a.ratios),
            offset=a.offset,
            round_sizes=a.round_sizes,
            stride=a.stride,
        )

    @property
    def per_cell(self) -> int:
        """A: anchors of one cell."""
        return len(self.scales) * len(self.ratios)

    def feature_shapes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of cells on each level of a network input of this many pixels."""
        return [(-(-height // 2**level), -(-width // 2**level)) for level in self.levels]

    def strides(self, height: int, width: int) -> list[tuple[int, int]]:
        """(vertical, horizontal) distance of cells in pixels on each level."""
        if self.stride == "exact":
            return [(2**level, 2**level) for level in self.levels]
        return [(height // rows, width // columns) for rows, columns in self.feature_shapes(height, width)]

    def level_counts(self, height: int, width: int) -> list[int]:
        """Number of anchors on each level."""
        return [rows * columns * self.per_cell for rows, columns in self.feature_shapes(height, width)]

    def count(self, height: int, width: int) -> int:
        """N: 67,995 for 600 x 600 with the paper's nine anchors on levels 3 to 7."""
        return sum(self.level_counts(height, width))

    def cell_boxes(self, level_index: int) -> Tensor:
        """[A, 4] float32: the anchors of one cell, around the origin."""
        sides = [self.sizes[level_index] * scale for scale in self.scales]
        if self.round_sizes:
            sides = [float(int(side)) for side in sides]
        half_AX = torch.tensor(
            [(side * ratio**-0.5 / 2, side * ratio**0.5 / 2) for ratio in self.ratios for side in sides],
            dtype=torch.float64,
        )
        if self.round_sizes:
            half_AX = half_AX.round()
        return torch.cat([-half_AX, half_AX], 1).float()

    def boxes(self, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
        """[N, 4] float32 xyxy anchors of a network input, in the flat order. Cached: not to be written to."""
        return _grid(self, height, width, torch.device(device))

    def levels_of(self, height: int, width: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """The same by level: L tensors of [rows * columns * A, 4]."""
        return list(self.boxes(height, width, device).split(self.level_counts(height, width)))


def centred_inside(anchors_N4: Tensor, size: tuple[int, int] | tuple[Tensor, Tensor]) -> Tensor:
    """[N] bool: anchors whose centre lies in a picture of (height, width), not on the padding right of or below it.

    Height and width of B pictures are [B, 1] each; the result then is [B, N].
    """
    height, width = size
    x1, y1, x2, y2 = anchors_N4.unbind(-1)
    # Centres are multiples of half a pixel; the tolerance absorbs what the corners lost to rounding.
    return (x1 + x2 < 2 * width - 0.01) & (y1 + y2 < 2 * height - 0.01)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what a prediction caches, training may use
def _grid(anchors: Anchors, height: int, width: int, device: torch.device) -> Tensor:
    shapes, strides = anchors.feature_shapes(height, width), anchors.strides(height, width)
    shift = 0.5 if anchors.offset == "centre" else 0.0
    levels = []
    for index, ((rows, columns), (stride_y, stride_x)) in enumerate(zip(shapes, strides, strict=True)):
        y, x = torch.meshgrid(
            (torch.arange(rows) + shift) * stride_y, (torch.arange(columns) + shift) * stride_x, indexing="ij"
        )
        centres = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        levels.append((centres + anchors.cell_boxes(index)).reshape(-1, 4))
    return torch.cat(levels).to(device)
