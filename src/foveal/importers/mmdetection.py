"""mmdetection's RetinaNet (versions 2 and 3), .pth: torchvision's ResNets, or Caffe's where the config says so.

Its P7 is made of P6 without a ReLU between, which is `p6_from` C5_linear. Pixels that are not Foveal's are folded into
the first convolution. Classes, pixels, the backbone's style, thresholds and sizes are told by the text of the config
that training puts into the file, which is searched, not run (`mmdetection_config.py`).
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from foveal.errors import WeightsError
from foveal.importers.converted import Converted, renamed
from foveal.importers.folding import fold_pixels
from foveal.importers.mmdetection_config import check_head, settings_of
from foveal.importers.weight_files import WeightFile

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Red, green, blue, of values 0 .. 255: Foveal's own, and what files without a config are taken for."""

_HEADS = {"cls_convs": "class_head", "reg_convs": "box_head", "retina_cls": "class_head", "retina_reg": "box_head"}


def recognises(file: WeightFile) -> bool:
    return file.has("bbox_head.retina_")


def convert(file: WeightFile) -> Converted:
    """A checkpoint of mmdetection's RetinaNet."""
    tensors = renamed(file.path, "mmdetection", file.tensors, _name_of)
    sixth, fifth = tensors.get("pyramid.extra.6.weight"), tensors.get("pyramid.lateral.5.weight")
    if sixth is not None and fifth is not None and sixth.shape[1:2] == fifth.shape[:1]:
        raise WeightsError(f"{file.path}: makes P6 of P5 without a ReLU before P7, which is not supported")
    meta: Any = file.beside.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    text = next((meta[key] for key in ("config", "cfg") if isinstance(meta.get(key), str)), "")
    check_head(file.path, text)
    told, notes_on_config = settings_of(text)
    mean, std = _numbers(text, "mean", MEAN), _numbers(text, "std", STD)
    bgr = re.search(r"\b(?:bgr_)?to_rgb=False", text) is not None
    caffe = re.search(r"\bstyle=['\"]caffe['\"]", text) is not None
    settings = {
        "model.batch_norm": "evaluating",
        "model.frozen_stages": 2,
        "model.p6_from": "C5_linear",
        "anchors.offset": "corner",
        "assignment.low_quality": "all",
        "assignment.padding": "background",
        "loss.box": "l1",
        "data.size": 800,
        "data.max_size": 1333,
        **told,
    }
    notes = ["P7 is made of P6 without ReLU, as in mmdetection (model.p6_from C5_linear)"]
    if bgr or (mean, std) != (MEAN, STD):
        order = "blue" if bgr else "red"
        notes.append(f"pixels ({order} first, mean {mean}, std {std}) are folded into the first convolution")
    if not text:
        notes.append(
            "the file has no config: backbone of style pytorch, ImageNet's pixels, RetinaNet's anchors and "
            "mmdetection's usual thresholds and sizes are assumed"
        )
    notes += notes_on_config

    def fold(whole: dict[str, Tensor]) -> None:
        fold_pixels(whole, mean, std, bgr)

    return Converted(tensors, settings, fold, _class_names(meta), tuple(notes), caffe)


def _name_of(theirs: str) -> str:
    if theirs.startswith("ema_"):
        return ""
    if theirs.startswith("backbone."):
        return theirs
    if found := re.fullmatch(r"neck\.lateral_convs\.([0-2])\.conv\.(weight|bias)", theirs):
        return f"pyramid.lateral.{int(found[1]) + 3}.{found[2]}"
    if found := re.fullmatch(r"neck\.fpn_convs\.([0-4])\.conv\.(weight|bias)", theirs):
        level = int(found[1]) + 3
        return f"pyramid.{'output' if level <= 5 else 'extra'}.{level}.{found[2]}"
    if found := re.fullmatch(r"bbox_head\.(cls_convs|reg_convs)\.(\d)\.conv\.(weight|bias)", theirs):
        return f"{_HEADS[found[1]]}.tower.{2 * int(found[2])}.{found[3]}"
    if found := re.fullmatch(r"bbox_head\.(retina_cls|retina_reg)\.(weight|bias)", theirs):
        return f"{_HEADS[found[1]]}.predict.{found[2]}"
    return "?"


def _numbers(text: str, name: str, otherwise: tuple[float, ...]) -> tuple[float, ...]:
    """The three numbers behind `name=[` in a config's text."""
    found = re.search(rf"\b{name}=[\[(]\s*([\d.]+),\s*([\d.]+),\s*([\d.]+),?\s*[\])]", text)
    try:
        values = tuple(float(number) for number in found.groups()) if found else otherwise
    except ValueError:
        return otherwise
    return values if all(values) or name == "mean" else otherwise


def _class_names(meta: dict[str, Any]) -> tuple[str, ...]:
    data: Any = meta.get("dataset_meta")
    places = [meta, data] if isinstance(data, dict) else [meta]
    for place in places:
        for key in ("CLASSES", "classes"):
            names = place.get(key)
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()
