"""Labels that are probably wrong, told apart from objects that are merely hard.

A network that was trained on the labels disagrees with some of them. Each disagreement is one of four kinds:

    missing label          a confident detection where nothing is labelled
    label without object   a label at which nothing is found, of any class
    wrong class            a label at which another class is found
    loose box              a label beside which its own class is found, in a box that lies elsewhere

A suspicion in 0 .. 1 ranks them; it is no probability. A label that is found as it stands is no suspect, however much
loss it costs.

Letters: G labels, D detections of one picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveal.boxes import iou
from foveal.detections import Objects

Kind = Literal["missing label", "label without object", "wrong class", "loose box"]
KINDS: tuple[Kind, ...] = ("missing label", "label without object", "wrong class", "loose box")

SAME_PLACE = 0.5
"""IoU from which a box and a label speak of one object."""
NEARBY = 0.1
"""IoU from which a box may be where a loose label should be."""
TOUCHED = 0.3
"""IoU from which a detection of any class says that something is there."""
CONFIDENT = 0.3
"""Score from which a detection beside a label says where the label should be."""
LEAST_TIGHT = 0.8
"""A found label that overlaps its detection by this much is tight enough."""


@dataclass(frozen=True)
class Suspect:
    """One disagreement.

    box: xyxy of the label, or of the detection where the label is missing. found: the detection that speaks against the
    label, if there is one. object: the label's index among the picture's objects, -1 if it is missing. labelled,
    predicted: class indices, -1 for none. score: of the detection, 0 for none. iou: of box and found.
    """

    kind: Kind
    suspicion: float
    box: tuple[float, float, float, float]
    found: tuple[float, float, float, float] | None
    object: int
    labelled: int
    predicted: int
    score: float
    iou: float


def suspects(objects: Objects, boxes_D4: Tensor, scores_D: Tensor, labels_D: Tensor) -> list[Suspect]:
    """The disagreements of one picture, in no order.

    Detections are best first, from as low a score as possible (.01): that a faint one exists is evidence too. Crowd
    regions are never suspects, and explain the detections in them. A detection of score .9 far from all labels gives a
    missing label with a suspicion of .9; a label that no detection touches has 1.
    """
    claimed_G = _claims(objects, boxes_D4, labels_D)
    free_D = torch.ones(len(boxes_D4), dtype=torch.bool)
    free_D[claimed_G[claimed_G >= 0]] = False
    iou_GD = iou(objects.boxes, boxes_D4)
    found = []
    for label in (~objects.crowd).nonzero().squeeze(1).tolist():
        suspect = _of_label(label, objects, boxes_D4, scores_D, labels_D, iou_GD[label], int(claimed_G[label]), free_D)
        if suspect is not None:
            found.append(suspect)
    return found + _missing(objects, boxes_D4, scores_D, labels_D, iou_GD, free_D)


def _claims(objects: Objects, boxes_D4: Tensor, labels_D: Tensor) -> Tensor:
    """[G] the detection that finds each label, -1 for none: best detection first, its best free label first."""
    iou_GD = iou(objects.boxes, boxes_D4)
    possible_GD = (objects.labels[:, None] == labels_D) & (iou_GD >= SAME_PLACE) & ~objects.crowd[:, None]
    claimed_G = torch.full((len(objects.labels),), -1)
    for detection in possible_GD.any(0).nonzero().squeeze(1).tolist():
        open_G = torch.where(possible_GD[:, detection] & (claimed_G < 0), iou_GD[:, detection], -1.0)
        label = int(open_G.argmax())
        if open_G[label] >= 0:
            claimed_G[label] = detection
    return claimed_G


def _of_label(
    label: int,
    objects: Objects,
    boxes_D4: Tensor,
    scores_D: Tensor,
    labels_D: Tensor,
    iou_D: Tensor,
    claim: int,
    free_D: Tensor,
) -> Suspect | None:
    """What is wrong with a label, if anything; the detection that speaks against it is taken out of `free_D`."""
    own = float(scores_D[claim]) if claim >= 0 else 0.0
    same_class_D = labels_D == objects.labels[label]

    def suspect(kind: Kind, suspicion: float, by: int | None) -> Suspect:
        if by is not None:
            free_D[by] = False
        return Suspect(
            kind=kind,
            suspicion=suspicion,
            box=_tuple(objects.boxes[label]),
            found=None if by is None else _tuple(boxes_D4[by]),
            object=label,
            labelled=int(objects.labels[label]),
            predicted=-1 if by is None else int(labels_D[by]),
            score=0.0 if by is None else float(scores_D[by]),
            iou=0.0 if by is None else float(iou_D[by]),
        )

    other = _best(scores_D, free_D & ~same_class_D & (iou_D >= SAME_PLACE))
    if other is not None and scores_D[other] > own:
        return suspect("wrong class", float(scores_D[other]) * (1 - own), other)
    if claim >= 0:
        overlap = float(iou_D[claim])
        return None if overlap >= LEAST_TIGHT else suspect("loose box", own * (1 - overlap), claim)
    seen = float(torch.where(iou_D >= TOUCHED, scores_D, 0.0).amax()) if len(iou_D) else 0.0
    beside = _best(scores_D, free_D & same_class_D & (iou_D >= NEARBY))
    if beside is not None and scores_D[beside] >= CONFIDENT:
        return suspect("loose box", max(float(scores_D[beside] * (1 - iou_D[beside])), 1 - seen), beside)
    return suspect("label without object", 1 - seen, None)


def _missing(
    objects: Objects, boxes_D4: Tensor, scores_D: Tensor, labels_D: Tensor, iou_GD: Tensor, free_D: Tensor
) -> list[Suspect]:
    """Detections that nothing explains: no label of their class, no crowd, nor a better detection in their place."""
    same_GD = objects.labels[:, None] == labels_D
    explained_D = torch.where(same_GD | objects.crowd[:, None], iou_GD, 0.0)
    nearest_D = explained_D.amax(0) if len(objects.labels) else torch.zeros(len(boxes_D4))
    overlap_D = iou_GD.amax(0) if len(objects.labels) else torch.zeros(len(boxes_D4))
    found = []
    for index in (free_D & (overlap_D < SAME_PLACE)).nonzero().squeeze(1).tolist():
        score, overlap = float(scores_D[index]), float(nearest_D[index])
        box = _tuple(boxes_D4[index])
        suspicion = score * (1 - overlap)
        found.append(
            Suspect("missing label", suspicion, box, box, -1, -1, int(labels_D[index]), score, float(overlap_D[index]))
        )
    return found


def _best(scores_D: Tensor, possible_D: Tensor) -> int | None:
    """The possible detection with the best score."""
    if not bool(possible_D.any()):
        return None
    return int(torch.where(possible_D, scores_D, -1.0).argmax())


def _tuple(box: Tensor) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
