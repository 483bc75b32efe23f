"""What mmdetection's config says of a detector. It is Python, and searched as text: nothing of it is run or evaluated.

Anchors, box coder and scores must be RetinaNet's usual ones, since the imported run has those; thresholds and the size
of pictures are taken over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveal.errors import WeightsError
from foveal.names import printable

MAX_CHARACTERS = 2**20
"""A config with all that it is based on has some ten thousand."""

# What may stand in `anchor_generator` and `bbox_coder`, and only this.
_ANCHORS = {
    "type": "AnchorGenerator",
    "octave_base_scale": (4,),
    "scales_per_octave": (3,),
    "ratios": (0.5, 1, 2),
    "strides": (8, 16, 32, 64, 128),
    "center_offset": (0,),
    "scale_major": "True",
}
_CODER = {
    "type": "DeltaXYWHBBoxCoder",
    "target_means": (0, 0, 0, 0),
    "target_stds": (1, 1, 1, 1),
    "clip_border": "True",
    "add_ctr_clamp": "False",
    "ctr_clamp": (32,),
}
_TEST = {
    "score_thr": "inference.score_threshold",
    "nms_pre": "inference.candidates_per_level",
    "max_per_img": "inference.max_detections",
}
# No text may match in two ways: of a list that is none, each would be tried with each of the next number's.
_NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_STEPS = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|[()\[\]{},]")


def check_head(path: Path, text: str) -> None:
    """WeightsError where anchors, box offsets or scores are not those that the imported run would have."""
    if len(text) > MAX_CHARACTERS:
        raise WeightsError(f"{path}: its config has {len(text):,} characters, more than any; it is not read")
    for part, usual, what in (
        ("anchor_generator", _ANCHORS, "was trained with other anchors than RetinaNet's, which is not supported"),
        ("bbox_coder", _CODER, "decodes its boxes otherwise than RetinaNet, which is not supported"),
    ):
        for group in _groups(text, part):
            for name, value in _entries(group).items():
                if name not in usual or _value(value, usual[name]) != usual[name]:
                    told = printable(f"{part}: {name}={' '.join(value.split())}")
                    raise WeightsError(f"{path}: {what} ({told}); train a detector here instead")
    for group in _groups(text, "loss_cls"):
        loss = _entries(group)
        # Only the cross entropy is of a softmax where nothing is said.
        if loss.get("use_sigmoid", str("CrossEntropy" not in loss.get("type", ""))) != "True":
            raise WeightsError(f"{path}: takes a softmax over the classes and a background, which is not supported")


def settings_of(text: str) -> tuple[dict[str, Any], list[str]]:
    """Thresholds and sizes that the config tells, as settings; and notes on what is not taken over."""
    settings: dict[str, Any] = {}
    notes = []
    for group in _groups(text, "test_cfg"):
        told = _entries(group)
        settings |= {ours: _plain(told[theirs]) for theirs, ours in _TEST.items() if _is_positive(told.get(theirs))}
        for nms in _groups(group, "nms"):
            rule = _entries(nms)
            overlap = rule.get("iou_threshold", rule.get("iou_thr"))
            if overlap is not None and _is_positive(overlap):
                settings["inference.nms_iou"] = _plain(overlap)
            if (kind := rule.get("type", "'nms'").strip("'\"")) != "nms":
                notes.append(f"boxes compete by {printable(kind)} there, and by NMS here")
    pipelines = list(_groups(text, "test_pipeline"))
    sizes = {
        tuple(sorted(map(int, found)))
        for pipeline in pipelines
        for found in re.findall(r"\bscale\s*=\s*\(\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\)", pipeline.replace("img_", ""))
    }
    if len(sizes) == 1:
        settings["data.size"], settings["data.max_size"] = sizes.pop()
    elif text:
        notes.append("the config tells no single size of pictures; 800 pixels, at most 1333, are assumed")
    if any(re.search(r"\bkeep_ratio\s*=\s*False", pipeline) for pipeline in pipelines):
        notes.append("pictures lose their shape there when they are resized; here the shape of pictures is kept")
    return settings, notes


def _groups(text: str, name: str) -> Iterator[str]:
    """What stands in each `name=dict(...)` or `name=[...]`, up to the bracket that closes it or the end."""
    opening = re.compile(rf"\b{name}\s*=\s*(?:dict\(|\[)")
    start = 0
    while found := opening.search(text, start):
        depth, start = 1, len(text)
        for step in _STEPS.finditer(text, found.end()):
            depth += (step[0] in "([{") - (step[0] in ")]}")
            if depth == 0:
                start = step.start()
                break
        yield text[found.end() : start]


def _entries(group: str) -> dict[str, str]:
    """The `name=value` of a group, not those of groups in it; `nms=dict(...)` is one of them."""
    parts, depth, start = [], 0, 0
    for step in _STEPS.finditer(group):
        depth += (step[0] in "([{") - (step[0] in ")]}")
        if step[0] == "," and depth == 0:
            parts.append(group[start : step.start()])
            start = step.end()
    named = (part.partition("=") for part in (*parts, group[start:]) if part.strip())
    return {name.strip(): value.strip() for name, _, value in named}


def _value(value: str, usual: object) -> object:
    """A list as numbers, a word as itself, to be compared with what is usual."""
    if not isinstance(usual, tuple):
        return value.strip("'\"").removeprefix("mmdet.")
    compact = "".join(value.split())
    if not re.fullmatch(rf"[\[(]?{_NUMBER}(?:,{_NUMBER}){{0,20}},?[\])]?", compact):
        return value
    return tuple(float(number) for number in re.findall(_NUMBER, compact))


def _is_positive(value: str | None) -> bool:
    return value is not None and len(value) < 20 and re.fullmatch(_NUMBER, value) is not None and float(value) > 0


def _plain(value: str) -> float | int:
    return int(value) if value.isdigit() else float(value)
