"""How long a picture takes, and how much arithmetic that is.

Time: pixels in, detections out, one picture a batch, with the weights of the run, since what the network finds is what
decoding has to do. Reading and resizing the picture do not count. Arithmetic: convolutions of the forward pass, a
multiplication and an addition being two operations.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import machine, measure
from foveal.config import Config
from foveal.data.detect import read_data
from foveal.engine.checkpoint import read_json, write_json
from foveal.engine.predict import Detector, Prepared, load
from foveal.model.retinanet import build_model
from studies.runs import Finished
from studies.study import Further

PICTURES = 10
TIMES = 3
"""How often each picture is timed, after once that does not count."""


def speed(run: Finished) -> Further:
    """{"ms": ..., "GFLOP": ..., "timed_on": device}, kept in the run's folder and taken anew elsewhere.

    Empty for a run that diverged: it has no weights to find anything with.
    """
    if run.outcome.diverged:
        return {}
    detector = load(run.folder, run.device, "last")
    kept, where = run.folder / f"speed-{detector.device.type}.json", f"{_device(detector.device)}, {machine()}"
    if not kept.exists() or read_json(kept)["where"] != where:
        table = read_data(run.data, run.split)
        pictures = [detector.prepare(table.path(row)) for row in range(min(PICTURES, len(table)))]
        write_json(kept, {"where": where, "columns": _columns(detector, pictures)})
    return read_json(kept)["columns"]


def gflop(config: Config, num_classes: int, shape: tuple[int, int]) -> float:
    """1e9 operations of the network for one picture of (H, W) pixels; nothing is computed."""
    with torch.device("meta"):
        model = build_model(config, num_classes, pretrained=False).eval()
        images = torch.empty(1, 3, *shape, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() / 1e9


def _columns(detector: Detector, pictures: list[Prepared]) -> Further:
    """The medians over the pictures; of each picture's time the median too."""
    work = {picture.shape: gflop(detector.config, len(detector.class_names), picture.shape) for picture in pictures}
    times = [measure(_finding(detector, picture), TIMES).median_s for picture in pictures]
    return {
        "ms": round(1000 * statistics.median(times), 3),
        "GFLOP": round(statistics.median(work[picture.shape] for picture in pictures), 3),
        "timed_on": _device(detector.device),
    }


def _finding(detector: Detector, picture: Prepared) -> Callable[[], object]:
    # The detections come back to the CPU: a GPU has finished when this returns.
    return lambda: detector.predict_prepared([picture], detector.config.inference.score_threshold)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'' if threads == 1 else 's'}"
