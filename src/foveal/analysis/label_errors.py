"""Labels that are probably wrong, told apart from objects that are merely hard.

A network that was trained on the labels disagrees with some of them. Each disagreement is one of four kinds:

    missing label          a confident detection where nothing is labelled
    label without object   a label at which nothing is found, of any class
    wrong class            a label at which another class is found
    loose box              a label beside which its own class is found, in a box that lies elsewhere

A suspicion in 0 .. 1 ranks them; it is no probability. A label that is found as it stands is no suspect, however much
loss it costs, unless it is found faintly there and surely beside: a network learns a little of a wrong label too.

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
"""Score from which a detection beside a label says where the label should be; below it the label's own says little."""
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
    iou_GD = iou(objects.boxes, boxes_D4)
    claimed_G = _claims(objects, labels_D, iou_GD)
    free_D = torch.ones(len(boxes_D4), dtype=torch.bool)
    free_D[claimed_G[claimed_G >= 0]] = False
    evidence = _Evidence(objects, boxes_D4, scores_D, labels_D, iou_GD, claimed_G, free_D)
    of_labels = [evidence.against(label) for label in (~objects.crowd).nonzero().squeeze(1).tolist()]
    return [suspect for suspect in of_labels if suspect is not None] + evidence.unexplained()


def found_classes(objects: Objects, boxes_D4: Tensor, scores_D: Tensor, labels_D: Tensor, at_least: float) -> set[int]:
    """The classes of which a label is found, where it is, with a score of `at_least`; crowd regions do not count."""
    same_GD = (objects.labels[:, None] == labels_D) & ~objects.crowd[:, None] & (scores_D >= at_least)
    found_G = (same_GD & (iou(objects.boxes, boxes_D4) >= SAME_PLACE)).any(1)
    return set(objects.labels[found_G].tolist())


def _claims(objects: Objects, labels_D: Tensor, iou_GD: Tensor) -> Tensor:
    """[G] the detection that finds each label, -1 for none: best detection first, its best free label first."""
    possible_GD = (objects.labels[:, None] == labels_D) & (iou_GD >= SAME_PLACE) & ~objects.crowd[:, None]
    claimed_G = torch.full((len(objects.labels),), -1)
    for detection in possible_GD.any(0).nonzero().squeeze(1).tolist():
        open_G = torch.where(possible_GD[:, detection] & (claimed_G < 0), iou_GD[:, detection], -1.0)
        label = int(open_G.argmax())
        if open_G[label] >= 0:
            claimed_G[label] = detection
    return claimed_G


@dataclass
class _Evidence:
    """Labels and detections of one picture.

    boxes: [D, 4], scores, classes: [D] of the detections. overlaps: [G, D] IoU. claims: [G] the detection that finds a
    label, or -1. free: [D] detections that find no label and speak against none yet.
    """

    objects: Objects
    boxes: Tensor
    scores: Tensor
    classes: Tensor
    overlaps: Tensor
    claims: Tensor
    free: Tensor

    def against(self, label: int) -> Suspect | None:
        """What is wrong with a label, if anything; the detection that speaks against it is free no longer."""
        iou_D, claim = self.overlaps[label], int(self.claims[label])
        own = float(self.scores[claim]) if claim >= 0 else 0.0
        same_class_D = self.classes == self.objects.labels[label]
        other = _best(self.scores, self.free & ~same_class_D & (iou_D >= SAME_PLACE))
        if other is not None and self.scores[other] > own:
            return self._suspect("wrong class", float(self.scores[other]) * (1 - own), label, other)
        beside = _best(self.scores, self.free & same_class_D & (iou_D >= NEARBY) & (self.scores >= CONFIDENT))
        elsewhere = 0.0 if beside is None else float(self.scores[beside] * (1 - iou_D[beside]))
        if (
            beside is not None and 0 < own < CONFIDENT
        ):  # learnt a little where the label was put, surely where it belongs
            return self._suspect("loose box", elsewhere * (1 - own), label, beside)
        if claim >= 0:
            overlap = float(iou_D[claim])
            return None if overlap >= LEAST_TIGHT else self._suspect("loose box", own * (1 - overlap), label, claim)
        seen = float(torch.where(iou_D >= TOUCHED, self.scores, 0.0).amax()) if len(iou_D) else 0.0
        if beside is not None:
            return self._suspect("loose box", max(elsewhere, 1 - seen), label, beside)
        return self._suspect("label without object", 1 - seen, label, None)

    def _suspect(self, kind: Kind, suspicion: float, label: int, by: int | None) -> Suspect:
        if by is not None:
            self.free[by] = False
        return Suspect(
            kind=kind,
            suspicion=suspicion,
            box=_tuple(self.objects.boxes[label]),
            found=None if by is None else _tuple(self.boxes[by]),
            object=label,
            labelled=int(self.objects.labels[label]),
            predicted=-1 if by is None else int(self.classes[by]),
            score=0.0 if by is None else float(self.scores[by]),
            iou=0.0 if by is None else float(self.overlaps[label, by]),
        )

    def unexplained(self) -> list[Suspect]:
        """Detections that nothing explains: no label in their place, no crowd, and none of their class that is near."""
        none_D = torch.zeros(len(self.boxes))
        has_labels = len(self.objects.labels) > 0
        explains_GD = (self.objects.labels[:, None] == self.classes) | self.objects.crowd[:, None]
        nearest_D = torch.where(explains_GD, self.overlaps, 0.0).amax(0) if has_labels else none_D
        overlap_D = self.overlaps.amax(0) if has_labels else none_D
        found = []
        for index in (self.free & (overlap_D < SAME_PLACE)).nonzero().squeeze(1).tolist():
            score, box = float(self.scores[index]), _tuple(self.boxes[index])
            found.append(
                Suspect(
                    kind="missing label",
                    suspicion=score * (1 - float(nearest_D[index])),
                    box=box,
                    found=box,
                    object=-1,
                    labelled=-1,
                    predicted=int(self.classes[index]),
                    score=score,
                    iou=float(overlap_D[index]),
                )
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
