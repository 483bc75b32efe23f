"""Do two engines find the same? Numbers that say how far they are apart, and the rule of when that is too far.

A detection's box is compared in units of its own longer side, so that 1e-3 is .03 pixels of an object of 30 and half a
pixel of one of 500.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foveal.detections import Detections
from foveal.wording import counted

LIMIT = 1e-3
"""Largest difference of a score, and of a box in units of its longer side."""
_PAIRED = 0.1
"""Detections of one class that differ by more than this show different things."""


@dataclass(frozen=True)
class Agreement:
    """What was compared, and how far it is apart.

    detections: of the reference. borderline: found by one side alone, with a score within `limit` of the lowest that is
    kept: which side of it they fall on is rounding. unpaired: found by one side alone, otherwise. score, box: the
    largest differences of the others.
    """

    pictures: int
    detections: int
    borderline: int
    unpaired: int
    score: float
    box: float
    limit: float = LIMIT

    @property
    def passed(self) -> bool:
        return not self.unpaired and self.score <= self.limit and self.box <= self.limit

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        alone = f", {self.borderline} at the threshold found by one side alone" if self.borderline else ""
        alone += f", {self.unpaired} FOUND BY ONE SIDE ALONE" if self.unpaired else ""
        return (
            f"{counted(self.detections, 'detection')} in {counted(self.pictures, 'picture')}: "
            f"scores within {self.score:.1e}, boxes within {self.box:.1e} of their longer side "
            f"(limit {self.limit:g}){alone}"
        )


def agreement(
    expected: Sequence[Detections], found: Sequence[Detections], threshold: float, max_detections: int
) -> Agreement:
    """Compares the detections of each picture with those of the reference, whatever their order.

    threshold, max_detections: from which score and up to how many both keep them. A score of .0502 that only one side
    has is borderline at a threshold of .05.
    """
    borderline = unpaired = 0
    scores, boxes = [0.0], [0.0]
    for ours, theirs in zip(expected, found, strict=True):
        pairs, alone = _pairs(ours, theirs)
        scores += [score for score, _ in pairs]
        boxes += [box for _, box in pairs]
        lowest = [float(side.scores.min()) for side in (ours, theirs) if len(side) >= max_detections]
        cuts = [threshold, *lowest]
        at_a_cut = [any(abs(score - cut) <= LIMIT for cut in cuts) for score in alone]
        borderline += sum(at_a_cut)
        unpaired += len(alone) - sum(at_a_cut)
    return Agreement(
        len(expected),
        sum(len(one) for one in expected),
        borderline,
        unpaired,
        float(np.max(scores)),
        float(np.max(boxes)),
    )


def _pairs(ours: Detections, theirs: Detections) -> tuple[list[tuple[float, float]], list[float]]:
    """(difference of score, of box) of each pair, and the scores of those without one.

    What is no finite number pairs with nothing.
    """
    pairs, alone = [], []
    free = np.ones(len(theirs), dtype=bool)
    boxes, scores, labels = (part.numpy() for part in (theirs.boxes, theirs.scores, theirs.labels))
    for box, score, label in zip(ours.boxes.numpy(), ours.scores.numpy(), ours.labels.numpy(), strict=True):
        candidates = np.flatnonzero(free & (labels == label))
        side = max(box[2] - box[0], box[3] - box[1], 1.0)
        with np.errstate(invalid="ignore"):
            box_differences = np.abs(boxes[candidates] - box).max(axis=1) / side
            score_differences = np.abs(scores[candidates] - score)
        worst = np.nan_to_num(np.maximum(box_differences, score_differences), nan=np.inf)
        if not len(candidates) or not worst.min() <= _PAIRED:
            alone.append(float(score))
            continue
        nearest = int(worst.argmin())
        free[candidates[nearest]] = False
        pairs.append((float(score_differences[nearest]), float(box_differences[nearest])))
    return pairs, [*alone, *(float(score) for score in scores[free])]
