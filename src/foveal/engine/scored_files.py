"""COCO's annotations and results files as the flat arrays that are scored, in the files' own double precision.

Entries are decoded one at a time into arrays, so half a million detections never stand as Python objects at once.
Unlike the reader for training this one wants no pictures, and refuses a file with a fault instead of going around it.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from foveal.data.table import Problem
from foveal.engine.metrics import Found, Truth
from foveal.errors import DataError, UsageError
from foveal.wording import counted

SHOWN = 5
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Box = tuple[float, float, float, float]


class Picture(msgspec.Struct, gc=False):
    id: Id


class Category(msgspec.Struct, gc=False):
    id: Id
    name: str


class Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: Box
    area: float | None = None
    iscrowd: int | bool = 0


class Result(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: Box
    score: float


Entry = TypeVar("Entry", Picture, Category, Annotation, Result)


@dataclass(frozen=True)
class Annotations:
    """truth: the file's objects, pictures and classes in the order of their ids; notes: what was left out."""

    truth: Truth
    image_ids: np.ndarray
    category_ids: np.ndarray
    notes: tuple[str, ...]


def read_annotations(file: Path) -> Annotations:
    """A COCO annotations file; objects of pictures or categories that it does not list are left out, and noted."""
    parts = _decode(file, _read(file), dict[str, msgspec.Raw], "an object with images, annotations and categories")
    absent = [name for name in ("images", "annotations", "categories") if name not in parts]
    if absent:
        raise DataError(f"{file}: has no {' and no '.join(absent)}; give a COCO annotations file")
    report = _Report(file)
    pictures = list(_entries(parts["images"], Picture, "images", report))
    categories = sorted(_entries(parts["categories"], Category, "categories", report), key=lambda entry: entry.id)
    image_ids = report.unique(np.array(sorted(picture.id for picture in pictures), dtype=np.int64), "images")
    category_ids = report.unique(np.array([category.id for category in categories], dtype=np.int64), "categories")
    rows = array("q")
    numbers = array("d")
    for entry in _entries(parts["annotations"], Annotation, "annotations", report):
        area = entry.bbox[2] * entry.bbox[3] if entry.area is None else entry.area
        rows.extend((entry.image_id, entry.category_id, bool(entry.iscrowd)))
        numbers.extend((*entry.bbox, area))
    ids, values = _columns(rows, 3), _columns(numbers, 5)
    report.numbers("annotations", values, "area")
    report.raise_if_any()
    image, label = _index(image_ids, ids[:, 0]), _index(category_ids, ids[:, 1])
    kept = (image >= 0) & (label >= 0)
    unlisted = (
        f"left out {counted(int((~kept).sum()), 'annotation')} of pictures or categories that {file.name} does not list"
    )
    truth = Truth(
        class_names=_distinct([category.name for category in categories], category_ids),
        num_images=len(image_ids),
        image=image[kept],
        label=label[kept],
        xywh=values[kept, :4],
        area=values[kept, 4],
        ignored=ids[kept, 2].astype(bool),
    )
    return Annotations(truth, image_ids, category_ids, () if kept.all() else (unlisted,))


def read_results(file: Path, annotations: Annotations) -> tuple[Found, tuple[str, ...]]:
    """A COCO results file, and notes; detections of categories that the annotations do not list are left out."""
    report = _Report(file)
    rows = array("q")
    numbers = array("d")
    for entry in _entries(_read(file), Result, "", report):
        rows.extend((entry.image_id, entry.category_id))
        numbers.extend((*entry.bbox, entry.score))
    ids, values = _columns(rows, 2), _columns(numbers, 5)
    report.numbers("", values, "score")
    report.raise_if_any()
    image, label = _index(annotations.image_ids, ids[:, 0]), _index(annotations.category_ids, ids[:, 1])
    unknown = np.flatnonzero(image < 0)
    for place in unknown[np.unique(ids[unknown, 0], return_index=True)[1]].tolist():
        fix = "score the file against the annotations it was made for"
        report(f"[{place}]", "image_id", ids[place, 0], "the annotations have no such picture", fix)
    kept = label >= 0
    if len(kept) and not kept.any():
        known = ", ".join(map(str, annotations.category_ids[:SHOWN].tolist()))
        fix = f"write the annotations' ids ({known}{', ...' if len(annotations.category_ids) > SHOWN else ''})"
        report("", "category_id", ids[0, 1], "not one detection is of a category of the annotations", fix)
    report.raise_if_any()
    unlisted = (
        f"left out {counted(int((~kept).sum()), 'detection')} of categories that the annotations do not list: "
        f"{', '.join(map(str, np.unique(ids[~kept, 1])[:SHOWN].tolist()))}"
    )
    found = Found(image[kept], label[kept], values[kept, :4], values[kept, 4])
    return found, () if kept.all() else (unlisted,)


