"""What does decoding cost, plainly and by the best class of each anchor? `python -m benchmarks.decoding`

One picture, 91 classes, the paper's anchors, the 1000 best pairs of a level, 100 detections. Four kinds of logits:

    typical     almost all near the prior, .05 in a few thousand pairs, and 200 objects; scores from .05
    noisy       logits twice as spread: one pair in twenty is above .05
    no lowest   the typical logits, every pair a candidate
    worst       an untrained head: all pairs near .5

Both paths take turns, so that whatever else the machine does falls on both. Memory is the process's at its peak, above
the outputs and the anchors. `layout` is how the last convolution left its output in memory.
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
from foveal.anchors import Anchors
from foveal.config import Config, InferenceConfig
from foveal.decoding import decode, decode_plainly
from foveal.model.retinanet import Outputs

PATHS = {"plain": decode_plainly, "fast": decode}
SIZES = {(608, 608): (608, 608), (800, 1088): (800, 1066)}
"""Network inputs, and the pictures inside their padding."""
KINDS = {"typical": 0.05, "noisy": 0.05, "no lowest": 0.0, "worst": 0.05}
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
CLASSES = 91


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=9)
    runs = arguments.parse_args().runs
    cases = [(shape, kind, layout) for shape in SIZES for kind in KINDS for layout in LAYOUTS]
    measured = [pair for case in cases for pair in compare(*case, runs)]
    give_freed_memory_back()
    write_rows("decoding", [row | {"peak_MB": round(whole_peak_bytes(work) / 1e6, 1)} for row, work in measured])


def compare(shape: tuple[int, int], kind: str, layout: str, runs: int) -> list[tuple[dict[str, Any], partial[Any]]]:
    """A row for each path, with its work, after a look that they give the same."""
    anchors, outputs = Anchors.from_config(Config()), outputs_of(shape, kind, LAYOUTS[layout])
    arguments = (anchors, shape, torch.tensor([SIZES[shape]]), InferenceConfig(), KINDS[kind])
    works = {name: partial(path, outputs, *arguments) for name, path in PATHS.items()}
    (plain,), (fast,) = (work() for work in works.values())
    assert all(torch.equal(one, other) for one, other in zip(plain, fast, strict=True))
    timings = in_turns(works, runs)
    return [
        (
            {
                "height": shape[0],
                "width": shape[1],
                "logits": kind,
                "layout": layout,
                "logits_MB": round(sum(level.nbytes for level in outputs.logits) / 1e6, 1),
                "found": len(fast[0]),
                "path": name,
                "threads": torch.get_num_threads(),
                **timings[name].per(1),
                "times_faster": round(timings["plain"].median_s / timings[name].median_s, 1),
            },
            work,
        )
        for name, work in works.items()
    ]


def outputs_of(shape: tuple[int, int], kind: str, layout: torch.memory_format) -> Outputs:
    """The outputs of a head for one picture."""
    anchors, generator = Anchors.from_config(Config()), torch.Generator().manual_seed(1)
    counts = anchors.level_counts(*shape)
    logits_NK = torch.randn(sum(counts), CLASSES, generator=generator)
    match kind:
        case "worst":
            logits_NK *= 0.1
        case "noisy":
            logits_NK -= 4.6
        case _:
            logits_NK = logits_NK * 0.5 - 4.6
            objects = torch.randint(0, sum(counts), (200,), generator=generator)
            labels = torch.randint(0, CLASSES, (200,), generator=generator)
            logits_NK[objects, labels] = torch.rand(200, generator=generator) * 5 - 1
    deltas_N4 = torch.randn(sum(counts), 4, generator=generator) * 0.1

    def as_left(rows_NC: Tensor) -> tuple[Tensor, ...]:
        cells = zip(rows_NC.split(counts), anchors.feature_shapes(*shape), strict=True)
        return tuple(
            part.view(1, *size, -1).permute(0, 3, 1, 2).contiguous(memory_format=layout) for part, size in cells
        )

    return Outputs(as_left(logits_NK), as_left(deltas_N4))


if __name__ == "__main__":
    main()
