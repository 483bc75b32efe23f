"""detectron2's RetinaNet_R_50_FPN and R_101_FPN, and RetinaNets on its other ResNets; .pkl of its model zoo or .pth.

Folded: pixels (blue first, 0 to 255 less the mean) into the first convolution, and the order of a cell's anchors
(sizes outside, ratios inside) into the last ones. Its ResNets have the stride in a block's first convolution, which is
a backbone of its own here. Which pixels and which strides a file wants is told by `pixel_mean` and `pixel_std` in it.
Only older files hold them: detectron2 registers them with persistent=False now. Where they are missing, the model zoo's
are assumed.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.config import Config
from foveal.errors import WeightsError
from foveal.importers.converted import ANCHORS, Converted, renamed
from foveal.importers.folding import fold_pixels, reorder_anchors
from foveal.importers.weight_files import WeightFile

MEAN, STD = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
"""Blue, green, red, of values 0 .. 255."""

# Our anchor 3 r + s (ratio r, size s) is detectron2's anchor 3 s + r.
ORDER = [3 * size + ratio for ratio in range(3) for size in range(3)]

_HEADS = {
    "cls_subnet": "class_head.tower",
    "bbox_subnet": "box_head.tower",
    "cls_score": "class_head.predict",
    "bbox_pred": "box_head.predict",
}


def recognises(file: WeightFile) -> bool:
    return file.has("backbone.bottom_up.", "head.cls_")


def convert(file: WeightFile) -> Converted:
    """A state dict of detectron2's RetinaNet."""
    tensors = renamed(file.path, "detectron2", file.tensors, _name_of)
    for name in [name for name in tensors if re.fullmatch(r"backbone\..*(?:bn\d|downsample\.1)\.weight", name)]:
        # Norms of the authors' own models have no statistics: they are in scale and shift already.
        tensors.setdefault(name.replace("weight", "running_mean"), torch.zeros_like(tensors[name]))
        tensors.setdefault(name.replace("weight", "running_var"), torch.ones_like(tensors[name]))
    _check_anchors(file)
    mean, std = _pixels(file, "pixel_mean", MEAN), _pixels(file, "pixel_std", STD)
    caffe, bgr = std == STD, mean[0] < mean[2]
    numbers = ", ".join(f"{m:g}" for m in mean)
    if "pixel_mean" in file.tensors and "pixel_std" in file.tensors:
        told = (
            f"strides are taken to sit in the {'first' if caffe else '3x3'} convolution of a block, as pixel_std tells"
        )
    else:
        told = (
            "the file does not tell its pixels and strides; the model zoo's values are assumed "
            f"({'BGR' if bgr else 'RGB'}, mean {numbers}, stride in the {'1x1' if caffe else '3x3'})"
        )

    def fold(whole: dict[str, Tensor]) -> None:
        fold_pixels(whole, mean, std, bgr)
        reorder_anchors(whole, ORDER)

    settings = {
        "model.batch_norm": "frozen",
        "model.frozen_stages": 2,
        "anchors.offset": "corner",
        "assignment.low_quality": "all",
        "assignment.padding": "background",
        "loss.box": "l1",
        "data.size": 800,
        "data.max_size": 1333,
    }
    notes = (
        f"pixels ({'blue' if bgr else 'red'} first, less {numbers}) are folded into the first convolution",
        "the order of a cell's anchors is folded into the last convolutions",
        told,
    )
    return Converted(tensors, settings, fold, notes=notes, caffe=caffe)


def _name_of(theirs: str) -> str:
    if theirs in ("pixel_mean", "pixel_std") or theirs.startswith("anchor_generator."):
        return ""
    if found := re.fullmatch(r"backbone\.bottom_up\.stem\.conv1\.(.+)", theirs):
        return _conv_or_norm("backbone", "conv1", "bn1", found[1])
    if found := re.fullmatch(r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.(.+)", theirs):
        block = f"backbone.layer{int(found[1]) - 1}.{found[2]}"
        return _conv_or_norm(block, f"conv{found[3]}", f"bn{found[3]}", found[4])
    if found := re.fullmatch(r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.(.+)", theirs):
        return _conv_or_norm(f"backbone.layer{int(found[1]) - 1}.{found[2]}.downsample", "0", "1", found[3])
    if found := re.fullmatch(r"backbone\.fpn_(lateral|output)(\d)\.(weight|bias)", theirs):
        return f"pyramid.{found[1]}.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"backbone\.top_block\.p(\d)\.(weight|bias)", theirs):
        return f"pyramid.extra.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"head\.(\w+)((?:\.\d+)?\.(?:weight|bias))", theirs):
        return _HEADS[found[1]] + found[2] if found[1] in _HEADS else "?"
    return "?"


def _conv_or_norm(place: str, conv: str, norm: str, rest: str) -> str:
    """`rest` is weight, of the convolution, or norm.weight, norm.running_var and so on, of its norm."""
    return f"{place}.{norm}.{rest.removeprefix('norm.')}" if rest.startswith("norm.") else f"{place}.{conv}.{rest}"


def _pixels(file: WeightFile, name: str, otherwise: tuple[float, ...]) -> tuple[float, ...]:
    """Three numbers of the file, or the model zoo's."""
    if name not in file.tensors:
        return otherwise
    values = file.tensors[name]
    if values.numel() != 3 or not values.isfinite().all() or (name == "pixel_std" and (values <= 0).any()):
        raise WeightsError(f"{file.path}: {name} is not three numbers that a picture can be normalised by")
    return tuple(values.double().flatten().tolist())


def _check_anchors(file: WeightFile) -> None:
    """Older files hold the anchors of a cell; they must be RetinaNet's, since the imported run will use those."""
    anchors = Anchors.from_config(Config())
    for index in range(len(anchors.levels)):
        theirs = file.tensors.get(f"anchor_generator.cell_anchors.{index}")
        if theirs is None:
            continue
        if theirs.shape != (ANCHORS, 4) or not torch.allclose(
            theirs[ORDER].float(), anchors.cell_boxes(index), atol=0.01, rtol=0
        ):
            raise _other_anchors(file.path)


def _other_anchors(path: Path) -> WeightsError:
    return WeightsError(
        f"{path}: was trained with other anchors than RetinaNet's 32 to 512 pixels in 3 sizes and 3 ratios, which is "
        "not supported; train a detector here instead"
    )
