"""`foveal predict`: from inputs of any number to a table and drawings, at constant memory.

    Sources ── read ahead ──► pictures ── batches of one shape ──► detections ── in the same order ──► table, drawings

Pictures of different shapes wait for company, but not for long: the look-ahead is bounded in number and in bytes.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from foveal.detections import Detections
from foveal.engine.drawn import Drawings
from foveal.engine.predict import Detector, Prepared
from foveal.engine.results import Format, open_table
from foveal.engine.sources import Source, Sources
from foveal.engine.tiles import check_tiling, detect_tiled
from foveal.errors import ImageError, UsageError
from foveal.wording import counted

LOOK_AHEAD_BATCHES = 4
LOOK_AHEAD_BYTES = 256 * 2**20
_NAMED_FAILURES = 100

log = logging.getLogger("foveal")


@dataclass
class Summary:
    """What became of the inputs.

    table: the file of detections. drawn: the folder of drawings, None if there are none. failed: (name, reason) of the
    inputs that were passed over, the first hundred of `num_failed`.
    """

    table: Path
    drawn: Path | None = None
    pictures: int = 0
    detections: int = 0
    num_failed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{counted(self.detections, 'object')} in {counted(self.pictures, 'picture')}: {self.table}"]
        if self.drawn:
            lines.append(f"drawn: {self.drawn}")
        if self.num_failed:
            lines.append(f"{counted(self.num_failed, 'input')} passed over; the reasons are above")
        return "\n".join(lines)


@dataclass
class _Picture:
    """A picture on its way: `error` or `prepared` (waiting) or `found` (done). `pixels` only while they are needed."""

    source: Source
    size: tuple[int, int] = (0, 0)
    pixels: np.ndarray | None = None
    prepared: Prepared | None = None
    found: Detections | None = None
    error: str = ""

    @property
    def num_bytes(self) -> int:
        held = self.pixels.nbytes if self.pixels is not None else 0
        return held + (self.prepared.pixels.nbytes if self.prepared is not None else 0)


def predict_files(
    detector: Detector,
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    format: Format = "jsonl",
    draw: bool = False,
    min_score: float | None = None,
    tile: int = 0,
    overlap: float = 0.2,
    batch_size: int = 8,
    max_pixels: int | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    stdin: Iterable[str] | None = None,
    tile_progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Detects in files, folders, patterns, videos and `-`, and writes what `engine/results.py` describes into `out`.

    min_score: default the detector's threshold. tile: side of tiles in pixels, 0 for none; overlap: their shared part.
    max_pixels: default `data.max_pixels`. workers: threads that read. progress: called with (done, 0), since the number
    of inputs is not known; tile_progress: with (done, total) of a picture's tiles. An input that cannot be read is
    logged, counted and passed over.
    """
    out = Path(out)
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: give at least 1")
    if tile:
        check_tiling(tile, overlap)
    min_score = detector.lowest_score(min_score)
    limit = detector.config.data.max_pixels if max_pixels is None else max_pixels
    sources = Sources(inputs, limit, stdin, leave_out=[out / "drawn"])
    with ExitStack() as stack:
        table = stack.enter_context(open_table(out, format, detector.class_names, detector.category_ids))
        drawings = stack.enter_context(Drawings(out / "drawn")) if draw else None
        summary = Summary(table.path)
        # A whole scene is large: one is read while one is looked at.
        reading = _read_ahead(detector, sources, limit, workers, 2 if tile else workers + 2, bool(tile), draw)
        pictures = stack.enter_context(closing(reading))
        if tile:
            done = _tiled(detector, pictures, tile, overlap, min_score, batch_size, tile_progress)
        else:
            done = _batched(detector, pictures, min_score, batch_size)
        for picture in done:
            _report(picture, summary)
            if picture.found is None:
                table.fail(picture.source.name, picture.error)
            else:
                table.add(picture.source.name, picture.size, picture.found)
                if drawings and picture.pixels is not None:
                    drawings.add(picture.source, picture.pixels, picture.found)
                    summary.drawn = drawings.folder
            if progress:
                progress(summary.pictures + summary.num_failed, 0)
    return summary


def _report(picture: _Picture, summary: Summary) -> None:
    if picture.found is not None:
        summary.pictures += 1
        summary.detections += len(picture.found)
        return
    log.warning("%s", picture.error)
    summary.num_failed += 1
    if len(summary.failed) < _NAMED_FAILURES:
        summary.failed.append((picture.source.name, picture.error))


def _read_ahead(
    detector: Detector, sources: Iterable[Source], max_pixels: int, workers: int, depth: int, tiled: bool, draw: bool
) -> Generator[_Picture, None, None]:
    """Reads up to `depth` pictures before they are asked for, in threads; gives them in order."""

    def read(source: Source) -> _Picture:
        try:
            pixels = source.read(max_pixels)
            prepared = None if tiled else detector.prepare(pixels)
        except ImageError as error:
            return _Picture(source, error=str(error))
        size = pixels.shape[0], pixels.shape[1]
        return _Picture(replace(source, frame=None), size, pixels if tiled or draw else None, prepared)

    waiting: deque[Future[_Picture]] = deque()
    with ThreadPoolExecutor(max(1, workers)) as threads:
        try:
            for source in sources:
                waiting.append(threads.submit(read, source))
                if len(waiting) >= depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


def _tiled(
    detector: Detector,
    pictures: Iterable[_Picture],
    tile: int,
    overlap: float,
    min_score: float | None,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[_Picture]:
    for picture in pictures:
        if picture.pixels is not None:
            picture.found = detect_tiled(detector, picture.pixels, tile, overlap, min_score, batch_size, progress)
        yield picture


def _batched(
    detector: Detector, pictures: Iterable[_Picture], min_score: float | None, batch_size: int
) -> Iterator[_Picture]:
    """Gives the pictures in order, each looked at together with others of its padded shape."""
    order: deque[_Picture] = deque()
    waiting: dict[tuple[int, int], list[_Picture]] = {}

    def look_at(shape: tuple[int, int]) -> None:
        group = waiting.pop(shape)
        found = detector.predict_prepared([p.prepared for p in group if p.prepared is not None], min_score)
        for picture, found_in_it in zip(group, found, strict=True):
            picture.found, picture.prepared = found_in_it, None

    def ready() -> Iterator[_Picture]:
        while order and order[0].prepared is None:
            yield order.popleft()

    for picture in pictures:
        order.append(picture)
        if picture.prepared is not None:
            shape = picture.prepared.shape
            waiting.setdefault(shape, []).append(picture)
            if len(waiting[shape]) == batch_size:
                look_at(shape)
        yield from ready()
        while order and _too_many(order, batch_size):
            oldest = order[0].prepared
            assert oldest is not None
            look_at(oldest.shape)
            yield from ready()
    for shape in list(waiting):
        look_at(shape)
    yield from ready()


def _too_many(order: deque[_Picture], batch_size: int) -> bool:
    return len(order) >= LOOK_AHEAD_BATCHES * batch_size or sum(p.num_bytes for p in order) > LOOK_AHEAD_BYTES
