"""How a finished file gets to its place: written in a folder beside it, then renamed: nobody sees half of it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """An empty folder for a file on its way to `target`, gone at the end.

    What killed exports to the same place have left goes first: its name tells the machine and process that made it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(target)
    with tempfile.TemporaryDirectory(prefix=f"{_prefix(target)}{os.getpid()}-", dir=target.parent) as folder:
        yield Path(folder)


def publish(beside: Path, target: Path) -> None:
    """Moves a flushed file into its place; of two files, never one of the old with one of the new."""
    files = list(zip(files_of(beside), files_of(target), strict=True))
    for source, _ in files:
        with open(source, "rb+") as stream:
            os.fsync(stream.fileno())
    if len(files) > 1:
        target.unlink(missing_ok=True)
    for source, place in files:
        os.replace(source, place)


def files_of(path: Path) -> list[Path]:
    """The files of an export: OpenVINO's are two."""
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]


def _prefix(target: Path) -> str:
    """What the folders of this machine on their way to `target` begin with."""
    machine = re.sub(r"\W+", "_", platform.node())
    return f".{target.name}-{machine}-"


def _remove_orphans(target: Path) -> None:
    """Removes folders of processes of this machine that run no more; of another machine nobody here can tell."""
    prefix = _prefix(target)
    for folder in target.parent.iterdir():
        made_by = re.fullmatch(rf"{re.escape(prefix)}(\d+)-\w+", folder.name)
        if made_by and not psutil.pid_exists(int(made_by[1])):
            shutil.rmtree(folder, ignore_errors=True)
