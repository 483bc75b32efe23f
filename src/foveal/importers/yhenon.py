"""yhenon/pytorch-retinanet: a state dict, saved alone. Its own snapshots are whole pickled models, which are refused.

Its pixels, its anchors on cell centres and its network are Foveal's. Box offsets are divided by .1 .1 .2 .2 there,
which is folded into the last box convolution.
"""

from __future__ import annotations

import re

from torch import Tensor

from foveal.importers.converted import Converted, renamed
from foveal.importers.folding import fold_boxes
from foveal.importers.weight_files import WeightFile

STD = (0.1, 0.1, 0.2, 0.2)
OFFSETS = [[STD[row] if row == column else 0.0 for column in range(4)] for row in range(4)]

_HEADS = {"classificationModel": "class_head", "regressionModel": "box_head"}


def recognises(file: WeightFile) -> bool:
    return file.has("classificationModel.")


def convert(file: WeightFile) -> Converted:
    """A state dict of pytorch-retinanet, its ResNets 18 to 152."""
    tensors = renamed(file.path, "yhenon/pytorch-retinanet", file.tensors, _name_of)

    def fold(whole: dict[str, Tensor]) -> None:
        fold_boxes(whole, OFFSETS)

    settings = {
        "model.batch_norm": "evaluating",
        "assignment.low_quality": "none",
        "assignment.padding": "background",
        "loss.normaliser": "image",
        "data.size": 608,
        "data.max_size": 1024,
        "inference.max_detections": 300,
    }
    notes = (
        "box offsets, which are divided by .1 .1 .2 .2 there, are folded into the last box convolution",
        "pytorch-retinanet keeps every detection; here 1000 a level compete and 300 are kept",
    )
    return Converted(tensors, settings, fold, notes=notes)


def _name_of(theirs: str) -> str:
    if re.match(r"(?:conv1|bn1|layer\d)\.", theirs):
        return f"backbone.{theirs}"
    if found := re.fullmatch(r"fpn\.P([345])_([12])\.(weight|bias)", theirs):
        return f"pyramid.{'lateral' if found[2] == '1' else 'output'}.{found[1]}.{found[3]}"
    if found := re.fullmatch(r"fpn\.(?:P(6)|P(7)_2)\.(weight|bias)", theirs):
        return f"pyramid.extra.{found[1] or found[2]}.{found[3]}"
    if found := re.fullmatch(r"(classification|regression)Model\.conv([1-4])\.(weight|bias)", theirs):
        return f"{_HEADS[found[1] + 'Model']}.tower.{2 * (int(found[2]) - 1)}.{found[3]}"
    if found := re.fullmatch(r"(classification|regression)Model\.output\.(weight|bias)", theirs):
        return f"{_HEADS[found[1] + 'Model']}.predict.{found[2]}"
    return "?"
