"""FiftyOne's labels as its JSON has them: boxes are [x, y, width, height] in shares of the picture's sides.

Plain dictionaries, so that FiftyOne need not be installed: `fiftyone.Detections.from_dict` makes a label of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from foveal.detections import Detections
from foveal.errors import DataError
from foveal.interop.assembling import assembled, check_size, checked, labels_of


class _Detection(msgspec.Struct):
    label: str
    bounding_box: tuple[float, float, float, float]
    confidence: float | None = None
    rotation: float | None = None


class _Detections(msgspec.Struct):
    detections: list[_Detection]


def to_fiftyone(found: Detections, size: tuple[int, int]) -> dict[str, Any]:
    """FiftyOne's `Detections` of a picture of (height, width) pixels."""
    height, width = check_size(size)
    return {
        "_cls": "Detections",
        "detections": [
            {
                "_cls": "Detection",
                "label": name,
                "bounding_box": [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                "confidence": score,
            }
            for (x1, y1, x2, y2), score, name in found
        ],
    }


def from_fiftyone(label: Any, size: tuple[int, int], class_names: Sequence[str] = ()) -> Detections:
    """Detections of a FiftyOne `Detections` label, or of its dictionary, in a picture of (height, width) pixels.

    class_names: default the names that occur, sorted. Masks and attributes are not taken over, rotated boxes are a
    DataError.
    """
    height, width = check_size(size)
    what = "FiftyOne's Detections"
    content = label.to_dict() if hasattr(label, "to_dict") else label
    fix = "give {detections: [{label, bounding_box: [x, y, width, height], confidence}]}"
    found = checked(content, _Detections, what, fix).detections
    if any(one.rotation for one in found):
        raise DataError(f"{what}: a box is rotated, and Foveal's are upright; set its rotation to 0")
    labels, names = labels_of([one.label for one in found], class_names, what)
    return assembled(
        [(x * width, y * height, (x + w) * width, (y + h) * height) for x, y, w, h in (o.bounding_box for o in found)],
        [1.0 if one.confidence is None else one.confidence for one in found],
        labels,
        names,
        what,
    )
