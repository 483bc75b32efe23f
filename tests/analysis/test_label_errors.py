"""Which disagreement is which, by hand: one picture, one label or none, one detection or two."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.analysis.label_errors import KINDS, Suspect, found_classes, suspects
from foveal.detections import Objects

A, B = 0, 1
LABEL = [10.0, 10, 30, 30]


def told(labels: list[tuple[list[float], int]], found: list[tuple[list[float], float, int]]) -> list[Suspect]:
    objects = Objects.of([box for box, _ in labels], [label for _, label in labels])
    boxes = torch.tensor([box for box, _, _ in found]).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in found])
    classes = torch.tensor([label for _, _, label in found], dtype=torch.int64)
    return suspects(objects, boxes, scores, classes)


def one(labels: list[tuple[list[float], int]], found: list[tuple[list[float], float, int]]) -> Suspect:
    (suspect,) = told(labels, found)
    return suspect


def test_a_label_that_is_found_as_it_stands_and_nowhere_else_is_no_suspect_however_faintly() -> None:
    assert told([(LABEL, A)], [(LABEL, 0.9, A)]) == []
    assert told([(LABEL, A)], [(LABEL, 0.02, A)]) == []
    assert told([], []) == []


def test_a_confident_detection_without_a_label_is_a_missing_label() -> None:
    suspect = one([], [(LABEL, 0.9, B)])
    assert (suspect.kind, suspect.object, suspect.labelled, suspect.predicted) == ("missing label", -1, -1, B)
    assert suspect.suspicion == pytest.approx(0.9)
    assert suspect.box == suspect.found == tuple(LABEL)
    # Far from another label it is one all the same.
    assert (
        one([([200.0, 200, 220, 220], A)], [([200.0, 200, 220, 220], 0.8, A), (LABEL, 0.7, A)]).kind == "missing label"
    )


def test_a_label_at_which_nothing_is_found_is_without_an_object() -> None:
    suspect = one([(LABEL, A)], [])
    assert (suspect.kind, suspect.object, suspect.found, suspect.score) == ("label without object", 0, None, 0.0)
    assert suspect.suspicion == 1.0


def test_a_label_at_which_another_class_is_found_has_the_wrong_class() -> None:
    suspect = one([(LABEL, A)], [(LABEL, 0.8, B)])
    assert (suspect.kind, suspect.labelled, suspect.predicted, suspect.iou) == ("wrong class", A, B, 1.0)
    assert suspect.suspicion == pytest.approx(0.8)
    # The label's own class was found too, less surely.
    assert one([(LABEL, A)], [(LABEL, 0.8, B), (LABEL, 0.25, A)]).suspicion == pytest.approx(0.8 * 0.75)
    # More surely: then the other one stands where a label stands, and is no missing label either.
    assert told([(LABEL, A)], [(LABEL, 0.8, A), (LABEL, 0.25, B)]) == []


def test_a_label_beside_its_object_is_loose() -> None:
    # Half a side to the right: IoU 1/3.
    suspect = one([(LABEL, A)], [([20.0, 10, 40, 30], 0.9, A)])
    assert (suspect.kind, suspect.found) == ("loose box", (20.0, 10, 40, 30))
    assert suspect.iou == pytest.approx(1 / 3)
    assert suspect.suspicion == pytest.approx(0.9 * 2 / 3)
    # Found, but the box is too wide: IoU 2/3.
    suspect = one([([10.0, 10, 40, 30], A)], [([10.0, 10, 30, 30], 0.9, A)])
    assert (suspect.kind, suspect.suspicion) == ("loose box", pytest.approx(0.9 / 3))
    # A faint detection beside it does not say where it should be.
    assert {s.kind for s in told([(LABEL, A)], [([20.0, 10, 40, 30], 0.1, A)])} == {
        "label without object",
        "missing label",
    }


def test_a_label_found_faintly_beside_a_sure_detection_of_its_class_was_moved() -> None:
    # Half a side away in x and y: IoU 100 / 700. The label was learnt a little where it stands.
    sure = [20.0, 20, 40, 40]
    suspect = one([(LABEL, A)], [(sure, 0.9, A), (LABEL, 0.1, A)])
    assert (suspect.kind, suspect.object, suspect.found) == ("loose box", 0, tuple(sure))
    assert suspect.suspicion == pytest.approx(0.9 * (1 - 1 / 7) * (1 - 0.1))
    # Found surely where it stands: then the other one is an object without a label.
    assert one([(LABEL, A)], [(sure, 0.9, A), (LABEL, 0.4, A)]).kind == "missing label"
    # Of another class, or another label's own, it says nothing about this one.
    assert one([(LABEL, A)], [(sure, 0.9, B), (LABEL, 0.1, A)]).kind == "missing label"
    assert told([(LABEL, A), (sure, A)], [(sure, 0.9, A), (LABEL, 0.1, A)]) == []


def test_a_detection_speaks_for_one_label_only() -> None:
    # Two labels, one detection on the first: the second is without an object, though the detection is near it.
    second = [25.0, 10, 45, 30]
    suspect = one([(LABEL, A), (second, A)], [(LABEL, 0.9, A)])
    assert (suspect.kind, suspect.object) == ("label without object", 1)


def test_crowd_regions_are_no_suspects_and_explain_what_is_found_in_them() -> None:
    objects = Objects.of([LABEL], [A], [True])
    found = torch.tensor([LABEL]), torch.tensor([0.9]), torch.tensor([A])
    assert suspects(objects, *found) == []


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 12))
def test_every_suspect_is_one_label_or_one_unexplained_detection(seed: int, labels: int, detections: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> torch.Tensor:
        corners = 60 * torch.rand(count, 2, generator=generator)
        return torch.cat([corners, corners + 5 + 30 * torch.rand(count, 2, generator=generator)], 1)

    crowd = (torch.rand(labels, generator=generator) < 0.2).tolist()
    objects = Objects.of(boxes(labels).tolist(), torch.randint(0, 2, (labels,), generator=generator).tolist(), crowd)
    scores = torch.rand(detections, generator=generator).sort(descending=True).values
    found = suspects(objects, boxes(detections), scores, torch.randint(0, 2, (detections,), generator=generator))
    named = [suspect.object for suspect in found if suspect.object >= 0]
    assert len(named) == len(set(named))
    assert not any(crowd[index] for index in named)
    against = [suspect.found for suspect in found if suspect.found is not None]
    assert len(against) == len(set(against))
    for suspect in found:
        assert suspect.kind in KINDS
        assert 0 <= suspect.suspicion <= 1
        assert (suspect.object == -1) == (suspect.kind == "missing label")


def test_a_class_is_found_where_one_of_its_labels_is_with_enough_score() -> None:
    labels = Objects.of([LABEL, [50.0, 50, 70, 70], [80.0, 10, 99, 30]], [A, B, 2])
    boxes = torch.tensor([LABEL, [50.0, 50, 70, 70], [10.0, 80, 30, 99]])
    assert found_classes(labels, boxes, torch.tensor([0.06, 0.04, 0.9]), torch.tensor([A, B, 2]), 0.05) == {A}
    assert found_classes(labels, boxes, torch.tensor([0.06, 0.06, 0.9]), torch.tensor([B, B, A]), 0.05) == {B}
    assert found_classes(labels, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.05) == set()