class _Report:
    """Collects the faults of one file."""

    def __init__(self, file: Path):
        self.file = file
        self.problems: list[Problem] = []

    def __call__(self, where: str, field: str, value: object, problem: str, fix: str) -> None:
        self.problems.append(Problem.of(self.file, where, field, value, problem, fix))

    def unique(self, ids: np.ndarray, part: str) -> np.ndarray:
        """Reports ids that are there twice; gives the ids back."""
        for repeated in np.unique(ids[1:][ids[1:] == ids[:-1]]).tolist():
            self(part, "id", repeated, "is there more than once", "give every entry an id of its own")
        return ids

    def numbers(self, part: str, values: np.ndarray, last: str) -> None:
        """Reports rows of (x, y, width, height, `last`) with infinite numbers or negative sides."""
        for place, row in ((int(place), values[place]) for place in np.flatnonzero(~np.isfinite(values).all(axis=1))):
            field = "bbox" if not np.isfinite(row[:4]).all() else last
            self(f"{part}[{place}]", field, row.tolist(), "is not finite", "write finite numbers")
        for place in np.flatnonzero((values[:, 2:4] < 0).any(axis=1)).tolist():
            fix = "write [x, y, width, height]"
            self(f"{part}[{place}]", "bbox", values[place, :4].tolist(), "has a negative width or height", fix)

    def raise_if_any(self) -> None:
        if not self.problems:
            return
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"... and {len(self.problems) - SHOWN:,} more like these")
        raise DataError("\n".join(lines), self.problems)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); check the path") from None


def _decode(file: Path, content: bytes | msgspec.Raw, kind: Any, expected: str) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{file}: {_plain(error)}; it should hold {expected}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        no_number = b"NaN" in bytes(content) or b"Infinity" in bytes(content)
        hint = "NaN and Infinity are no JSON numbers" if no_number else "is the file whole?"
        raise DataError(f"{file}: {error}; {hint}") from None


def _entries(raw: bytes | msgspec.Raw, kind: type[Entry], part: str, report: _Report) -> Iterator[Entry]:
    """The entries of a JSON list; the faulty ones are reported by place and field, and passed over."""
    entry = f"{{{', '.join(field.name for field in msgspec.structs.fields(kind) if field.required)}}}"
    items = _decode(report.file, raw, list[msgspec.Raw], f"a list of {entry}")
    decode = msgspec.json.Decoder(kind).decode
    for place, item in enumerate(items):
        try:
            yield decode(item)
        except msgspec.ValidationError as error:
            problem, _, path = _plain(error).partition(" - at `$")
            fix = f"write {entry.replace('bbox', 'bbox [x, y, width, height]')}"
            report(f"{part}[{place}]", path.strip(".`"), "", problem, fix)


def _plain(error: Exception) -> str:
    """msgspec's message in a person's words: "expected a number, got a text - at `$.score`"."""
    text = re.sub("`(float|int|str|array|object|bool)`", lambda found: _KINDS[found[1]], str(error))
    return text[:1].lower() + text[1:]


def _columns(values: array[Any], width: int) -> np.ndarray:
    return np.array(values).reshape(-1, width)


def _index(sorted_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The place of each id among the sorted ones, -1 for one that is not there."""
    if not len(sorted_ids):
        return np.full(len(ids), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.where(sorted_ids[place] == ids, place, -1)


def _distinct(names: Sequence[str], ids: np.ndarray) -> tuple[str, ...]:
    """The names, with the id behind those that several categories share."""
    times = Counter(names)
    return tuple(f"{name} ({id_})" if times[name] > 1 else name for name, id_ in zip(names, ids.tolist(), strict=True))
