"""Which part of a data set may be trained on: all of it, or with `data.skip_bad` what has no problems."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foveal.config import Config
from foveal.data.images import check_image
from foveal.data.table import Problem, Table
from foveal.errors import DataError

SHOWN = 5


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
    bad = np.array([bool(_picture_problems(table, row, config.data.max_pixels)) for row in range(len(table))], dtype=bool)
    if fatal or bad.any():
        say(f"{table.split}: skipped {len(fatal)} faulty labels and {int(bad.sum())} unreadable pictures")
    return table.select(~bad) if bad.any() else table


def _picture_problems(table: Table, row: int, max_pixels: int) -> list[Problem]:
    size = (int(table.sizes[row, 0]), int(table.sizes[row, 1]))
    return [problem for problem in check_image(table.path(row), size, max_pixels) if problem.fatal]


def _refusal(table: Table, fatal: list[Problem]) -> str:
    lines = [f"{len(fatal)} problems in split {table.split!r} would corrupt training:"]
    lines += [f"  {problem}" for problem in fatal[:SHOWN]]
    if len(fatal) > SHOWN:
        lines.append(f"  ... and {len(fatal) - SHOWN} more")
    lines.append("`foveal inspect` lists them all; mend them, or add --skip-bad to train without them")
    return "\n".join(lines)
