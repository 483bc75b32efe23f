"""Matching, curves, VOC's average precision and confusion: by hand, then against plain loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.engine import metrics
from foveal.engine.metrics import (
    FALSE,
    LEFT_OUT,
    TRUE,
    Counts,
    Curve,
    Found,
    Truth,
    average_precision,
    confusion_matrix,
    match,
)
from foveal.engine.scoring import voc_class_ap


def truth(*objects, classes=2, images=2):
    """Objects as (image, label, x, y, w, h) with an optional True for ignored."""
    rows = np.array([row[:6] for row in objects], dtype=np.float64).reshape(-1, 6)
    ignored = np.array([len(row) > 6 and row[6] for row in objects], dtype=bool)
    xywh = rows[:, 2:]
    names = tuple("abcdefgh"[:classes])
    return Truth(names, images, rows[:, 0].astype(int), rows[:, 1].astype(int), xywh, xywh[:, 2] * xywh[:, 3], ignored)


def found(*detections):
    """Detections as (image, label, score, x, y, w, h)."""
    rows = np.array(detections, dtype=np.float64).reshape(-1, 7)
    return Found(rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 3:], rows[:, 2])


# --- matching ---------------------------------------------------------------------------------------------------------


def test_the_best_score_takes_the_object_and_the_second_is_false():
    matches = match(truth((0, 0, 0, 0, 10, 10)), found((0, 0, 0.6, 0, 0, 10, 10), (0, 0, 0.9, 0, 0, 10, 9)))
    assert matches.outcome.tolist() == [FALSE, TRUE]
    assert matches.object.tolist() == [-1, 0]


def test_of_equal_scores_the_first_in_the_list_takes_the_object():
    matches = match(truth((0, 0, 0, 0, 10, 10)), found((0, 0, 0.6, 0, 0, 10, 9), (0, 0, 0.6, 0, 0, 10, 10)))
    assert matches.outcome.tolist() == [TRUE, FALSE]


def test_an_overlap_of_exactly_the_threshold_is_enough():
    assert match(truth((0, 0, 0, 0, 10, 10)), found((0, 0, 0.6, 0, 0, 10, 5))).outcome.tolist() == [TRUE]


def test_objects_of_another_class_or_picture_are_out_of_reach():
    objects = truth((0, 0, 0, 0, 10, 10))
    assert match(objects, found((0, 1, 0.6, 0, 0, 10, 10), (1, 0, 0.6, 0, 0, 10, 10))).outcome.tolist() == [0, 0]
    assert match(objects, found((0, 1, 0.6, 0, 0, 10, 10)), by_class=False).object.tolist() == [0]


def test_coco_takes_the_next_best_free_object_where_voc_does_not():
    # The second detection overlaps object 0 by .9 and object 1 by 8 of 12 = .67; the first has taken object 0.
    objects = truth((0, 0, 0, 0, 10, 10), (0, 0, 0, 0, 10, 8))
    two = found((0, 0, 0.9, 0, 0, 10, 10), (0, 0, 0.8, 0, 0, 10, 10))
    assert match(objects, two, rule="coco").object.tolist() == [0, 1]
    assert match(objects, two, rule="voc").outcome.tolist() == [TRUE, FALSE]


def test_a_crowd_absorbs_any_number_of_detections_that_lie_in_it():
    objects = truth((0, 0, 0, 0, 100, 100, True), (0, 0, 0, 0, 10, 10))
    matches = match(objects, found(*[(0, 0, score, 0, 0, 10, 10) for score in (0.9, 0.8, 0.7)]))
    assert matches.outcome.tolist() == [TRUE, LEFT_OUT, LEFT_OUT]


def test_voc_leaves_out_detections_whose_best_object_is_difficult():
    objects = truth((0, 0, 0, 0, 10, 10, True), (0, 0, 0, 0, 10, 6))
    matches = match(objects, found((0, 0, 0.9, 0, 0, 10, 10), (0, 0, 0.8, 0, 0, 10, 9)), rule="voc")
    assert matches.outcome.tolist() == [LEFT_OUT, LEFT_OUT]


def test_plus_one_counts_the_last_pixel():
    # Sides 3 x 0 and 7 x 0 become 4 x 1 and 8 x 1: IoU 4/8.
    objects, one = truth((0, 0, 0, 0, 7, 0)), found((0, 0, 0.9, 0, 0, 3, 0))
    assert match(objects, one, rule="voc", plus_one=True).outcome.tolist() == [TRUE]
    assert match(objects, one, rule="voc").outcome.tolist() == [FALSE]


@pytest.mark.parametrize("rule", ["coco", "voc"])
def test_nothing_to_match_matches_nothing(rule):
    assert len(match(truth(), found(), rule=rule).outcome) == 0
    assert match(truth(), found((0, 0, 0.5, 0, 0, 1, 1)), rule=rule).outcome.tolist() == [FALSE]
    assert len(match(truth((0, 0, 0, 0, 1, 1)), found(), rule=rule).outcome) == 0


def plain_match(objects: Truth, detections: Found, iou: float, rule: str) -> tuple[list[int], list[int]]:
    """pycocotools' and the VOC kit's loops, one detection at a time."""
    outcome, chosen = [FALSE] * len(detections.score), [-1] * len(detections.score)
    taken = set()
    for d in sorted(range(len(outcome)), key=lambda d: -detections.score[d]):
        same = [
            g
            for g in range(len(objects.label))
            if objects.image[g] == detections.image[d] and objects.label[g] == detections.label[d]
        ]
        overlap = {
            g: plain_iou(detections.xywh[d], objects.xywh[g], rule == "coco" and objects.ignored[g]) for g in same
        }
        if rule == "voc":
            best = max(same, key=lambda g: (overlap[g], -g), default=None)
            if best is None or overlap[best] < iou:
                continue
            if objects.ignored[best]:
                outcome[d], chosen[d] = LEFT_OUT, best
            elif best not in taken:
                outcome[d], chosen[d] = TRUE, best
                taken.add(best)
            continue
        free = [g for g in same if g not in taken and overlap[g] >= iou]
        best = max(free, key=lambda g: (not objects.ignored[g], overlap[g], g), default=None)
        if best is not None:
            chosen[d] = best
            outcome[d] = LEFT_OUT if objects.ignored[best] else TRUE
            if not objects.ignored[best]:
                taken.add(best)
    return outcome, chosen


def plain_iou(a, b, crowd):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - inter)


few = st.integers(0, 4)
boxes = st.tuples(few, few, st.integers(1, 5), st.integers(1, 5))
objects_lists = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), boxes, st.booleans()), max_size=12)
detection_lists = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 5), boxes), max_size=12)


@settings(max_examples=150, deadline=None)
@given(objects_lists, detection_lists, st.sampled_from([0.3, 0.5, 0.75]), st.sampled_from(["coco", "voc"]))
def test_all_at_once_equals_one_after_the_other(objects, detections, iou, rule):
    # Small whole numbers, so equal scores, equal overlaps and overlaps of exactly the threshold abound.
    these = truth(*[(image, label, *box, ignored) for image, label, box, ignored in objects])
    those = found(*[(image, label, score / 5, *box) for image, label, score, box in detections])
    matches = match(these, those, iou, rule)
    assert (matches.outcome.tolist(), matches.object.tolist()) == plain_match(these, those, iou, rule)


def test_pairs_in_many_small_pieces_give_the_same_matches(monkeypatch):
    draw = np.random.default_rng(0)
    these = truth(*[(i % 2, i % 2, *draw.integers(0, 5, 2), *draw.integers(1, 6, 2)) for i in range(30)])
    those = found(*[(i % 2, i % 2, draw.random(), *draw.integers(0, 5, 2), *draw.integers(1, 6, 2)) for i in range(60)])
    whole = match(these, those)
    monkeypatch.setattr(metrics, "PAIRS_AT_ONCE", 7)
    pieces = match(these, those)
    assert whole.object.max() > 0
    np.testing.assert_array_equal(pieces.object, whole.object)


# --- precision and recall ---------------------------------------------------------------------------------------------


def test_counts_follow_the_threshold():
    curve = Curve.of(np.array([0.2, 0.9, 0.6, 0.6, 0.4]), np.array([TRUE, TRUE, FALSE, TRUE, LEFT_OUT]), objects=4)
    assert curve.at(0.95) == Counts(0, 0, 4)
    assert curve.at(0.9) == Counts(1, 0, 3)
    assert curve.at(0.6) == Counts(2, 1, 2)
    assert curve.at(0.0) == Counts(3, 1, 1)
    two = curve.at(0.6)
    assert (two.precision, two.recall, two.f1) == (2 / 3, 1 / 2, 4 / 7)


def test_rates_that_do_not_exist_are_none():
    nothing = Curve.of(np.zeros(0), np.zeros(0), objects=0).at(0.5)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)
    assert Counts(0, 0, 3).precision is None
    assert Counts(0, 0, 3).f1 == 0
    assert Counts(0, 3, 0).recall is None


def test_the_recommended_threshold_has_the_best_f1():
    # Kept 1, 2, 3, 4: F1 = 2/4, 2/5, 4/6, 4/7.
    curve = Curve.of(np.array([0.9, 0.8, 0.7, 0.6]), np.array([TRUE, FALSE, TRUE, FALSE]), objects=3)
    assert curve.best() == 0.7


def test_of_equally_good_thresholds_the_higher_is_recommended():
    # 1 of 1 right with one missed of 2: F1 2/3. 2 of 4 right, none missed: 4/6.
    curve = Curve.of(np.array([0.9, 0.8, 0.7, 0.6]), np.array([TRUE, FALSE, FALSE, TRUE]), objects=2)
    assert curve.best() == 0.9


def test_nothing_is_recommended_where_nothing_was_right():
    assert Curve.of(np.array([0.9]), np.array([FALSE]), objects=3).best() is None
    assert Curve.of(np.zeros(0), np.zeros(0), objects=3).best() is None


# --- VOC --------------------------------------------------------------------------------------------------------------


def test_average_precision_by_hand():
    right = np.array([True, False, True])
    assert average_precision(right, 2, "11") == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert average_precision(right, 2, "every") == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_average_precision_of_few():
    assert average_precision(np.zeros(0, bool), 0, "11") is None
    assert average_precision(np.zeros(0, bool), 3, "11") == 0
    assert average_precision(np.zeros(0, bool), 3, "every") == 0
    assert average_precision(np.ones(3, bool), 3, "11") == pytest.approx(1)
    assert average_precision(np.ones(3, bool), 3, "every") == pytest.approx(1)


def read_text_boxes(truths: Path, detections: Path, corners: bool) -> tuple[Truth, Found]:
    """One file a picture: "class box [difficult]" and "class score box"; box is x y w h, or corners."""
    names = sorted(path.name for path in truths.glob("*.txt"))
    objects, founds, classes = [], [], {}
    for image, name in enumerate(names):
        for words in map(str.split, (truths / name).read_text().splitlines()):
            label = classes.setdefault(words[0], len(classes))
            objects.append((image, label, *as_xywh(words[1:5], corners), words[-1] == "difficult"))
        for words in map(str.split, (detections / name).read_text().splitlines()):
            label = classes.setdefault(words[0], len(classes))
            founds.append((image, label, float(words[1]), *as_xywh(words[2:6], corners)))
    rows = truth(*objects, classes=0, images=len(names))
    named = Truth(tuple(classes), rows.num_images, rows.image, rows.label, rows.xywh, rows.area, rows.ignored)
    return named, found(*founds)


def as_xywh(words, corners):
    a, b, c, d = map(float, words)
    return (a, b, c - a, d - b) if corners else (a, b, c, d)


@pytest.mark.parametrize(("metric", "key"), [("voc07", "eleven_point"), ("voc12", "every_point")])
def test_published_voc_numbers_of_seven_pictures(eval_fixtures, metric, key):
    folder = eval_fixtures / "voc_toy"
    objects, detections = read_text_boxes(folder / "gts", folder / "dets", corners=False)
    published = json.loads((folder / "expected.json").read_text())[key]
    assert len(published) == 4
    for iou, value in published.items():
        matches = match(objects, detections, float(iou), "voc", plus_one=True)
        (ap,) = voc_class_ap(detections, matches, np.array([len(objects.label)]), metric)
        assert ap == pytest.approx(value, abs=1e-9)


def test_published_voc_numbers_of_thirty_classes_with_difficult_objects(eval_fixtures):
    folder = eval_fixtures / "cartucho_map"
    objects, detections = read_text_boxes(folder / "ground-truth", folder / "detection-results", corners=True)
    published = json.loads((folder / "expected.json").read_text())
    matches = match(objects, detections, 0.5, "voc", plus_one=True)
    objects_K = np.bincount(objects.label[~objects.ignored], minlength=len(objects.class_names))
    ap = dict(zip(objects.class_names, voc_class_ap(detections, matches, objects_K, "voc12"), strict=True))
    known = {name: round(100 * value, 2) for name, value in ap.items() if value is not None}
    assert known == published["AP"]
    assert 100 * np.mean([value for value in ap.values() if value is not None]) == pytest.approx(
        published["mAP"], abs=0.005
    )


# --- confusion --------------------------------------------------------------------------------------------------------


def test_confusion_by_hand():
    objects = truth(
        (0, 0, 0, 0, 10, 10),  # found as b by the better score, so the right detection is one too many
        (0, 1, 50, 50, 10, 10),  # found
        (1, 1, 0, 0, 10, 10),  # missed
        (1, 0, 50, 50, 40, 40, True),  # a crowd with a detection in it
    )
    detections = found(
        (0, 1, 0.9, 0, 0, 10, 10),
        (0, 0, 0.8, 0, 0, 10, 10),
        (0, 1, 0.7, 50, 50, 10, 10),
        (1, 1, 0.6, 60, 60, 10, 10),
        (1, 0, 0.5, 20, 20, 10, 10),
    )
    assert confusion_matrix(objects, detections).tolist() == [[0, 1, 0], [0, 1, 1], [2, 0, 0]]


def test_confusion_counts_every_object_and_every_detection_once():
    draw = np.random.default_rng(0)
    objects = truth(*[(i % 2, draw.integers(2), *draw.integers(0, 9, 2), *draw.integers(1, 9, 2)) for i in range(40)])
    detections = found(
        *[(i % 2, draw.integers(2), draw.random(), *draw.integers(0, 9, 2), *draw.integers(1, 9, 2)) for i in range(50)]
    )
    matrix = confusion_matrix(objects, detections)
    assert matrix[:-1].sum(axis=1).tolist() == np.bincount(objects.label).tolist()
    assert matrix[:, :-1].sum(axis=0).tolist() == np.bincount(detections.label).tolist()
    assert matrix[-1, -1] == 0


def test_confusion_of_nothing_is_all_zero():
    assert confusion_matrix(truth(), found()).tolist() == [[0] * 3] * 3
