"""How good detections are: COCO's and VOC's numbers, precision and recall, who is taken for whom.

Three ways in: a run on a data set (`evaluate`), detections of a data table (`evaluate_detections`), two COCO files
(`evaluate_files`). All become flat arrays (`Truth`, `Found`) and are scored by the same few lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from foveal.config import InferenceConfig
from foveal.data.detect import read_data
from foveal.data.table import Table
from foveal.detections import DetectionTable
from foveal.engine.checkpoint import RunInfo, Which, read_run
from foveal.engine.class_names import SharedClasses, match_classes
from foveal.engine.evaluation import Evaluation
from foveal.engine.metrics import Found, Truth
from foveal.engine.predict import Detector, detect_table, load
from foveal.engine.scored_files import read_annotations, read_results
from foveal.engine.scoring import Metric, check_metric, score
from foveal.engine.usable import left_out, usable


def evaluate(
    run: str | PathLike[str],
    data: str | PathLike[str] | Table,
    split: str = "test",
    *,
    threshold: float | None = None,
    metric: Metric = "coco",
    plus_one: bool = False,
    which: Which = "best",
    format: str = "auto",
    skip_bad: bool = False,
    device: str = "auto",
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores a run on one split of a data set.

    Classes are matched by name; what the run or the data does not know is noted. Precision, recall and F1 are taken at
    `threshold`; None is the one that the run recommends for these weights, but never on the split it was found on (the
    run's validation split), nor where the run has none: there it is `inference.show_threshold`.
    format: of the labels, where the folder holds several. skip_bad: leaves out pictures that cannot be read; without it
    they raise ImageError. device: as `load` takes it. progress(done, total) is called after each batch of pictures.
    """
    check_metric(metric, plus_one)
    info = read_run(run)
    return evaluate_detector(
        info,
        load(info.path, device, which),
        data,
        split,
        threshold=threshold,
        metric=metric,
        plus_one=plus_one,
        format=format,
        skip_bad=skip_bad,
        batch_size=batch_size,
        progress=progress,
    )


def evaluate_detector(
    info: RunInfo,
    detector: Detector,
    data: str | PathLike[str] | Table,
    split: str = "test",
    *,
    threshold: float | None = None,
    metric: Metric = "coco",
    plus_one: bool = False,
    format: str = "auto",
    skip_bad: bool = False,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """As `evaluate`, with the run's detector behind any engine."""
    check_metric(metric, plus_one)
    table = data if isinstance(data, Table) else read_data(Path(data), split, format)
    shared = match_classes(info.class_names, table.class_names)
    notes = _notes(shared)
    if not skip_bad:
        notes += left_out(table)
    else:
        skipped: list[str] = []
        table = usable(table, info.config.with_changes({"data.skip_bad": True}), skipped.append)
        notes += tuple(skipped)
    found = detect_table(detector, table, batch_size, info.config.data.workers, progress)
    labels = torch.tensor(shared.data_label_of, dtype=torch.int64)[found.labels]
    found = replace(found, labels=labels)[labels >= 0]
    validation = info.config.data.val_split in (split, table.split)
    if threshold is not None:
        source = "given"
    elif detector.recommended is not None and not validation:
        threshold, source = detector.recommended, "the run's, found on its validation split"
    else:
        threshold, source = info.config.inference.show_threshold, "inference.show_threshold"
    return score(truth_of(table), found_of(table, found), threshold, source, metric, plus_one, notes)


def evaluate_files(
    results: str | PathLike[str],
    annotations: str | PathLike[str],
    *,
    threshold: float | None = None,
    metric: Metric = "coco",
    plus_one: bool = False,
) -> Evaluation:
    """Scores a COCO results file against a COCO annotations file; no pictures, no run.

    Sizes are told apart by the annotations' `area`, as pycocotools does. DataError names the entries and fields that
    are not as they should be.
    """
    known = read_annotations(Path(annotations))
    found, notes = read_results(Path(results), known)
    return score(known.truth, found, *_given_or_default(threshold), metric, plus_one, known.notes + notes)


def evaluate_detections(
    table: Table,
    found: DetectionTable,
    threshold: float | None = None,
    metric: Metric = "coco",
    plus_one: bool = False,
) -> Evaluation:
    """Scores detections against a data table whose classes are numbered alike.

    threshold: for precision, recall, F1 and confusion; None is `inference.show_threshold`'s default.
    Small, medium and large objects are told apart by the areas that the labels state, or else by those of the boxes.
    """
    return score(truth_of(table), found_of(table, found), *_given_or_default(threshold), metric, plus_one)


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
        area=table.areas.numpy().astype(np.float64) if len(table.areas) else xywh[:, 2] * xywh[:, 3],
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


def _place_by_id(table: Table) -> np.ndarray:
    """[I]: each row's place when pictures are ordered by id."""
    place = np.empty(len(table), dtype=np.int64)
    place[np.argsort(table.image_ids.numpy(), kind="stable")] = np.arange(len(table))
    return place


def _xywh(boxes_xyxy: torch.Tensor) -> np.ndarray:
    boxes = boxes_xyxy.numpy().astype(np.float64)
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)


def _notes(shared: SharedClasses) -> tuple[str, ...]:
    notes = []
    if shared.strange:
        notes.append(f"the run does not know {', '.join(shared.strange)}: every such object counts as missed")
    if shared.unused:
        notes.append(f"the data has no class {', '.join(shared.unused)}: what the run detects as such is left out")
    return tuple(notes)


def _given_or_default(threshold: float | None) -> tuple[float, str]:
    return (InferenceConfig().show_threshold, "the default") if threshold is None else (threshold, "given")
