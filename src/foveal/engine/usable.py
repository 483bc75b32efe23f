"""Which part of a data set may be trained on: all of it, or with `data.skip_bad` what has no problems."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from foveal.config import Config, DataConfig
from foveal.data.detect import read_data, splits_of
from foveal.data.images import check_image, image_size
from foveal.data.layout import PICTURE_SUFFIXES
from foveal.data.loader import with_sizes
from foveal.data.table import Problem, Table
from foveal.engine.progress import Reporter
from foveal.errors import DataError, ImageError, UsageError
from foveal.wording import counted

SHOWN = 5
DECODED = 2000
"""Pictures of a split that is refused anyway are decoded up to this many, some seconds, so that all faults are told."""


def training_table(data: Path, config: Config, reporter: Reporter) -> Table:
    """The split to learn from; UsageError if it has no picture or no class."""
    table = usable(read_data(data, split=config.data.train_split, format=config.data.format), config, reporter.say)
    if not len(table):
        raise UsageError(
            f"{data}: its split {config.data.train_split!r} has no picture to train on; check the folder with "
            "`foveal inspect`, or name another split with --data.train-split"
        )
    if not table.class_names:
        raise UsageError(
            f"{data}: its split {config.data.train_split!r} has {counted(len(table), 'picture')} and no class: label "
            "something first"
        )
    return oversampled(table, config.data, reporter.say) if config.data.oversample else table


def oversampled(table: Table, data: DataConfig, say: Callable[[str], None]) -> Table:
    """The table with the pictures that the file `data.oversample` names `data.oversample_times` times.

    The copies stand at the end, each with random draws of its own. UsageError if the file names a picture that the
    split does not have.
    """
    try:
        wanted = {line for line in Path(data.oversample).read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"data.oversample {data.oversample}: cannot be read ({error}); give a text file") from None
    row_of = {table.relative_path(row): row for row in range(len(table))}
    if unknown := sorted(wanted - row_of.keys()):
        raise UsageError(
            f"data.oversample {data.oversample}: split {table.split!r} has no picture {unknown[0]!r}"
            f"{f' (nor {len(unknown) - 1} more)' if len(unknown) > 1 else ''}; write paths relative to {table.root}"
        )
    copied = sorted(row_of[path] for path in wanted)
    seen = counted(len(copied), "picture is", "pictures are")
    say(f"{seen} seen {data.oversample_times} times as often ({data.oversample})")
    return table.select([*range(len(table)), *copied * (data.oversample_times - 1)])


def validation_table(data: Path, config: Config, training: Table, reporter: Reporter) -> Table | None:
    """The split to choose the best weights on; None where the data set has none, or none with pictures.

    A split whose label file cannot be read has none either; `usable` refuses that, or says that it is skipped.
    """
    name = config.data.val_split
    try:
        table = read_data(data, split=name, format=config.data.format)
    except UsageError:
        if name != DataConfig().val_split or name in splits_of(data, config.data.format):
            raise
        table = None
    if table is not None and not len(table):
        table = usable(table, config, reporter.say)
    if table is None or not len(table):
        lacks = "has no split" if table is None else "has no pictures in split"
        reporter.say(f"{data} {lacks} {name!r}: training without evaluation, the last weights count")
        return None
    if table.class_names != training.class_names:
        raise UsageError(
            f"{data}: split {name!r} has the classes {', '.join(table.class_names)}, "
            f"{config.data.train_split!r} has {', '.join(training.class_names)}; give both the same list"
        )
    return usable(table, config, reporter.say)


def usable(table: Table, config: Config, say: Callable[[str], None]) -> Table:
    """The table to train on, with the sizes of all its pictures.

    Problems that would corrupt or stop training raise DataError: faulty labels, and pictures that are missing or of
    another size than stated. Headers are read for that, and pixels only where up to DECODED pictures are refused
    anyway. With `data.skip_bad` faulty rows, which readers leave out already, and pictures that cannot be decoded whole
    are left out instead, and `say` gets how many.
    """
    fatal = [problem for problem in table.problems if problem.fatal]
    found = _checked(table, _decodes if config.data.skip_bad else _has_a_header, config)
    bad = np.array([problem is not None for problem in found], dtype=bool)
    if not config.data.skip_bad:
        if fatal or bad.any():
            found = _checked(table, _decodes, config) if len(table) <= DECODED else found
            problems = fatal + [problem for problem in found if problem is not None]
            raise DataError(_refusal(table, problems), problems)
    elif fatal or bad.any():
        labels, pictures = _labels_and_pictures(fatal)
        pictures += int(bad.sum())
        say(f"{table.split}: skipped {counted(labels, 'faulty label')} and {counted(pictures, 'unreadable picture')}")
    return with_sizes(table.select(~bad) if bad.any() else table, config.data.max_pixels)


def left_out(table: Table) -> tuple[str, ...]:
    """A note of the faulty labels and pictures that a reader left out; none where there were none."""
    labels, pictures = _labels_and_pictures([problem for problem in table.problems if problem.fatal])
    parts = [counted(labels, "faulty label")] if labels else []
    parts += [counted(pictures, "unreadable picture")] if pictures else []
    return (f"left out {' and '.join(parts)}; `foveal inspect` tells more",) if parts else ()


def _labels_and_pictures(problems: list[Problem]) -> tuple[int, int]:
    """How many of a reader's problems are of label files, and how many of pictures, whose sizes it wanted."""
    pictures = sum(Path(problem.file).suffix.lower() in PICTURE_SUFFIXES for problem in problems)
    return len(problems) - pictures, pictures


def _checked(table: Table, check: Callable[[Table, int, int], Problem | None], config: Config) -> list[Problem | None]:
    """What is wrong with each picture, in the order of rows."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as threads:
        return list(threads.map(lambda row: check(table, row, config.data.max_pixels), range(len(table))))


def _decodes(table: Table, row: int, max_pixels: int) -> Problem | None:
    height, width = table.sizes[row].tolist()
    return check_image(table.path(row), (height, width), max_pixels)


def _has_a_header(table: Table, row: int, max_pixels: int) -> Problem | None:
    path, stated = table.path(row), tuple(table.sizes[row].tolist())
    try:
        found = image_size(path, max_pixels)
    except ImageError as error:
        problem, _, fix = str(error).removeprefix(f"{path}: ").rpartition("; ")
        return Problem(str(path), "", "", "", problem, fix)
    if stated in ((0, 0), found):
        return None
    return _decodes(table, row, max_pixels)


def _refusal(table: Table, problems: list[Problem]) -> str:
    lines = [f"{counted(len(problems), 'problem')} in split {table.split!r} would corrupt training:"]
    lines += [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more")
    lines.append("`foveal inspect --json` lists them all; mend them, or add --skip-bad to train without them")
    return "\n".join(lines)
