"""CSV: a row a box, `path,x1,y1,x2,y2,class` in pixels, half-open as ours; `path,,,,,` is a picture without objects.

One file a split (train.csv, val.csv, test.csv) or one for all. A header may name the columns in another order, in words
that are known: by its place alone a column is taken only where there is no header. Paths may have backslashes and are
relative to the file, its images/ or its split's folder. Classes are the names that occur in any split, sorted.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

from foveal.data.labels import BoxForm, Labels
from foveal.data.layout import PICTURE_SUFFIXES, data_root, find_label_files, split_of_file
from foveal.data.table import Table
from foveal.wording import counted

COLUMNS = ("path", "x1", "y1", "x2", "y2", "class")
_HEADERS = {
    "path": ("path", "imagepath", "filepath", "filename", "file", "image", "imagename", "img", "imageid"),
    "x1": ("x1", "xmin", "minx", "left"),
    "y1": ("y1", "ymin", "miny", "top"),
    "x2": ("x2", "xmax", "maxx", "right"),
    "y2": ("y2", "ymax", "maxy", "bottom"),
    "class": ("class", "label", "classname", "cls", "category", "categoryname", "name"),
}
"""Words for each column, in lower case without spaces, - and _. `x` and `width` are none: `x` may be a centre."""

CSV_BOX = BoxForm("x1,y1,x2,y2", lambda boxes_G4, sizes_G2: boxes_G4)


def find_csv(path: Path) -> dict[str, Path]:
    """The label file of each split of the data set at `path` (a folder or one file); empty if it is not CSV."""
    return find_label_files(path, ".csv", looks_like_boxes)


def looks_like_boxes(file: Path) -> bool:
    """Whether the first row is a header or a box, or looks like one, or the file's name promises them.

    So damage, and a header in other words, can be told.
    """
    if split_of_file(file) is not None:
        return True
    rows = _rows(file, lambda *fault: None)
    first = next(rows, (0, []))[1]
    rows.close()
    columns = _columns(first)
    half_known = columns["path"] is not None and columns["class"] is not None and len(first) >= len(COLUMNS)
    return _is_row(first) or None not in columns.values() or (half_known and _is_wordy(first))


def read_csv(
    file: str | Path,
    root: str | Path | None = None,
    split: str | None = None,
    other_classes: Iterable[str] = (),
) -> Table:
    """Reads one label file.

    root: the data set's folder (default: the file's). other_classes: names that occur in other splits.
    """
    file = Path(file)
    root = data_root(file) if root is None else Path(root)
    split = split or split_of_file(file) or file.stem
    labels = Labels(root, split, "csv", CSV_BOX, lambda row, line: (file, f"line {line}"))
    _add_rows(file, labels)
    if not labels.row_of and not labels.problems:
        labels.problem(file, "", "", "", "the file has no rows", "write rows of path,x1,y1,x2,y2,class")
    labels.locate_pictures(file)
    return labels.build_named(other_classes)


def csv_classes(files: Iterable[Path]) -> tuple[str, ...]:
    """The class names that occur in these files, sorted."""
    found: set[str] = set()
    for file in files:
        found |= {cells[-1] for _, cells in _box_rows(file, lambda *fault: None)}
    return tuple(sorted(name for name in map(str.strip, found) if name and _is_text(name)))


Report = Callable[[int, str, object, str, str], None]
"""Takes line, field, value, problem and fix."""


def _add_rows(file: Path, labels: Labels) -> None:
    def report(line: int, field: str, value: object, problem: str, fix: str) -> None:
        labels.problem(file, f"line {line}" if line else "", field, value, problem, fix)

    row_of_text: dict[str, int] = {}
    for line, (text, *corners, name) in _box_rows(file, report):
        row = row_of_text.get(text)
        if row is None:
            row = row_of_text[text] = _add_picture(text, line, file, labels)
        if row < 0:
            continue
        try:
            box = [float(corner) for corner in corners]
        except ValueError:
            _report_box(corners, name, line, report)
            continue
        name = name.strip()
        if name and _is_text(name):
            labels.add_box(row, box, labels.label_of(name), line)
        else:
            problem = "the class is not UTF-8" if name else "the box has no class"
            report(line, "class", ascii(name)[1:-1], problem, "write the name of a class")


def _add_picture(text: str, line: int, file: Path, labels: Labels) -> int:
    """The picture's row, -1 where its name is refused."""
    name = labels.safe_name(text, file, f"line {line}", "path")
    if name is None:
        return -1
    return labels.row_of[name] if name in labels.row_of else labels.add_picture(name)


