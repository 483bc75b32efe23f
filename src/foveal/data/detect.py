"""Which format a folder's labels have, which splits it holds, and the one way in: `read_data`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foveal.data.coco import class_list, find_coco, read_coco
from foveal.data.layout import SPLIT_WORDS, split_name
from foveal.data.table import Table
from foveal.errors import UsageError

log = logging.getLogger("foveal")


@dataclass(frozen=True)
class Source:
    """A data set that was found: its format and, by split, the file or folder that its reader takes."""

    path: Path
    format: str
    splits: dict[str, Path]


def _read_coco(source: Source, split: str) -> Table:
    files = list(source.splits.values())
    return read_coco(source.splits[split], _root(source), split, class_list(files) if len(files) > 1 else None)


_FIND: dict[str, Callable[[Path], dict[str, Path]]] = {"coco": find_coco}
_READ: dict[str, Callable[[Source, str], Table]] = {"coco": _read_coco}
FORMATS = tuple(_FIND)


def read_data(path: str | Path, split: str | None = None, format: str = "auto") -> Table:
    """Reads one split of the data set at `path`, a folder or a label file.

    split: train, val or test (or how the data calls them: valid, ...), or the name that `splits_of` gives. None is the
    training split, or the only one. A data set that is not divided answers to its own name, to `all` and to `train`.
    format: coco, voc, yolo or csv; auto finds it.
    """
    source = find_data(path, format)
    return _READ[source.format](source, _chosen(source, split))


def splits_of(path: str | Path, format: str = "auto") -> list[str]:
    """The splits of a data set: train, val, test where there are such; else the name of its one label file."""
    return list(find_data(path, format).splits)


def find_data(path: str | Path, format: str = "auto") -> Source:
    """What lies at `path`; raises UsageError where there is no such place or no data in it."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder; give the folder that holds labels and pictures")
    if format != "auto" and format not in _FIND:
        raise UsageError(f"no label format is called {format!r}: use auto, {', '.join(FORMATS)}")
    wanted = FORMATS if format == "auto" else (format,)
    try:
        found = [Source(path, name, splits) for name in wanted if (splits := _FIND[name](path))]
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot be read ({error.strerror}); check its rights") from None
    if not found:
        raise UsageError(f"{path}: holds no labels as {', '.join(wanted)}; {LOOKED_FOR}")
    if len(found) > 1:
        others = ", ".join(source.format for source in found[1:])
        log.warning("%s: read as %s; labels as %s lie there too (--data.format)", path, found[0].format, others)
    return found[0]


LOOKED_FOR = (
    "looked for train.json or annotations/instances_train2017.json (COCO), Annotations/*.xml (VOC), "
    "data.yaml (YOLO), train.csv (CSV)"
)


def _chosen(source: Source, split: str | None) -> str:
    """The source's own name of the split that is asked for."""
    names = list(source.splits)
    divided = len(names) > 1 or names[0] in SPLIT_WORDS
    if split is None:
        return "train" if "train" in names else names[0]
    canonical = split_name(split) or split
    for name in (split, canonical):
        if name in names:
            return name
    if len(names) == 1 and (split == "all" or (canonical == "train" and not divided)):
        return names[0]
    raise UsageError(f"{source.path}: there is no split {split!r}; it has {', '.join(names)}")


def _root(source: Source) -> Path | None:
    """The data set's folder; None where a label file was given and its reader knows better."""
    return source.path if source.path.is_dir() else None
