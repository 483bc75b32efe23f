"""Any backbone of the transformers library as C2 .. C5: strides, channels and stages are measured, not looked up.

The network is run once on torch's meta device, where nothing is computed, and tells the shape of every feature map that
it can give and which parameters each one depends on. C_l is the deepest map whose stride is at most 2^l, or the deepest
of the finest where all are coarser. So ResNet, ConvNeXt or Swin give their own C2 .. C5. A plain vision transformer has
one stride, 14 or 16, and gives its last map, resampled to strides 4 .. 32: the simple pyramid of Li et al. 2022
(ViTDet, 2203.16527), with bilinear interpolation in place of its transposed convolutions, since 14 is no power of two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.errors import ConfigError, WeightsError
from foveal.model.backbone import Backbone, BatchNormMode
from foveal.model.transformers_files import Description, build, published_weights

LEVELS = (2, 3, 4, 5)
PROBE = 1344
"""Side of the picture that is measured with: a multiple of 12, 14, 16, 32 and 64."""


@dataclass(frozen=True)
class Maps:
    """The feature maps that a backbone can give, from the picture on.

    strides: in pixels. until: the parameters that a map depends on. multiple: what sides must be a multiple of.
    """

    names: list[str]
    channels: list[int]
    strides: list[int]
    until: list[set[str]]
    multiple: int

    def source(self, level: int) -> int:
        """The index of the map that C_level is made of."""
        return max(i for i, stride in enumerate(self.strides) if stride <= max(2**level, min(self.strides)))


class TransformersBackbone(Backbone):
    """A transformers backbone behind the interface of the others.

    first_level: the finest C_l that is used; those below it are empty, since they would cost much and give nothing.
    frozen_stages: 1 is the stem or the embedding; 2 .. 5 are all that C2 .. C5 are made of, or, where all are made of
    one map, one to four quarters of the blocks. batch_norm is for torch's BatchNorm2d; layer norms are always trained
    unless they belong to a frozen stage. Parameters that no used map depends on take no gradient.
    """

    def __init__(self, description: Description, batch_norm: BatchNormMode, frozen_stages: int, first_level: int):
        super().__init__(batch_norm, frozen_stages)
        self.described = description
        self.pixel_mean, self.pixel_std = description.pixels.mean, description.pixels.std
        maps = measure(description)
        sources = [maps.source(level) for level in LEVELS]
        used = sorted(set(sources[first_level - LEVELS[0] :]))
        self.first_level = first_level
        self.multiple = maps.multiple
        c2, c3, c4, c5 = (maps.channels[i] for i in sources)
        self.channels = (c2, c3, c4, c5)
        self.strides = [maps.strides[i] for i in sources]
        self.place = [used.index(i) if i in used else -1 for i in sources]
        self.until = [set(), maps.until[0], *_stage_ends(maps, sources)]
        self.needed = set.union(*(maps.until[i] for i in used))
        description.config.out_features = [maps.names[i] for i in used]
        self.model: nn.Module = build(description.config)
        self.freeze()

    def parameters_until(self, stage: int) -> Iterator[nn.Parameter]:
        names = self.until[stage]
        return (parameter for name, parameter in self.model.named_parameters() if name in names)

    def freeze(self) -> Self:
        for name, parameter in self.model.named_parameters():
            if name not in self.needed:
                parameter.requires_grad_(False)
        return super().freeze()

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, self._padded(width) - width, 0, self._padded(height) - height))
        maps = self.model(pixel_values=padded).feature_maps
        features = []
        for level, stride, place in zip(LEVELS, self.strides, self.place, strict=True):
            if level < self.first_level:
                features.append(padded.new_empty(0))
                continue
            x = resampled(maps[place], stride, 2**level)
            features.append(x[..., : _cells(height, 2**level), : _cells(width, 2**level)])
        return features

    def load_published(self) -> None:
        """The weights that the model's name or folder publishes; raises WeightsError if there are none that fit."""
        self.model.load_state_dict(published_weights(self.described.name, self.described.config), strict=False)

    def description(self) -> dict[str, dict[str, Any]]:
        return self.described.files()

    def enable_recompute(self) -> None:
        """Each block that transformers can compute twice becomes a segment."""
        if not getattr(self.model, "supports_gradient_checkpointing", False):
            raise ConfigError(
                f"train.recompute_backbone: transformers cannot recompute a {self.described.config.model_type!r} "
                "backbone; set it to false"
            )
        super().enable_recompute()
        layers: Iterator[Any] = self.model.modules()
        for layer in layers:
            if hasattr(layer, "gradient_checkpointing"):
                layer.gradient_checkpointing = True
                layer._gradient_checkpointing_func = self.segment

    def _padded(self, side: int) -> int:
        """Enough for ceil(side / 32) cells of the coarsest level, and a multiple of what the network takes."""
        coarsest = 2 ** LEVELS[-1]
        return _cells(_cells(side, coarsest) * coarsest, self.multiple) * self.multiple


