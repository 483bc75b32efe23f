"""COCO JSON: `images`, `annotations` with bbox [x, y, width, height] and iscrowd, `categories` whose ids may have gaps.

One file a split. All categories of the file, in the order of their ids, are the classes; boxes with iscrowd are regions
to ignore.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foveal.data.coco_file import PARTS, Annotation, Category, Image, Report, decode_entries, read_parts
from foveal.data.labels import BoxForm, Labels
from foveal.data.layout import data_root, find_label_files, split_of_file
from foveal.data.table import Table


def find_coco(path: Path) -> dict[str, Path]:
    """The label file of each split of the data set at `path` (a folder or one label file); empty if it is not COCO.

    Looked for in the folder, then in annotations/ and other folders directly below it.
    """
    return find_label_files(path, ".json", looks_like_coco)


def looks_like_coco(file: Path) -> bool:
    """Whether the file's ends hold a part of COCO's layout, or its name promises it, so that damage can be told."""
    if file.name.lower().endswith(".coco.json") or split_of_file(file) is not None:
        return True
    with file.open("rb") as stream:
        ends = stream.read(65536)
        stream.seek(max(0, file.stat().st_size - 65536))
        ends += stream.read()
    return ends.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and any(f'"{part}"'.encode() in ends for part in PARTS)


def _corners(boxes_G4: np.ndarray, sizes_G2: np.ndarray) -> np.ndarray:
    """x, y, width, height to xyxy."""
    return np.concatenate([boxes_G4[:, :2], boxes_G4[:, :2] + boxes_G4[:, 2:]], axis=1)


COCO_BOX = BoxForm("bbox", _corners)


def read_coco(
    file: str | Path,
    root: str | Path | None = None,
    split: str | None = None,
    classes: Mapping[str, int] | None = None,
) -> Table:
    """Reads one label file. Where it cannot be read as a whole, the table has no pictures and says why in its problems.

    root: the data set's folder (default: the file's, or the one above annotations/).
    classes: id of each class by name, in label order, as `coco_classes` gives it (default: the file's categories).
    """
    file = Path(file)
    root = data_root(file) if root is None else Path(root)
    split = split or split_of_file(file) or file.stem
    labels = Labels(root, split, "coco", COCO_BOX, lambda row, number: (file, f"annotation {number}"))
    report = partial(labels.problem, file)
    parts = read_parts(file, report)
    names = _categories(parts["categories"], report)
    known = dict(classes) if classes is not None else {name: id for id, name in sorted(names.items())}
    label_of_name = {name: label for label, name in enumerate(known)}
    for id, name in names.items():
        if known.get(name, id) != id:
            problem = f"another split gives {name!r} the id {known[name]}; the name decides"
            report(f"category {id}", "id", id, problem, "use the same ids in all splits", fatal=False)
    row_of_image = _add_pictures(parts["images"], file, labels)
    label_of_id = {id: label_of_name[name] for id, name in names.items() if name in label_of_name}
    _add_boxes(parts["annotations"], row_of_image, label_of_id, labels, report)
    del parts
    return labels.build(tuple(known), tuple(known.values()))


def coco_classes(files: Sequence[Path]) -> dict[str, int]:
    """Id of each class by name over all splits' files, in the order of ids.

    A class is its name. Where files number one name differently the first file's id is kept.
    """
    known: dict[str, int] = {}
    for file in files:
        names = _categories(read_parts(file, _ignore, ["categories"])["categories"], _ignore)
        for id, name in sorted(names.items()):
            if name not in known:
                known[name] = id if id not in known.values() else max(known.values()) + 1
    return dict(sorted(known.items(), key=lambda item: item[1]))


def _ignore(where: str, field: str, value: object, problem: str, fix: str, fatal: bool = True) -> None:
    """The reporter of a second look at a file: its problems are told when it is read."""


def _categories(entries: list[Any], report: Report) -> dict[int, str]:
    """Name of each category id; a name that stands twice is told apart by its id."""
    names: dict[int, str] = {}
    for category in decode_entries(entries, Category, report):
        name, where = category.name, f"category {category.id}"
        if category.id in names:
            report(where, "id", category.id, f"{names[category.id]!r} has this id already", "give each its own id")
            continue
        if name in names.values():
            report(where, "name", name, "another category has this name", "rename or merge them", fatal=False)
            name = f"{name} ({category.id})"
        names[category.id] = name
    return names


def _add_pictures(entries: list[Any], file: Path, labels: Labels) -> dict[int, int]:
    """Adds the pictures; row of each image id, -1 for those that are left out."""
    report = partial(labels.problem, file)
    named: dict[str, Image] = {}
    row_of_image: dict[int, int] = {}
    for image in decode_entries(entries, Image, report):
        where = f"image {image.id}"
        name = labels.safe_name(image.file_name, file, where, "file_name")
        if image.id in row_of_image:
            report(where, "id", image.id, "another picture has this id", "give each picture its own id")
            continue
        row_of_image[image.id] = -1
        if name in named:
            problem = f"image {named[name].id} is the same picture"
            report(where, "file_name", name, problem, "list a picture once, with all its boxes")
        elif name is not None:
            named[name] = image
    for name, image in named.items():
        row_of_image[image.id] = labels.add_picture(name, (image.height or 0, image.width or 0), image.id)
    labels.locate_pictures(file)
    return row_of_image


def _add_boxes(
    entries: list[Any], row_of_image: dict[int, int], label_of_id: dict[int, int], labels: Labels, report: Report
) -> None:
    numbers = array("q")
    for position, annotation in enumerate(decode_entries(entries, Annotation, report)):
        row = row_of_image.get(annotation.image_id)
        label = label_of_id.get(annotation.category_id)
        number = annotation.id if annotation.id is not None else position + 1
        if row is None or label is None:
            _report_unknown(annotation, number, row is None, label is None, report)
        elif row >= 0:
            labels.add_box(row, annotation.bbox, label, number, bool(annotation.iscrowd), annotation.area)
        if annotation.id is not None:
            numbers.append(annotation.id)
    ids, counts = np.unique(np.array(numbers, dtype=np.int64), return_counts=True)
    for id, count in zip(ids[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        report(f"annotation {id}", "id", id, f"{count} annotations have this id", "give each its own id", fatal=False)


def _report_unknown(annotation: Annotation, number: int, picture: bool, category: bool, report: Report) -> None:
    where, fix = f"annotation {number}", "add it to the list, or remove the box"
    if picture:
        report(where, "image_id", annotation.image_id, "no picture has this id", fix)
    if category:
        report(where, "category_id", annotation.category_id, "no category has this id", fix)
