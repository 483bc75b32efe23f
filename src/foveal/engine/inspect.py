"""What is in a data set, what is wrong with it, and whether the anchors reach its objects: `inspect`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from foveal.anchors import Anchors
from foveal.boxes import iou
from foveal.config import Config, preset
from foveal.data.detect import read_data, splits_of
from foveal.data.images import padded_shape, target_size
from foveal.data.loader import EVALUATION, Draw, read_picture
from foveal.data.table import Problem, Table, TableBuilder
from foveal.drawing import contact_sheet, draw_objects
from foveal.engine.anchor_fit import Advice, advise, coverage_summary, fit_anchors
from foveal.engine.contents import Contents, Imbalance, contents, imbalance, total
from foveal.engine.coverage import Coverage, LabelledBoxes, coverage
from foveal.engine.inspection_text import as_text
from foveal.engine.picture_check import pictures_in_two_splits, unreadable_pictures
from foveal.engine.similar_names import similar_names
from foveal.errors import DataError, FovealError, UsageError
from foveal.matching import match_image
from foveal.wording import counted

__all__ = ["Inspection", "coverage_summary", "draw_samples", "fit_anchors", "inspect"]

log = logging.getLogger("foveal")

SHOWN_ANCHORS = 6
"""Anchors drawn for each object, those with the highest IoU: some have fifty."""
SHOWN_SIDE = 640
"""Drawn pictures are enlarged by a whole factor up to about this, or anchors of small ones could not be told apart."""


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: every split counted, reach and imbalance of the anchors in one, all problems.

    notes: what may be wrong and may be meant, in sentences; they are no problems.
    """

    data: str
    format: str
    config: Config
    class_names: tuple[str, ...]
    contents: tuple[Contents, ...]
    coverage: Coverage
    covered_per_split: dict[str, float | None]
    advice: tuple[Advice, ...]
    imbalance: Imbalance
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values under images, boxes, classes, coverage, imbalance, notes and problems."""
        everything = total([part.everything for part in self.contents])
        return {
            "images": {
                "total": sum(part.pictures for part in self.contents),
                "without_objects": sum(part.without_objects for part in self.contents),
                "per_split": {
                    part.split: {
                        "total": part.pictures,
                        "without_objects": part.without_objects,
                        "width": part.width,
                        "height": part.height,
                    }
                    for part in self.contents
                },
            },
            "boxes": {
                **_boxes(asdict(everything)),
                "per_split": {part.split: _boxes(asdict(part.everything)) for part in self.contents},
            },
            "classes": {name: self._class(name) for name in self.class_names},
            "coverage": {
                "training_size": self.config.data.size,
                "anchor_sizes": self.config.anchor_sizes,
                "positive_iou": self.config.assignment.positive_iou,
                "background_iou": self.config.assignment.background_iou,
                **self.coverage.as_dict(),
                "per_split": self.covered_per_split,
                "advice": [advice.as_dict() for advice in self.advice],
            },
            "imbalance": self.imbalance.as_dict(),
            "notes": list(self.notes),
            "problems": [problem.as_dict() for problem in self.problems],
        }

    def table(self, width: int = 100) -> str:
        """All of it for a person, in lines of at most `width` characters."""
        return as_text(self, width)

    def _class(self, name: str) -> dict[str, Any]:
        parts = {part.split: part.per_class[name] for part in self.contents if name in part.per_class}
        summed = asdict(total(list(parts.values())))
        pictures = summed.pop("pictures")
        per_split = {split: part.objects for split, part in parts.items()}
        return {**_boxes(summed), "images": pictures, "per_split": per_split}


def inspect(
    data: str | Path,
    config: Config | None = None,
    split: str | None = None,
    format: str = "auto",
    check_pictures: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Counts and checks the data set at `data`, all splits or one.

    config: whose resolution, anchors and limits to look with (default: the light preset). The anchors are held against
    the training split, where that is read; `anchors.auto` fits them to it first. check_pictures: decode every picture,
    `progress(done, total)` counting. Raises UsageError where there is no data; whatever is wrong with it is in
    `problems`.
    """
    config = config or preset("light")
    format = config.data.format if format == "auto" else format
    tables = _tables(data, split, format)
    problems = [problem for table in tables for problem in table.problems]
    problems += pictures_in_two_splits(tables, compare_bytes=check_pictures)
    if check_pictures:
        problems += unreadable_pictures(tables, config.data.max_pixels, progress)
    names = list(dict.fromkeys(name for table in tables for name in table.class_names))
    if not names and any(map(len, tables)):
        problems.append(Problem(str(data), "", "", "", "no class: the labels name none", "label something first"))
    learnt = next((table for table in tables if table.split == config.data.train_split), tables[0])
    config = _fitted(config, learnt)
    counted_parts = tuple(contents(table, config) for table in tables)
    return Inspection(
        data=str(data),
        format=learnt.format,
        config=config,
        class_names=tuple(names),
        contents=counted_parts,
        coverage=coverage(learnt, config),
        covered_per_split={table.split: _covered(table, config) for table in tables},
        advice=tuple(advise(learnt, config)),
        imbalance=imbalance(learnt, config),
        problems=tuple(dict.fromkeys(problems)),
        notes=tuple(similar_names({name: _objects(name, counted_parts) for name in names})),
    )


