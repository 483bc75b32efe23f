"""How many pictures a second does the loader deliver, and where does the time of one go?

    python -m benchmarks.loader [DATA]

DATA is any data set; without it, JPEG pictures of 575 x 575 pixels cut from scikit-learn's photographs are written to
a temporary folder. Parts are timed one after the other in one thread; the loader is timed from its 5th batch on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Timing, measure, write_rows
from foveal.config import Config, preset
from foveal.data.augment import augment
from foveal.data.detect import read_data
from foveal.data.images import decode_image, target_size
from foveal.data.loader import TrainBatches, resize_with_objects
from foveal.data.plan import Plan
from foveal.data.table import Table, TableBuilder
from foveal.detections import Batch, Objects

BATCH, RUNS, PICTURES = 8, 7, 64
SIDE, WRITTEN = 575, 256
STRONG: dict[str, Any] = {"vertical_flip": 0.5, "quarter_turns": True, "colour_jitter": 0.3}

Picture = tuple[np.ndarray, Objects]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="photographs that are cut for it unless given")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = read_data(data) if data else photographs(Path(folder))
        config = preset("light")
        name = Path(data).resolve().stem if data else "photographs"
        about = {"data": name, "size": config.data.size, "batch": BATCH}
        rows = [
            {**about, "what": what, "workers": "", **timing.per(count), "pictures_s": round(count / timing.median_s)}
            for what, timing, count in [*parts(table, config), planning(table, config)]
        ]
        for workers in sorted({0, 1, 2, os.cpu_count() or 1}):
            timing = whole(table, config.with_changes({"data.workers": workers, "train.batch_size": BATCH}))
            rate = {"pictures_s": round(PICTURES / timing.median_s)}
            rows.append({**about, "what": "loader", "workers": workers, **timing.per(PICTURES), **rate})
    write_rows("loader", rows)


def parts(table: Table, config: Config) -> Iterator[tuple[str, Timing, int]]:
    """Each step of a picture's way, on the same PICTURES pictures."""
    chosen = range(min(PICTURES, len(table)))
    data, rng = config.data, np.random.default_rng(0)
    strong = data.model_copy(update=STRONG)
    yield "read", measure(lambda: [table.path(row).read_bytes() for row in chosen], RUNS), len(chosen)
    files = [table.path(row).read_bytes() for row in chosen]
    yield "decode", measure(lambda: [decode_image(file, "") for file in files], RUNS), len(chosen)
    whole = [(decode_image(file, ""), table.objects(row)) for row, file in enumerate(files)]

    def small() -> list[Picture]:
        return [
            resize_with_objects(image, objects, target_size(image.shape[:2], data.size, data.longest))
            for image, objects in whole
        ]

    yield "resize", measure(small, RUNS), len(chosen)
    resized = small()
    yield "flip", measure(lambda: [augment(*picture, data, rng) for picture in resized], RUNS), len(chosen)
    yield (
        "flip, turn, colour",
        measure(lambda: [augment(*picture, strong, rng) for picture in resized], RUNS),
        len(chosen),
    )

    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image, _ in resized]
    objects = [objects for _, objects in resized]

    def batches() -> list[Batch]:
        firsts = range(0, len(chosen), BATCH)
        return [Batch.pack(tensors[first : first + BATCH], objects[first : first + BATCH]) for first in firsts]

    yield "collate", measure(batches, RUNS), len(chosen)


def planning(table: Table, config: Config) -> tuple[str, Timing, int]:
    """What a run resumed after a million pictures waits for."""
    plan, pictures = Plan(table.sizes.numpy(), config.with_changes({"train.batch_size": BATCH})), 1_000_000
    return "replay of the plan", measure(lambda: next(plan.steps(pictures // BATCH)), 3), pictures


def whole(table: Table, config: Config) -> Timing:
    """PICTURES pictures through everything, RUNS times, from a loader that has been running."""
    batches = iter(TrainBatches(table, config))
    for _ in range(4):
        next(batches)
    return measure(lambda: [next(batches) for _ in range(PICTURES // BATCH)], 3 * RUNS)


def photographs(folder: Path) -> Table:
    """WRITTEN square cuts of two photographs, 16 boxes each."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo).resize((1280, 854)) for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    builder = TableBuilder(folder, "train", "coco")
    for row in range(WRITTEN):
        x, y = (int(rng.integers(limit - SIDE)) for limit in (1280, 854))
        photos[row % 2].crop((x, y, x + SIDE, y + SIDE)).save(folder / f"{row}.jpg", quality=90)
        builder.add_image(f"{row}.jpg", (SIDE, SIDE))
        corners = rng.uniform(0, SIDE - 60, (16, 2))
        builder.add_objects(np.concatenate([corners, corners + rng.uniform(10, 60, (16, 2))], axis=1), np.zeros(16))
    return builder.build(("thing",))


if __name__ == "__main__":
    main()
