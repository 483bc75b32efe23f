"""A checkpoint in Foveal's terms, and the network that its tensors are of.

A source's file renames its tensors, folds what it does differently, and states its settings. The shape of the network
is read from the tensors alone, here, for all sources: depth and kind of the backbone, levels, channels, heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.config import Config
from foveal.errors import WeightsError
from foveal.model.resnet import SHAPES, Bottleneck
from foveal.model.retinanet import RetinaNet
from foveal.names import printable
from foveal.wording import counted

WITH_CAFFE = [name for name, (block, _, groups, _) in SHAPES.items() if block is Bottleneck and groups == 1]
ANCHORS = len(Config().anchors.ratios) * len(Config().anchors.scales)


@dataclass(frozen=True)
class Converted:
    """What a source's file makes of a checkpoint.

    tensors: by Foveal's names, in the source's conventions. settings: the source's, as changes to the defaults; of the
    network only what names and shapes do not tell. fold: puts Foveal's conventions in place of the source's; it is
    called once every name and shape is known to be right. class_names: of the outputs in their order, where the file
    tells. notes: what is folded, and what stays different, each a sentence for the user. caffe: the strides of
    bottlenecks sit in their first convolutions.
    """

    tensors: dict[str, Tensor]
    settings: Mapping[str, Any]
    fold: Callable[[dict[str, Tensor]], None]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    caffe: bool = False


def renamed(path: Path, source: str, tensors: Mapping[str, Tensor], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors by Foveal's names. `name_of` gives "" for what is not needed and "?" for what it does not know."""
    names = {theirs: name_of(theirs) for theirs in tensors}
    unknown = [theirs for theirs, ours in names.items() if ours == "?"]
    if unknown:
        raise WeightsError(
            f"{path}: is no RetinaNet of {source} that Foveal knows: {len(unknown)} of "
            f"{counted(len(tensors), 'tensor')} have no place in it, such as {printable(unknown[0])}; "
            "give --from if it is another source's"
        )
    return {ours: tensors[theirs] for theirs, ours in names.items() if ours}


def network_of(path: Path, tensors: Mapping[str, Tensor], caffe: bool = False) -> dict[str, Any]:
    """The settings of `model` that follow from names and shapes; WeightsError where they are of no RetinaNet."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    levels = sorted(int(found[1]) for name in shapes if (found := re.fullmatch(r"pyramid\.\w+\.(\d)\.bias", name)))
    try:
        backbone = _backbone(shapes)
        channels = shapes["pyramid.lateral.5.weight"][0]
        sixth = shapes.get("pyramid.extra.6.weight", (0, 0))[1]
        tower = [shape for name, shape in shapes.items() if re.fullmatch(r"class_head\.tower\.\d+\.weight", name)]
        return {
            "backbone": f"{backbone}_caffe" if caffe and backbone in WITH_CAFFE else backbone,
            "levels": f"{levels[0]}-{levels[-1]}",
            "pyramid_channels": channels,
            # torchvision's own rule: P6 is made of P5 where its width is the pyramid's.
            "p6_from": "P5" if sixth == channels else "C5",
            "head_channels": shapes["class_head.predict.weight"][1],
            "head_depth": sum(len(shape) == 4 for shape in tower),
            "head_norm": "group" if any(len(shape) == 1 for shape in tower) else "none",
        }
    except (KeyError, IndexError) as error:
        missing = f" ({error.args[0]} is missing)" if isinstance(error, KeyError) else ""
        raise WeightsError(
            f"{path}: its tensors are of no RetinaNet with a ResNet{missing}; check what it is of"
        ) from None


def outputs_of(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """How many classes the class head answers for; WeightsError unless a cell has nine anchors."""
    rows, offsets = (
        tensors[name].numel() if name in tensors else 0 for name in ("class_head.predict.bias", "box_head.predict.bias")
    )
    if offsets != 4 * ANCHORS or not rows or rows % ANCHORS:
        raise WeightsError(
            f"{path}: predicts {offsets} offsets and {rows} classes in a cell, which is not {ANCHORS} anchors of 3 "
            "sizes and 3 ratios; its own anchors are not in the file, so it cannot be imported"
        )
    return rows // ANCHORS


def complete(path: Path, config: Config, tensors: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """Exactly the tensors that a run of `config` holds, float32; WeightsError for a name or shape too many or too few.

    Names and shapes are compared on the meta device, before anything of their size is made. Whole numbers are no
    weights and are refused, but for the counters of batch norm, which are set to 0.
    """
    with torch.device("meta"):
        wanted = RetinaNet(config.model, classes, ANCHORS).state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in tensors and name not in counters]
    unknown = [name for name in tensors if name not in wanted]
    other = [name for name, tensor in wanted.items() if name in tensors and tensors[name].shape != tensor.shape]
    if wrong := missing or unknown or other:
        raise WeightsError(
            f"{path}: does not fit a RetinaNet with {config.model.backbone} ({counted(len(missing), 'tensor')} "
            f"missing, {len(unknown)} unknown, {len(other)} of another shape, such as {printable(wrong[0])}); check "
            "what it is of"
        )
    for name in wanted.keys() - counters:
        if not tensors[name].is_floating_point():
            raise WeightsError(
                f"{path}: {printable(name)} is of {tensors[name].dtype}, and weights are floats; give a file that was "
                "not quantised or cast"
            )
    whole = {name: torch.zeros((), dtype=torch.int64) for name in counters}
    return whole | {name: tensors[name].float().contiguous() for name in wanted.keys() - counters}


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """WeightsError for a weight that is no number."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise WeightsError(
                f"{path}: {printable(name)} holds what is no finite number; import an earlier checkpoint"
            )


def _backbone(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of the ResNet by its number of blocks and the width of their convolutions."""
    blocks = tuple(
        1
        + max((int(m[1]) for name in shapes if (m := re.match(rf"backbone\.layer{layer}\.(\d+)\.", name))), default=-1)
        for layer in (1, 2, 3, 4)
    )
    inner, in_group = shapes["backbone.layer1.0.conv1.weight"][0], shapes["backbone.layer1.0.conv2.weight"][1]
    bottleneck = "backbone.layer1.0.conv3.weight" in shapes
    groups = inner // max(in_group, 1)
    for name, (block, counts, its_groups, base_width) in SHAPES.items():
        kind = (block is Bottleneck, counts, its_groups, base_width)
        if kind == (bottleneck, blocks, groups, inner // max(groups, 1)):
            return name
    raise KeyError(f"a backbone of {blocks} blocks")
