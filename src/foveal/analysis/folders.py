"""Folders that are asked for before the work: an hour of it is not lost to a name that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foveal.engine.preparation import snapshot_to_resume
from foveal.errors import CheckpointError, UsageError


@contextmanager
def made_before_the_work(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder, made where it is missing, and gone again if the work fails before anything lies in it."""
    there = Path(folder).exists()
    path = made(folder)
    try:
        yield path
    except BaseException:
        if not there:
            with suppress(OSError):  # something lies in it
                path.rmdir()
        raise


def made(folder: str | os.PathLike[str]) -> Path:
    """The folder, made where it is missing."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be made a folder ({error.strerror}); choose another --out") from None
    return path


def check_new_run(folder: str | os.PathLike[str]) -> None:
    """UsageError, in words for --retrain, where no new run can begin: a run lies there, or a file is in the way."""
    path = Path(folder)
    try:
        snapshot_to_resume(path, resume=False)
    except (UsageError, CheckpointError):
        raise UsageError(f"--retrain {path}: is a file, or holds a run already; choose another folder") from None
    if lies_in_a_file(path):
        raise UsageError(f"--retrain {path}: a part of this path is a file; choose another folder")


def lies_in_a_file(path: Path) -> bool:
    return any(parent.is_file() for parent in path.parents)
