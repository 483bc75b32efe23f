"""Labels from a detector: pictures without labels join the training split, labelled by a run trained on the rest.

What the run is sure of becomes a label. What it doubts becomes a region to ignore, which teaches neither object nor
background. Sure means: at least the score at which F1 of that class is best on the validation split; doubtful: at least
a share of that score. Validation and test splits are taken over as they are.

The new data set is complete: DATA2/train.json and so on in COCO's form, pictures in DATA2/images (hard links where the
file system has them, copies elsewhere), DATA2/bootstrap.json with what was done.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveal.analysis.finite import check_finite
from foveal.analysis.folders import lies_in_a_file
from foveal.config import flat_settings
from foveal.data.detect import read_data, splits_of
from foveal.data.table import Table
from foveal.engine.checkpoint import RunInfo, read_json, read_run, write_text
from foveal.engine.class_names import in_order_of
from foveal.engine.evaluate import evaluate_detector
from foveal.engine.files import predict_files
from foveal.engine.predict import Detector, load
from foveal.engine.sources import Sources
from foveal.engine.train import train
from foveal.engine.usable import usable
from foveal.errors import UsageError
from foveal.wording import counted

log = logging.getLogger("foveal")

# Format and oversampled pictures were those of the labels that the run was trained on; what it fitted stays.
FOR_NEW_LABELS = {"anchors.auto": False, "loss.balance": "none", "data.format": "auto", "data.oversample": ""}

DOUBTFUL = 0.5
"""Share of a class's threshold from which a detection is doubted rather than disbelieved."""


@dataclass(frozen=True)
class Bootstrapped:
    """What was added to the training split. thresholds: for each class the score from which it became a label."""

    path: str
    labelled_pictures: int
    labelled_boxes: int
    added_pictures: int
    added_boxes: int
    doubtful_boxes: int
    pictures_without_boxes: int
    already_labelled: int
    unreadable: int
    thresholds: dict[str, float]

    def __str__(self) -> str:
        sure = "\n".join(f"  {name:<24}{threshold:.3f}" for name, threshold in self.thresholds.items())
        return (
            f"{counted(self.labelled_pictures, 'labelled picture')} with {counted(self.labelled_boxes, 'box')}, and\n"
            f"{self.added_pictures:,} added with {counted(self.added_boxes, 'box')} and "
            f"{counted(self.doubtful_boxes, 'region to ignore', 'regions to ignore')} "
            f"({self.pictures_without_boxes} without any);\n"
            f"passed over: {self.already_labelled} that are labelled already, {self.unreadable} unreadable\n"
            f"a label from a score of\n{sure}"
        )


