"""From a table to batches: reading pictures in worker processes, for training and for evaluation.

What is read when is decided elsewhere (plan.py), before and apart from the reading.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from foveal.config import Config
from foveal.data.augment import augment, crop, visible
from foveal.data.images import image_size, padded_shape, read_image, resize, target_sizes
from foveal.data.plan import EVALUATION, Draw, Plan, Work
from foveal.data.table import Table
from foveal.detections import Batch, Objects
from foveal.errors import ConfigError, DataError, FovealError, ImageError, TrainingError


def with_sizes(table: Table, max_pixels: int) -> Table:
    """The table with the sizes that the labels do not state, read from the pictures' headers."""
    unknown = np.flatnonzero((table.sizes.numpy() <= 0).any(axis=1)).tolist()
    if not unknown:
        return table
    sizes = table.sizes.clone()
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as threads:
        found = threads.map(lambda row: image_size(table.path(row), max_pixels), unknown)
        for row, size in zip(unknown, found, strict=True):
            sizes[row] = torch.tensor(size)
    return replace(table, sizes=sizes.share_memory_())


class TrainBatches:
    """Endless batches of a table for training, from `start_step` on: one list of micro-batches an optimiser step.

    Yields lists of `config.train.accumulate` batches, the part of this rank (of `world`) in the step's
    `config.train.batch_size` pictures, which all share one padded shape. `shapes` are all shapes there can be.
    """

    def __init__(self, table: Table, config: Config, start_step: int = 0, rank: int = 0, world: int = 1):
        parts = world * config.train.accumulate
        if config.train.batch_size % parts:
            raise ConfigError(
                f"train.batch_size {config.train.batch_size} cannot be split evenly over {world} processes x "
                f"train.accumulate {config.train.accumulate}; make it a multiple of {parts}"
            )
        if not len(table):
            raise DataError(
                f"{table.root}: split {table.split!r} has no pictures; check the data set or data.train_split"
            )
        self.table = with_sizes(table, config.data.max_pixels)
        self.config, self.start_step, self.rank, self.world = config, start_step, rank, world
        self.plan = Plan(self.table.sizes.numpy(), config)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return self.plan.shapes

    def __iter__(self) -> Iterator[list[Batch]]:
        batches = _read(self.table, self.config, self._work())
        while step := list(itertools.islice(batches, self.config.train.accumulate)):
            yield step

    def _work(self) -> Iterator[Work]:
        """This rank's micro-batches, step by step: micro-batch m of rank r is slice m * world + r of the step."""
        accumulate = self.config.train.accumulate
        part = self.config.train.batch_size // (self.world * accumulate)
        for work in self.plan.steps(self.start_step):
            for micro in range(accumulate):
                first = (micro * self.world + self.rank) * part
                yield Work(work.shape, work.draws[first : first + part])


