"""The class loss of a fresh network on its first batch, measured and by the closed form.

With every logit at the prior, a picture with N counted anchors, P of them positive, and K classes costs

    L0 = (P loss(x, 1) + (N K - P) loss(x, 0)) / max(1, P),        x = -log((1 - pi) / pi)

A real network differs a little: the last convolution's weights are small, not 0.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from foveal.anchors import Anchors
from foveal.config import Config
from foveal.data.loader import TrainBatches
from foveal.detections import Batch
from foveal.engine.checkpoint import read_json, write_json
from foveal.engine.progress import Silent
from foveal.engine.step import normalised
from foveal.engine.usable import training_table
from foveal.losses.classification import classification_loss
from foveal.losses.total import detector_loss
from foveal.matching import Match, match
from foveal.model.retinanet import build_model
from studies.runs import Finished

FILE = "first-loss.json"


def first_losses(run: Finished) -> dict[str, float]:
    """{"first_loss": measured, "closed_form": ...}, kept in the run's folder."""
    if not (run.folder / FILE).exists():
        write_json(run.folder / FILE, measure(run.config, run.data))
    return read_json(run.folder / FILE)


@torch.no_grad()
def measure(config: Config, data: Path) -> dict[str, float]:
    """Builds the network that training would begin with and shows it the batch that it would begin with."""
    config = config.with_changes({"data.workers": 0})
    table = training_table(data, config, Silent())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config, len(table.class_names), pretrained=True).train()
    [batch] = next(iter(TrainBatches(table, config)))
    anchors = Anchors.from_config(config)
    matched = match(anchors, batch, config.assignment)
    outputs = model(batch.images)
    sums = detector_loss(outputs.logits, outputs.deltas, anchors, matched, batch, config.loss)
    assigned = matched.positives_per_image().sum().float()
    found = float(normalised(sums, config, assigned, len(batch))[0])
    return {"first_loss": found, "closed_form": closed_form(config, matched, batch, len(table.class_names))}


def closed_form(config: Config, matched: Match, batch: Batch, classes: int) -> float:
    """The mean of L0 over the pictures, each divided by its own positives: the `image` normaliser."""
    pi, loss = config.model.prior, classification_loss(config.loss)
    logit = torch.tensor(-math.log((1 - pi) / pi), dtype=torch.float64)
    foreground, background = float(loss(logit, 1.0)), float(loss(logit, 0.0))
    ignored = torch.bincount(matched.ignored // matched.num_anchors, minlength=len(batch))
    total = 0.0
    for positives, left_out in zip(matched.positives_per_image().tolist(), ignored.tolist(), strict=True):
        backgrounds = (matched.num_anchors - left_out) * classes - positives
        total += (positives * foreground + backgrounds * background) / max(1, positives)
    return total / len(batch)
