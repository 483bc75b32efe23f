"""What does NMS cost, plainly and compiled? `python -m benchmarks.nms`

Boxes of 80 classes in a picture of 1066 x 800, threshold .5, no limit. `random`: sides of 12 to 148 pixels anywhere, of
which nearly all stay; `clustered`: 25 boxes of about 80 pixels around each object, of which one in twenty stays. With
one class every box competes with every other.

Both paths take turns, so that whatever else the machine does falls on both. Memory is the process's at its peak, above
the inputs.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import write_rows
from benchmarks.matching import in_turns
from benchmarks.memory import give_freed_memory_back, whole_peak_bytes
from foveal import compiled
from foveal.nms import batched_nms, batched_nms_plainly

PATHS = {"plain": batched_nms_plainly, "fast": batched_nms}
KINDS = ("random", "clustered")
CASES = [(80, count, kind) for count in (1000, 5000, 20_000) for kind in KINDS]
CASES += [(1, 5000, kind) for kind in KINDS]
IOU = 0.5
IN_A_CLUSTER = 25


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=15)
    runs = arguments.parse_args().runs
    if compiled.KERNELS is None:
        print(f"compiled kernels: {compiled.said_of_kernels()}; so NMS has one path, and there is nothing to compare")
        return
    measured = [pair for case in CASES for pair in compare(*case, runs)]
    give_freed_memory_back()
    write_rows("nms", [row | {"peak_MB": round(whole_peak_bytes(work) / 1e6, 1)} for row, work in measured])


def compare(classes: int, count: int, kind: str, runs: int) -> list[tuple[dict[str, Any], partial[Any]]]:
    """A row for each path, with its work, after a look that they give the same."""
    problem = boxes_of(classes, count, kind)
    works = {name: partial(path, *problem, IOU) for name, path in PATHS.items()}
    plain, fast = (work() for work in works.values())
    assert torch.equal(plain, fast)
    timings = in_turns(works, runs)
    return [
        (
            {
                "classes": classes,
                "boxes": count,
                "kind": kind,
                "stay": len(fast),
                "path": name,
                "threads": torch.get_num_threads(),
                **timings[name].per(1),
                "times_faster": round(timings["plain"].median_s / timings[name].median_s, 1),
            },
            work,
        )
        for name, work in works.items()
    ]


def boxes_of(classes: int, count: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels."""
    generator = torch.Generator().manual_seed(2)
    picture = torch.tensor([1066.0, 800.0])
    if kind == "random":
        centres = torch.rand(count, 2, generator=generator) * picture
        sides = torch.exp(torch.rand(count, 2, generator=generator) * 2.5 + 2.5)
        labels = torch.randint(0, classes, (count,), generator=generator)
    else:
        objects = count // IN_A_CLUSTER
        mine = torch.randint(0, objects, (count,), generator=generator)
        centres = (torch.rand(objects, 2, generator=generator) * picture)[mine]
        centres = centres + torch.randn(count, 2, generator=generator) * 6
        sides = 80 * torch.exp(torch.randn(count, 2, generator=generator) * 0.1)
        labels = torch.randint(0, classes, (objects,), generator=generator)[mine]
    scores = torch.rand(count, generator=generator)
    return torch.cat([centres - sides / 2, centres + sides / 2], 1), scores, labels


if __name__ == "__main__":
    main()
