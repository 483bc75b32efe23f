"""What does the class loss cost, plainly and in one pass? `python -m benchmarks.loss`

The detector's loss, with the few boxes', and its gradient, over the paper's anchors of one picture with 20 objects. The
plain and the fast path take turns, so that whatever else the machine does falls on both. Memory is torch's own, above
the logits, at its peak. Large buffers are first mapped afresh each time, as the C library does by itself, then kept and
used again, as in training (`engine/allocator.py`); --reused-only leaves the first out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import write_rows
from benchmarks.matching import in_turns
from benchmarks.memory import peak_bytes
from foveal.anchors import Anchors
from foveal.config import Config, LossConfig
from foveal.detections import Batch, Objects
from foveal.engine.allocator import keep_freed_memory
from foveal.losses.total import detector_loss, per_level_terms
from foveal.matching import Match, match

OBJECTS = 20
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Case:
    """A picture of `shape` (H, W) pixels; without `plain` only the fast path is run."""

    shape: tuple[int, int]
    classes: int
    layout: str = "contiguous"
    gamma: float = 2.0
    plain: bool = True


CASES = [
    Case((600, 600), 80),
    Case((600, 600), 80, layout="channels_last"),
    Case((600, 600), 80, gamma=0.5),
    Case((800, 1333), 80),
    Case((800, 1333), 1203, plain=False),  # the plain path would take 9 GB
]


@dataclass(frozen=True)
class Work:
    """One picture's outputs and answers."""

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: Anchors
    match: Match
    batch: Batch
    config: LossConfig

    def fast(self) -> list[Tensor]:
        sums = detector_loss(self.logits, self.deltas, self.anchors, self.match, self.batch, self.config)
        return self._gradients(sums.classification + sums.box)

    def plain(self) -> list[Tensor]:
        terms = per_level_terms(self.logits, self.deltas, self.anchors, self.match, self.batch, self.config)
        return self._gradients(torch.stack([sums for _, _, sums in terms]))

    def _gradients(self, sums: Tensor) -> list[Tensor]:
        loss = sums.sum() / max(1, len(self.match.positive))
        return list(torch.autograd.grad(loss, self.logits + self.deltas))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=15)
    arguments.add_argument("--reused-only", action="store_true", help="only with buffers that are used again")
    given = arguments.parse_args()
    rows = [] if given.reused_only else [row for case in CASES for row in compare(case, given.runs, reused="no")]
    if keep_freed_memory():
        rows += [row for case in CASES for row in compare(case, given.runs, reused="yes")]
    write_rows("loss", rows)


def compare(case: Case, runs: int, reused: str) -> list[dict[str, Any]]:
    """A row for each path, after a look that they give the same."""
    work = work_of(case)
    paths: dict[str, Callable[[], list[Tensor]]] = {"plain": work.plain} if case.plain else {}
    paths["fast"] = work.fast
    if case.plain:
        for one, other in zip(work.plain(), work.fast(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
    runs = runs if case.classes < 1000 else 5
    timings = in_turns(paths, runs)
    names = list(paths)
    return [
        {
            "anchors": work.match.num_anchors,
            "classes": case.classes,
            "gamma": case.gamma,
            "layout": case.layout,
            "reused_memory": reused,
            "path": name,
            "threads": torch.get_num_threads(),
            **timings[name].per(1),
            "logits_MB": round(sum(x.nbytes for x in work.logits) / 1e6, 1),
            "peak_MB": round(peak_bytes(partial(paths[name])) / 1e6, 1),
            "times_faster": round(timings[names[0]].median_s / timings[name].median_s, 1) if len(names) > 1 else "",
        }
        for name in names
    ]


def work_of(case: Case) -> Work:
    """Logits around the prior of .01; sides of the objects are log-uniform."""
    generator = torch.Generator().manual_seed(1)
    height, width = case.shape
    sides = torch.exp(torch.rand(OBJECTS, 2, generator=generator) * 3 + 2.5)
    corners = torch.rand(OBJECTS, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    labels = torch.randint(case.classes, (OBJECTS,), generator=generator).tolist()
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    batch = Batch.pack([picture], [Objects.of(torch.cat([corners, corners + sides], 1), labels)])
    config, anchors = Config(), Anchors.from_config(Config())

    def outputs(channels: int, around: float) -> list[Tensor]:
        maps = [torch.randn(1, channels, *s, generator=generator) + around for s in anchors.feature_shapes(*case.shape)]
        return [x.contiguous(memory_format=MEMORY_FORMATS[case.layout]).requires_grad_() for x in maps]

    logits, deltas = outputs(anchors.per_cell * case.classes, -4.6), outputs(anchors.per_cell * 4, 0.0)
    matched = match(anchors, batch, config.assignment)
    return Work(logits, deltas, anchors, matched, batch, LossConfig(gamma=case.gamma))


if __name__ == "__main__":
    main()
