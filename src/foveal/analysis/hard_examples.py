"""What a run finds hard in a data set: pictures, objects and background regions by their loss, and suspicious labels.

One pass over a split, as it is, without augmentation. The loss is the run's own, before any mining. A hard object and a
wrong label look alike in the loss; `analysis.label_errors` tells them apart.

Letters: B images, N anchors of an image, G objects, P positive anchors.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from foveal.analysis.finite import check_finite
from foveal.analysis.label_errors import Suspect, found_classes, suspects
from foveal.boxes import clip
from foveal.data.detect import read_data
from foveal.data.loader import eval_batches
from foveal.data.table import Table
from foveal.decoding import Found, by_anchor, decode
from foveal.detections import Batch, Objects
from foveal.engine.checkpoint import read_run
from foveal.engine.class_names import in_order_of
from foveal.engine.predict import Detector, load
from foveal.engine.usable import usable
from foveal.errors import UsageError
from foveal.losses.mining import hardest_apart
from foveal.losses.total import anchor_losses
from foveal.matching import match

log = logging.getLogger("foveal")

REGIONS = 3
"""Background regions of a picture that are looked at: its hardest, apart from one another."""
REGION_NMS = 0.3
FAINTEST = 0.01
"""Score from which detections are evidence about labels."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class HardPicture:
    """loss: classification and box loss, each divided by the picture's assigned anchors (at least 1)."""

    row: int
    picture: str
    loss: float
    objects: int
    suspicion: float
    """The highest of its labels; 0 if none is suspicious."""


@dataclass(frozen=True)
class HardObject:
    """loss: the mean over the anchors that answer for it; NaN where none does. box in the picture's pixels."""

    row: int
    picture: str
    loss: float
    box: Box
    label: str
    anchors: int


@dataclass(frozen=True)
class HardBackground:
    """An anchor that should see nothing. loss: its own, over all classes. predicted: the class it leans to."""

    row: int
    picture: str
    loss: float
    box: Box
    predicted: str
    score: float


@dataclass(frozen=True)
class DoubtfulLabel:
    """A `Suspect` with its picture and names, boxes in the picture's own pixels. loss: of the object, NaN if none."""

    row: int
    picture: str
    suspect: Suspect
    labelled: str
    predicted: str
    loss: float


@dataclass(frozen=True)
class Mined:
    """The four lists, hardest or most suspicious first; boxes in the pictures' own pixels.

    never_found: classes that have labels here, none of which is found: of them the run's doubts say nothing.
    """

    table: Table
    class_names: tuple[str, ...]
    pictures: list[HardPicture]
    objects: list[HardObject]
    background: list[HardBackground]
    labels: list[DoubtfulLabel]
    never_found: tuple[str, ...] = ()


def mine(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str],
    split: str = "train",
    *,
    device: str = "auto",
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Mined:
    """Ranks a split of a data set by what the run finds hard and by what it disbelieves.

    The classes of the data must be the run's, in any order. progress(done, total) is called after each batch of
    pictures. Raises UsageError where the split or the classes do not fit, DataError for labels that training would
    refuse, FovealError where the outputs for a picture are not finite.
    """
    detector = load(run, device)
    table = in_order_of(read_data(Path(data), split=split), detector.class_names)
    if not len(table):
        raise UsageError(f"{data}: its split {split!r} has no pictures; name another with --split")
    if table.class_names != detector.class_names:
        raise UsageError(
            f"{data}: its classes are {', '.join(table.class_names)}, the run {read_run(run).path} knows "
            f"{', '.join(detector.class_names)}; mine the data that the run was trained on, or data with its classes"
        )
    table = usable(table, detector.config, lambda said: log.warning("%s", said))
    return mine_table(detector, table, batch_size, progress)


@torch.no_grad()
def mine_table(
    detector: Detector, table: Table, batch_size: int = 8, progress: Callable[[int, int], None] | None = None
) -> Mined:
    """`mine` for a detector and a table at hand."""
    pictures: list[HardPicture] = []
    objects: list[HardObject] = []
    background: list[HardBackground] = []
    labels: list[DoubtfulLabel] = []
    there: set[int] = set()
    seen: set[int] = set()
    done = 0
    for batch in eval_batches(table, detector.config, batch_size):
        for found in _looked_at(detector, table, batch.to(detector.device)):
            name = table.relative_path(found.row)
            doubtful = _doubtful(found, name, detector.class_names)
            labels += doubtful
            objects += _objects(found, name, detector.class_names)
            background += _background(found, name, detector.class_names)
            there.update(found.objects.labels[~found.objects.crowd].tolist())
            seen |= found_classes(found.objects, *found.found, detector.config.inference.score_threshold)
            worst = max((one.suspect.suspicion for one in doubtful), default=0.0)
            pictures.append(HardPicture(found.row, name, found.loss, len(found.objects.labels), worst))
        done += len(batch)
        if progress:
            progress(done, len(table))
    return Mined(
        table=table,
        class_names=detector.class_names,
        pictures=sorted(pictures, key=lambda one: (-one.loss, one.row)),
        objects=sorted(objects, key=lambda one: (-_or_inf(one.loss), one.row, one.box)),
        background=sorted(background, key=lambda one: (-one.loss, one.row, one.box)),
        labels=sorted(labels, key=lambda one: (-one.suspect.suspicion, one.row, one.suspect.box)),
        never_found=tuple(detector.class_names[label] for label in sorted(there - seen)),
    )


