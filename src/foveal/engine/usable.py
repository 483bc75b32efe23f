"""Which part of a data set may be trained on: all of it, or with `data.skip_bad` what has no problems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from foveal.config import Config
from foveal.data.detect import read_data, splits_of
from foveal.data.images import check_image
from foveal.data.loader import with_sizes
from foveal.data.table import Problem, Table
from foveal.engine.progress import Reporter
from foveal.errors import DataError, UsageError

SHOWN = 5


def training_table(data: Path, config: Config, reporter: Reporter) -> Table:
    """The split to learn from; UsageError if it has no picture."""
    table = read_data(data, split=config.data.train_split, format=config.data.format)
    table = usable(with_sizes(table, config.data.max_pixels), config, reporter.say)
    if not len(table):
        raise UsageError(f"{data}: its split {config.data.train_split!r} has no picture to train on")
    return table


def validation_table(data: Path, config: Config, training: Table, reporter: Reporter) -> Table | None:
    """The split to choose the best weights on; None where the data set has none."""
    if config.data.val_split not in splits_of(data, config.data.format):
        reporter.say(
            f"{data} has no split {config.data.val_split!r}: training without evaluation, the last weights count"
        )
        return None
    table = read_data(data, split=config.data.val_split, format=config.data.format)
    if table.class_names != training.class_names:
        raise UsageError(
            f"{data}: split {config.data.val_split!r} has the classes {', '.join(table.class_names)}, "
            f"{config.data.train_split!r} has {', '.join(training.class_names)}; give both the same list"
        )
    return usable(with_sizes(table, config.data.max_pixels), config, reporter.say)


def usable(table: Table, config: Config, say: Callable[[str], None]) -> Table:
    """The table to train on.

    Problems that would corrupt training raise DataError, unless `data.skip_bad`: then faulty rows (which readers leave
    out already) and unreadable pictures are left out, and `say` gets how many.
    """
    fatal = [problem for problem in table.problems if problem.fatal]
    if not config.data.skip_bad:
        if fatal:
            raise DataError(_refusal(table, fatal), fatal)
        return table
    bad = np.array([_unreadable(table, row, config.data.max_pixels) for row in range(len(table))], dtype=bool)
    if fatal or bad.any():
        say(f"{table.split}: skipped {len(fatal)} faulty labels and {int(bad.sum())} unreadable pictures")
    return table.select(~bad) if bad.any() else table


def _unreadable(table: Table, row: int, max_pixels: int) -> bool:
    height, width = table.sizes[row].tolist()
    return check_image(table.path(row), (height, width), max_pixels) is not None


def _refusal(table: Table, fatal: list[Problem]) -> str:
    lines = [f"{len(fatal)} problems in split {table.split!r} would corrupt training:"]
    lines += [f"  {problem}" for problem in fatal[:SHOWN]]
    if len(fatal) > SHOWN:
        lines.append(f"  ... and {len(fatal) - SHOWN} more")
    lines.append("`foveal inspect` lists them all; mend them, or add --skip-bad to train without them")
    return "\n".join(lines)