def bootstrap(
    run: str | os.PathLike[str],
    unlabelled: Sequence[str | os.PathLike[str]],
    into: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    doubtful: float = DOUBTFUL,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Bootstrapped:
    """Writes the labelled data of a run and `unlabelled` pictures (files, folders, patterns) as one data set `into`.

    data: the labelled data; default what the run was trained on. doubtful: 0 .. 1, share of a class's threshold; 1
    makes no regions to ignore. `into` must be new or empty. UsageError where something does not fit or there is no
    picture to add, DataError where labels are faulty, FovealError where the run's outputs are not finite; nothing is
    left then. Where nothing is found in any picture a warning says so.
    """
    out = Path(into)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is there already; give a new folder with --into")
    if lies_in_a_file(out):
        raise UsageError(f"{out}: a part of this path is a file; give a new folder with --into")
    if not 0 < doubtful <= 1:
        raise UsageError(f"doubtful {doubtful:g}: give a share above 0, up to 1, such as .5")
    _refuse_without_pictures(unlabelled)
    info = read_run(run)
    root = Path(data) if data is not None else _data_of(info)
    form = info.config.data.format if data is None else "auto"
    splits = {split: _sound(read_data(root, split=split, format=form), info) for split in splits_of(root, form)}
    training = info.config.data.train_split
    if training not in splits:
        raise UsageError(f"{root}: has no split {training!r}, which the run was trained on; give the data with --data")
    if splits[training].class_names != info.class_names:
        raise UsageError(f"{root}: its classes are not the run's ({', '.join(info.class_names)}); give its own data")
    detector = load(info, device)
    # It cannot be asked afterwards: what is no number is not found.
    detector.model.register_forward_hook(
        lambda _network, _images, outputs: check_finite(
            [*outputs.logits, *outputs.deltas], [info.path] * len(outputs.logits[0])
        )
    )
    thresholds = class_thresholds(info, detector, root, form, progress)
    beside = out.with_name(f".{out.name}.writing-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        lowest = doubtful * min(thresholds.values())
        found = predict_files(
            detector, unlabelled, beside / "predictions", "jsonl", min_score=lowest, progress=progress
        )
        labels = {split: _labelled(table, beside) for split, table in splits.items()}
        known = {table.path(row).resolve() for table in splits.values() for row in range(len(table))}
        table = splits[training]
        counts = dict.fromkeys(("added_pictures", "added_boxes", "doubtful_boxes", "already_labelled", "empty"), 0)
        for line in _lines(found.table):
            _add(line, labels[training], beside, known, _Scores(thresholds, doubtful), table, counts)
        if not counts["added_pictures"]:
            raise UsageError(
                f"there is no picture to add: {counts['already_labelled']} labelled already, {found.num_failed} "
                "unreadable; give pictures that have no labels yet"
            )
        if counts["empty"] == counts["added_pictures"]:
            log.warning(
                "nothing was found in any of the pictures, so that all are added as background; look at the run: "
                "foveal evaluate %s DATA",
                info.path,
            )
        for split, one in labels.items():
            write_text(beside / f"{split}.json", json.dumps(one))
        shutil.rmtree(beside / "predictions")
        done = Bootstrapped(
            path=str(out),
            labelled_pictures=len(table),
            labelled_boxes=table.num_boxes,
            added_pictures=counts["added_pictures"],
            added_boxes=counts["added_boxes"],
            doubtful_boxes=counts["doubtful_boxes"],
            pictures_without_boxes=counts["empty"],
            already_labelled=counts["already_labelled"],
            unreadable=found.num_failed,
            thresholds=thresholds,
        )
        write_text(beside / "bootstrap.json", json.dumps({**asdict(done), "run": str(info.path), "doubtful": doubtful}))
        if out.exists():
            out.rmdir()
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return done


def train_on(
    run: str | os.PathLike[str], data: str | os.PathLike[str], out: str | os.PathLike[str], device: str = "auto"
) -> RunInfo:
    """A new run in `out`, from `run`'s weights and with its settings, on a bootstrapped data set."""
    info = read_run(run)
    return train(data, out, config=info.config, settings=FOR_NEW_LABELS, weights=run, device=device)


def as_command(run: str | os.PathLike[str], data: str | os.PathLike[str], out: str = "RUN2") -> str:
    """The command line that does what `train_on` does."""
    info = read_run(run)
    settings = flat_settings(info.config)
    words = ["foveal", "train", str(data), "--config", str(info.path / "config.yaml"), "--weights", str(run)]
    for name, value in FOR_NEW_LABELS.items():
        if settings[name] == value:
            continue
        group, field = name.split(".")
        words += [f"--{group}.no-{field}"] if value is False else [f"--{name}", str(value)]
    return shlex.join([*words, "--out", out])


def class_thresholds(
    info: RunInfo,
    detector: Detector,
    data: Path,
    format: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """The score from which each class is believed: its best F1 on the validation split.

    A class that is never found there, or data without that split, has the run's own threshold, or
    `inference.show_threshold`.
    """
    usual = info.config.inference.show_threshold if info.threshold is None else info.threshold
    split = info.config.data.val_split
    if split not in splits_of(data, format):
        return dict.fromkeys(info.class_names, usual)
    skip_bad = info.config.data.skip_bad
    per_class = evaluate_detector(
        info, detector, data, split, format=format, skip_bad=skip_bad, progress=progress
    ).per_class
    found = {name: one.recommended_threshold for name, one in per_class.items()}
    return {name: usual if (best := found.get(name)) is None else best for name in info.class_names}


@dataclass(frozen=True)
class _Scores:
    """From which score a class is believed, and from which share of it doubted."""

    sure: dict[str, float]
    doubtful: float


def _refuse_without_pictures(inputs: Sequence[str | os.PathLike[str]]) -> None:
    """A list on standard input can be read once only, so it is looked at when its turn comes."""
    if "-" in [os.fspath(one) for one in inputs]:
        return
    faults = []
    for source in Sources(inputs, max_pixels=sys.maxsize):
        if not source.error:
            return
        faults.append(source.error)
    raise UsageError("\n".join(faults))


def _sound(table: Table, info: RunInfo) -> Table:
    """The table in the run's order of classes, if all of it can be used; with `data.skip_bad` without its faults."""
    return usable(in_order_of(table, info.class_names), info.config, lambda said: log.warning("%s", said))


def _data_of(info: RunInfo) -> Path:
    """Where the run's data.json says that its data lies."""
    if not (info.path / "data.json").exists():
        raise UsageError(f"{info.path}: was imported, so it has no data of its own; say where yours is with --data")
    root = Path(str(read_json(info.path / "data.json").get("root", "")))
    if not root.exists():
        raise UsageError(f"{info.path}: its data was at {root}, which is gone; say where it is with --data")
    return root


def _labelled(table: Table, out: Path) -> dict[str, Any]:
    """A split as COCO labels; its pictures are linked into `out`."""
    labels: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in zip(table.category_ids, table.class_names, strict=True)],
    }
    for row in range(len(table)):
        name = f"labelled/{table.relative_path(row)}"
        _link(table.path(row), out / "images" / name)
        height, width = table.sizes[row].tolist()
        image = _add_image(labels, name, (height, width))
        objects = table.objects(row)
        for box, label, crowd in zip(
            objects.boxes.tolist(), objects.labels.tolist(), objects.crowd.tolist(), strict=True
        ):
            _add_box(labels, image, box, table.category_ids[label], crowd)
    return labels


def _add(
    line: dict[str, Any],
    labels: dict[str, Any],
    out: Path,
    known: set[Path],
    scores: _Scores,
    table: Table,
    counts: dict[str, int],
) -> None:
    """One picture with what was found in it; one that is labelled already, or cannot be read, is passed over."""
    if "error" in line:
        return
    path = Path(line["image"])
    if path.resolve() in known:
        counts["already_labelled"] += 1
        return
    if not path.is_file():
        raise UsageError(f"{path}: is a frame of a video; take pictures out of it first, labels need files")
    name = f"added/{counts['added_pictures']:06d}-{path.name}"
    _link(path, out / "images" / name)
    image = _add_image(labels, name, (line["height"], line["width"]))
    counts["added_pictures"] += 1
    before = len(labels["annotations"])
    for found in line["detections"]:
        sure = scores.sure[found["class"]]
        if found["score"] < scores.doubtful * sure:
            continue
        believed = found["score"] >= sure
        label = table.class_names.index(found["class"])
        _add_box(labels, image, found["box"], table.category_ids[label], crowd=not believed)
        counts["added_boxes" if believed else "doubtful_boxes"] += 1
    counts["empty"] += len(labels["annotations"]) == before


def _add_image(labels: dict[str, Any], name: str, size: tuple[int, int]) -> int:
    image = len(labels["images"]) + 1
    labels["images"].append({"id": image, "file_name": name, "width": size[1], "height": size[0]})
    return image


def _add_box(labels: dict[str, Any], image: int, box: Sequence[float], category: int, crowd: bool) -> None:
    x1, y1, x2, y2 = box
    labels["annotations"].append(
        {
            "id": len(labels["annotations"]) + 1,
            "image_id": image,
            "category_id": category,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(crowd),
        }
    )


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
