"""A data set as flat arrays: what a million boxes cost is a million rows, not a million Python objects.

The readers (coco, voc, yolo, csv) give a `Table` with every problem they met; `TableBuilder` makes one by hand. Strings
are one bytes buffer with offsets; everything else is a tensor in shared memory, so worker processes, forked or spawned,
read the parent's pages and hold none of their own.

Letters: I pictures, G objects, K classes.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveal.detections import Objects


@dataclass(frozen=True)
class Problem:
    """One fault of a data set, with what to do about it.

    file: the label file or picture. where: line, id or row in it. field, value: what is wrong there.
    problem, fix: one sentence each. fatal: would corrupt training or make it impossible.
    """

    file: str
    where: str
    field: str
    value: str
    problem: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.file, self.where) if part)
        named = f"{self.field} {self.value}".strip()
        return f"{place}: {named + ': ' if named else ''}{self.problem}; {self.fix}"

    @classmethod
    def of(
        cls, file: str | Path, where: str, field: str, value: object, problem: str, fix: str, fatal: bool = True
    ) -> Problem:
        """A problem whose value, whatever it is, is shown in at most 80 characters."""
        text = str(value)
        return cls(str(file), where, field, text if len(text) <= 80 else text[:77] + "...", problem, fix, fatal)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Table:
    """One split of a data set.

    root: pictures' paths are relative to it.
    path_bytes: [bytes] uint8 and path_ends: [I] int64: all paths in UTF-8, one after the other.
    sizes: [I, 2] int32 (height, width) as the labels state them (as the picture is displayed, after EXIF rotation);
        0 where the labels do not say.
    image_ids: [I] int64, the ids in the label file (COCO) or the row.
    first_object: [I + 1] int64; objects of picture i are rows first_object[i] .. first_object[i + 1] - 1.
    boxes: [G, 4] float32 xyxy pixels; labels: [G] int32; crowd: [G] bool, regions to ignore.
    class_names: K names; category_ids: K ids as the label file numbers them.
    areas: [G] float32 pixels as the label file states them (COCO: of the masks), or empty: those of the boxes.
    """

    root: str
    split: str
    format: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    path_bytes: Tensor
    path_ends: Tensor
    sizes: Tensor
    image_ids: Tensor
    first_object: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    areas: Tensor
    problems: tuple[Problem, ...] = field(default=())

    @classmethod
    def of(
        cls,
        root: str | Path,
        split: str,
        format: str,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None,
        paths: Sequence[str],
        sizes: np.ndarray,
        image_ids: np.ndarray,
        rows: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        crowd: np.ndarray,
        areas: np.ndarray | None = None,
        problems: Sequence[Problem] = (),
    ) -> Table:
        """Builds from flat arrays; `rows` [G] is the picture of each object, in any order (kept within a picture)."""
        encoded = [path.encode("utf-8") for path in paths]
        order = np.argsort(rows, kind="stable")
        first_object = np.searchsorted(rows[order], np.arange(len(paths) + 1))
        return cls(
            root=str(root),
            split=split,
            format=format,
            class_names=tuple(class_names),
            category_ids=tuple(category_ids) if category_ids is not None else tuple(range(len(class_names))),
            path_bytes=_shared(np.frombuffer(b"".join(encoded), dtype=np.uint8)),
            path_ends=_shared(np.cumsum([len(path) for path in encoded], dtype=np.int64)),
            sizes=_shared(np.asarray(sizes, dtype=np.int32).reshape(-1, 2)),
            image_ids=_shared(np.asarray(image_ids, dtype=np.int64)),
            first_object=_shared(first_object.astype(np.int64)),
            boxes=_shared(np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[order]),
            labels=_shared(np.asarray(labels, dtype=np.int32)[order]),
            crowd=_shared(np.asarray(crowd, dtype=bool)[order]),
            areas=_shared(np.zeros(0, np.float32) if areas is None else np.asarray(areas, dtype=np.float32)[order]),
            problems=tuple(problems),
        )

    def __len__(self) -> int:
        return len(self.path_ends)

    @property
    def num_boxes(self) -> int:
        return len(self.boxes)

    def relative_path(self, row: int) -> str:
        """The picture's path below `root`, with forward slashes."""
        start = int(self.path_ends[row - 1]) if row else 0
        return bytes(self.path_bytes[start : int(self.path_ends[row])].numpy()).decode("utf-8")

    def path(self, row: int) -> Path:
        return Path(self.root) / self.relative_path(row)

    def objects(self, row: int) -> Objects:
        """The objects of a picture, in the pixels that `sizes` counts."""
        start, end = int(self.first_object[row]), int(self.first_object[row + 1])
        return Objects(self.boxes[start:end], self.labels[start:end].long(), self.crowd[start:end])

    def fingerprint(self) -> str:
        """A hash of names, boxes, labels and flags: the same for the same labels, wherever the folder lies."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        digest.update(repr(self.category_ids).encode())
        tensors = (self.path_bytes, self.path_ends, self.sizes, self.first_object, self.boxes, self.labels, self.crowd)
        for tensor in tensors:
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def select(self, rows: Any) -> Table:
        """The table of these pictures only (a boolean mask or row numbers), without problems."""
        kept = np.arange(len(self))[np.asarray(rows)]
        first = self.first_object.numpy()
        counts = np.diff(first)[kept]
        mine = np.repeat(first[kept] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return Table.of(
            root=self.root,
            split=self.split,
            format=self.format,
            class_names=self.class_names,
            category_ids=self.category_ids,
            paths=[self.relative_path(row) for row in kept.tolist()],
            sizes=self.sizes.numpy()[kept],
            image_ids=self.image_ids.numpy()[kept],
            rows=np.repeat(np.arange(len(kept)), counts),
            boxes=self.boxes.numpy()[mine],
            labels=self.labels.numpy()[mine],
            crowd=self.crowd.numpy()[mine],
            areas=self.areas.numpy()[mine] if len(self.areas) else None,
        )


class TableBuilder:
    """Collects a table picture by picture: `add_image`, then `add_object` for each of its objects."""

    def __init__(self, root: str | Path, split: str, format: str):
        self.root, self.split, self.format = str(root), split, format
        self.problems: list[Problem] = []
        self._paths: list[str] = []
        self._sizes = array("i")
        self._image_ids = array("q")
        self._rows = array("q")
        self._boxes = array("f")
        self._labels = array("i")
        self._crowd = bytearray()

    @property
    def num_images(self) -> int:
        return len(self._paths)

    def add_image(self, path: str, size: tuple[int, int] = (0, 0), image_id: int | None = None) -> None:
        """`path` below the root, forward slashes; size is (height, width), zeros if unknown."""
        self._image_ids.append(self.num_images if image_id is None else image_id)
        self._paths.append(path)
        self._sizes.extend(size)

    def add_object(self, box: tuple[float, float, float, float], label: int, crowd: bool = False) -> None:
        """An object of the picture added last; box is xyxy pixels."""
        self._rows.append(self.num_images - 1)
        self._boxes.extend(box)
        self._labels.append(label)
        self._crowd.append(crowd)

    def add_objects(self, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray | None = None) -> None:
        """Many objects of the picture added last: [G, 4] xyxy, [G], [G]."""
        self._rows.extend([self.num_images - 1] * len(labels))
        self._boxes.frombytes(np.ascontiguousarray(boxes, dtype=np.float32).tobytes())
        self._labels.frombytes(np.ascontiguousarray(labels, dtype=np.int32).tobytes())
        flags = np.zeros(len(labels), dtype=bool) if crowd is None else np.asarray(crowd, dtype=bool)
        self._crowd += flags.tobytes()

    def build(self, class_names: tuple[str, ...], category_ids: tuple[int, ...] | None = None) -> Table:
        return Table.of(
            root=self.root,
            split=self.split,
            format=self.format,
            class_names=class_names,
            category_ids=category_ids,
            paths=self._paths,
            sizes=np.frombuffer(self._sizes, dtype=np.int32),
            image_ids=np.frombuffer(self._image_ids, dtype=np.int64),
            rows=np.frombuffer(self._rows, dtype=np.int64),
            boxes=np.frombuffer(self._boxes, dtype=np.float32),
            labels=np.frombuffer(self._labels, dtype=np.int32),
            crowd=np.frombuffer(self._crowd, dtype=bool),
            problems=self.problems,
        )


def _shared(values: np.ndarray) -> Tensor:
    """A copy in shared memory, which worker processes map instead of copying."""
    tensor = torch.empty(values.shape, dtype=torch.from_numpy(values[:0].copy()).dtype)
    tensor.share_memory_()
    tensor.numpy()[...] = values
    return tensor
