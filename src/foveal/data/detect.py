"""Which format a folder's labels have, which splits it holds, and the one way in: `read_data`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from foveal.data.coco import coco_classes, find_coco, read_coco
from foveal.data.csv import csv_classes, find_csv, read_csv
from foveal.data.layout import SPLIT_WORDS, is_astray, is_part, split_name, subfolders
from foveal.data.table import Table
from foveal.data.voc import find_voc, read_voc
from foveal.data.yolo import find_yolo, read_yolo
from foveal.errors import DataError, UsageError

log = logging.getLogger("foveal")


LOOKED_FOR = (
    "looked for train.json or annotations/instances_train2017.json (COCO), Annotations/*.xml (VOC), "
    "data.yaml (YOLO), train.csv (CSV)"
)


@dataclass(frozen=True)
class Source:
    """A data set that was found. splits: by their names, the file or folder that the format's reader takes."""

    path: Path
    format: str
    splits: dict[str, Path]

    @property
    def root(self) -> Path | None:
        """The data set's folder; None where a label file was given, whose reader knows better."""
        return self.path if self.path.is_dir() else None


def _read_coco(source: Source, split: str) -> Table:
    return read_coco(source.splits[split], source.root, split, coco_classes(list(source.splits.values())))


def _read_voc(source: Source, split: str) -> Table:
    return read_voc(source.path, split)


def _read_yolo(source: Source, split: str) -> Table:
    return read_yolo(source.splits[split], split)


def _read_csv(source: Source, split: str) -> Table:
    others = [file for name, file in source.splits.items() if name != split]
    return read_csv(source.splits[split], source.root, split, csv_classes(others))


_FIND: dict[str, Callable[[Path], dict[str, Path]]] = {
    "coco": find_coco,
    "voc": find_voc,
    "yolo": find_yolo,
    "csv": find_csv,
}
_READ: dict[str, Callable[[Source, str], Table]] = {
    "coco": _read_coco,
    "voc": _read_voc,
    "yolo": _read_yolo,
    "csv": _read_csv,
}
FORMATS = tuple(_FIND)


def read_data(path: str | Path, split: str | None = None, format: str = "auto") -> Table:
    """Reads one split of the data set at `path`, a folder or a label file.

    split: train, val or test (or as the data calls them: valid, ...), or a name that `splits_of` gives. None is the
    training split, or the only one. A data set that is not divided answers to its own name, to `all` and to `train`.
    format: coco, voc, yolo or csv; auto finds it.
    Class names, and the label of each, are the same in every split.
    """
    source = find_data(path, format)
    name = _chosen(source, split)
    try:
        return _READ[source.format](source, name)
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror}); check its rights") from None


def splits_of(path: str | Path, format: str = "auto") -> list[str]:
    """The splits of a data set: train, val, test where there are such; else the name of its one label file."""
    return list(find_data(path, format).splits)


def find_data(path: str | Path, format: str = "auto") -> Source:
    """What lies at `path`; raises UsageError where there is no such place, no data in it, or several data sets."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder; give the folder that holds labels and pictures")
    if format != "auto" and format not in _FIND:
        raise UsageError(f"no label format is called {format!r}: use auto, {', '.join(FORMATS)}")
    found: list[Source] = []
    damaged: list[DataError] = []
    formats = FORMATS if format == "auto" else (format,)
    for name in formats:
        try:
            splits = _FIND[name](path)
        except OSError as error:
            raise UsageError(f"{error.filename or path}: cannot be read ({error.strerror}); check its rights") from None
        except DataError as error:
            damaged.append(error)
        else:
            found += [Source(path, name, splits)] if splits else []
    if not found:
        if damaged:
            raise damaged[0]
        wanted = "COCO, VOC, YOLO or CSV" if format == "auto" else format
        raise UsageError(f"{path}: holds no labels as {wanted}; {LOOKED_FOR}")
    if any(is_astray(file, path) for file in found[0].splits.values()):
        sets = list(_data_sets_below(path, formats))
        if len(sets) > 1:
            more = [f"{len(sets) - 3} more"] if len(sets) > 4 else []
            *first, last = sets[: 3 if more else 4] + more
            raise UsageError(f"{path}: {', '.join(first)} and {last} look like data sets; give one of them")
    if len(found) > 1:
        others = ", ".join(source.format for source in found[1:])
        log.warning("%s: read as %s; it holds labels as %s too (--data.format)", path, found[0].format, others)
    return found[0]


def _data_sets_below(path: Path, formats: Sequence[str]) -> Iterator[str]:
    """Names of the folders directly below `path` that hold labels of their own."""
    for folder in (folder for folder in subfolders(path) if not is_part(folder)):
        for name in formats:
            with suppress(OSError, DataError):
                if any(not is_astray(file, folder) for file in _FIND[name](folder).values()):
                    yield folder.name
                    break


def _chosen(source: Source, split: str | None) -> str:
    """The source's own name of the split that is asked for."""
    names = list(source.splits)
    if split is None:
        return "train" if "train" in names else names[0]
    canonical = split_name(split) or split
    for name in (split, canonical):
        if name in names:
            return name
    undivided = len(names) == 1 and names[0] not in SPLIT_WORDS
    if len(names) == 1 and (split == "all" or (canonical == "train" and undivided)):
        return names[0]
    raise UsageError(f"{source.path}: there is no split {split!r}; it has {', '.join(names)}")
