"""How do time and memory of each piece grow with objects, classes and picture side? `python -m benchmarks.growth`

Loss (value and gradient), matching, decoding and NMS, as a user gets them. One quantity grows, the others stay at 20
objects, 20 classes, 512 pixels. NMS has a box for each object, 1,000 where classes or the side grow. Each size is run
once without counting; then as many runs count as would take .15 s at that pace, at least one, at most nine. Memory is
what the process grew by at its peak, measured first, while freed memory leaves the process. For the times it stays, so
that no page is faulted in twice.

Writes results/growth.csv, docs/images/growth-time.png and docs/images/growth-memory.png; --draw only draws what the CSV
says. Slopes are those of straight lines through the upper half of the points: 1 is linear, 0 flat; along the side 2 is
linear in pixels.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import RESULTS, ROOT, Timing, measure, read_rows, write_rows
from benchmarks.memory import give_freed_memory_back, whole_peak_bytes
from foveal.anchors import Anchors
from foveal.config import Config
from foveal.decoding import decode
from foveal.detections import Batch, Objects
from foveal.engine.allocator import keep_freed_memory
from foveal.losses.total import detector_loss
from foveal.matching import match
from foveal.model.retinanet import Outputs
from foveal.nms import batched_nms
from studies.drawing import COLOURS, panels, save

PIECES = ("loss", "matching", "decoding", "NMS")
LEAST_S, MOST_RUNS = 0.15, 9
BOXES = 1000


@dataclass(frozen=True)
class Size:
    """What a piece is asked to do: G objects of K classes in a picture of `side` x `side` pixels."""

    objects: int = 20
    classes: int = 20
    side: int = 512


GROWTH: dict[str, tuple[int, ...]] = {
    "objects": (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000),
    "classes": (1, 3, 10, 30, 100, 300, 1203),
    "side": (256, 384, 512, 768, 1024, 1536, 2048),
}
LABELS = {"objects": "objects", "classes": "classes", "side": "picture side, pixels"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="only draw results/growth.csv")
    chosen = parser.parse_args()
    if not chosen.draw:
        give_freed_memory_back()
        peaks = [peak for quantity in GROWTH for peak in measured(peak_of, quantity)]
        keep_freed_memory()
        times = [row for quantity in GROWTH for row in measured(time_of, quantity)]
        write_rows("growth", [time | peak for time, peak in zip(times, peaks, strict=True)])
    draw(read_rows(RESULTS / "growth.csv"), ROOT / "docs" / "images")


def measured(
    what: Callable[[Callable[[], Any]], dict[str, Any]], quantity: str, values: Sequence[int] = ()
) -> Iterator[dict[str, Any]]:
    """A row for each value and piece, with what `what` finds of it."""
    for value in values or GROWTH[quantity]:
        size = replace(Size(), **{quantity: value})
        for piece, work in works(size, boxes=value if quantity == "objects" else BOXES).items():
            yield {"growing": quantity, "value": value, "piece": piece, **what(work)}


def time_of(work: Callable[[], Any]) -> dict[str, Any]:
    return {"threads": torch.get_num_threads(), **timed(work).per(1)}


def peak_of(work: Callable[[], Any]) -> dict[str, Any]:
    return {"peak_MB": round(whole_peak_bytes(work) / 1e6, 3)}


def works(size: Size, boxes: int) -> dict[str, Callable[[], Any]]:
    """Each piece on inputs of a size; the inputs are made here, once."""
    config = Config().with_changes({"assignment.low_quality": "all"})
    anchors, generator = Anchors.from_config(config), torch.Generator().manual_seed(0)
    batch = batch_of(size, generator)
    logits = head_outputs(anchors, size, size.classes, generator)
    for level in logits:
        level.mul_(0.5).sub_(4.6)
    deltas = [level.mul_(0.1) for level in head_outputs(anchors, size, 4, generator)]
    raise_scores(logits, size, generator)
    matched = match(anchors, batch, config.assignment)
    outputs, sizes = Outputs(tuple(logits), tuple(deltas)), torch.tensor([[size.side, size.side]])

    def loss() -> list[Tensor | None]:
        leaves = [level.detach().requires_grad_() for level in logits]
        sums = detector_loss(leaves, deltas, anchors, matched, batch, config.loss)
        (sums.classification.sum() / sums.positives.sum().clamp(min=1)).backward()
        return [leaf.grad for leaf in leaves]

    competing = objects_of(replace(size, objects=boxes), generator)
    scores = torch.rand(boxes, generator=generator)
    return {
        "loss": loss,
        "matching": lambda: match(anchors, batch, config.assignment),
        "decoding": lambda: decode(outputs, anchors, (size.side, size.side), sizes, config.inference),
        "NMS": lambda: batched_nms(competing.boxes, scores, competing.labels, config.inference.nms_iou),
    }


def batch_of(size: Size, generator: torch.Generator) -> Batch:
    picture = torch.zeros(3, size.side, size.side, dtype=torch.uint8)
    return Batch.pack([picture], [objects_of(size, generator)])


def objects_of(size: Size, generator: torch.Generator) -> Objects:
    """Boxes of 12 to 245 pixels a side, log-uniform, anywhere in the picture."""
    sides = torch.exp(torch.rand(size.objects, 2, generator=generator) * 3 + 2.5).clamp(max=size.side - 1)
    corners = torch.rand(size.objects, 2, generator=generator) * (size.side - sides)
    return Objects.of(torch.cat([corners, corners + sides], 1), torch.arange(size.objects) % size.classes)


def head_outputs(anchors: Anchors, size: Size, of_an_anchor: int, generator: torch.Generator) -> list[Tensor]:
    """Normal numbers, L of [1, A*C, H, W], in the memory layout of channels-last convolutions."""
    shapes = anchors.feature_shapes(size.side, size.side)
    channels = anchors.per_cell * of_an_anchor
    return [torch.randn(1, *shape, channels, generator=generator).permute(0, 3, 1, 2) for shape in shapes]


def raise_scores(logits: Sequence[Tensor], size: Size, generator: torch.Generator) -> None:
    """Five anchors of each object say so, on the finest level."""
    flat = logits[0].permute(0, 2, 3, 1).view(-1)
    places = torch.randint(0, len(flat), (5 * size.objects,), generator=generator)
    flat[places] = torch.rand(len(places), generator=generator) * 5 - 1


def timed(work: Callable[[], Any]) -> Timing:
    """As many runs as take .15 s at the pace of one that does not count: one to nine."""
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    return measure(work, min(MOST_RUNS, max(1, math.ceil(LEAST_S / max(took, 1e-9)))), warm_up=0)


def slope(values: Sequence[float], measured: Sequence[float]) -> float:
    """By which power the upper half of the points grows: 1 linear, 2 quadratic, 0 not at all."""
    upper = len(values) // 2
    x, y = (np.log(np.maximum(np.asarray(numbers[upper:], dtype=float), 1e-9)) for numbers in (values, measured))
    return float(np.polyfit(x, y, 1)[0])


def draw(rows: Sequence[dict[str, str]], folder: Path) -> list[Path]:
    """Two figures, time and memory: a panel for each quantity, a line for each piece."""
    figures = {"time": ("median_ms", "milliseconds"), "memory": ("peak_MB", "MB at the peak")}
    return [save(_figure(rows, *column), folder / f"growth-{name}.png") for name, column in figures.items()]


def _figure(rows: Sequence[dict[str, str]], column: str, label: str) -> Any:
    figure, axes = panels(len(GROWTH), width=11.0, height=3.8)
    for panel, quantity in zip(axes, GROWTH, strict=True):
        for colour, piece in zip(COLOURS[1:], PIECES, strict=False):
            mine = [row for row in rows if (row["growing"], row["piece"]) == (quantity, piece)]
            values, measured = ([float(row[name]) for row in mine] for name in ("value", column))
            name = f"{piece}: {slope(values, measured):.2f}"
            panel.loglog(values, np.maximum(measured, 1e-3), "o-", color=colour, markersize=3.5, label=name)
        if quantity == "side":
            panel.set_xticks([256, 512, 1024, 2048], labels=["256", "512", "1024", "2048"])
            panel.set_xticks([], minor=True)
        panel.set_xlabel(LABELS[quantity])
        panel.legend(title="slope", fontsize=8, title_fontsize=8, frameon=False)
    axes[0].set_ylabel(label)
    return figure


if __name__ == "__main__":
    main()
