"""Label Studio's JSON: a task is a picture, its boxes are x, y, width and height in percent of the picture's sides.

What a detector found goes in as predictions, which people correct; what they drew comes back as annotations.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote, unquote

import msgspec

from foveal.detections import Detections
from foveal.errors import DataError, UsageError
from foveal.interop.assembling import assembled, check_size, checked, labels_of, listed

Side = Literal["predictions", "annotations"]
SIDES = get_args(Side)
LOCAL_FILES = "/data/local-files/?d="
"""What Label Studio serves pictures of its own disk under; behind it stands the path below its document root."""


class _Value(msgspec.Struct):
    x: float
    y: float
    width: float
    height: float
    rectanglelabels: list[str]
    rotation: float = 0.0


class _Region(msgspec.Struct):
    original_width: Annotated[float, msgspec.Meta(gt=0)]
    original_height: Annotated[float, msgspec.Meta(gt=0)]
    value: _Value
    image_rotation: float = 0.0
    score: float | None = None


class _Result(msgspec.Struct):
    result: list[dict[str, Any]]
    was_cancelled: bool | None = None


class _Task(msgspec.Struct):
    data: dict[str, Any]
    annotations: list[_Result] | None = None
    predictions: list[_Result] | None = None


def local_file(path: str) -> str:
    """What a task calls a picture that lies on Label Studio's own disk, at `path` below its document root."""
    return LOCAL_FILES + quote(path, errors="surrogateescape")


def to_label_studio(
    found: Detections,
    size: tuple[int, int],
    image: str,
    side: Side = "predictions",
    from_name: str = "label",
    to_name: str = "image",
) -> dict[str, Any]:
    """The task of a picture of (height, width) pixels; a list of tasks is what Label Studio imports.

    image: where Label Studio finds the picture; `local_file` makes it of a path. side: `predictions`, to be corrected,
    or `annotations`, which count as a person's and have no score. from_name, to_name: as the labelling interface calls
    its RectangleLabels and its Image.
    """
    height, width = check_size(size)
    _check_side(side)
    regions = [
        {
            "id": str(place),
            "type": "rectanglelabels",
            "from_name": from_name,
            "to_name": to_name,
            "original_width": int(width),
            "original_height": int(height),
            "image_rotation": 0,
            "value": {
                "x": 100 * x1 / width,
                "y": 100 * y1 / height,
                "width": 100 * (x2 - x1) / width,
                "height": 100 * (y2 - y1) / height,
                "rotation": 0,
                "rectanglelabels": [name],
            },
            **({"score": score} if side == "predictions" else {}),
        }
        for place, ((x1, y1, x2, y2), score, name) in enumerate(found)
    ]
    about = {"model_version": "foveal"} if side == "predictions" else {}
    return {"data": {"image": image}, side: [{**about, "result": regions}]}


def from_label_studio(
    tasks: Iterable[Mapping[str, Any]] | str | os.PathLike[str],
    class_names: Sequence[str] = (),
    side: Side = "annotations",
    image: str = "image",
) -> dict[str, Detections]:
    """Detections by picture of Label Studio's tasks, or of the JSON file that it exported.

    class_names: default the names that occur in all tasks, sorted. image: the task's field that names its picture; of a
    local file the path is the key. Of several results of a task the last that was not cancelled counts; a task without
    one was not labelled, and is left out. Other regions than rectangles are passed over. DataError for a rectangle that
    is rotated, lies on a turned picture, or has not exactly one label, and for two labelled tasks of one picture.
    """
    _check_side(side)
    content, what = listed(tasks)
    fix = "export it as JSON, not as JSON-MIN"
    pictures: dict[str, list[_Region]] = {}
    task_of: dict[str, int] = {}
    for place, task in enumerate(checked(content, list[_Task], what, fix)):
        results = [one for one in getattr(task, side) or () if not one.was_cancelled]
        where = f"{what}: task {place}"
        if not isinstance(task.data.get(image), str):
            raise DataError(f"{where}: its data has no {image}; say which of {', '.join(task.data)} is the picture")
        if results:
            path = _path(task.data[image])
            if path in pictures:
                raise DataError(
                    f"{where}: its picture {path} is that of task {task_of[path]} as well; give the one task "
                    "that counts"
                )
            task_of[path] = place
            pictures[path] = _rectangles(results[-1], where)
    used = {name for regions in pictures.values() for region in regions for name in region.value.rectanglelabels}
    _, names = labels_of(sorted(used), class_names, what)
    return {path: _detections(regions, names, what) for path, regions in pictures.items()}


def _check_side(side: str) -> None:
    if side not in SIDES:
        raise UsageError(f"side {side!r}: is neither {SIDES[0]} nor {SIDES[1]}; give one of them")


def _rectangles(result: _Result, where: str) -> list[_Region]:
    fix = "give original_width, original_height, and a value of x, y, width, height and rectanglelabels"
    found = [one for one in result.result if one.get("type") == "rectanglelabels"]
    regions = checked(found, list[_Region], where, fix)
    for place, region in enumerate(regions):
        if region.value.rotation:
            raise DataError(
                f"{where}: rectangle {place} is rotated by {region.value.rotation:g} degrees, and Foveal's boxes are "
                "upright; set its rotation to 0"
            )
        if region.image_rotation:
            raise DataError(
                f"{where}: rectangle {place} is of a picture that was turned by {region.image_rotation:g} degrees in "
                "Label Studio, and Foveal reads pictures as they are; turn it back and label it again"
            )
        if len(region.value.rectanglelabels) != 1:
            raise DataError(
                f"{where}: rectangle {place} has {len(region.value.rectanglelabels)} labels; give it exactly one"
            )
    return regions


def _detections(regions: list[_Region], names: Sequence[str], what: str) -> Detections:
    boxes = []
    for region in regions:
        value, width, height = region.value, region.original_width / 100, region.original_height / 100
        x1, y1, x2, y2 = value.x, value.y, value.x + value.width, value.y + value.height
        boxes.append((x1 * width, y1 * height, x2 * width, y2 * height))
    labels, _ = labels_of([region.value.rectanglelabels[0] for region in regions], names, what)
    scores = [1.0 if region.score is None else region.score for region in regions]
    return assembled(boxes, scores, labels, names, what)


def _path(image: str) -> str:
    """The path of a local file, whether or not Label Studio's host stands in front; else the address as it is."""
    _, marker, path = image.partition(LOCAL_FILES)
    return unquote(path, errors="surrogateescape") if marker else image
