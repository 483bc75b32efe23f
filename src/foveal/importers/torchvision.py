"""torchvision's retinanet_resnet50_fpn and retinanet_resnet50_fpn_v2, and RetinaNets on its other ResNets.

Everything it does differently is a setting of Foveal's: anchors on cell corners with whole-pixel sides, strides that
are floored, every object's best anchor used, padding trained as background. Its pixels are Foveal's. Version 2 has
group norm in the heads, P6 from C5 and GIoU. Files of before torchvision 0.13 number the layers of heads and pyramid
differently; both are read. So are the files of a Lightning module that keeps the detector as `self.model`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from foveal.importers.converted import Converted, renamed
from foveal.importers.folding import fold_epsilon
from foveal.importers.weight_files import WeightFile, checksum

PUBLISHED_V1 = "eeacb38b"
"""The checksum of torchvision's own COCO weights for version 1 begins so, as its file name says."""

_HEADS = {"classification_head": "class_head", "regression_head": "box_head"}
_FPN = {"inner_blocks": "lateral", "layer_blocks": "output"}


def recognises(file: WeightFile) -> bool:
    return replace(file, tensors=unwrapped(file.tensors)).has("backbone.body.", "head.classification_head.")


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The detector's tensors by its own names, where it lies as `self.model` in another module."""
    if not all(name.startswith("model.") for name in tensors):
        return tensors
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def convert(file: WeightFile) -> Converted:
    """A state dict of torchvision's RetinaNet."""
    theirs = unwrapped(file.tensors)
    tensors = renamed(file.path, "torchvision", theirs, _names(theirs))
    group_norm = any("_head.tower.1." in name for name in tensors)
    trained = any(name.endswith("num_batches_tracked") for name in tensors)
    # torchvision evaluates these weights, and only these, with an epsilon of 0 in every batch norm.
    published = checksum(file.path).startswith(PUBLISHED_V1)
    notes = ["torchvision resizes without antialiasing, so scores of resized pictures differ slightly"]
    if theirs is not file.tensors:
        notes.append("the prefix model. was taken off the names; a file of DeepForest needs --from deepforest")
    if published:
        notes.append("batch norm's epsilon of 0, with which torchvision published these weights, is folded into them")

    def fold(whole: dict[str, Tensor]) -> None:
        if published:
            fold_epsilon(whole, 0.0)

    settings = {
        "model.batch_norm": "trained" if trained else "frozen",
        # With weights of the backbone, torchvision trains its last three layers in both versions. In version 2 the
        # statistics of the others would still move there; here they stand still too.
        "model.frozen_stages": 2,
        "anchors.offset": "corner",
        "anchors.round_sizes": True,
        "anchors.stride": "floor_of_padded",
        "assignment.low_quality": "all",
        "assignment.padding": "background",
        "loss.box": "giou" if group_norm else "l1",
        "loss.normaliser": "image",
        "data.size": 800,
        "data.max_size": 1333,
        "inference.max_detections": 300,
    }
    return Converted(tensors, settings, fold, notes=tuple(notes))


def _names(tensors: Mapping[str, Tensor]) -> Callable[[str], str]:
    """The renaming. Towers are flat in Foveal (0 convolution, 1 norm, 2 ReLU, 3 convolution, ...)."""
    layers = 3 if any(re.search(r"_head\.conv\.\d\.1\.", name) for name in tensors) else 2

    def name_of(theirs: str) -> str:
        if theirs.startswith("backbone.body."):
            return "backbone." + theirs.removeprefix("backbone.body.")
        if found := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)(?:\.0)?\.(weight|bias)", theirs):
            return f"pyramid.{_FPN[found[1] + '_blocks']}.{int(found[2]) + 3}.{found[3]}"
        if found := re.fullmatch(r"backbone\.fpn\.extra_blocks\.p(\d)\.(weight|bias)", theirs):
            return f"pyramid.extra.{found[1]}.{found[2]}"
        if found := re.fullmatch(r"head\.(\w+_head)\.(?:cls_logits|bbox_reg)\.(weight|bias)", theirs):
            return f"{_HEADS[found[1]]}.predict.{found[2]}" if found[1] in _HEADS else "?"
        if found := re.fullmatch(r"head\.(\w+_head)\.conv\.(\d+)(?:\.(\d))?\.(weight|bias)", theirs):
            place = int(found[2]) if found[3] is None else layers * int(found[2]) + int(found[3])
            return f"{_HEADS[found[1]]}.tower.{place}.{found[4]}" if found[1] in _HEADS else "?"
        return "?"

    return name_of
