"""The arithmetic of detection metrics on flat arrays: who matches whom, and what follows from it.

Everything is numpy over all pictures at once; there is no loop over pictures or detections.

Letters: G objects, D detections, K classes, P (detection, object) pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Ints = np.ndarray
Floats = np.ndarray
Rule = Literal["coco", "voc"]

FALSE, TRUE, LEFT_OUT = 0, 1, -1
"""Outcome of a detection: no object, an object, or a region that is neither right nor wrong."""

PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Truth:
    """The objects of all pictures.

    image: [G] int64, 0 .. num_images - 1, in the order of the pictures' ids (it decides between equal scores).
    label: [G] int64, 0 .. K-1. xywh: [G, 4] float64 (left, top, width, height) in pixels, as COCO files have it.
    area: [G] float64 pixels, which sorts objects into small, medium and large.
    ignored: [G] bool, regions to ignore: COCO's crowds, VOC's difficult objects.
    """

    class_names: tuple[str, ...]
    num_images: int
    image: Ints
    label: Ints
    xywh: Floats
    area: Floats
    ignored: np.ndarray


@dataclass(frozen=True)
class Found:
    """The detections of all pictures: image, label, xywh as in `Truth`; score: [D] float64."""

    image: Ints
    label: Ints
    xywh: Floats
    score: Floats

    def above(self, threshold: float) -> Found:
        """Those with a score of at least `threshold`."""
        kept = self.score >= threshold
        return Found(self.image[kept], self.label[kept], self.xywh[kept], self.score[kept])


@dataclass(frozen=True)
class Matches:
    """outcome: [D] int8, TRUE, FALSE or LEFT_OUT. object: [D] int64, the matched object's index or -1."""

    outcome: Ints
    object: Ints


def match(
    truth: Truth, found: Found, iou: float = 0.5, rule: Rule = "coco", by_class: bool = True, plus_one: bool = False
) -> Matches:
    """Gives every detection its object, best score first (equal scores: first in the list first).

    coco: a detection takes the best-overlapping object that is still free and overlaps by `iou` or more; only when
    there is none, an ignored region whose overlap (intersection over the detection's area) reaches `iou` absorbs it.
    voc: a detection asks only for its best-overlapping object; if that one is taken it is false, if it is ignored
    (difficult) the detection is left out.
    by_class: only objects of the detection's class; otherwise all objects of its picture.
    plus_one: widths count the last pixel, x2 - x1 + 1, as the VOC kit has it.
    """
    classes = max(1, len(truth.class_names)) if by_class else 0
    group_G = truth.image * classes + truth.label if by_class else truth.image
    group_D = found.image * classes + found.label if by_class else found.image
    crowd_G = truth.ignored if rule == "coco" else np.zeros_like(truth.ignored)
    pairs = [np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)]
    for det, obj in _pairs_in_group(group_D, group_G):
        overlap = _overlap(found.xywh[det], truth.xywh[obj], crowd_G[obj], plus_one)
        kept = overlap >= min(iou, 1 - 1e-10)
        pairs = [np.concatenate(both) for both in zip(pairs, (det[kept], obj[kept], overlap[kept]), strict=True)]
    taker = _match_coco if rule == "coco" else _match_voc
    return taker(truth.ignored, found.score, group_D, *pairs)


