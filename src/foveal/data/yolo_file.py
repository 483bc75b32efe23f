"""YOLO's data.yaml, or the folders and classes.txt where there is none: classes, and where the pictures are.

Every place is looked for below the folder of data.yaml only. A `path:` that leads elsewhere is passed over, and
`../train/images`, as Roboflow writes it, is looked for here as train/images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from foveal.data.layout import PICTURE_SUFFIXES, SPLIT_WORDS, in_split_order, inside, list_files
from foveal.data.table import Problem
from foveal.errors import DataError
from foveal.wording import counted

NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")


@dataclass
class Description:
    """What data.yaml says. names: by class index; splits: the folders or lists of pictures of each split."""

    root: Path
    file: Path
    names: dict[int, str]
    splits: dict[str, list[Path]]
    problems: list[Problem] = field(default_factory=list)


def find_description(path: Path) -> Path | None:
    """data.yaml (or a file of class names) of the data set at `path`, a folder or that file; None: not YOLO."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"):
        if (path / name).is_file():
            return path / name
    for file in sorted([*path.glob("*.yaml"), *path.glob("*.yml")]):
        head = file.read_bytes()[:65536]
        if re.search(rb"^names\s*:", head, re.M) and re.search(rb"^(train|val)\s*:", head, re.M):
            return file
    return next((path / name for name in NAME_FILES if (path / name).is_file() and _default_places(path)), None)


def read_description(file: Path) -> Description:
    """Reads data.yaml; raises DataError where no classes or no pictures can be had from it."""
    if file.suffix.lower() not in (".yaml", ".yml"):
        root = file.parent.parent if file.parent.name == "labels" else file.parent
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        return Description(root, file, dict(enumerate(names)), _default_places(root))
    values = _load(file)
    description = Description(file.parent, file, {}, {})
    description.names = _names(values, description)
    description.splits = _splits(values, description)
    if not description.splits:
        found = description.problems or [
            Problem.of(file, "", "train", "", "no split is named", "write `train: images/train` and `val: images/val`")
        ]
        raise DataError("\n".join(map(str, found)), found)
    return description


def list_names(description: Description, place: Path, refuse: Callable[..., None]) -> Iterator[str]:
    """Paths below the root of a split's pictures: all of a folder, or the lines of a list."""
    root = description.root
    if place.is_dir():
        below = place.relative_to(root).as_posix()
        yield from (name if below == "." else f"{below}/{name}" for name in list_files(place))
        return
    for number, text in enumerate(place.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines(), start=1):
        if not text.strip():
            continue
        name = inside(text, root)
        if name is None:
            problem, fix = "the name leaves the folder or is no file's name", f"write a name below {root}"
            refuse(place, f"line {number}", "", ascii(text)[1:-1], problem, fix)
            continue
        beside = place.parent.relative_to(root) / name
        yield name if (root / name).is_file() or not (root / beside).is_file() else beside.as_posix()


def _load(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the file and its rights") from None
    except Exception as error:  # the parser raises whatever damaged text leads to
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or " ".join(str(error).split())
        _refuse(file, where, "", "", f"the file is malformed or cut-off YAML ({what})", "restore it or write it again")
    if not isinstance(values, dict):
        _refuse(file, "", "", type(values).__name__, "the file holds no settings", "write names:, train: and val:")
    return values


def _names(values: dict[str, Any], description: Description) -> dict[int, str]:
    """Class names by index, in the order of indices."""
    file, names, count = description.file, values.get("names"), values.get("nc")
    if names is None and isinstance(count, int) and 0 < count < 100_000:
        names = [str(index) for index in range(count)]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        _refuse(file, "", "names", names, "the class names are no list and no mapping", "write `names: [cat, dog]`")
    found: dict[int, str] = {}
    for index, name in names.items():
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 2**31:
            _refuse(file, "", "names", index, "the class index is not a whole number from 0", "write `0: cat`")
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            _refuse(file, "", f"names[{index}]", name, "the class name is not a text", "write it in quotes")
        if str(name) in found.values():
            problem, fix = "another class has this name", "rename one of them"
            description.problems.append(Problem.of(file, "", f"names[{index}]", name, problem, fix, fatal=False))
            name = f"{name} ({index})"
        found[index] = str(name)
    if isinstance(count, int) and count != len(found):
        problem = f"it names {counted(len(found), 'class')}"
        description.problems.append(Problem.of(file, "", "nc", count, problem, f"write nc: {len(found)}", fatal=False))
    return dict(sorted(found.items()))


def _splits(values: dict[str, Any], description: Description) -> dict[str, list[Path]]:
    root = description.root
    stated = inside(str(values.get("path") or "."), root)
    base = root / stated if stated else root
    found = _default_places(root)
    for split, words in SPLIT_WORDS.items():
        key = next((word for word in words if values.get(word)), None)
        if key is None:
            continue
        entries = values[key] if isinstance(values[key], list) else [values[key]]
        places = [place for entry in entries if (place := _place(entry, key, base, description)) is not None]
        if places:
            found[split] = places
    return {split: found[split] for split in in_split_order(found)}


def _place(entry: Any, key: str, base: Path, description: Description) -> Path | None:
    """The folder or list that an entry names; None, with a problem, where there is none inside the folder."""
    root = description.root
    text = entry.strip().replace("\\", "/") if isinstance(entry, str) else ""
    for start, name in ((base, text), (root, text), (root, re.sub(r"^(\.\./)+", "", text))):
        path = "." if name in (".", "./") else inside(name, start)
        if path is not None and (start / path).exists():
            return start / path
    leaves = inside(text, root) is None
    problem = "the name leaves the folder" if leaves else "there is no such folder or list"
    fix = f"write a place below {root}, such as images/{key}"
    description.problems.append(Problem.of(description.file, "", key, entry, problem, fix, fatal=key == "train"))
    return None


def _default_places(root: Path) -> dict[str, list[Path]]:
    """Splits by their folders, images/train or train/images; the one split `all` where there are none."""
    found: dict[str, list[Path]] = {}
    for split, words in SPLIT_WORDS.items():
        places = [root / pattern for word in words for pattern in (f"images/{word}", f"{word}/images")]
        existing = [place for place in places if place.is_dir()]
        if existing:
            found[split] = existing[:1]
    if not found:
        holder = root / "images" if (root / "images").is_dir() else root
        if any(file.suffix.lower() in PICTURE_SUFFIXES for file in holder.iterdir()):
            found["all"] = [holder]
    return found


def _refuse(file: Path, where: str, field: str, value: object, problem: str, fix: str) -> NoReturn:
    found = Problem.of(file, where, field, value, problem, fix)
    raise DataError(str(found), [found])
