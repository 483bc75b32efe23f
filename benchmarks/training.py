"""Where a training step's time goes: `python -m benchmarks.training [DATA] [--weights FILE]`.

Each part is timed on the same batches: normalising, backbone, pyramid, heads, matching, losses, backward, optimiser.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch

from benchmarks.common import ROOT, measure, write_rows
from foveal.anchors import Anchors
from foveal.config import preset
from foveal.data.detect import read_data
from foveal.data.loader import TrainBatches
from foveal.data.scenes import write_scenes
from foveal.engine.step import make_optimiser, train_step
from foveal.losses.total import detector_loss
from foveal.matching import match
from foveal.model.retinanet import build_model

RUNS = 15


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", nargs="?", type=Path, default=ROOT / "runs" / "bench-scenes")
    arguments.add_argument("--weights", default="none", help="backbone file; none starts from random weights")
    chosen = arguments.parse_args()
    if chosen.data == ROOT / "runs" / "bench-scenes":
        write_scenes(chosen.data, {"train": 200}, size=320)
    config = preset("light").with_changes(
        {
            "model": {"weights": chosen.weights, "batch_norm": "evaluating" if chosen.weights == "none" else "frozen"},
            "anchors.sizes": [16, 32, 64, 128, 256],
            "data.workers": 0,
        }
    )
    table = read_data(chosen.data, split="train")
    torch.manual_seed(0)
    model = build_model(config, len(table.class_names)).train()
    anchors = Anchors.from_config(config)
    optimiser = make_optimiser(model, config.train)
    batches = TrainBatches(table, config)
    shape = batches.shapes[0]
    ((batch,),) = itertools.islice((b for b in batches if tuple(b[0].images.shape[-2:]) == shape), 1)

    images = model.normalise(batch.images)
    features = model.backbone(images)
    levels = model.pyramid(features)
    outputs = model(batch.images)
    matched = match(anchors, batch, config.assignment)

    def loss() -> torch.Tensor:
        sums = detector_loss(outputs.logits, outputs.deltas, anchors, matched, batch, config.loss)
        return sums.classification.sum() + sums.box.sum()

    def forward_backward() -> None:
        said = model(batch.images)
        sums = detector_loss(said.logits, said.deltas, anchors, matched, batch, config.loss)
        (sums.classification.sum() + sums.box.sum()).backward()

    reading = iter(TrainBatches(table, config))
    parts = {
        "load a batch": lambda: next(reading),
        "normalise": lambda: model.normalise(batch.images),
        "backbone forward": lambda: model.backbone(images),
        "pyramid forward": lambda: model.pyramid(features),
        "heads forward": lambda: [(model.class_head(x), model.box_head(x)) for x in levels],
        "match": lambda: match(anchors, batch, config.assignment),
        "losses forward": loss,
        "forward + losses + backward": forward_backward,
        "whole step (matching to optimiser)": lambda: train_step(model, optimiser, [batch], anchors, config, lr=1e-5),
    }
    rows = [
        {
            "part": name,
            "batch": f"{len(batch)} x {shape[0]} x {shape[1]}",
            "objects": len(batch.boxes),
            **measure(work, RUNS).per(1),
        }
        for name, work in parts.items()
    ]
    write_rows("training", rows)


if __name__ == "__main__":
    main()
