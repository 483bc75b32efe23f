"""Pictures and videos with their boxes, written as they come, in folders as the inputs lie: no two share a name."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Self

import cv2
import numpy as np
from PIL import Image

from foveal.detections import Detections
from foveal.drawing import draw_detections
from foveal.engine.results import part_of, writing
from foveal.engine.sources import Source

_JPEG_LONGEST = 65_500


class Drawings:
    """The drawn pictures and videos below `folder`, as a context: leaving it completes the last video."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._video: _Video | None = None

    def add(self, source: Source, pixels: np.ndarray, found: Detections) -> None:
        """Draws on a picture or frame; frames of one video must come one after the other."""
        drawn = draw_detections(pixels, found)
        if source.fps is None:
            save_picture(drawn, self.folder / drawn_name(source.where, drawn.size))
            return
        if self._video is None or source.index == 0:
            self.close()
            name = source.where.name.removesuffix(".mp4") + ".mp4"
            self._video = _Video(self.folder / source.where.with_name(name), source.fps, drawn.size)
        self._video.add(drawn)

    def close(self) -> None:
        """Completes the video at hand."""
        video, self._video = self._video, None
        if video is not None:
            video.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Video:
    """MPEG-4 in .mp4: what OpenCV's own FFmpeg writes on every machine, without a display and without a licence."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]):
        self.path = path
        self._size = size[0] & ~1, size[1] & ~1  # the codec stores colour at half resolution: even sides only
        self._part = path.with_name(f".{path.stem}.part.mp4")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._part), cv2.CAP_FFMPEG, codec, fps, self._size)
            if not self._writer.isOpened():
                raise OSError(f"no video of {size[0]} x {size[1]} at {fps:g} frames/s can be made here")

    def add(self, drawn: Image.Image) -> None:
        even = np.asarray(drawn.crop((0, 0, *self._size)))
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()
        with writing(self.path):
            os.replace(self._part, self.path)


def drawn_name(where: PurePath, size: tuple[int, int] = (1, 1)) -> PurePath:
    """JPEG and PNG keep their names; scan.tif becomes scan.tif.jpg, and .png where it is too long for a JPEG."""
    if where.suffix.lower() in (".jpg", ".jpeg", ".png"):
        return where
    return where.with_name(where.name + (".jpg" if max(size) <= _JPEG_LONGEST else ".png"))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a JPEG or PNG beside its place, then renames; folders are made."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            picture.save(part_of(path), "PNG", compress_level=3)
        else:
            picture.save(part_of(path), "JPEG", quality=92, subsampling=0)
        os.replace(part_of(path), path)
