"""Where the parts of a data set lie: names of splits, label files, folders of pictures, and names that stay inside.

The four readers share this file. Nothing here opens a label file further than its first bytes, or any picture.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".mpo", ".ppm", ".pgm", ".pnm", ".jp2", ".avif"}
)

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "minival"),
    "test": ("test", "testing"),
    "trainval": ("trainval",),
}
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}


ANNOTATION_FOLDERS = ("annotations", "labels", "annotation")


def split_name(text: str) -> str | None:
    """train, val, test or trainval as `text` names it (`instances_train2017`, `valid`, `Test`), else None."""
    for word in re.split(r"[^a-z]+", text.lower()):
        if word in _SPLIT_OF_WORD:
            return _SPLIT_OF_WORD[word]
    return None


def in_split_order(names: Iterable[str]) -> list[str]:
    """train, val, test first, then the others by name."""
    order = list(SPLIT_WORDS)
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def inside(name: str, root: Path) -> str | None:
    """`name` as a path below `root` with forward slashes; None if it leaves the folder or cannot be a file's name.

    Windows' backslashes are read as slashes. An absolute name is taken only when it lies below `root`.
    """
    text = name.strip().replace("\\", "/")
    for folder in (root.as_posix(), root.absolute().as_posix()):
        if text.startswith("/") and text.startswith(folder.rstrip("/") + "/"):
            text = text[len(folder) :].lstrip("/")
    if not text or text.startswith("/") or re.match(r"[A-Za-z]:", text) or any(ord(sign) < 32 for sign in text):
        return None
    path = os.path.normpath(text)
    if path == "." or path.split("/")[0] == "..":
        return None
    try:
        parts = path.encode("utf-8").split(b"/")
    except UnicodeEncodeError:
        return None
    return path if max(map(len, parts)) <= 255 and len(path) < 2048 else None


def list_files(folder: Path, suffixes: Collection[str] = PICTURE_SUFFIXES) -> list[str]:
    """Paths below `folder`, with forward slashes, of every file with one of these suffixes; sorted."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(place, folder).replace(os.sep, "/") + "/"
        prefix = "" if below == "./" else below
        found += [prefix + name for name in files if os.path.splitext(name)[1].lower() in suffixes]
    return sorted(found)


def folders_of_splits(root: Path) -> dict[str, Path]:
    """Folders directly below `root` that a split is named after: train/ valid/ test/."""
    found: dict[str, Path] = {}
    for folder in subfolders(root):
        split = split_name(folder.name)
        if split is not None and folder.name.lower() in SPLIT_WORDS[split]:
            found.setdefault(split, folder)
    return found


def subfolders(root: Path) -> list[Path]:
    """Visible folders directly below `root`, sorted."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_label_files(path: Path, suffix: str, fits: Callable[[Path], bool]) -> dict[str, Path]:
    """The label file of each split: `path` itself, or those in the folder, or in the folders directly below it."""
    if path.is_file():
        return {split_of_file(path) or path.stem: path} if path.suffix.lower() == suffix else {}
    for folders in ([path], subfolders(path)):
        files = [file for folder in folders for file in folder.iterdir() if file.suffix.lower() == suffix]
        found = [file for file in files if file.is_file() and fits(file)]
        if found:
            return one_file_a_split(found)
    return {}


def one_file_a_split(files: Sequence[Path]) -> dict[str, Path]:
    """Label files by the split that each is named after; those without a split's name count only if all are.

    A file in a folder train/ belongs to train. Of several for one split, COCO's `instances_` comes first, then the
    shortest name (`person_keypoints_train2017.json` and `captions_train2017.json` lie beside it).
    """
    ranked = sorted(files, key=lambda file: (not file.stem.startswith("instances"), len(file.name), str(file)))
    named: dict[str, Path] = {}
    for file in ranked:
        split = split_of_file(file)
        if split is not None:
            named.setdefault(split, file)
    found = named or {file.stem: file for file in ranked}
    return {split: found[split] for split in in_split_order(found)}


def split_of_file(file: Path) -> str | None:
    """The split that a label file's name, or else its folder's name, stands for."""
    folder = file.parent.name.lower()
    return split_name(file.stem) or (split_name(folder) if folder in _SPLIT_OF_WORD else None)


def data_root(file: Path) -> Path:
    """The data set's folder, given one of its label files: the file's folder, or the one above annotations/."""
    return file.parent.parent if file.parent.name.lower() in ANNOTATION_FOLDERS else file.parent


def is_astray(file: Path, root: Path) -> bool:
    """Whether a label file lies in a folder below `root` that is named after neither annotations nor its split.

    Such a folder may be a data set of its own.
    """
    split = split_name(file.parent.name)
    below = file.parent.parent == root and not is_part(file.parent)
    return below and (split is None or split != split_name(file.stem))


def is_part(folder: Path) -> bool:
    """Whether a folder is named as the part of a data set that holds its labels: annotations/, train/."""
    return folder.name.lower() in ANNOTATION_FOLDERS or folder.name.lower() in _SPLIT_OF_WORD


def picture_folder(root: Path, label_file: Path, names: Sequence[str]) -> str:
    """Where below `root` the pictures called `names` lie: "" or "images/" or "images/train/" ...; the best of a sample.

    Looked for beside the label file, in images/, images/<split>/, <split>/ and <split>/images/, where <split> is train,
    train2017 or whatever the label file is named after.
    """
    candidates = list(_picture_folders(root, label_file))
    step = max(1, len(names) // 50)
    sample = names[::step]
    hits = {folder: sum((root / folder / name).is_file() for name in sample) for folder in candidates}
    best = max(candidates, key=lambda folder: hits[folder])
    if not hits[best] and (root / "images").is_dir():
        best = "images"
    return best + "/" if best else ""


def _picture_folders(root: Path, label_file: Path) -> Iterable[str]:
    beside = os.path.relpath(label_file.parent, root).replace(os.sep, "/")
    words = [word for word in re.split(r"[^a-z0-9]+", label_file.stem.lower()) if split_name(word)]
    split = split_of_file(label_file)
    words += [word for word in SPLIT_WORDS.get(split or "", ()) if word not in words]
    yield "" if beside == "." else beside
    if beside != ".":
        yield ""
    yield from ("images", "data", "JPEGImages")
    for word in words:
        yield from (f"images/{word}", word, f"{word}/images")