def eval_batches(table: Table, config: Config, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Every picture once, as it is, the largest shapes first; `rank` of `world` gets every world-th batch.

    A picture is padded as if it were alone, so `rows` says which pictures a batch holds, and the order is not the
    table's.
    """
    table = with_sizes(table, config.data.max_pixels)
    by_shape: dict[tuple[int, int], list[Draw]] = {}
    for row, size in enumerate(target_sizes(table.sizes.numpy(), config.data.size, config.data.longest).tolist()):
        by_shape.setdefault(padded_shape(size, config.data.pad_multiple), []).append(Draw(row, EVALUATION, tuple(size)))
    work = [
        Work(shape, tuple(by_shape[shape][first : first + batch_size]))
        for shape in sorted(by_shape, key=lambda shape: (-shape[0] * shape[1], shape))
        for first in range(0, len(by_shape[shape]), batch_size)
    ]
    return _read(table, config, work[rank::world])


def read_picture(table: Table, draw: Draw, config: Config) -> tuple[np.ndarray, Objects]:
    """One picture as the network sees it, [H, W, 3] uint8, and its objects in the same pixels."""
    path, stated = table.path(draw.row), tuple(table.sizes[draw.row].tolist())
    image, objects = read_image(path, config.data.max_pixels), table.objects(draw.row)
    if image.shape[:2] != stated:
        raise ImageError(
            f"{path}: the picture is displayed as {image.shape[1]} x {image.shape[0]}, the labels say {stated[1]} x "
            f"{stated[0]}, so boxes would be misplaced; correct the labels (foveal inspect --json lists all of them)"
        )
    if draw.epoch == EVALUATION:
        return resize_with_objects(image, objects, draw.size)
    rng = np.random.default_rng((config.seed % 2**64, draw.epoch, draw.row))
    if config.data.crop:
        image, objects = crop(image, objects, config.data, rng)
    height, width = image.shape[:2]
    if (height, width) == stated:
        height, width = draw.size
    else:  # a crop is enlarged as far as the place of the whole picture allows
        scale = min(draw.size[0] / height, draw.size[1] / width)
        height, width = max(1, int(height * scale)), max(1, int(width * scale))
    image, objects = resize_with_objects(image, objects, (height, width))
    return augment(image, visible(objects, (height, width)), config.data, rng, draw.turns)


def resize_with_objects(image: np.ndarray, objects: Objects, size: tuple[int, int]) -> tuple[np.ndarray, Objects]:
    """Boxes scale by the exact ratio of the sides, each axis by its own."""
    y, x = size[0] / image.shape[0], size[1] / image.shape[1]
    scale = torch.tensor([x, y, x, y], dtype=torch.float32)
    return resize(image, size), replace(objects, boxes=objects.boxes * scale)


@dataclass(frozen=True)
class _Failure:
    """An error on its way from a worker: a raised one would arrive wrapped in the worker's traceback."""

    error: type[FovealError]
    message: str


class _Batches(Dataset):
    """What workers hold: the table, whose tensors are shared memory, and the config."""

    def __init__(self, table: Table, config: Config):
        self.table, self.config = replace(table, problems=()), config

    def __getitem__(self, work: Work) -> Batch | _Failure:
        try:
            pictures = [read_picture(self.table, draw, self.config) for draw in work.draws]
        except FovealError as error:
            return _Failure(type(error), str(error))
        rows = [draw.row for draw in work.draws]
        return Batch.pack(
            images=[torch.from_numpy(image).permute(2, 0, 1) for image, _ in pictures],
            objects=[objects for _, objects in pictures],
            shape=work.shape,
            rows=rows,
            original_sizes=[tuple(self.table.sizes[row].tolist()) for row in rows],
        )


def _read(table: Table, config: Config, work: Iterable[Work]) -> Iterator[Batch]:
    """Turns work into batches, in order, by `config.data.workers` processes."""
    workers = config.data.workers
    options: dict[str, Any] = {"prefetch_factor": 2, "worker_init_fn": _start_worker} if workers else {}
    loader = DataLoader(
        _Batches(table, config),
        batch_size=None,
        sampler=work,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else each pass would draw a number from the training's generator
        **options,
    )
    batches = iter(loader)
    try:
        while (batch := _next(batches, workers)) is not None:
            if isinstance(batch, _Failure):
                raise batch.error(batch.message)
            yield batch
    finally:
        del batches  # ends the workers; an iterator that an exception keeps for the garbage collector hangs 5 s


@contextmanager
def dead_workers_explained(workers: int) -> Iterator[None]:
    """A worker that was killed is reported by torch's signal handler, wherever the main process happens to be."""
    try:
        yield
    except RuntimeError as error:
        told = str(error)
        if "DataLoader worker" not in told or not ("killed by signal" in told or "exited unexpectedly" in told):
            raise
        raise TrainingError(
            f"a process that reads pictures died, most often because memory or shared memory (/dev/shm) ran out: "
            f"lower data.workers from {workers}, 0 reads in the main process ({told.splitlines()[0]})"
        ) from None


def _next(batches: Iterator[Batch | _Failure], workers: int) -> Batch | _Failure | None:
    with dead_workers_explained(workers):
        return next(batches, None)


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Workers are the parallelism, so each computes in one thread; and signals are for the main process alone.

    Ctrl-C, and the SIGTERM of torchrun, timeout or a batch system, go to the whole process group: a worker leaves it,
    so that the main process can still save. When that one is gone, torch ends its workers within seconds.

    OpenCV's thread pool is left alone: it only decodes here, in one thread, and setting the number of its threads in
    a forked process waits for ever where the parent's pool was asleep.
    """
    torch.set_num_threads(1)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