@dataclass(frozen=True)
class Counts:
    """How many detections were right (true) and wrong (false), and how many objects were missed."""

    true: int
    false: int
    missed: int

    @property
    def precision(self) -> float | None:
        """Share of the detections that are right; None without detections."""
        return self.true / (self.true + self.false) if self.true + self.false else None

    @property
    def recall(self) -> float | None:
        """Share of the objects that were found; None without objects."""
        return self.true / (self.true + self.missed) if self.true + self.missed else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two; None without detections and objects."""
        total = 2 * self.true + self.false + self.missed
        return 2 * self.true / total if total else None


@dataclass(frozen=True)
class Curve:
    """Right and wrong detections for every threshold that makes a difference.

    score: [S] distinct scores, falling. true, false: [S] detections with at least that score. objects: all to find.
    """

    score: Floats
    true: Ints
    false: Ints
    objects: int

    @classmethod
    def of(cls, score: Floats, outcome: Ints, objects: int) -> Curve:
        """From the scores and outcomes [D] of detections in any order; those LEFT_OUT do not count."""
        counted = outcome != LEFT_OUT
        order = np.argsort(-score[counted], kind="stable")
        score, right = score[counted][order], outcome[counted][order] == TRUE
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.zeros(0, np.int64)
        true = np.cumsum(right)[last]
        return cls(score[last], true, last + 1 - true, objects)

    def at(self, threshold: float) -> Counts:
        """Counts when detections with a score of at least `threshold` are kept."""
        kept = int(np.searchsorted(-self.score, -threshold, side="right"))
        true, false = (int(self.true[kept - 1]), int(self.false[kept - 1])) if kept else (0, 0)
        return Counts(true, false, self.objects - true)

    def best(self) -> float | None:
        """The threshold of the highest F1, the higher of equally good ones; None if nothing was ever right."""
        if not len(self.true) or self.true[-1] == 0:
            return None
        f1 = 2 * self.true / (self.true + self.false + self.objects)
        return float(self.score[np.argmax(f1)])


def average_precision(right: np.ndarray, objects: int, points: Literal["11", "every"]) -> float | None:
    """VOC's average precision of one class; None without objects.

    right: [D] bool, whether each detection is right, best score first, those left out removed.
    points: "11" is VOC 2007 (mean of the best precision at recall 0, .1, ... 1), "every" VOC 2010-2012 (area under the
    envelope). Right, wrong, right of 2 objects: precision 1, 1/2, 2/3, so 11 points (6 + 5 * 2/3) / 11 = .8485,
    every point 1/2 + 1/2 * 2/3 = .8333.
    """
    if objects == 0:
        return None
    true = np.cumsum(right)
    precision = true / np.arange(1, len(true) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if points == "every":
        return float(envelope[right].sum() / objects)
    # In floating point, where 6 * .1 is above 9/15: everyone's code has it so, and published numbers depend on it.
    first = np.searchsorted(true / objects, np.arange(11) * 0.1, side="left")
    return float(np.append(envelope, 0.0)[first].sum() / 11)


def confusion_matrix(truth: Truth, found: Found, iou: float = 0.5, plus_one: bool = False) -> Ints:
    """[K+1, K+1] counts: row the true class, column the detected one, the last of each background.

    Within a picture, best score first, a detection takes the free object of any class that it overlaps most, by `iou`
    or more; what takes none is (background, detected), an object that nobody took (true, background). Detections that
    only ignored regions absorb, and those regions, do not count.
    """
    K = len(truth.class_names)
    matches = match(truth, found, iou, by_class=False, plus_one=plus_one)
    matrix = np.zeros((K + 1, K + 1), dtype=np.int64)
    hit = matches.outcome == TRUE
    np.add.at(matrix, (truth.label[matches.object[hit]], found.label[hit]), 1)
    np.add.at(matrix, (K, found.label[matches.outcome == FALSE]), 1)
    missed = ~truth.ignored
    missed[matches.object[hit]] = False
    np.add.at(matrix, (truth.label[missed], K), 1)
    return matrix


def _pairs_in_group(group_D: Ints, group_G: Ints) -> Iterator[tuple[Ints, Ints]]:
    """All (detection, object) pairs of one group, some millions at a time; objects of a detection in rising order."""
    order_G = np.argsort(group_G, kind="stable")
    first = np.searchsorted(group_G[order_G], group_D, side="left")
    count = np.searchsorted(group_G[order_G], group_D, side="right") - first
    end = np.cumsum(count)
    start_D = 0
    while start_D < len(group_D):
        done = end[start_D] - count[start_D]
        stop_D = max(start_D + 1, int(np.searchsorted(end, done + PAIRS_AT_ONCE, side="right")))
        counts = count[start_D:stop_D]
        det = np.repeat(np.arange(start_D, stop_D), counts)
        within = np.arange(len(det)) - np.repeat(end[start_D:stop_D] - counts - done, counts)
        yield det, order_G[first[det] + within]
        start_D = stop_D


def _overlap(a_P4: Floats, b_P4: Floats, crowd_P: np.ndarray, plus_one: bool) -> Floats:
    """IoU of the pairs, or intersection over the area of `a` where `b` is a crowd; [P] float64."""
    extra = 1.0 if plus_one else 0.0
    size_a, size_b = a_P4[:, 2:] + extra, b_P4[:, 2:] + extra
    end = np.minimum(a_P4[:, :2] + size_a, b_P4[:, :2] + size_b)
    side = np.maximum(end - np.maximum(a_P4[:, :2], b_P4[:, :2]), 0)
    inter, area = side[:, 0] * side[:, 1], size_a[:, 0] * size_a[:, 1]
    union = np.where(crowd_P, area, area + size_b[:, 0] * size_b[:, 1] - inter)
    return np.divide(inter, union, out=np.zeros_like(inter), where=inter > 0)


def _match_coco(ignored_G: np.ndarray, score: Floats, group: Ints, det: Ints, obj: Ints, iou: Floats) -> Matches:
    """The n-th best detections of all groups choose together; groups share no objects, so none is taken twice."""
    matches = _unmatched(len(score))
    turn_D = _turns(score, group, np.unique(det))
    # Preference of a detection: objects before ignored regions, high overlap first, the later of equals (pycocotools).
    order = np.lexsort((-obj, -iou, ignored_G[obj], det, turn_D[det]))
    det, obj = det[order], obj[order]
    free_G = np.ones(len(ignored_G), dtype=bool)
    turns = np.flatnonzero(np.diff(turn_D[det], prepend=-1))
    for start, stop in zip(turns, np.append(turns, len(det))[1:], strict=True):
        open_P = start + np.flatnonzero(free_G[obj[start:stop]])
        chosen = open_P[_first_of_runs(det[open_P])]
        free_G[obj[chosen]] = ignored_G[obj[chosen]]
        matches.object[det[chosen]] = obj[chosen]
        matches.outcome[det[chosen]] = np.where(ignored_G[obj[chosen]], LEFT_OUT, TRUE)
    return matches


def _match_voc(ignored_G: np.ndarray, score: Floats, group: Ints, det: Ints, obj: Ints, iou: Floats) -> Matches:
    matches = _unmatched(len(score))
    order = np.lexsort((obj, -iou, det))
    wanted = order[_first_of_runs(det[order])]
    det, obj = det[wanted], obj[wanted]
    by_score = np.argsort(-score[det], kind="stable")
    det, obj = det[by_score], obj[by_score]
    difficult = ignored_G[obj]
    matches.outcome[det[difficult]] = LEFT_OUT
    matches.object[det[difficult]] = obj[difficult]
    det, obj = det[~difficult], obj[~difficult]
    winners = np.unique(obj, return_index=True)[1]
    matches.outcome[det[winners]] = TRUE
    matches.object[det[winners]] = obj[winners]
    return matches


def _unmatched(num: int) -> Matches:
    return Matches(np.full(num, FALSE, dtype=np.int8), np.full(num, -1, dtype=np.int64))


def _turns(score: Floats, group: Ints, which: Ints) -> Ints:
    """[D]: place of each detection in `which` among those of its group, best score first; 0 for the others."""
    turn_D = np.zeros(len(score), dtype=np.int64)
    order = which[np.lexsort((which, -score[which], group[which]))]
    first = _first_of_runs(group[order])
    turn_D[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    return turn_D


def _first_of_runs(values: Ints) -> Ints:
    """Where a run of equal values starts: [3, 3, 5] -> [0, 2]."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1])) if len(values) else np.zeros(0, np.int64)
