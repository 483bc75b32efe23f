"""What does a training step hold at its peak? `python -m benchmarks.training_memory`

One step of ResNet-50, `paper`'s pyramid and heads, two pictures of 320 x 320 with 20 objects each, from random weights.
Memory is torch's own on the CPU, at its peak above weights, optimiser and batch, as its profiler sees it: the same on
any machine with the same torch, however busy.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch

from benchmarks.common import write_rows
from benchmarks.memory import peak_bytes
from foveal.anchors import Anchors
from foveal.config import Config
from foveal.detections import Batch, Objects
from foveal.engine.memory import estimate_step_bytes
from foveal.engine.step import make_optimiser, train_step
from foveal.model.retinanet import build_model

SIDE, IMAGES, OBJECTS, CLASSES = 320, 2, 20, 80
TRAINED = {"model.weights": "none", "model.batch_norm": "trained"}
# A file's name stands for pretrained weights, without which frozen norms are refused; the file is never opened.
FROZEN = {"model.weights": "resnet50.safetensors", "model.batch_norm": "frozen"}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain, batch norm trained": TRAINED,
    "backbone computed twice, batch norm trained": {**TRAINED, "train.recompute_backbone": True},
    "batch norm frozen": FROZEN,
    "batch norm frozen, two frozen stages": {**FROZEN, "model.frozen_stages": 2},
    "batch norm frozen, backbone computed twice": {**FROZEN, "train.recompute_backbone": True},
    "batch norm frozen, bf16": {**FROZEN, "train.precision": "bf16"},
    "batch norm frozen, bf16, backbone computed twice": {
        **FROZEN, "train.precision": "bf16", "train.recompute_backbone": True,
    },
    "batch norm frozen, two micro-batches": {**FROZEN, "train.accumulate": 2},
}  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    peaks: dict[str, tuple[int, int]] = {}
    for name, changes in SETTINGS.items():
        step, estimate = step_of(Config().with_changes(changes))
        peaks[name] = (peak_bytes(step), estimate)
    plain = peaks[next(iter(SETTINGS))][0]
    rows = [
        {
            "setting": name,
            "batch": f"{IMAGES} x {SIDE} x {SIDE}",
            "peak_MB": round(peak / 1e6),
            "share_of_plain": round(peak / plain, 2),
            "estimated_MB": round(estimate / 1e6),
        }
        for name, (peak, estimate) in peaks.items()
    ]
    write_rows("training_memory", rows)


def step_of(config: Config) -> tuple[partial[Any], int]:
    """A training step that can be repeated, after one that made the optimiser's state; and its estimated bytes."""
    torch.manual_seed(0)
    model = build_model(config, CLASSES, pretrained=False).train()
    generator = torch.Generator().manual_seed(1)
    parts = config.train.accumulate
    batches = [batch_of(IMAGES // parts, generator) for _ in range(parts)]
    anchors, optimiser = Anchors.from_config(config), make_optimiser(model, config.train)
    step = partial(train_step, model, optimiser, batches, anchors, config, 1e-6)
    step()
    return step, estimate_step_bytes(model, IMAGES // parts, (SIDE, SIDE))


def batch_of(images: int, generator: torch.Generator) -> Batch:
    """Noise with boxes of 16 to 160 pixels a side."""
    pictures = [torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator) for _ in range(images)]
    objects = []
    for _ in range(images):
        sides = 16 + 144 * torch.rand(OBJECTS, 2, generator=generator)
        corners = torch.rand(OBJECTS, 2, generator=generator) * (SIDE - sides)
        labels = torch.randint(0, CLASSES, (OBJECTS,), generator=generator).tolist()
        objects.append(Objects.of(torch.cat([corners, corners + sides], 1), labels))
    return Batch.pack(pictures, objects)


if __name__ == "__main__":
    main()