def _objects(name: str, parts: Sequence[Contents]) -> int:
    return sum(part.per_class[name].objects for part in parts if name in part.per_class)


def draw_samples(
    data: str | Path | Table, config: Config, count: int, out: str | Path, split: str | None = None
) -> Path:
    """Writes `count` pictures, evenly spaced over a split, with their labels and the anchors matched to these.

    Pictures are as training sees them, at the training resolution, enlarged by a whole factor if that is small. Thin
    white boxes are an object's best positive anchors, at most six; a name with "no anchor" is an object that none
    answers for. `sheet.png` shows all of them. Returns the folder; unreadable pictures are warned of and left out.
    """
    table = data if isinstance(data, Table) else read_data(data, split, config.data.format)
    if config.anchors.auto:
        config = _fitted(config, table if isinstance(data, Table) else _learnt_table(data, table, config))
    if count < 1 or not len(table):
        there = counted(len(table), "picture")
        raise UsageError(f"{table.root}: nothing to draw: {there} in {table.split!r}, {count} wanted")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for row in np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).astype(int)).tolist():
        try:
            picture = _draw(table, row, config)
        except FovealError as error:
            log.warning("%s", error)
            continue
        picture.save(out / f"{table.split}-{row:06d}-{table.path(row).stem}.png")
        drawn.append(picture)
    if drawn:
        contact_sheet(drawn, columns=4).save(out / "sheet.png")
    return out


def _tables(data: str | Path, split: str | None, format: str) -> list[Table]:
    """The split asked for, or all; `trainval` not beside the train and val that it is made of."""
    try:
        names = splits_of(data, format) if split is None else [split]
        if {"train", "val"} <= set(names):
            names = [name for name in names if name != "trainval"]
        return [read_data(data, name, format) for name in names]
    except DataError as error:
        if not error.problems:
            raise
        # Only data.yaml is needed to find anything at all: damaged, it leaves a set that has problems and no pictures.
        nothing = TableBuilder(data, split or "all", "yolo")
        nothing.problems += error.problems
        return [nothing.build(())]


def _learnt_table(data: str | Path, table: Table, config: Config) -> Table:
    """The training split, where there is one, to fit anchors to as training would."""
    wanted = config.data.train_split
    if table.split == wanted or wanted not in splits_of(data, config.data.format):
        return table
    return read_data(data, wanted, config.data.format)


def _fitted(config: Config, table: Table) -> Config:
    """With `anchors.auto` the config as training would have it, else as it is."""
    return config.with_changes({"anchors": fit_anchors(table, config).model_dump()}) if config.anchors.auto else config


def _covered(table: Table, config: Config) -> float | None:
    best_G = LabelledBoxes.of(table).best_iou(config)
    return float((best_G >= config.assignment.positive_iou).double().mean()) if len(best_G) else None


def _draw(table: Table, row: int, config: Config) -> Image.Image:
    original = (int(table.sizes[row, 0]), int(table.sizes[row, 1]))
    size = target_size(original, config.data.size, config.data.longest)
    image, objects = read_picture(table, Draw(row, EVALUATION, size), config)
    anchors_N4 = Anchors.from_config(config).boxes(*padded_shape(size, config.data.pad_multiple))
    object_N = match_image(anchors_N4, objects.boxes, objects.crowd, size, config.assignment)
    factor = max(1, SHOWN_SIDE // max(size))
    labels, best = objects.labels.clone(), []
    for index in (~objects.crowd).nonzero().squeeze(1).tolist():
        mine_P4 = anchors_N4[object_N == index]
        overlap_P = iou(objects.boxes[index : index + 1], mine_P4)[0]
        best.append(mine_P4[overlap_P.argsort(descending=True)[:SHOWN_ANCHORS]])
        if not len(mine_P4):
            labels[index] += len(table.class_names)
    names = [*table.class_names, *(f"{name}: no anchor" for name in table.class_names)]
    shown = replace(objects, boxes=objects.boxes * factor, labels=labels)
    enlarged = np.repeat(np.repeat(image, factor, 0), factor, 1)
    return draw_objects(enlarged, shown, names, torch.cat(best) * factor if best else None)


def _boxes(counts: dict[str, Any]) -> dict[str, Any]:
    counts.pop("pictures", None)
    return {"total": counts.pop("objects"), **counts}
