"""Pascal VOC: an XML file a picture, in Annotations/ with pictures in JPEGImages/, or beside its picture.

Splits are the lists ImageSets/Main/<split>.txt, or folders train/ valid/ test/, or none. Classes are the names that
occur in any split, sorted. Boxes count pixels from 1 and include the last one; ours are half-open from 0, so
(xmin, ymin, xmax, ymax) becomes (xmin - 1, ymin - 1, xmax, ymax). Objects marked difficult are regions to ignore.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np

from foveal.data.labels import BoxForm, Labels
from foveal.data.layout import PICTURE_SUFFIXES, SPLIT_WORDS, folders_of_splits, inside, list_files, subfolders
from foveal.data.table import Table

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _half_open(boxes_G4: np.ndarray, sizes_G2: np.ndarray) -> np.ndarray:
    """Pixels counted from 1, the last one included, to half-open xyxy; a box that starts where it ends has no area."""
    starts, ends = boxes_G4[:, :2], boxes_G4[:, 2:]
    return np.concatenate([np.where(starts == ends, starts, starts - 1), ends], axis=1)


VOC_BOX = BoxForm("bndbox", _half_open)


def find_voc(path: Path) -> dict[str, Path]:
    """The list, or the folder of XML files, of each split of the data set at `path`; empty if it is not VOC."""
    if not path.is_dir():
        return {}
    path = voc_root(path)
    annotations = _annotations(path)
    if annotations is not None:
        lists = {split: path / "ImageSets" / "Main" / f"{split}.txt" for split in SPLIT_WORDS}
        return {split: file for split, file in lists.items() if file.is_file()} or {"all": annotations}
    if _has_xml(path):
        return {"all": path}
    folders = {split: _annotations(folder) or folder for split, folder in folders_of_splits(path).items()}
    return {split: folder for split, folder in folders.items() if _has_xml(folder)}


def voc_root(path: Path) -> Path:
    """The data set's folder, also where its Annotations/ is given."""
    return path.parent if path.name.lower() == "annotations" and _annotations(path.parent) is not None else path


def read_voc(root: str | Path, split: str = "all") -> Table:
    """Reads one split of the data set at `root`, with the classes of all its splits."""
    root = voc_root(Path(root))
    places = find_voc(root)
    xml_files: list[Path] = []
    labels = Labels(root, split, "voc", VOC_BOX, lambda row, number: (xml_files[row], f"object {number}"))
    pictures = _pictures_by_stem(root, places[split])
    for file in _xml_files(root, places[split], labels):
        annotation = _parse(file, labels)
        if annotation is None:
            continue
        name = _picture_name(annotation, file, pictures, labels)
        if name is not None:
            row = labels.add_picture(name, _size(annotation, file, labels))
            xml_files.append(file)
            _add_objects(annotation, row, file, labels)
    # What is wrong in other splits is told when they are read: here it would keep a sound one from training.
    elsewhere = Labels(root, split, "voc", VOC_BOX, labels.place)
    foreign = [place for place in places.values() if place != places[split]]
    others = {file for place in foreign for file in _xml_files(root, place, elsewhere)}
    return labels.build_named(_class_names(others.difference(xml_files), elsewhere))


def _class_names(files: Iterable[Path], labels: Labels) -> set[str]:
    """The names of all objects in these files."""
    names: set[str] = set()
    for file in files:
        annotation = _parse(file, labels)
        names |= {_text(item, "name") for item in annotation.iterfind("object")} if annotation is not None else set()
    return names - {""}


def _annotations(path: Path) -> Path | None:
    """The folder of XML files below `path`, if there is one."""
    return next((f for f in subfolders(path) if f.name.lower() == "annotations" and _has_xml(f)), None)


def _has_xml(folder: Path) -> bool:
    return any(file.suffix.lower() == ".xml" for file in folder.iterdir())


def _xml_files(root: Path, place: Path, labels: Labels) -> Iterator[Path]:
    """The XML files of a split: all of a folder, or those that a list names by their stems."""
    if place.is_dir():
        yield from (place / name for name in sorted(os.listdir(place)) if name.lower().endswith(".xml"))
        return
    folder = _annotations(root) or root
    seen: set[str] = set()
    for line, text in enumerate(place.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines(), start=1):
        report = partial(labels.problem, place, f"line {line}", "name")
        stem = text.split()[0] if text.split() else ""
        if not stem:
            continue
        name = inside(stem + ".xml", folder)
        if name is None:
            report(ascii(stem)[1:-1], "the name leaves the folder or is no file's name", f"write a name below {folder}")
        elif name in seen:
            report(stem, "the picture is listed twice", "remove one of the lines", fatal=False)
        elif not (folder / name).is_file():
            report(stem, f"the picture has no label file {folder.name}/{name}", "add the file or remove the line")
        else:
            yield folder / name
        seen.add(name or "")


