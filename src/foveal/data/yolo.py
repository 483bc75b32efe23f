"""YOLO: data.yaml names classes and splits; a picture's boxes are lines `class x y width height` of its label file.

Numbers are fractions of the picture (centre, then size), so pixels come from the pictures' headers. The label file of
images/a/b.jpg is labels/a/b.txt, else the .txt beside the picture; a picture without one has no objects. A line with
more corners is an outline, and its box is taken.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from foveal.data.labels import BoxForm, Labels
from foveal.data.layout import list_files
from foveal.data.table import Table
from foveal.data.yolo_file import find_description, list_names, read_description
from foveal.wording import counted

ROUNDING = 1e-3
"""By how much a fraction may exceed 0 .. 1: the last digits that exporters cut."""


def _pixels(boxes_G4: np.ndarray, sizes_G2: np.ndarray) -> np.ndarray:
    """Centre and size as fractions to xyxy pixels."""
    centres, sides = boxes_G4[:, :2], boxes_G4[:, 2:]
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return corners * np.tile(sizes_G2[:, ::-1], 2)


YOLO_BOX = BoxForm("box", _pixels)


def find_yolo(path: Path) -> dict[str, Path]:
    """data.yaml, once for each split of the data set at `path` (a folder or that file); empty if it is not YOLO."""
    file = find_description(path)
    return {} if file is None else dict.fromkeys(read_description(file).splits, file)


def read_yolo(file: str | Path, split: str = "train") -> Table:
    """Reads one split of the data set that `file`, a data.yaml, describes."""
    description = read_description(Path(file))
    root = description.root
    label_files: list[str] = []
    labels = Labels(root, split, "yolo", YOLO_BOX, lambda row, number: (root / label_files[row], f"line {number}"))
    if split == next(iter(description.splits)):
        labels.problems += description.problems
    label_of_index = {index: label for label, index in enumerate(description.names)}
    for place in description.splits[split]:
        for name in list_names(description, place, labels.problem):
            if name not in labels.row_of:
                row = labels.add_picture(name)
                label_file, content = _label_file(root, name, labels)
                label_files.append(label_file)
                _add_lines(content, row, label_of_index, partial(labels.problem, root / label_file), labels)
        if place.is_dir():
            _report_strays(root, place, set(label_files), labels)
    if label_files and not any(label_files):
        expected = root / next(label_names(next(iter(labels.row_of))))
        problem = f"of the {counted(len(label_files), 'picture')} of {split} none has a label file"
        labels.problem(description.file, "", split, "", problem, f"write files such as {expected}")
    return labels.build(tuple(description.names.values()), tuple(description.names))


def label_names(name: str) -> Iterator[str]:
    """Where the label file of a picture may be: images/ replaced by labels/, then beside the picture."""
    text = posixpath.splitext(name)[0] + ".txt"
    before, found, after = f"/{text}".rpartition("/images/")
    if found:
        yield f"{before}/labels/{after}"[1:]
    yield text


def _label_file(root: Path, name: str, labels: Labels) -> tuple[str, bytes]:
    """The label file of a picture, below the root, and what it holds; without one, no name and nothing."""
    for place in label_names(name):
        try:
            with open(f"{root}/{place}", "rb") as stream:
                return place, stream.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            labels.problem(root / place, "", "", "", f"the file cannot be read ({error.strerror})", "check its rights")
            return place, b""
    return "", b""


def _add_lines(
    content: bytes, row: int, label_of_index: dict[int, int], report: Callable[..., None], labels: Labels
) -> None:
    """Adds the boxes of one label file."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        texts = line.split()
        if not texts:
            continue
        where = f"line {number}"
        try:
            index, *box = map(float, texts)
        except ValueError:
            shown = line.decode("utf-8", "backslashreplace")
            report(where, "", shown, "the line holds something that is no number", "write class x y width height")
            continue
        if len(box) >= 6 and len(box) % 2 == 0:
            box = _around(box)
        label = label_of_index.get(int(index)) if index == index // 1 else None
        if len(box) != 4:
            problem = f"the line has {counted(len(texts), 'number')} instead of 5"
            report(where, "", line.decode("ascii", "replace"), problem, "write class x y width height")
        elif label is None:
            known = f"0 to {max(label_of_index)}"
            report(where, "class", texts[0].decode(), f"no class has this index; there are {known}", "correct it")
        elif min(box[:2]) < -ROUNDING or max(box) > 1 + ROUNDING:
            fix = "divide pixels by the picture's width and height"
            report(where, "box", b" ".join(texts[1:]).decode(), "a fraction of the picture is outside 0 .. 1", fix)
        else:
            labels.add_box(row, box, label, number)


def _around(outline: list[float]) -> list[float]:
    """Centre and size of the box around corners x y x y ..."""
    left, right = min(outline[::2]), max(outline[::2])
    top, bottom = min(outline[1::2]), max(outline[1::2])
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def _report_strays(root: Path, place: Path, used: set[str], labels: Labels) -> None:
    """Label files in the folder of a split's labels that belong to no picture."""
    folder = posixpath.dirname(next(label_names(f"{place.relative_to(root).as_posix()}/x.jpg")))
    for name in list_files(root / folder, [".txt"]):
        file = root / folder / name
        if posixpath.normpath(f"{folder}/{name}") not in used and _holds_boxes(file):
            problem = "the labels belong to no picture of this split"
            labels.problem(file, "", "", "", problem, "add the picture, or remove the file")


def _holds_boxes(file: Path) -> bool:
    with file.open("rb") as stream:
        texts = stream.readline(4096).split()
    return len(texts) >= 5 and all(re.fullmatch(rb"[-+.eE0-9]+", text) for text in texts)
