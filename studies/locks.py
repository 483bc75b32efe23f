"""One process at a time: a lock is a file beside what it guards, NAME.lock, and ends with the process that holds it.

Locks are the operating system's, which takes them back however a process ends; the files stay and mean nothing. A
holder that asks for the same lock again waits for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until nobody else works on `path`, a file or folder that need not be there."""
    with _lock(path):
        yield


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Does not wait: True inside where nobody else works on `path`, else False, and nothing is held."""
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.lock"))
