"""What a split holds, counted: pictures, objects, classes, sizes; and how few of the anchors are positive.

Letters: I pictures, G objects, K classes, N anchors of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveal.anchors import Anchors, centred_inside
from foveal.config import Config
from foveal.data.images import padded_shape, target_size
from foveal.data.table import Table
from foveal.detections import Batch, Objects
from foveal.engine.coverage import SIZES, LabelledBoxes, size_index
from foveal.matching import match

MATCHED_PICTURES = 64
"""Pictures whose anchors are matched to count positives; evenly spaced over the split."""


@dataclass(frozen=True)
class ClassContents:
    """Objects of a class (without ignore regions), the pictures that have any, and the objects by COCO size."""

    objects: int
    ignored: int
    pictures: int
    per_size: dict[str, int]
    per_size_at_training: dict[str, int]


@dataclass(frozen=True)
class Contents:
    """A split in numbers; sizes are COCO's, of the boxes in original pixels and at the training resolution.

    width, height: [least, median, most] of the pictures' sides in pixels; empty without pictures.
    """

    split: str
    pictures: int
    without_objects: int
    width: tuple[int, ...]
    height: tuple[int, ...]
    everything: ClassContents
    per_class: dict[str, ClassContents]


def contents(table: Table, config: Config) -> Contents:
    """Counts a split."""
    boxes = LabelledBoxes.of(table)
    resized_G4, _ = boxes.at_training(config)
    sizes_G, resized_sizes_G = size_index(boxes.boxes), size_index(resized_G4)
    heights, widths = table.sizes.numpy().reshape(-1, 2).T

    def count(mask_G: Tensor, ignored: int) -> ClassContents:
        return ClassContents(
            objects=int(mask_G.sum()),
            ignored=ignored,
            pictures=len(boxes.rows[mask_G].unique()),
            per_size=_by_size(sizes_G[mask_G]),
            per_size_at_training=_by_size(resized_sizes_G[mask_G]),
        )

    ignored_K = torch.bincount(table.labels[table.crowd].long(), minlength=len(table.class_names)).tolist()
    everything = count(torch.ones(len(boxes), dtype=torch.bool), sum(ignored_K))
    return Contents(
        split=table.split,
        pictures=len(table),
        without_objects=len(table) - everything.pictures,
        width=_spread(widths),
        height=_spread(heights),
        everything=everything,
        per_class={
            name: count(boxes.labels == label, ignored_K[label]) for label, name in enumerate(table.class_names)
        },
    )


def total(parts: Sequence[ClassContents]) -> ClassContents:
    """The sum over splits."""

    def summed(dicts: Sequence[dict[str, int]]) -> dict[str, int]:
        return {name: sum(counts[name] for counts in dicts) for name in SIZES}

    return ClassContents(
        objects=sum(part.objects for part in parts),
        ignored=sum(part.ignored for part in parts),
        pictures=sum(part.pictures for part in parts),
        per_size=summed([part.per_size for part in parts]),
        per_size_at_training=summed([part.per_size_at_training for part in parts]),
    )


@dataclass(frozen=True)
class Imbalance:
    """Anchors of a picture by what the loss makes of them: means over `pictures` pictures of `split`.

    positive + ignored + background + on_padding = anchors. on_padding is ignored too, but not because of an object.
    positives_per_object: mean number of anchors that answer for an object of a class.
    """

    split: str
    pictures: int
    anchors: float
    positive: float
    ignored: float
    background: float
    on_padding: float
    positives_per_object: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def imbalance(table: Table, config: Config, limit: int = MATCHED_PICTURES) -> Imbalance:
    """Matches the anchors of up to `limit` pictures at the training resolution, as training does it."""
    rows = _known_rows(table)
    rows = rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)] if len(rows) > limit else rows
    anchors = Anchors.from_config(config)
    sums = np.zeros(4)
    per_class = torch.zeros(2, len(table.class_names))
    for row in rows.tolist():
        original = (int(table.sizes[row, 0]), int(table.sizes[row, 1]))
        size = target_size(original, config.data.size, config.data.longest)
        shape = padded_shape(size, config.data.pad_multiple)
        objects = _scaled(table.objects(row), original, size)
        found = match(anchors, _without_pixels(objects, size, shape), config.assignment)
        padding = 0
        if config.assignment.padding == "ignored":
            padding = int((~centred_inside(anchors.boxes(*shape), size)).sum())
        positive, ignored = len(found.positive), len(found.ignored) - padding
        sums += positive, ignored, padding, found.num_anchors
        labels = objects.labels[~objects.crowd]
        per_class[0] += torch.bincount(labels, minlength=per_class.shape[1])
        per_class[1] += torch.bincount(objects.labels[found.object], minlength=per_class.shape[1])
    positive, ignored, padding, count = (sums / max(1, len(rows))).tolist()
    shares = {name: float(p / n) for name, n, p in zip(table.class_names, *per_class, strict=True) if n}
    background = count - positive - ignored - padding
    return Imbalance(table.split, len(rows), count, positive, ignored, background, padding, shares)


def _known_rows(table: Table) -> np.ndarray:
    return np.flatnonzero((table.sizes.numpy() > 0).all(axis=1))


def _by_size(index_G: Tensor) -> dict[str, int]:
    return dict(zip(SIZES, torch.bincount(index_G, minlength=len(SIZES)).tolist(), strict=True))


def _spread(sides: np.ndarray) -> tuple[int, ...]:
    return tuple(np.quantile(sides, (0, 0.5, 1)).astype(int).tolist()) if len(sides) else ()


def _without_pixels(objects: Objects, size: tuple[int, int], shape: tuple[int, int]) -> Batch:
    """A batch of one picture for matching, which looks at shapes and boxes only."""
    return Batch(
        images=torch.zeros(1, dtype=torch.uint8).expand(1, 3, *shape),
        sizes=torch.tensor([size]),
        boxes=objects.boxes,
        labels=objects.labels,
        crowd=objects.crowd,
        image_index=torch.zeros(len(objects), dtype=torch.int64),
        rows=torch.tensor([-1]),
        original_sizes=torch.tensor([size]),
    )


def _scaled(objects: Objects, original: tuple[int, int], size: tuple[int, int]) -> Objects:
    y, x = size[0] / original[0], size[1] / original[1]
    return replace(objects, boxes=objects.boxes * torch.tensor([x, y, x, y]))
