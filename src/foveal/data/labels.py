"""From what a label file says to a table: the collecting and the checks that all four formats share.

A reader adds pictures and boxes as its file states them (`add_picture`, `add_box`); `build` turns all boxes into xyxy
pixels at once, checks them as whole arrays, leaves out what cannot be learnt from, and says so in the problems.

Letters: G objects.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveal.data.images import image_size
from foveal.data.layout import inside, picture_folder
from foveal.data.table import Problem, Table
from foveal.errors import ImageError

TOLERANCE = 2.0
"""Pixels that a box may stick out of its picture, unchanged and unreported: rounding, and other pixel conventions."""
LARGEST_SIDE = 4.0
"""Sides of the picture that a box may span: labels of cut-off objects exceed it, but not so far."""
LARGEST_COORDINATE = 1e6
"""Pixels; no picture is that large."""
ANY_SIDE = 1000.0
"""Pixels of a side that is not known: what is inverted or empty there is so in every picture."""


@dataclass(frozen=True)
class BoxForm:
    """How a format writes a box: the field's name, and the way from its four numbers to pixels.

    to_xyxy takes boxes as written [G, 4] and the sizes (height, width) of their pictures [G, 2], both float64.
    """

    field: str
    to_xyxy: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class BoxFault:
    """What can be wrong with a box. Boxes with a fatal fault are left out; others are clipped to the picture."""

    problem: str
    fix: str
    fatal: bool = True


BOX_FAULTS = (
    BoxFault("the box is not finite", "write four finite numbers"),
    BoxFault("the box is far larger than its picture", "correct it or remove it"),
    BoxFault("the box is inverted: it ends before it starts", "write the upper left corner first, sides above 0"),
    BoxFault("the box has no area", "give it a width and a height above 0, or remove it"),
    BoxFault("the box lies outside its picture", "correct it or remove it"),
    BoxFault(
        f"the box sticks out of its picture by more than {TOLERANCE:g} px and was clipped", "correct it", fatal=False
    ),
)


def check_boxes(boxes_G4: np.ndarray, sizes_G2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(fault [G] int, boxes [G, 4] float32): 0 for a sound box, else 1 + its first fault's index in BOX_FAULTS.

    boxes_G4: float64 xyxy pixels; sizes_G2: (height, width) of the pictures, 0 if unknown. Boxes that stick out by more
    than TOLERANCE come back clipped; what comes back for a fatal fault means nothing.
    """
    with np.errstate(all="ignore"):
        finite = np.isfinite(boxes_G4).all(axis=1)
        sides = boxes_G4[:, 2:] - boxes_G4[:, :2]
        limits = np.where(sizes_G2 > 0, sizes_G2, np.inf)[:, ::-1]
        huge = (np.abs(boxes_G4) > LARGEST_COORDINATE).any(axis=1) | (sides > LARGEST_SIDE * limits).any(axis=1)
        stored = np.where((finite & ~huge)[:, None], boxes_G4, 0).astype(np.float32)
        # What counts is the side that float32 leaves of it.
        empty = (stored[:, 2:] <= stored[:, :2]).any(axis=1)
        outside = (stored[:, 2:] <= 0).any(axis=1) | (stored[:, :2] >= limits).any(axis=1)
        excess = np.maximum(-boxes_G4[:, :2], boxes_G4[:, 2:] - limits).max(axis=1)
    conditions = [~finite, huge, (sides < 0).any(axis=1), empty, outside, excess > TOLERANCE]
    fault = np.select(conditions, range(1, len(conditions) + 1), 0)
    far = np.concatenate([limits, limits], axis=1).astype(np.float32)
    clipped = np.where((fault == len(conditions))[:, None], np.clip(stored, 0, far), stored)
    return fault, clipped


