"""A few steps of the `paper` preset at 600 px: `python -m benchmarks.paper_preset DATA [--steps 4] [--batch 2]`.

Seconds per step, peak memory, and the first class loss beside its closed form,
alpha (1-pi)^2 (-ln pi) + (1-alpha) pi^2 (-ln(1-pi)) N K / P, for ResNet-50 with 256 channels from random weights
(the prior bias makes the first loss what it is, whatever the backbone).
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from pathlib import Path

import torch

from benchmarks.common import write_rows
from foveal.anchors import Anchors
from foveal.config import preset
from foveal.data.detect import read_data
from foveal.data.loader import TrainBatches
from foveal.engine.memory import estimate_step_bytes
from foveal.engine.schedule import lr_at
from foveal.engine.step import make_optimiser, train_step
from foveal.matching import match
from foveal.model.retinanet import build_model


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument("--batch", type=int, default=2)
    chosen = arguments.parse_args()
    config = preset("paper").with_changes(
        {
            "model": {"weights": "none", "batch_norm": "evaluating"},
            "data.workers": 0,
            "train.batch_size": chosen.batch,
        }
    )
    table = read_data(chosen.data, split="train")
    torch.manual_seed(0)
    classes = len(table.class_names)
    model = build_model(config, classes).train()
    anchors = Anchors.from_config(config)
    optimiser = make_optimiser(model, config.train)
    rows = []
    for step, micro_batches in zip(range(chosen.steps), TrainBatches(table, config), strict=False):
        batch = micro_batches[0]
        height, width = batch.images.shape[-2:]
        matched = match(anchors, batch, config.assignment)
        positives = max(1, int(matched.positives_per_image().sum()))
        counted = len(batch) * anchors.count(height, width) - len(matched.ignored)
        began = time.perf_counter()
        result = train_step(model, optimiser, micro_batches, anchors, config, lr_at(step, 90_000, config.train))
        took = time.perf_counter() - began
        rows.append(
            {
                "step": step + 1,
                "batch": f"{len(batch)} x {height} x {width}",
                "seconds": round(took, 2),
                "class_loss": round(float(result.classification), 4),
                "closed_form_of_the_first": round(first_loss(config.model.prior, counted, classes, positives), 4),
                "box_loss": round(float(result.box), 4),
                "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "estimated_MiB": round(estimate_step_bytes(model, len(batch), (height, width)) / 2**20),
            }
        )
    write_rows("paper_preset", rows)


def first_loss(prior: float, anchors: int, classes: int, positives: int) -> float:
    """The class loss of a net that says `prior` everywhere: P positive entries, N K - P background ones, over P."""
    alpha, gamma = 0.25, 2
    positive = alpha * (1 - prior) ** gamma * -math.log(prior)
    background = (1 - alpha) * prior**gamma * -math.log(1 - prior)
    return positive + background * (anchors * classes - positives) / positives


if __name__ == "__main__":
    main()
