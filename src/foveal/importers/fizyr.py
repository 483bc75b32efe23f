"""fizyr/keras-retinanet, .h5: a start for training, not the same detector.

Folded: pixels (blue first, less Caffe's mean) into the first convolution and its norm. Two things cannot be folded.
Its boxes are offsets of corners, (1 + dx2 - dx1) times the anchor's side, where Foveal's are an exponential; the last
box convolution is set so that both agree to first order, that is, for boxes about as large as their anchor. And Keras
pads the pooling behind the first convolution, P6 and P7 on the right and below where sides are even, torch on both
sides, so both look at other pixels there. The first convolution is padded on both sides in both.
"""

from __future__ import annotations

import re

from torch import Tensor

from foveal.importers.converted import Converted, renamed
from foveal.importers.folding import fold_boxes, fold_pixels
from foveal.importers.weight_files import WeightFile

MEAN, STD = (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)
"""Blue, green, red, of values 0 .. 255."""

# From (dx1, dy1, dx2, dy2), fifths of the anchor's sides, to the shift of the centre and the growth of the sides.
OFFSETS = [[0.1, 0.0, 0.1, 0.0], [0.0, 0.1, 0.0, 0.1], [-0.2, 0.0, 0.2, 0.0], [0.0, -0.2, 0.0, 0.2]]

_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_HEADS = {"classification": "class_head", "regression": "box_head"}


def recognises(file: WeightFile) -> bool:
    return file.has("pyramid_classification")


def convert(file: WeightFile) -> Converted:
    """The weights of a training or inference model of keras-retinanet on ResNet-50, 101 or 152."""
    tensors = renamed(file.path, "fizyr/keras-retinanet", file.tensors, _name_of)
    tensors = {name: t.permute(3, 2, 0, 1) if t.dim() == 4 else t for name, t in tensors.items()}

    def fold(whole: dict[str, Tensor]) -> None:
        fold_pixels(whole, MEAN, STD, bgr=True)
        fold_boxes(whole, OFFSETS)

    settings = {
        "model.batch_norm": "frozen",
        "assignment.low_quality": "none",
        "data.size": 800,
        "data.max_size": 1333,
        "inference.max_detections": 300,
    }
    notes = (
        "pixels (blue first, less Caffe's mean) are folded into the first convolution and its norm",
        "NOT the same detector: boxes are offsets of corners there and Keras pads the pooling, P6 and P7 on one side; "
        "train on from this run before it is used",
    )
    return Converted(tensors, settings, fold, notes=notes, caffe=True)


def _name_of(theirs: str) -> str:
    layer, _, variable = theirs.rpartition("/")
    if variable not in _VARIABLES:
        return "?"
    place = _layer(layer)
    return f"{place}.{_VARIABLES[variable]}" if place else "?"


def _layer(layer: str) -> str:
    """Foveal's name of a layer, or ""."""
    if layer in ("conv1", "bn_conv1"):
        return f"backbone.{layer.replace('bn_conv1', 'bn1')}"
    # Blocks are a, b, c, ... or, in the long stages of deeper networks, a, b1, b2, ...
    if found := re.fullmatch(r"(res|bn)([2-5])(a|b(\d+)|[b-z])_branch(?:1|2([abc]))", layer):
        block = int(found[4]) if found[4] else ord(found[3]) - ord("a")
        place = f"backbone.layer{int(found[2]) - 1}.{block}"
        if not found[5]:
            return f"{place}.downsample.{0 if found[1] == 'res' else 1}"
        return f"{place}.{'conv' if found[1] == 'res' else 'bn'}{'abc'.index(found[5]) + 1}"
    if found := re.fullmatch(r"C([345])_reduced", layer):
        return f"pyramid.lateral.{found[1]}"
    if found := re.fullmatch(r"P([3-7])", layer):
        return f"pyramid.{'output' if found[1] in '345' else 'extra'}.{found[1]}"
    if found := re.fullmatch(r"pyramid_(classification|regression)(?:_(\d))?", layer):
        return f"{_HEADS[found[1]]}.{f'tower.{2 * int(found[2])}' if found[2] else 'predict'}"
    return ""
