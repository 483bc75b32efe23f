"""Opens every picture of a data set and tells what is wrong: unreadable, of another size than stated, in two splits."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from foveal.data.images import check_image
from foveal.data.table import Problem, Table

QUEUED = 1024
"""Pictures handed to the threads at a time, so that memory does not grow with the data set."""

Picture = tuple[Table, int]


def unreadable_pictures(
    tables: Sequence[Table], max_pixels: int, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Decodes every picture whole, on all cores; `progress(done, total)` is called after each."""
    pictures = [(table, row) for table in tables for row in range(len(table))]

    def check(picture: Picture) -> Problem | None:
        return _check(*picture, max_pixels)

    found = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = 0
        for some in _in_parts(pictures):
            for problem in threads.map(check, some):
                done += 1
                if problem is not None:
                    found.append(problem)
                if progress:
                    progress(done, len(pictures))
    return found


def pictures_in_two_splits(tables: Sequence[Table], compare_bytes: bool = True) -> list[Problem]:
    """Pictures that one split has from another: the same file, or with `compare_bytes` a copy under another name."""
    seen: dict[str, str] = {}
    problems = []
    single: list[Picture] = []
    for table in tables:
        for row in range(len(table)):
            path = os.path.normpath(table.path(row))
            other = seen.setdefault(path, table.split)
            if other == table.split:
                single.append((table, row))
            else:
                problems.append(_shared(table, row, f"split {other!r} has the same picture"))
    return problems + (_copies(single) if compare_bytes and len(tables) > 1 else [])


def _check(table: Table, row: int, max_pixels: int) -> Problem | None:
    path = table.path(row)
    height, width = table.sizes[row].tolist()
    problem = check_image(path, (height, width), max_pixels)
    return problem and replace(problem, where=_where(table, row))


def _where(table: Table, row: int) -> str:
    return f"{table.split}, image {int(table.image_ids[row])}" if table.format == "coco" else table.split


def _shared(table: Table, row: int, problem: str) -> Problem:
    fix = "leave it in one of them: what is trained on cannot be tested on"
    return Problem(str(table.path(row)), _where(table, row), "", "", problem, fix, fatal=False)


def _copies(pictures: Sequence[Picture]) -> list[Problem]:
    """Files of equal bytes in two splits; only files of equal length are read."""
    by_length: dict[int, list[Picture]] = defaultdict(list)
    for table, row in pictures:
        try:
            by_length[os.stat(table.path(row)).st_size].append((table, row))
        except OSError:  # a missing picture is told of by `unreadable_pictures`
            continue
    problems: list[Problem] = []
    for length, some in by_length.items():
        if length and len({table.split for table, _ in some}) > 1:
            problems += _equal(some)
    return problems


def _equal(pictures: Sequence[Picture]) -> Iterator[Problem]:
    first: dict[bytes, Picture] = {}
    for table, row in pictures:
        try:
            with open(table.path(row), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            continue
        other, other_row = first.setdefault(digest, (table, row))
        if other.split != table.split:
            yield _shared(table, row, f"split {other.split!r} has a copy of it, {other.path(other_row)}")


def _in_parts(pictures: Sequence[Picture]) -> Iterator[Sequence[Picture]]:
    for first in range(0, len(pictures), QUEUED):
        yield pictures[first : first + QUEUED]