def _report_box(corners: Sequence[str], name: str, line: int, report: Report) -> None:
    """A row whose four corners are not all numbers: all empty is a picture without objects, unless a class is named."""
    if not any(map(str.strip, [*corners, name])):
        return
    for field, corner in zip(COLUMNS[1:5], corners, strict=True):
        if _number(corner) is None:
            state = "is not a number" if corner.strip() else "is missing"
            fix = "write four numbers and a class, or leave all five empty for a picture without objects"
            report(line, field, ascii(corner)[1:-1], f"the field {state}", fix)


def _box_rows(file: Path, report: Report) -> Iterator[tuple[int, list[str]]]:
    """(line, [path, x1, y1, x2, y2, class] as text) of every row; a row that holds only a path is filled up."""
    order = list(range(len(COLUMNS)))
    width = len(COLUMNS)
    for position, (line, cells) in enumerate(_rows(file, report)):
        if position == 0 and not _is_row(cells):
            columns = _columns(cells)
            found = [place for place in columns.values() if place is not None]
            if len(found) == len(COLUMNS):
                order, width = found, len(cells)
                continue
            if _is_wordy(cells):
                _report_header(cells, columns, line, report)
                return
        if len(cells) != width and not any(map(str.strip, cells[width:] if len(cells) > width else cells[1:])):
            cells = (cells + [""] * width)[:width]
        if len(cells) == width:
            yield line, [cells[column] for column in order]
        else:
            fix = f"write {','.join(COLUMNS)}" if width == len(COLUMNS) else "write one for each column of the header"
            report(line, "", ",".join(cells), f"the row has {counted(len(cells), 'cell')} instead of {width}", fix)


def _rows(file: Path, report: Report) -> Generator[tuple[int, list[str]], None, None]:
    """(line, cells) of every row that is not blank. Bytes that are not UTF-8 become surrogates."""
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        head = stream.readline(65536)
        stream.seek(0)
        delimiter = next((sign for sign in ",;\t" if sign in head), ",")
        reader = csv.reader(stream, delimiter=delimiter)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                report(reader.line_num, "", "", f"the row cannot be read ({error})", "write the row again")
                continue
            if any(map(str.strip, cells)):
                yield reader.line_num, cells


def _columns(cells: Sequence[str]) -> dict[str, int | None]:
    """Where each of COLUMNS stands in a header; None for one that it does not name."""
    names = [re.sub(r"[\s_-]", "", cell.lower()) for cell in cells]
    return {
        column: next((names.index(word) for word in words if word in names), None) for column, words in _HEADERS.items()
    }


def _report_header(cells: Sequence[str], columns: dict[str, int | None], line: int, report: Report) -> None:
    missing = ", ".join(column for column, place in columns.items() if place is None)
    words = [cell.strip() for place, cell in enumerate(cells) if cell.strip() and place not in columns.values()]
    are = f"words {', '.join(words)} are" if len(words) > 1 else f"word {', '.join(words)} is"
    unknown = f"; the {are} unknown" if words else ""
    fix = f"name the columns {','.join(COLUMNS)}: the box's left, top, right and lower edge, so x2 is x1 + width"
    report(line, "header", ",".join(cells), f"the header names no column {missing}{unknown}", fix)


def _is_row(cells: Sequence[str]) -> bool:
    """Whether these cells are a picture and its box, rather than a header."""
    corners = cells[1:5]
    return len(cells) >= len(COLUMNS) and all(_number(corner) is not None or not corner.strip() for corner in corners)


def _is_wordy(cells: Sequence[str]) -> bool:
    """Whether these cells are words, as in a header: several, none of them a number or a picture's name."""
    words = [cell.strip() for cell in cells if cell.strip()]
    pictures = any(Path(word).suffix.lower() in PICTURE_SUFFIXES for word in words)
    return len(words) > 1 and not pictures and all(_number(word) is None for word in words)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in name)
