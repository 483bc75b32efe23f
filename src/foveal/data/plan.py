"""Which pictures make up every step of a training run, at which size and turn, and padded to which shape.

A `Plan` is a pure function of the pictures' sizes and the config. Every epoch shuffles all pictures; each gets its
size and turn from (seed, epoch, picture), waits with others of its padded shape, and leaves with a full batch. So the
pictures of step 1000 are the same for any number of workers, processes and micro-batches, and after any resume: the
plan is simply run again up to the step (a million pictures take less than a second).

Letters: I pictures, V sizes that scale jitter draws from, T upright and turned by a quarter, S shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foveal.config import Config, DataConfig
from foveal.data.images import target_sizes

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
        cells = padded[..., 0] << 32 | padded[..., 1]  # as one number: unique rows take 20 times as long
        codes, group_of_cell = np.unique(cells, return_inverse=True)
        least = BATCHES_A_SHAPE * self.batch_size * len(cells) * len(self.targets_VI2)
        shapes_S2, merged = merge_shapes(
            np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1), group_of_cell.ravel(), least
        )
        self.shapes: list[tuple[int, int]] = [(height, width) for height, width in shapes_S2.tolist()]
        self.group_TVI = merged.reshape(cells.shape)

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
    members = np.split(np.argsort(group_of_cell, kind="stable"), np.cumsum(np.bincount(group_of_cell))[:-1])
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
