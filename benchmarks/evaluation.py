"""How long is the evaluation of 5000 pictures with 100 detections each, and what memory does it take?

    python -m benchmarks.evaluation

Objects and detections are drawn at random in COCO's proportions (80 classes, 7.3 objects a picture, 1 % crowds) and
written as two JSON files; each evaluator then reads and scores them in a process of its own. Ours gives more than the
12 numbers: classes, thresholds and confusion are in its time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.common import write_rows

PICTURES, DETECTIONS, CLASSES = 5000, 100, 80
WIDTH, HEIGHT = 640.0, 480.0
RUNS = {"foveal": 5, "pycocotools": 1}
LIBRARIES = {"foveal": "hotcoco", "pycocotools": "pycocotools"}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_case(Path(folder))
        for name, runs in RUNS.items():
            measured = [in_a_process(EVALUATORS[name], folder) for _ in range(runs)]
            seconds = sorted(row["seconds"] for row in measured)
            rows.append(
                {
                    "evaluator": name,
                    "library": f"{LIBRARIES[name]} {version(LIBRARIES[name])}",
                    "pictures": PICTURES,
                    "detections": PICTURES * DETECTIONS,
                    "median_s": round(float(np.median(seconds)), 2),
                    "min_s": round(seconds[0], 2),
                    "max_s": round(seconds[-1], 2),
                    "runs": runs,
                    "peak_MB": round(max(row["peak_MB"] for row in measured)),
                    "AP": round(measured[0]["AP"], 9),
                }
            )
    write_rows("evaluation", rows)


def with_foveal(folder: str) -> float:
    from foveal.engine.evaluate import evaluate_files

    return evaluate_files(Path(folder) / "detections.json", Path(folder) / "truth.json").ap or 0.0


def with_pycocotools(folder: str) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(f"{folder}/truth.json")
        evaluator = COCOeval(truth, truth.loadRes(f"{folder}/detections.json"), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


EVALUATORS: dict[str, Callable[[str], float]] = {"foveal": with_foveal, "pycocotools": with_pycocotools}


def in_a_process(evaluator: Callable[[str], float], folder: str) -> dict[str, float]:
    """Seconds, peak resident memory beyond the imports, and AP of one evaluation in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (evaluator, folder))


def _measured(evaluator: Callable[[str], float], folder: str) -> dict[str, float]:
    importlib.import_module("foveal.engine.evaluate")
    importlib.import_module("pycocotools.cocoeval")

    before = _peak_mb()
    began = time.perf_counter()
    ap = evaluator(folder)
    return {"seconds": time.perf_counter() - began, "peak_MB": _peak_mb() - before, "AP": ap}


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def write_case(folder: Path, seed: int = 0) -> None:
    """Two detections near every object (10 % of a wrong class), the rest anywhere with low scores."""
    draw = np.random.default_rng(seed)
    counts = draw.poisson(7.3, PICTURES)
    image = np.repeat(np.arange(PICTURES), counts)
    near = np.repeat(np.arange(len(image)), 2)
    rank = np.arange(len(near)) - np.repeat(2 * (np.cumsum(counts) - counts), 2 * counts)
    near = near[rank < DETECTIONS]
    labels = draw.integers(CLASSES, size=(PICTURES, 3))[image, draw.integers(3, size=len(image))]
    boxes = _boxes(draw, len(image), 5.6)

    spread = draw.choice([0.04, 0.15], len(near))[:, None]
    moved = boxes[near] + np.concatenate((boxes[near, 2:],) * 2, axis=1) * draw.normal(size=(len(near), 4)) * spread
    moved[:, 2:] = boxes[near, 2:] * np.exp(draw.normal(size=(len(near), 2)) * spread)
    wrong = draw.random(len(near)) < 0.1
    near_labels = np.where(wrong, draw.integers(CLASSES, size=len(near)), labels[near])
    rest = np.repeat(np.arange(PICTURES), DETECTIONS - np.bincount(image[near], minlength=PICTURES))
    rest_boxes, rest_labels = _boxes(draw, len(rest), 5.2), draw.integers(CLASSES, size=len(rest))

    truth = {
        "images": [{"id": row + 1, "width": int(WIDTH), "height": int(HEIGHT)} for row in range(PICTURES)],
        "categories": [{"id": label + 1, "name": f"class {label}"} for label in range(CLASSES)],
        "annotations": [
            entry | {"id": place + 1, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": int(crowd)}
            for place, (entry, crowd) in enumerate(
                zip(_entries(image, labels, boxes), draw.random(len(image)) < 0.01, strict=True)
            )
        ],
    }
    found = [
        entry | {"score": round(score, 5)}
        for these, scores in (
            (_entries(image[near], near_labels, moved), draw.beta(4, 2, len(near))),
            (_entries(rest, rest_labels, rest_boxes), draw.beta(1, 5, len(rest))),
        )
        for entry, score in zip(these, scores.tolist(), strict=True)
    ]
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "detections.json").write_text(json.dumps(found))


def _boxes(draw: np.random.Generator, num: int, log_longest: float) -> np.ndarray:
    """[num, 4] xywh inside the picture, sides log-uniform from 9 px."""
    sides = np.minimum(np.exp(draw.uniform(2.2, log_longest, (num, 2))), (WIDTH - 2, HEIGHT - 2))
    return np.concatenate((draw.random((num, 2)) * ((WIDTH, HEIGHT) - sides), sides), axis=1)


def _entries(image: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> list[dict]:
    columns = zip((image + 1).tolist(), (labels + 1).tolist(), boxes.round(2).tolist(), strict=True)
    return [{"image_id": i, "category_id": c, "bbox": b} for i, c, b in columns]


if __name__ == "__main__":
    main()
