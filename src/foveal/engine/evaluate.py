"""How good detections are: COCO's and VOC's numbers, precision and recall, who is taken for whom.

Three ways in: a run on a data set (`evaluate`), detections of a data table (`evaluate_detections`), two COCO files
(`evaluate_files`). All become flat arrays (`Truth`, `Found`) and are scored by the same few lines.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

from foveal.config import InferenceConfig
from foveal.data.table import Table
from foveal.detections import DetectionTable
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


def evaluate_detections(
    table: Table,
    found: DetectionTable,
    threshold: float | None = None,
    metric: Metric = "coco",
    plus_one: bool = False,
) -> Evaluation:
    """Scores detections against a data table whose classes are numbered alike.

    threshold: for precision, recall, F1 and confusion; None is `inference.show_threshold`'s default.
    Small, medium and large objects are told apart by the area of their boxes.
    """
    source = "given" if threshold is not None else "default"
    threshold = InferenceConfig().show_threshold if threshold is None else threshold
    return score(truth_of(table), found_of(table, found), threshold, source, metric, plus_one)


def recommended_threshold(evaluation: Evaluation) -> float | None:
    """The score from which to show detections: best F1 at IoU .5 over all classes; None if nothing was found."""
    return evaluation.recommended_threshold


def truth_of(table: Table) -> Truth:
    """The objects of a table; pictures are numbered in the order of their ids, as COCO's own code does."""
    rows = np.repeat(np.arange(len(table)), np.diff(table.first_object.numpy()))
    xywh = _xywh(table.boxes)
    return Truth(
        class_names=table.class_names,
        num_images=len(table),
        image=_place_by_id(table)[rows],
        label=table.labels.numpy().astype(np.int64),
        xywh=xywh,
        area=xywh[:, 2] * xywh[:, 3],
        ignored=table.crowd.numpy().astype(bool),
    )


def found_of(table: Table, found: DetectionTable) -> Found:
    """The detections of a table's pictures."""
    rows, labels = found.rows.numpy(), found.labels.numpy()
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(table)):
        raise ValueError(f"detections of rows {rows.min()} .. {rows.max()}, but the table has {len(table)} pictures")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(table.class_names)):
        raise ValueError(f"labels {labels.min()} .. {labels.max()}, but the table has {len(table.class_names)} classes")
    return Found(_place_by_id(table)[rows], labels, _xywh(found.boxes), found.scores.numpy().astype(np.float64))


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
    if metric not in get_args(Metric):
        raise UsageError(f"there is no metric {metric!r}; use one of {', '.join(get_args(Metric))}")
    if plus_one and metric == "coco":
        raise UsageError("COCO has no +1 pixel convention; use --plus-one with --metric voc07 or voc12")
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


def _place_by_id(table: Table) -> np.ndarray:
    """[I]: each row's place when pictures are ordered by id."""
    place = np.empty(len(table), dtype=np.int64)
    place[np.argsort(table.image_ids.numpy(), kind="stable")] = np.arange(len(table))
    return place


def _xywh(boxes_xyxy: torch.Tensor) -> np.ndarray:
    boxes = boxes_xyxy.numpy().astype(np.float64)
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