class Labels:
    """One split while it is read.

    place(row, number) says where the box `number` (an annotation's id, a line) of picture `row` stands: (file, where).
    """

    def __init__(
        self, root: Path, split: str, format: str, form: BoxForm, place: Callable[[int, int], tuple[Path, str]]
    ):
        self.root, self.split, self.format, self.form, self.place = root, split, format, form, place
        self.problems: list[Problem] = []
        self.row_of: dict[str, int] = {}
        self.folder = ""
        self.classes: dict[str, int] = {}
        self._sizes = array("i")
        self._image_ids = array("q")
        self._rows = array("q")
        self._boxes = array("d")
        self._labels = array("i")
        self._crowd = bytearray()
        self._areas = array("d")
        self._numbers = array("q")

    def problem(
        self, file: str | Path, where: str, field: str, value: object, problem: str, fix: str, fatal: bool = True
    ) -> None:
        self.problems.append(Problem.of(file, where, field, value, problem, fix, fatal))

    def add_picture(self, name: str, size: tuple[int, int] = (0, 0), image_id: int | None = None) -> int:
        """The row of a new picture: a safe name and (height, width), zeros to read that from the file."""
        row = len(self.row_of)
        self.row_of[name] = row
        self._sizes.extend(size)
        self._image_ids.append(row if image_id is None else image_id)
        return row

    def locate_pictures(self, file: Path) -> None:
        """Finds the folder that the names of the label file `file` are relative to."""
        self.folder = picture_folder(self.root, file, list(self.row_of))

    def safe_name(self, name: str, file: Path, where: str, field: str) -> str | None:
        """`name` as a path inside the data set's folder, or None, with a problem, where it would leave it."""
        path = inside(name, self.root)
        if path is None:
            fix = f"write a name below {self.root}"
            self.problem(file, where, field, ascii(name)[1:-1], "the name leaves the folder or is no file's name", fix)
        return path

    def add_box(
        self,
        row: int,
        box: Sequence[float],
        label: int,
        number: int,
        crowd: bool = False,
        area: float | None = None,
    ) -> None:
        """A box as the file writes it, four numbers; where it stands is `place(row, number)`.

        area: pixels of the object, where the file says.
        """
        self._rows.append(row)
        self._boxes.extend(box)
        self._labels.append(label)
        self._numbers.append(number)
        self._crowd.append(crowd)
        self._areas.append(np.nan if area is None else area)

    def label_of(self, class_name: str) -> int:
        """A number for a class that is known by its name alone; `build_named` puts the classes in order."""
        return self.classes.setdefault(class_name, len(self.classes))

    def build_named(self, others: Iterable[str] = ()) -> Table:
        """`build` with the classes that were met here or are named in `others`, sorted by name."""
        names = sorted({*self.classes, *others})
        place = {name: label for label, name in enumerate(names)}
        label_of_number = np.array([place[name] for name in self.classes], dtype=np.int32)
        numbers = np.array(self._labels, dtype=np.int32)
        self._labels = array("i", label_of_number[numbers].tobytes())
        return self.build(names, range(len(names)))

    def build(self, class_names: Sequence[str], category_ids: Sequence[int]) -> Table:
        """The table of what is sound, with all problems."""
        paths = [self.folder + name for name in self.row_of]
        sizes_I2 = np.array(self._sizes, dtype=np.int32).reshape(-1, 2)
        readable = self._fill_sizes(paths, sizes_I2)
        rows = np.array(self._rows, dtype=np.int64)
        written_G4 = np.array(self._boxes, dtype=np.float64).reshape(-1, 4)
        sizes_G2 = sizes_I2[rows].astype(np.float64)
        known_G1 = readable[rows][:, None]
        with np.errstate(all="ignore"):
            xyxy_G4 = self.form.to_xyxy(written_G4, np.where(known_G1, sizes_G2, ANY_SIDE))
            fault, boxes_G4 = check_boxes(xyxy_G4, np.where(known_G1, sizes_G2, 0))
        fatal = np.array([False] + [f.fatal for f in BOX_FAULTS])
        # A box whose picture cannot be read is left out, but told if it is at fault in every picture.
        fault[~readable[rows] & ~fatal[fault]] = 0
        for index in np.flatnonzero(fault).tolist():
            self._report(index, BOX_FAULTS[fault[index] - 1], paths, written_G4, sizes_I2)
        kept = readable[rows] & ~fatal[fault]
        new_row = np.cumsum(readable) - 1
        return Table.of(
            root=self.root,
            split=self.split,
            format=self.format,
            class_names=class_names,
            category_ids=category_ids,
            paths=[path for path, known in zip(paths, readable, strict=True) if known],
            sizes=sizes_I2[readable],
            image_ids=np.array(self._image_ids, dtype=np.int64)[readable],
            rows=new_row[rows[kept]],
            boxes=boxes_G4[kept],
            labels=np.array(self._labels, dtype=np.int32)[kept],
            crowd=np.frombuffer(bytes(self._crowd), dtype=bool)[kept],
            areas=self._stated_areas(boxes_G4, kept),
            problems=self.problems,
        )

    def _stated_areas(self, boxes_G4: np.ndarray, kept: np.ndarray) -> np.ndarray | None:
        """Areas of the kept boxes as the file states them, the box's where it does not; None if it never does."""
        areas = np.array(self._areas, dtype=np.float64)[kept]
        unstated = ~((areas >= 0) & (areas <= LARGEST_COORDINATE**2))
        if unstated.all():
            return None
        sides = (boxes_G4[:, 2:] - boxes_G4[:, :2])[kept]
        return np.where(unstated, sides[:, 0] * sides[:, 1], areas)

    def _fill_sizes(self, paths: list[str], sizes_I2: np.ndarray) -> np.ndarray:
        """Reads sizes that the labels do not state from the pictures' headers; [I] bool, False where that failed."""
        readable = np.ones(len(paths), dtype=bool)
        for row in np.flatnonzero((sizes_I2 <= 0).any(axis=1)).tolist():
            file = f"{self.root}/{paths[row]}"
            try:
                # A header costs nothing to read: data.max_pixels is held against what is going to be decoded.
                sizes_I2[row] = image_size(file, max_pixels=sys.maxsize)
            except ImageError as error:
                readable[row] = False
                problem, _, fix = str(error).removeprefix(f"{file}: ").rpartition("; ")
                self.problem(file, "", "", "", f"the picture {problem}", fix)
        return readable

    def _report(self, index: int, fault: BoxFault, paths: list[str], boxes: np.ndarray, sizes: np.ndarray) -> None:
        row = self._rows[index]
        file, where = self.place(row, self._numbers[index])
        height, width = sizes[row].tolist()
        value = "[" + ", ".join(f"{number:.7g}" for number in boxes[index].tolist()) + "]"
        size = f"{width} x {height}" if width and height else "size unknown"
        problem = f"{fault.problem} ({paths[row]}, {size})"
        self.problem(file, where, self.form.field, value, problem, fault.fix, fault.fatal)