def _pictures_by_stem(root: Path, place: Path) -> dict[str, str]:
    """Path below the root of each picture, by the stem that it shares with its XML file."""
    holder = place if place.is_dir() else root
    if holder.name.lower() == "annotations":
        holder = holder.parent
    folders = [folder for folder in subfolders(holder) if folder.name.lower() in ("jpegimages", "images")]
    places = {folder: list_files(folder) for folder in folders} or {holder: _files_in(holder)}
    found: dict[str, str] = {}
    for folder, names in places.items():
        below = folder.relative_to(root).as_posix()
        for name in names:
            found.setdefault(posixpath.splitext(posixpath.basename(name))[0], posixpath.normpath(f"{below}/{name}"))
    return found


def _files_in(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if posixpath.splitext(name)[1].lower() in PICTURE_SUFFIXES)


def _parse(file: Path, labels: Labels) -> Element | None:
    """The root element, or None with a problem."""
    report = partial(labels.problem, file)
    again = "restore the file or export it again"
    try:
        content = file.read_bytes()
        # Entities need a DOCTYPE, and what parsers read has it in these bytes unless it is UTF-16, which has zeros.
        harmless = b"<!DOCTYPE" not in content and b"\0" not in content
        if harmless:
            return ElementTree.fromstring(content)
        return defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except ParseError as error:
        line, column = error.position
        report(f"line {line}, column {column + 1}", "", "", f"the file is malformed or cut-off XML ({error})", again)
    except defusedxml.DefusedXmlException as error:
        fix = "remove the DOCTYPE; labels need none"
        report("", "", type(error).__name__, "the file defines a document type or entities (an XML bomb does)", fix)
    except OSError as error:
        report("", "", "", f"the file cannot be read ({error.strerror})", "check the file and its rights")
    except (ValueError, LookupError) as error:
        report("", "", "", f"the file is in an encoding that cannot be read ({error})", "save it as UTF-8")
    return None


def _picture_name(annotation: Element, file: Path, pictures: Mapping[str, str], labels: Labels) -> str | None:
    """The picture of the same stem, else the one that <filename> names; None, with a problem, if there can be none."""
    stated = _text(annotation, "filename")
    name = pictures.get(file.stem)
    if name is None and stated:
        name = labels.safe_name(stated, file, "", "filename")
        if name is not None:
            beside = posixpath.dirname(next(iter(pictures.values()), ""))
            name = pictures.get(Path(name).stem, name if "/" in name else posixpath.join(beside, name))
    elif name is None:
        labels.problem(file, "", "filename", "", f"no picture is called {file.stem}", "add the picture or <filename>")
    elif stated and inside(stated, labels.root) is None:
        problem = f"the name leaves the folder; {name} was taken"
        labels.problem(file, "", "filename", ascii(stated)[1:-1], problem, "write the picture's name", fatal=False)
    if name in labels.row_of:
        fix = "keep one file for a picture, with all its boxes"
        labels.problem(file, "", "filename", name, "another file labels the same picture", fix)
        return None
    return name


def _size(annotation: Element, file: Path, labels: Labels) -> tuple[int, int]:
    """(height, width) as stated; zeros where it is not."""
    sides = []
    for field in ("height", "width"):
        text = _text(annotation, f"size/{field}")
        number = _number(text)
        if number is not None and (number != number // 1 or not 0 <= number < 2**31):
            number = None
        if text and number is None:
            problem = "the field is not a whole number; the picture's own size was taken"
            labels.problem(file, "", f"size/{field}", text, problem, "write the picture's size", fatal=False)
        sides.append(int(number or 0))
    return sides[0], sides[1]


def _add_objects(annotation: Element, row: int, file: Path, labels: Labels) -> None:
    for number, item in enumerate(annotation.iterfind("object"), start=1):
        report: Any = partial(labels.problem, file, f"object {number}")
        bndbox = item.find("bndbox")
        texts = [_text(bndbox, corner) if bndbox is not None else "" for corner in CORNERS]
        box = [value for value in map(_number, texts) if value is not None]
        if len(box) < len(CORNERS):
            _report_box(texts, report)
        name = _text(item, "name")
        if not name:
            report("name", "", "the object has no class", "write the name of a class")
        difficult = _text(item, "difficult") or "0"
        if difficult not in ("0", "1"):
            report("difficult", difficult, "the field is neither 0 nor 1; 0 was taken", "write 0 or 1", fatal=False)
        if name and len(box) == len(CORNERS):
            labels.add_box(row, box, labels.label_of(name), number, difficult == "1")


def _report_box(texts: Sequence[str], report: Callable[..., None]) -> None:
    for corner, text in zip(CORNERS, texts, strict=True):
        if _number(text) is None:
            state = "is not a number" if text else "is missing"
            report(f"bndbox/{corner}", text, f"the field {state}", "write a number of pixels")


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
