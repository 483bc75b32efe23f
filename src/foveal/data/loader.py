"""Which pictures make up a step, and reading them: from a table to batches.

A `Plan` is a pure function of the pictures' sizes and the config. Every epoch shuffles all pictures; each gets its
size and turn from (seed, epoch, picture), waits with others of its padded shape, and leaves with a full batch. So the
pictures of step 1000 are the same for any number of workers, processes and micro-batches, and after any resume: the
plan is simply run again up to the step (a million pictures take about a second).

Letters: I pictures, V variants (a size and a turn) of a picture, S shapes.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from foveal.config import Config, DataConfig
from foveal.data.augment import augment, crop, visible
from foveal.data.images import image_size, padded_shape, read_image, resize, target_sizes
from foveal.data.table import Table
from foveal.detections import Batch, Objects
from foveal.errors import ConfigError, DataError, FovealError, ImageError, TrainingError

EVALUATION = -1
"""The epoch of pictures that are not augmented."""

BATCHES_A_SHAPE = 2
"""Every shape gets at least the pictures of so many batches in an epoch, where the data set has them."""


@dataclass(frozen=True)
class Draw:
    """One picture of a batch: its row, the epoch it is drawn in, its (height, width) after the resize, then turns."""

    row: int
    epoch: int
    size: tuple[int, int]
    turns: int = 0


@dataclass(frozen=True)
class Work:
    """What one worker makes one batch of: pictures, and the shape they are padded to."""

    shape: tuple[int, int]
    draws: tuple[Draw, ...]


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


class Plan:
    """What is drawn when: `steps(n)` yields the pictures of step n, n + 1, ...; `shapes` are all padded shapes."""

    def __init__(self, sizes_I2: np.ndarray, config: Config):
        self.seed = config.seed % 2**64
        self.batch_size = config.train.batch_size
        self.num_images = len(sizes_I2)
        data = config.data
        self.num_turns = 4 if data.quarter_turns else 1
        longest_over_shorter = data.longest / data.size
        self.targets_VI2 = np.stack(
            [target_sizes(sizes_I2, size, round(size * longest_over_shorter)) for size in jittered_sizes(data)]
        )
        turned = [self.targets_VI2, self.targets_VI2[:, :, ::-1]][: 2 if data.quarter_turns else 1]
        padded = -(-np.stack(turned) // data.pad_multiple) * data.pad_multiple
        cells, group_of_cell = np.unique(padded.reshape(-1, 2), axis=0, return_inverse=True)
        cells_a_picture = padded.size // 2 // max(1, self.num_images)
        least = BATCHES_A_SHAPE * self.batch_size * cells_a_picture
        shapes, merged = merge_shapes(cells, group_of_cell.reshape(-1), least)
        self.shapes = [(int(height), int(width)) for height, width in shapes]
        self.group_TVI = merged.reshape(padded.shape[:-1])

    def steps(self, start: int = 0) -> Iterator[Work]:
        for group, codes in itertools.islice(self._full_batches(), start, None):
            yield Work(self.shapes[group], tuple(self._draw(code) for code in codes))

    def _full_batches(self) -> Iterator[tuple[int, list[int]]]:
        """(shape, coded draws) of every step; a plain loop over integers, since a resumed run repeats all of it."""
        waiting: list[list[int]] = [[] for _ in self.shapes]
        for epoch in itertools.count():
            for code, group in zip(*self._epoch(epoch), strict=True):
                full = waiting[group]
                full.append(code)
                if len(full) == self.batch_size:
                    waiting[group] = []
                    yield group, full

    def _epoch(self, epoch: int) -> tuple[list[int], list[int]]:
        """All pictures in this epoch's order: coded draws, and the index of each one's shape."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self.num_images)
        num_sizes = len(self.targets_VI2)
        size = rng.integers(num_sizes, size=self.num_images)[order]
        turns = rng.integers(self.num_turns, size=self.num_images)[order]
        codes = ((epoch * num_sizes + size) * self.num_turns + turns) * self.num_images + order
        return codes.tolist(), self.group_TVI[turns % 2, size, order].tolist()

    def _draw(self, code: int) -> Draw:
        code, row = divmod(code, self.num_images)
        code, turns = divmod(code, self.num_turns)
        epoch, size = divmod(code, len(self.targets_VI2))
        height, width = self.targets_VI2[size, row].tolist()
        return Draw(row, epoch, (height, width), turns)


