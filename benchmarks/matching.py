"""What does matching cost, plainly and from the objects' side? `python -m benchmarks.matching`

One picture of 600 x 600 pixels, the paper's 67,995 anchors, boxes of 12 to 245 pixels a side. Both paths take turns, so
that whatever else the machine does falls on both. Memory is the process's at its peak, above inputs and anchors.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.common import Timing, write_rows
from benchmarks.memory import give_freed_memory_back, whole_peak_bytes
from foveal.anchors import Anchors
from foveal.config import AssignmentConfig, Config
from foveal.detections import Batch, Objects
from foveal.matching import Match, match, match_plainly

SIDE = 600
PATHS: dict[str, Callable[[Anchors, Batch, AssignmentConfig], Match]] = {"plain": match_plainly, "fast": match}
CASES: list[tuple[str, int]] = [
    *((policy, objects) for policy in ("none", "authors", "all") for objects in (20, 100, 500)),
    *((policy, 10_000) for policy in ("authors", "all")),
]
WITHOUT_PLAIN = 10_000
"""From so many objects on only the fast path is run: the matrix would take 2.7 GB."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=15)
    runs = arguments.parse_args().runs
    measured = [pair for policy, objects in CASES for pair in compare(policy, objects, runs)]
    give_freed_memory_back()
    write_rows("matching", [row | {"peak_MB": round(whole_peak_bytes(work) / 1e6, 1)} for row, work in measured])


def compare(policy: str, objects: int, runs: int) -> list[tuple[dict[str, Any], partial[Any]]]:
    """A row for each path, with its work, after a look that they give the same."""
    anchors, batch = Anchors.from_config(Config()), batch_of(objects)
    config = AssignmentConfig.model_validate({"low_quality": policy})
    names = ["fast"] if objects >= WITHOUT_PLAIN else list(PATHS)
    works = {name: partial(PATHS[name], anchors, batch, config) for name in names}
    found = {name: work() for name, work in works.items()}
    for name in ("positive", "object", "ignored"):
        assert len({tuple(getattr(one, name).tolist()) for one in found.values()}) == 1
    timings = in_turns(works, runs)
    return [
        (
            {
                "policy": policy,
                "objects": objects,
                "anchors": found[name].num_anchors,
                "positive": len(found[name].positive),
                "path": name,
                "threads": torch.get_num_threads(),
                **timings[name].per(1),
                "times_faster": round(timings[names[0]].median_s / timings[name].median_s, 1) if len(names) > 1 else "",
            },
            works[name],
        )
        for name in names
    ]


def batch_of(objects: int) -> Batch:
    """One picture; sides are log-uniform."""
    generator = torch.Generator().manual_seed(1)
    sides = torch.exp(torch.rand(objects, 2, generator=generator) * 3 + 2.5)
    corners = torch.rand(objects, 2, generator=generator) * (SIDE - sides)
    picture = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    return Batch.pack([picture], [Objects.of(torch.cat([corners, corners + sides], 1), [0] * objects)])


def in_turns(works: dict[str, Callable[[], Any]], runs: int) -> dict[str, Timing]:
    """Times each work `runs` times, one after the other, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(runs + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if run:
                seconds[name].append(time.perf_counter() - began)
    return {name: Timing(statistics.median(s), min(s), max(s), runs) for name, s in seconds.items()}


if __name__ == "__main__":
    main()