def _cells(side: int, stride: int) -> int:
    """ceil(side / stride), without a negative number: ONNX's division rounds those towards zero, Python's down."""
    return (side + stride - 1) // stride


def resampled(x: Tensor, stride: int, wanted: int) -> Tensor:
    """Features [B, C, h, w] whose cells are `stride` pixels apart, at a distance of `wanted` pixels.

    Cell i stays centred on pixel (i + 1/2) wanted: the scale is exact even where the sides are not. Bilinear without
    antialiasing, whose kernel would move cells by up to a pixel at such scales.
    """
    if stride == wanted:
        return x
    scale = stride / wanted
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def measure(description: Description) -> Maps:
    """What maps a backbone can give, found by running it on the meta device; WeightsError if that cannot be told."""
    name, config = description.name, description.config
    try:
        config.out_features = list(config.stage_names)
        network = build(config, "meta")
        maps = _run(network, PROBE, PROBE)
    except Exception as error:  # whatever a network does that was not made for pictures of this size
        raise _refused(name, f"cannot be run on a picture of {PROBE} x {PROBE}: {_first_line(error)}") from None
    if len(maps) != len(config.out_features) or any(x.dim() != 4 for x in maps):
        raise _refused(name, "gives no feature maps [B, C, H, W]")
    strides = [round(PROBE / x.shape[-1]) for x in maps]
    ids = {id(parameter): key for key, parameter in network.named_parameters()}
    until = [{ids[i] for i in _parameters_behind(x) if i in ids} for x in maps]
    channels = [x.shape[1] for x in maps]
    return Maps(list(config.out_features), channels, strides, until, _multiple(name, network, strides))


def _multiple(name: str, network: nn.Module, strides: list[int]) -> int:
    """The least multiple of all strides to which pictures must be padded, so that every map is a whole grid."""
    wrong = ""
    for factor in (1, 2, 4, 8, 16):
        multiple = factor * math.lcm(*strides)
        wrong = _no_whole_grid(network, multiple, strides)
        if not wrong:
            return multiple
    raise _refused(name, f"its feature maps are no grids of cells: {wrong}")


def _no_whole_grid(network: nn.Module, multiple: int, strides: list[int]) -> str:
    """What is wrong with the maps of pictures whose sides are multiples of `multiple`; empty where nothing is."""
    for height, width in ((3 * multiple, 2 * multiple), (multiple, 5 * multiple)):
        try:
            maps = _run(network, height, width)
        except Exception as error:  # as above
            return _first_line(error)
        for x, stride in zip(maps, strides, strict=True):
            rows, columns = x.shape[-2:]
            if (rows, columns) != (height // stride, width // stride):
                return (
                    f"at stride {stride} a picture of {height} x {width} has a map of {rows} x {columns} cells, not "
                    f"{height // stride} x {width // stride}"
                )
    return ""


def _run(network: nn.Module, height: int, width: int) -> tuple[Tensor, ...]:
    return network(pixel_values=torch.zeros(1, 3, height, width, device="meta")).feature_maps


def _stage_ends(maps: Maps, sources: list[int]) -> list[set[str]]:
    """The parameters of the first 2, 3, 4 and 5 stages; a stage's norm of its own map is no part of the next one's."""
    if len(set(sources)) > 1:
        return [set.union(*(maps.until[i] for i in sources[: n + 1])) for n in range(len(sources))]
    last = len(maps.names) - 1
    return [maps.until[round(last * quarter / 4)] for quarter in (1, 2, 3, 4)]


def _parameters_behind(x: Tensor) -> set[int]:
    """Ids of the parameters that a tensor's graph ends in."""
    seen, waiting, found = set(), [x.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found


def _refused(name: str, why: str) -> WeightsError:
    return WeightsError(f"model.backbone {name}: {why}; take another one, such as hf:microsoft/resnet-50")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
