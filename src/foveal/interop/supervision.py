"""supervision's `Detections`: absolute xyxy, `confidence`, `class_id`, and the names in `data["class_name"]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveal.detections import Detections
from foveal.errors import DataError
from foveal.interop.assembling import assembled, check_kind, labels_of, package


def to_supervision(found: Detections) -> Any:
    """A `supervision.Detections` with the same boxes, scores, labels and names, in the same order."""
    return package("supervision").Detections(
        xyxy=found.boxes.detach().cpu().numpy().copy(),
        confidence=found.scores.detach().cpu().numpy().copy(),
        class_id=found.labels.detach().cpu().numpy().copy(),
        data={"class_name": np.array(found.names, dtype=str)},
    )


def from_supervision(found: Any, class_names: Sequence[str] = ()) -> Detections:
    """Detections of a `supervision.Detections`; masks, trackers' ids and other data are not taken over.

    class_names: in the order of the labels; default: as `data["class_name"]` has them, by `class_id`. With both, a
    detection's label is the place of its name, whatever its `class_id`; DataError for a name that is none of them.
    Without `class_id` too the names in `data` make the labels; DataError where there are none either.
    """
    what = "supervision.Detections"
    check_kind(found, "xyxy", what)
    told = [str(name) for name in found.data.get("class_name", ())]
    scores = np.ones(len(found.xyxy)) if found.confidence is None else found.confidence
    named = len(told) == len(found.xyxy)
    if found.class_id is not None and not (named and class_names):
        names = tuple(class_names) or _by_id(found.class_id.tolist(), told)
        return assembled(found.xyxy, scores, found.class_id, names, what)
    if not named:
        raise DataError(f"{what}: has neither class_id nor class_name; set class_id")
    labels, names = labels_of(told, class_names, what)
    return assembled(found.xyxy, scores, labels, names, what)


def _by_id(ids: list[int], names: list[str]) -> tuple[str, ...]:
    """Names in the order of their ids; an id that does not occur is called by its number."""
    known = dict(zip(ids, names, strict=False))
    return tuple(known.get(number, str(number)) for number in range(max(known, default=-1) + 1))
