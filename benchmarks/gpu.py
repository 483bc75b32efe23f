"""What a GPU gives: `python -m benchmarks.gpu`, about ten minutes on one card with 60 GB of memory or more.

The class loss against copying the same bytes, matching, decoding, the rate of bfloat16 products, and the whole training
step of a ResNet-50 on 16 pictures of 800 x 1333, against torchvision's where that can be imported. Writes
results/gpu.csv; without a GPU it measures nothing.

`--smoke` runs the code of every row on a CPU at tiny sizes and writes nothing. `--unmeasured` does too, and writes the
rows with that word for their numbers: what stands in the CSV until somebody has a card.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.gpu_card import ANCHORS, ASSIGNMENT, Card, Row
from benchmarks.gpu_step import rate_rows, step_rows
from foveal import grid_matching, triton_matching
from foveal.config import InferenceConfig, LossConfig
from foveal.decoding import decode
from foveal.losses import triton_loss
from foveal.losses.total import detector_loss
from foveal.losses.triton_loss import anchor_labels, level_loss
from foveal.matching import Match, match
from foveal.model.retinanet import Outputs

UNMEASURED = "unmeasured"
LAUNCHES = [(1024, 4), (2048, 4), (2048, 8), (4096, 8)]
"""(BLOCK, WARPS) of the loss that are tried; the first timings say which `triton_loss.py` should have."""
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--smoke", action="store_true", help="run every row's code on a CPU, tiny; write nothing")
    arguments.add_argument("--unmeasured", action="store_true", help="write the rows without numbers; needs no GPU")
    chosen = arguments.parse_args()
    if not (chosen.smoke or chosen.unmeasured or torch.cuda.is_available()):
        print("There is no CUDA GPU here, so nothing was measured and nothing was written.", file=sys.stderr)
        return 1
    tiny = chosen.smoke or chosen.unmeasured
    if tiny:
        os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton  # noqa: F401
    except ImportError:
        print("The kernels need Triton: pip install triton", file=sys.stderr)
        return 1
    rows = list(all_rows(Card.tiny() if tiny else Card()))
    if chosen.unmeasured:
        write_unmeasured(rows)
    elif chosen.smoke:
        for row in rows:
            print(*row.values(), sep="  ")
    else:
        common.write_rows("gpu", rows)
    return 0


def write_unmeasured(rows: Sequence[Row]) -> None:
    """What each row is, and the mark it is held to; no machine, since none has measured it."""
    with (common.RESULTS / "gpu.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["part", "case", "path", "median_ms", "mark"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            told = {name: row[name] for name in ("part", "case", "path")}
            writer.writerow(told | {"median_ms": UNMEASURED, "mark": row.get("mark", "")})


def all_rows(card: Card) -> Iterator[Row]:
    yield from loss_rows(card)
    yield from matching_rows(card)
    yield from decoding_rows(card)
    rates = list(rate_rows(card))
    yield from rates
    yield from step_rows(card, max(float(row["rate"]) for row in rates))


def loss_rows(card: Card) -> Iterator[Row]:
    """The largest level's class loss, forward and backward, as the share of what copying the logits reaches.

    The share is of one read and one write, whatever a path does.
    """
    batch = card.pictures(card.objects[0])
    matched = match(ANCHORS, batch, ASSIGNMENT)
    labels_BN = anchor_labels(matched, batch.labels, card.classes)
    labels_BX = labels_BN[:, : ANCHORS.level_counts(*card.shape)[0]]
    scale_B = torch.ones(card.batch, device=card.device)
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        logits = card.maps(9 * card.classes, -4.6, dtype)[0]
        gigabytes = 2 * logits.nbytes / 1e9
        timing = card.timed(partial(torch.empty_like(logits).copy_, logits))
        copied = gigabytes / timing.median_s
        yield _loss_row(f"{name} channels last", "copy of the logits", timing.per(1), copied, copied)
        for layout, memory_format in LAYOUTS.items():
            own = logits.contiguous(memory_format=memory_format).requires_grad_()
            for block, warps in LAUNCHES if layout == "channels last" else LAUNCHES[1:2]:
                for known, expected in (("gradient with the value", scale_B), ("gradient in backward", None)):
                    with patch.multiple(triton_loss, BLOCK=block, WARPS=warps):
                        work = partial(_loss_and_gradient, own, labels_BX, scale_B, expected)
                        timing = card.timed(work)
                        peak = card.peak_mb(work)
                    path = f"kernel, {block} logits by {warps} warps, {known}"
                    row = _loss_row(f"{name} {layout}", path, timing.per(1), gigabytes / timing.median_s, copied)
                    yield row | {"peak_MB": peak, "mark": "80 % of copy" if known.endswith("value") else ""}
    yield whole_loss_row(card, matched, batch)


def _loss_and_gradient(logits: Tensor, labels_BX: Tensor, scale_B: Tensor, expected_B: Tensor | None) -> Tensor:
    sums = level_loss(logits, labels_BX, LossConfig(), expected_B)
    return torch.autograd.grad(sums, logits, scale_B.double())[0]


def _loss_row(case: str, path: str, times: Row, rate: float, copied: float) -> Row:
    share = round(100 * rate / copied, 1)
    told = {"part": "class loss", "case": case, "path": path}
    return {**told, **times, "rate": round(rate), "unit": "GB/s", "percent": share}


def whole_loss_row(card: Card, matched: Match, batch: object) -> Row:
    """Both losses of all levels, forward and backward, as training calls them."""
    logits = [x.requires_grad_() for x in card.maps(9 * card.classes, -4.6, card.low_precision)]
    deltas = [x.requires_grad_() for x in card.maps(9 * 4, 0, card.low_precision)]

    def work() -> None:
        sums = detector_loss(logits, deltas, ANCHORS, matched, batch, LossConfig())  # type: ignore[arg-type]
        torch.autograd.grad(sums.classification.sum() + sums.box.sum(), [*logits, *deltas])

    timing = card.timed(work)
    told = {"part": "both losses", "case": "bf16 channels last", "path": "detector_loss, forward and backward"}
    return {**told, **timing.per(1), "peak_MB": card.peak_mb(work)}


def matching_rows(card: Card) -> Iterator[Row]:
    """A batch by the kernels and by the tensor path; they must agree."""
    for number, objects in zip(("few", "many", "very many"), card.objects, strict=True):
        batch = card.pictures(objects)
        paths = {"kernels": triton_matching.assign, "tensors": grid_matching.assign}
        found = {name: path(ANCHORS, batch, ASSIGNMENT) for name, path in paths.items()}
        for one, other in zip(*found.values(), strict=True):
            assert torch.equal(one, other), f"the paths differ at {objects} objects a picture"
        for name, path in paths.items():
            work = partial(path, ANCHORS, batch, ASSIGNMENT)
            told = {"part": "matching", "case": f"{number} objects", "path": name, "objects": objects}
            yield {**told, **card.timed(work).per(1), "peak_MB": card.peak_mb(work)}


def decoding_rows(card: Card) -> Iterator[Row]:
    """From outputs to detections, NMS included, where few scores reach the threshold, and where all do."""
    sizes = torch.tensor([card.shape] * card.batch, device=card.device)
    for case, mean in (("typical", -6.0), ("all over the threshold", 3.0)):
        logits = card.maps(9 * card.classes, mean, card.low_precision)
        deltas = [x * 0.1 for x in card.maps(9 * 4, 0, card.low_precision)]
        for pictures, name in ((1, "one picture"), (card.batch, "a batch")):
            outputs = Outputs(_first(logits, pictures), _first(deltas, pictures))
            work = partial(decode, outputs, ANCHORS, card.shape, sizes[:pictures], InferenceConfig())
            told = {"part": "decoding and NMS", "case": f"{case}, {name}", "path": "decode"}
            yield {**told, **card.timed(work).per(1), "peak_MB": card.peak_mb(work)}


def _first(maps: list[Tensor], pictures: int) -> tuple[Tensor, ...]:
    return tuple(x[:pictures] for x in maps)


if __name__ == "__main__":
    sys.exit(main())
