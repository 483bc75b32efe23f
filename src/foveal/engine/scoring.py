"""Everything an evaluation says, from flat arrays: COCO's or VOC's numbers, precision and recall, confusion.

Letters: D detections, K classes.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from foveal.engine.coco_metric import coco_numbers
from foveal.engine.evaluation import NUMBERS, ClassEvaluation, Evaluation
from foveal.engine.metrics import (
    LEFT_OUT,
    TRUE,
    Curve,
    Found,
    Matches,
    Truth,
    average_precision,
    confusion_matrix,
    match,
)
from foveal.errors import UsageError

Metric = Literal["coco", "voc07", "voc12"]

CURVE_THRESHOLDS = tuple(round(step / 100, 2) for step in range(101))


def check_metric(metric: str, plus_one: bool) -> None:
    """UsageError for a metric that does not exist, or that has no +1 pixel convention."""
    if metric not in get_args(Metric):
        raise UsageError(f"there is no metric {metric!r}; use one of {', '.join(get_args(Metric))}")
    if plus_one and metric == "coco":
        raise UsageError("COCO has no +1 pixel convention; use --plus-one with --metric voc07 or voc12")


def score(
    truth: Truth,
    found: Found,
    threshold: float,
    threshold_from: str,
    metric: Metric = "coco",
    plus_one: bool = False,
    notes: tuple[str, ...] = (),
) -> Evaluation:
    """Everything an evaluation says, from flat arrays."""
    check_metric(metric, plus_one)
    matches = match(truth, found, 0.5, "coco" if metric == "coco" else "voc", plus_one=plus_one)
    objects_K = np.bincount(truth.label[~truth.ignored], minlength=len(truth.class_names))
    if metric == "coco":
        coco = coco_numbers(truth, found)
        numbers, ap, ap50 = coco.numbers, coco.class_ap, coco.class_ap50
    else:
        numbers, ap50 = _voc_numbers(truth, found, matches, objects_K, metric, plus_one)
        ap = ap50
    overall = Curve.of(found.score, matches.outcome, int(objects_K.sum()))
    best = overall.best()
    return Evaluation(
        metric=metric,
        numbers=numbers,
        per_class=_per_class(truth, found, matches, objects_K, ap, ap50, threshold),
        threshold=threshold,
        threshold_from=threshold_from,
        counts=overall.at(threshold),
        recommended_threshold=best,
        recommended_f1=overall.at(best).f1 if best is not None else None,
        curve={at: overall.at(at) for at in CURVE_THRESHOLDS},
        confusion=confusion_matrix(truth, found.above(threshold), plus_one=plus_one),
        images=truth.num_images,
        objects=int(objects_K.sum()),
        ignored=int(truth.ignored.sum()),
        detections=len(found.score),
        notes=notes,
    )


def _per_class(
    truth: Truth,
    found: Found,
    matches: Matches,
    objects_K: np.ndarray,
    ap: list[float | None],
    ap50: list[float | None],
    threshold: float,
) -> dict[str, ClassEvaluation]:
    images_K = _images_of_classes(truth)
    per_class = {}
    for label, (name, members) in enumerate(zip(truth.class_names, _members(found.label, len(ap)), strict=True)):
        curve = Curve.of(found.score[members], matches.outcome[members], int(objects_K[label]))
        per_class[name] = ClassEvaluation(
            ap=ap[label],
            ap50=ap50[label],
            images=int(images_K[label]),
            objects=int(objects_K[label]),
            counts=curve.at(threshold),
            recommended_threshold=curve.best(),
        )
    return per_class


def _voc_numbers(
    truth: Truth, found: Found, matches: Matches, objects_K: np.ndarray, metric: Metric, plus_one: bool
) -> tuple[dict[str, float | None], list[float | None]]:
    """AP of IoU .5 and .75 as VOC has it, and the former of every class."""
    stricter = match(truth, found, 0.75, "voc", plus_one=plus_one)
    ap50 = voc_class_ap(found, matches, objects_K, metric)
    ap75 = voc_class_ap(found, stricter, objects_K, metric)
    known = {"AP": _mean(ap50), "AP50": _mean(ap50), "AP75": _mean(ap75)}
    return {name: known.get(name) for name in NUMBERS}, ap50


def voc_class_ap(found: Found, matches: Matches, objects_K: np.ndarray, metric: Metric) -> list[float | None]:
    """VOC's average precision of every class; None for one without objects."""
    per_class = []
    for members, objects in zip(_members(found.label, len(objects_K)), objects_K.tolist(), strict=True):
        members = members[matches.outcome[members] != LEFT_OUT]
        best_first = members[np.argsort(-found.score[members], kind="stable")]
        right = matches.outcome[best_first] == TRUE
        per_class.append(average_precision(right, objects, "11" if metric == "voc07" else "every"))
    return per_class


def _members(label_D: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The detections of each class, in their order."""
    order = np.argsort(label_D, kind="stable")
    return np.split(order, np.searchsorted(label_D[order], np.arange(1, num_classes))) if num_classes else []


def _images_of_classes(truth: Truth) -> np.ndarray:
    """[K]: in how many pictures a class has objects."""
    K = len(truth.class_names)
    seen = np.unique(truth.image[~truth.ignored] * max(1, K) + truth.label[~truth.ignored])
    return np.bincount(seen % max(1, K), minlength=K)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
