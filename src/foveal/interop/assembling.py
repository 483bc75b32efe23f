"""What all conversions share: rows become `Detections`, names become labels, and faults are told by their place."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch

from foveal.detections import Detections
from foveal.errors import DataError, UsageError

Kind = TypeVar("Kind")


def assembled(boxes: Any, scores: Any, labels: Any, class_names: Sequence[str], what: str) -> Detections:
    """Detections of [D, 4] xyxy boxes, [D] scores and [D] labels, best score first, in their order where they tie.

    DataError names `what` where a number is not finite, a box's sides are the wrong way round, or a label is none of
    the classes.
    """
    with np.errstate(over="ignore"):  # too large is infinite, and told below
        boxes_D4 = np.asarray(boxes, dtype=np.float64).astype(np.float32).reshape(-1, 4)
        scores_D = np.asarray(scores, dtype=np.float64).astype(np.float32).reshape(-1)
    labels_D = np.asarray(labels, dtype=np.int64).reshape(-1)
    finite = np.isfinite(boxes_D4).all(axis=1) & np.isfinite(scores_D)
    if not finite.all():
        place = int(np.flatnonzero(~finite)[0])
        numbers = [*boxes_D4[place].tolist(), scores_D[place].item()]
        raise DataError(f"{what}: box and score of detection {place} are {numbers}; give finite numbers")
    turned = boxes_D4[:, 2:] < boxes_D4[:, :2]
    if turned.any():
        place = int(np.flatnonzero(turned.any(axis=1))[0])
        why = "x2 < x1" if turned[place, 0] else "y2 < y1"
        raise DataError(f"{what}: box of detection {place} is {boxes_D4[place].tolist()}, and {why}; give x1 y1 x2 y2")
    most = len(class_names) if class_names else np.iinfo(np.int64).max
    wrong = (labels_D < 0) | (labels_D >= most)
    if wrong.any():
        raise DataError(
            f"{what}: class {labels_D[wrong][0]} is none of the {len(class_names)} classes; give class_names with all"
        )
    order = np.argsort(-scores_D, kind="stable")
    boxes, kept_scores, kept_labels = (torch.from_numpy(part[order]) for part in (boxes_D4, scores_D, labels_D))
    return Detections(boxes, kept_scores, kept_labels, tuple(class_names))


def labels_of(names: Sequence[str], class_names: Sequence[str], what: str) -> tuple[list[int], tuple[str, ...]]:
    """Each name's place among `class_names`, or among the sorted names themselves where none are given; and those."""
    known = tuple(class_names) or tuple(sorted(set(names)))
    places = {name: place for place, name in reversed(list(enumerate(known)))}
    unknown = sorted(set(names) - places.keys())
    if unknown:
        raise DataError(
            f"{what}: class {unknown[0]!r} is none of {', '.join(known)}; give class_names with all classes"
        )
    return [places[name] for name in names], known


def numbered(found: Detections) -> Iterator[tuple[list[float], float, int]]:
    """(x1 y1 x2 y2, score, label) of each detection as plain numbers."""
    return zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)


def listed(source: Any) -> tuple[Any, str]:
    """What a JSON file holds, with its name; or an iterable as a list, called by its type."""
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, Iterable):
            raise UsageError(f"{source!r}: is neither a list nor the path of a JSON file; give one of them")
        return source if isinstance(source, dict) else list(source), type(source).__name__
    path = Path(source)
    try:
        return json.loads(path.read_text(encoding="utf-8")), str(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); is the file whole?") from None


def checked(value: Any, kind: type[Kind], what: str, fix: str) -> Kind:
    """Plain values as a msgspec struct; DataError says what is wrong at which place, and the fix."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{what}: {str(error).replace('`', '')}; {fix}") from None


def package(name: str) -> Any:
    """An optional package; UsageError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f'{name} is not installed: pip install "foveal[interop]"') from None


def check_size(size: tuple[int, int]) -> tuple[float, float]:
    """(height, width) of a picture in pixels; UsageError unless both are positive and finite."""
    try:
        height, width = (float(side) for side in size if not isinstance(side, str))
    except (TypeError, ValueError):
        raise UsageError(f"a picture of size {size!r}: give its (height, width) in pixels") from None
    if not (0 < height < math.inf and 0 < width < math.inf):
        raise UsageError(f"a picture of {height:g} x {width:g}: give its (height, width) in pixels")
    return height, width


def check_kind(value: object, attribute: str, kind: str) -> None:
    """UsageError for what has no `attribute`, as everything that is a `kind` has."""
    if not hasattr(value, attribute):
        raise UsageError(f"{type(value).__name__}: is no {kind}; give one")
