"""What is to be looked at: files, folders, patterns, videos and lists of paths, one picture after the other.

Nothing is read before its turn and nothing is remembered after it, so ten inputs and ten million cost the same memory
(the names of one folder, or of what one pattern matches, apart).
"""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import cv2
import numpy as np

from foveal.data.images import read_image, url_refused
from foveal.data.layout import PICTURE_SUFFIXES
from foveal.errors import ImageError, UsageError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts"})
_DEFAULT_FPS = 25.0
_HIGHEST_FPS = 1000.0

log = logging.getLogger("foveal")


@dataclass(frozen=True)
class Source:
    """One picture, or why there is none.

    name: what results call it: its path as it was given, with `:FRAME` (from 0) for a frame of a video.
    path: its file. where: its file below the folder that all inputs have in common, so no two files share it.
    frame, index, fps: a video's decoded frame [H, W, 3] uint8 RGB, its number, frames a second; pictures have none.
    error: why it cannot be read; empty if that is not known yet.
    """

    name: str
    path: Path
    where: PurePath
    frame: np.ndarray | None = None
    index: int = 0
    fps: float | None = None
    error: str = ""

    def read(self, max_pixels: int) -> np.ndarray:
        """[H, W, 3] uint8 RGB; ImageError where there is no picture."""
        if self.error:
            raise ImageError(self.error)
        return read_image(self.path, max_pixels) if self.frame is None else self.frame


class Sources:
    """All pictures that `inputs` stand for, in their order; a folder's and a pattern's sorted by path.

    inputs: files, folders (searched to the bottom; hidden ones left out), patterns with * ? [] **, and `-` for a list
    of paths, one a line, on `stdin`. leave_out: folders below the inputs that are not searched, such as the results'.
    """

    def __init__(
        self,
        inputs: Sequence[str | os.PathLike[str]],
        max_pixels: int,
        stdin: Iterable[str] | None = None,
        leave_out: Iterable[Path] = (),
    ):
        if not inputs:
            raise UsageError("there are no inputs: give pictures, folders, patterns, videos, or - for a list on stdin")
        self.inputs = [os.fspath(path) for path in inputs]
        self.max_pixels = max_pixels
        self.stdin = stdin
        self.leave_out = {path.resolve() for path in leave_out}
        self.common = _common_folder(self.inputs)

    def __iter__(self) -> Iterator[Source]:
        for text in self.inputs:
            if text == "-":
                for line in _lines() if self.stdin is None else self.stdin:
                    if name := line.rstrip("\r\n"):
                        yield from self._path(Path(name))
            elif glob.has_magic(text) and not os.path.lexists(text):
                yield from self._pattern(text)
            else:
                yield from self._path(Path(text))

    def _pattern(self, pattern: str) -> Iterator[Source]:
        names = sorted(glob.iglob(pattern, recursive=True))
        files = [Path(name) for name in names if os.path.isfile(name) and not self._is_left_out(Path(name))]
        if not files:
            yield self._failed(Path(pattern), "no file matches this pattern; check it, and quote it in the shell")
        for path in files:
            yield from self._path(path)

    def _path(self, path: Path) -> Iterator[Source]:
        if path.is_dir():
            yield from self._folder(path)
        elif not path.exists():
            yield self._failed(path, "there is no such file; check the path")
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield from self._video(path)
        else:
            yield Source(str(path), path, self._where(path))

    def _folder(self, folder: Path) -> Iterator[Source]:
        empty = True
        for place, folders, files in os.walk(folder):
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and not self._is_left_out(Path(place, name))
            )
            for name in sorted(files):
                suffix = os.path.splitext(name)[1].lower()
                if not name.startswith(".") and (suffix in PICTURE_SUFFIXES or suffix in VIDEO_SUFFIXES):
                    empty = False
                    yield from self._path(Path(place, name))
        if empty:
            known = " ".join(sorted(PICTURE_SUFFIXES | VIDEO_SUFFIXES))
            yield self._failed(folder, f"the folder holds no picture or video ({known}); check the path")

    def _video(self, path: Path) -> Iterator[Source]:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        try:
            height, width = (capture.get(side) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
            if height * width > self.max_pixels:
                yield self._failed(
                    path, f"a frame has {height * width:.0f} pixels, more than data.max_pixels {self.max_pixels}"
                )
                return
            fps = capture.get(cv2.CAP_PROP_FPS)
            fps = fps if 0 < fps <= _HIGHEST_FPS else _DEFAULT_FPS
            count = 0
            while True:
                there_is_one, frame = capture.read()
                if not there_is_one:
                    break
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                yield Source(f"{path}:{count}", path, self._where(path), rgb, count, fps)
                count += 1
            expected = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        if not count:
            yield self._failed(path, "no frame of the video can be decoded; convert it to .mp4 or replace it")
        elif count < 0.9 * expected:
            log.warning("%s: only %d of about %.0f frames could be decoded; it may be cut off", path, count, expected)

    def _failed(self, path: Path, reason: str) -> Source:
        return Source(str(path), path, self._where(path), error=url_refused(path) or f"{path}: {reason}")

    def _where(self, path: Path) -> PurePath:
        absolute = Path(os.path.abspath(path))
        if self.common is not None and absolute.is_relative_to(self.common):
            return absolute.relative_to(self.common)
        return PurePath("outside", *absolute.parts[1:])

    def _is_left_out(self, path: Path) -> bool:
        resolved = path.resolve()
        return resolved in self.leave_out or not self.leave_out.isdisjoint(resolved.parents)


def _common_folder(inputs: Iterable[str]) -> Path | None:
    """The deepest folder that holds all inputs that exist; the working one stands in for stdin. None on two drives."""
    there = ["." if text == "-" else text for text in inputs]
    folders = [os.path.abspath(_folder_of(text)) for text in there if glob.has_magic(text) or os.path.exists(text)]
    try:
        return Path(os.path.commonpath(folders or [os.getcwd()]))
    except ValueError:
        return None


def _folder_of(text: str) -> str:
    while glob.has_magic(text) and not os.path.lexists(text):
        text = os.path.dirname(text)
    return text if os.path.isdir(text) else os.path.dirname(text)


def _lines() -> Iterator[str]:
    """Lines of standard input, whatever bytes the file names consist of."""
    return map(os.fsdecode, sys.stdin.buffer)