def jittered_sizes(data: DataConfig) -> list[int]:
    """The values of `data.size` that scale jitter draws from: multiples of `pad_multiple`, or the ends of the range.

    600 with factors .8 to 1.2 and multiples of 32 gives 480, 512, ..., 704; with 1 to 1 it gives 600.
    """
    low, high = (max(1, round(data.size * factor)) for factor in data.scale_jitter)
    first = -(-low // data.pad_multiple) * data.pad_multiple
    if low == high:
        return [low]
    return list(range(first, high + 1, data.pad_multiple)) or [low, high]


def merge_shapes(shapes_S2: np.ndarray, group_of_cell: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes every shape have at least `least` members (or one shape of everything), at little padding.

    shapes_S2: distinct (height, width). group_of_cell: [cells] which shape each cell has; a cell is a picture at one
    of its sizes and turns. Returns the new shapes and the new [cells] index; every cell fits into its new shape.

    The rarest shape is joined with the shape that costs the least padding. Where that one has members to spare and
    would have to grow, it does not: it only lends as many, evenly spaced, as the rare one needs. So one panorama
    among 10,000 squares makes a few squares wide, not all.
    """
    shapes = shapes_S2.astype(np.int64)
    members = [np.flatnonzero(group_of_cell == group) for group in range(len(shapes))]
    while len(members) > 1:
        counts = np.array([len(cells) for cells in members])
        rare = int(counts.argmin())
        if counts[rare] >= least:
            break
        joint = np.maximum(shapes, shapes[rare])
        growth = joint.prod(axis=1) - shapes.prod(axis=1)
        missing = least - counts[rare]
        lends = (growth > 0) & (counts - missing >= least)
        cost = growth * np.where(lends, missing, counts)
        cost = cost + counts[rare] * (joint.prod(axis=1) - shapes[rare].prod())
        cost[rare] = np.iinfo(np.int64).max
        partner = int(cost.argmin())
        shapes[rare] = joint[partner]
        if lends[partner]:
            lent = np.linspace(0, counts[partner] - 1, missing).astype(np.int64)
            members[rare] = np.concatenate([members[rare], members[partner][lent]])
            members[partner] = np.delete(members[partner], lent)
        else:
            members[rare] = np.concatenate([members[rare], members[partner]])
            del members[partner]
            shapes = np.delete(shapes, partner, axis=0)
    merged = np.empty_like(group_of_cell)
    for group, cells in enumerate(members):
        merged[cells] = group
    return shapes, merged


def read_picture(table: Table, draw: Draw, config: Config) -> tuple[np.ndarray, Objects]:
    """One picture as the network sees it, [H, W, 3] uint8, and its objects in the same pixels."""
    path, stated = table.path(draw.row), tuple(table.sizes[draw.row].tolist())
    image, objects = read_image(path, config.data.max_pixels), table.objects(draw.row)
    if image.shape[:2] != stated:
        raise ImageError(
            f"{path}: the picture is displayed as {image.shape[1]} x {image.shape[0]}, the labels say {stated[1]} x "
            f"{stated[0]}, so boxes would be misplaced; correct the labels (foveal inspect lists all such pictures)"
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


def _next(batches: Iterator[Batch | _Failure], workers: int) -> Batch | _Failure | None:
    try:
        return next(batches, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads pictures died, most often because memory or shared memory (/dev/shm) ran out: "
            f"lower data.workers from {workers}, 0 reads in the main process ({str(error).splitlines()[0]})"
        ) from None


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Workers are the parallelism, so each computes in one thread; and Ctrl-C is for the main process alone.

    OpenCV's thread pool is left alone: it only decodes here, in one thread, and setting the number of its threads in
    a forked process waits for ever where the parent's pool was asleep.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
