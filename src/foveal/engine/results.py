"""What was found, written picture by picture: a table in one of four formats.

    coco    detections.json  COCO's list of results: image_id, category_id, bbox (x, y, width, height), score;
            images.json      which picture each image_id is (file_name, width, height), pictures without detections
                             too, and the categories. Ids count the pictures from 1, in the order of the inputs.
    csv     detections.csv   path,x1,y1,x2,y2,class,score; a picture without detections has one row with empty cells
    jsonl   detections.jsonl one line a picture: image, width, height, detections [{box, score, class, category_id}];
                             a picture that could not be read has an error instead, and is left out of the others
    labelstudio labelstudio.json  a list of Label Studio's tasks with predictions; pictures are local files, so paths
                             are to be relative to its document root

Boxes are in pixels of the picture as it is displayed. Tables are written beside and renamed when they are complete:
after a stop, what had been found is in the file that ends in .part.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np

from foveal.detections import Detections
from foveal.errors import FovealError, UsageError
from foveal.interop.label_studio import local_file, to_label_studio

Format = Literal["coco", "csv", "jsonl", "labelstudio"]


def open_table(out: Path, format: Format, class_names: Sequence[str], category_ids: Sequence[int]) -> Table:
    """An empty table in the folder `out`, which is made where it is missing."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be made a folder ({error.strerror}); choose another --out") from None
    if format == "coco":
        return CocoTable(out, class_names, category_ids)
    if format == "csv":
        return CsvTable(out)
    if format == "jsonl":
        return JsonLines(out, category_ids)
    if format == "labelstudio":
        return LabelStudioTable(out)
    raise UsageError(f"there is no table format {format!r}: use coco, csv, jsonl or labelstudio")


class Table:
    """A table that is being written, as a context: its files are NAME.part, renamed if no error ends the context."""

    def __init__(self, out: Path, *names: str):
        self.path = out / names[0]
        self._paths = [out / name for name in names]
        with writing(self.path):
            self._files = [_open(part_of(path)) for path in self._paths]

    def add(self, name: str, size: tuple[int, int], found: Detections) -> None:
        """A picture of (height, width) and what was found in it."""
        raise NotImplementedError

    def fail(self, name: str, reason: str) -> None:
        """A picture that could not be read."""

    def finish(self) -> None:
        """Writes what ends the files; called after a failure too, so that a .part is whole as far as it goes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with writing(self.path):
            self.finish()
            for file, path in zip(self._files, self._paths, strict=True):
                file.flush()
                os.fsync(file.fileno())
                file.close()
                if kind is None:
                    os.replace(part_of(path), path)


class CocoTable(Table):
    """detections.json and images.json, of the pictures that could be read."""

    def __init__(self, out: Path, class_names: Sequence[str], category_ids: Sequence[int]):
        super().__init__(out, "detections.json", "images.json")
        self.category_ids = tuple(category_ids)
        categories = [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)]
        self._results, self._images = self._files
        self._results.write("[")
        self._images.write('{"categories": ' + _json(categories) + ',\n"images": [')
        self._num_images = 0
        self._first = True

    def add(self, name: str, size: tuple[int, int], found: Detections) -> None:
        self._num_images += 1
        image = {"id": self._num_images, "file_name": name, "width": size[1], "height": size[0]}
        with writing(self.path):
            self._images.write(("\n" if self._num_images == 1 else ",\n") + _json(image))
            for box, score, label in _rows(found):
                x1, y1, x2, y2 = box
                result = {
                    "image_id": self._num_images,
                    "category_id": self.category_ids[label],
                    "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
                    "score": score,
                }
                self._results.write(("\n" if self._first else ",\n") + _json(result))
                self._first = False
            self._results.flush()
            self._images.flush()

    def finish(self) -> None:
        self._results.write("\n]\n")
        self._images.write("\n]}\n")


class CsvTable(Table):
    """detections.csv, in the columns that training reads, and the score; of the pictures that could be read."""

    def __init__(self, out: Path):
        super().__init__(out, "detections.csv")
        self._file = self._files[0]
        self._file.write("path,x1,y1,x2,y2,class,score\n")

    def add(self, name: str, size: tuple[int, int], found: Detections) -> None:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        for (box, score, _), class_name in zip(_rows(found), found.names, strict=True):
            writer.writerow([name, *box, class_name, score])
        if not len(found):
            writer.writerow([name, *[""] * 6])
        with writing(self.path):
            self._file.write(lines.getvalue())
            self._file.flush()


class JsonLines(Table):
    """detections.jsonl."""

    def __init__(self, out: Path, category_ids: Sequence[int]):
        super().__init__(out, "detections.jsonl")
        self.category_ids = tuple(category_ids)

    def add(self, name: str, size: tuple[int, int], found: Detections) -> None:
        detections = [
            {"box": box, "score": score, "class": class_name, "category_id": self.category_ids[label]}
            for (box, score, label), class_name in zip(_rows(found), found.names, strict=True)
        ]
        self._write({"image": name, "width": size[1], "height": size[0], "detections": detections})

    def fail(self, name: str, reason: str) -> None:
        self._write({"image": name, "error": reason})

    def _write(self, record: dict[str, Any]) -> None:
        with writing(self.path):
            self._files[0].write(_json(record) + "\n")
            self._files[0].flush()


class LabelStudioTable(Table):
    """labelstudio.json, of the pictures that could be read."""

    def __init__(self, out: Path):
        super().__init__(out, "labelstudio.json")
        self._files[0].write("[")
        self._first = True

    def add(self, name: str, size: tuple[int, int], found: Detections) -> None:
        task = to_label_studio(found, size, local_file(name))
        with writing(self.path):
            self._files[0].write(("\n" if self._first else ",\n") + _json(task))
            self._files[0].flush()
        self._first = False

    def finish(self) -> None:
        self._files[0].write("\n]\n")


def part_of(path: Path) -> Path:
    """The name that a file has until it is complete."""
    return path.with_name(path.name + ".part")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk or a missing right into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise FovealError(
            f"{path}: cannot be written ({error.strerror or error}); free space there or choose another --out"
        ) from None


def _rows(found: Detections) -> Iterator[tuple[list[float], float, int]]:
    """(box, score, label) to a thousandth of a pixel and a hundred-thousandth of a score."""
    boxes = np.round(found.boxes.numpy().astype(np.float64), 3).tolist()
    scores = np.round(found.scores.numpy().astype(np.float64), 5).tolist()
    return zip(boxes, scores, found.labels.tolist(), strict=True)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _open(path: Path) -> IO[str]:
    # A file name need not be valid UTF-8. As JSON's \udcXX escape it survives; in a CSV as the bytes it has.
    errors = "surrogateescape" if ".csv" in path.suffixes else "backslashreplace"
    return open(path, "w", encoding="utf-8", errors=errors, newline="\n")