@dataclass(frozen=True)
class _Looked:
    """One picture in the network's pixels: its objects, what was found, its losses. scale: to the original's pixels.

    object_loss: [G] mean over an object's anchors, NaN for none; object_anchors: [G].
    regions: boxes [R, 4], losses [R], scores [R], classes [R] of the hardest background.
    """

    row: int
    loss: float
    objects: Objects
    found: Found
    object_loss: Tensor
    object_anchors: Tensor
    regions: tuple[Tensor, Tensor, Tensor, Tensor]
    scale: Tensor


def _looked_at(detector: Detector, table: Table, batch: Batch) -> Iterator[_Looked]:
    config, anchors = detector.config, detector.anchors
    shape = int(batch.images.shape[-2]), int(batch.images.shape[-1])
    outputs = detector.model(batch.images)
    check_finite([*outputs.logits, *outputs.deltas], [table.path(row) for row in batch.rows.tolist()])
    matched = match(anchors, batch, config.assignment)
    class_BN, box_P = anchor_losses(outputs.logits, outputs.deltas, anchors, matched, batch, config.loss)
    decoded = decode(outputs, anchors, shape, batch.sizes, config.inference, FAINTEST)
    anchors_N4 = anchors.boxes(*shape, batch.boxes.device)

    per_anchor_P = class_BN.flatten()[matched.positive] + config.loss.box_weight * box_P
    count_G = torch.bincount(matched.object, minlength=len(batch.boxes))
    sum_G = torch.zeros(len(batch.boxes), device=box_P.device).index_add(0, matched.object, per_anchor_P)
    images_P = matched.positive // matched.num_anchors
    box_B = torch.zeros(len(batch), device=box_P.device).index_add(0, images_P, box_P)
    loss_B = (class_BN.sum(1) + config.loss.box_weight * box_B) / matched.positives_per_image().clamp(min=1)

    background_BN = torch.ones_like(class_BN, dtype=torch.bool)
    background_BN.view(-1)[torch.cat([matched.positive, matched.ignored])] = False
    wanted_B = torch.full((len(batch),), REGIONS, device=class_BN.device)
    hardest_BN = hardest_apart(class_BN, background_BN, anchors_N4, wanted_B, REGION_NMS)
    logits_BNK = torch.cat([by_anchor(level, anchors.per_cell) for level in outputs.logits], 1)

    first = 0
    counts = torch.bincount(batch.image_index, minlength=len(batch)).tolist()
    for image, count in enumerate(counts):
        mine = slice(first, first + count)
        first += count
        where_R = hardest_BN[image].nonzero().squeeze(1)
        best_R = logits_BNK[image, where_R].max(1)
        size, original = batch.sizes[image].tolist(), batch.original_sizes[image].tolist()
        y, x = original[0] / size[0], original[1] / size[1]
        boxes, scores, labels = decoded[image]
        yield _Looked(
            row=int(batch.rows[image]),
            loss=float(loss_B[image]),
            objects=Objects(batch.boxes[mine].cpu(), batch.labels[mine].cpu(), batch.crowd[mine].cpu()),
            found=(boxes.cpu(), scores.cpu(), labels.cpu()),
            object_loss=(sum_G[mine] / count_G[mine]).cpu(),
            object_anchors=count_G[mine].cpu(),
            regions=(
                clip(anchors_N4[where_R], (size[0], size[1])).cpu(),
                class_BN[image, where_R].cpu(),
                best_R.values.float().sigmoid().cpu(),
                best_R.indices.cpu(),
            ),
            scale=torch.tensor([x, y, x, y]),
        )


def _doubtful(found: _Looked, picture: str, names: tuple[str, ...]) -> list[DoubtfulLabel]:
    doubtful = []
    for suspect in suspects(found.objects, *found.found):
        against = None if suspect.found is None else _scaled(suspect.found, found.scale)
        loss = float(found.object_loss[suspect.object]) if suspect.object >= 0 else float("nan")
        doubtful.append(
            DoubtfulLabel(
                row=found.row,
                picture=picture,
                suspect=replace(suspect, box=_scaled(suspect.box, found.scale), found=against),
                labelled=names[suspect.labelled] if suspect.labelled >= 0 else "",
                predicted=names[suspect.predicted] if suspect.predicted >= 0 else "",
                loss=loss,
            )
        )
    return doubtful


def _objects(found: _Looked, picture: str, names: tuple[str, ...]) -> list[HardObject]:
    columns = zip(
        found.objects.boxes.tolist(),
        found.objects.labels.tolist(),
        found.objects.crowd.tolist(),
        found.object_loss.tolist(),
        found.object_anchors.tolist(),
        strict=True,
    )
    return [
        HardObject(found.row, picture, loss, _scaled(box, found.scale), names[label], anchors)
        for box, label, crowd, loss, anchors in columns
        if not crowd
    ]


def _background(found: _Looked, picture: str, names: tuple[str, ...]) -> list[HardBackground]:
    boxes_R4, losses_R, scores_R, classes_R = found.regions
    columns = zip(boxes_R4.tolist(), losses_R.tolist(), scores_R.tolist(), classes_R.tolist(), strict=True)
    return [
        HardBackground(found.row, picture, loss, _scaled(box, found.scale), names[label], score)
        for box, loss, score, label in columns
    ]


def _scaled(box: list[float] | Box, scale: Tensor) -> Box:
    x1, y1, x2, y2 = (torch.tensor(box) * scale).tolist()
    return x1, y1, x2, y2


def _or_inf(loss: float) -> float:
    """An object that no anchor answers for comes first: nothing else can be learnt of it."""
    return float("inf") if loss != loss else loss
