"""When both sides' answers count as the same; numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.peers.agreement import (
    DisagreementError,
    detections_agree,
    kept_agree,
    losses_agree,
    matches_agree,
    steps_agree,
)
from benchmarks.peers.inputs import anchor_count, boxes_to_suppress, digest, found, head_outputs, loss_inputs

BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
THEIRS = found(BOXES, torch.tensor([0.9, 0.8]), torch.tensor([1, 2]))


def matched(positive, objects, ignored=(2, 77)):
    return {"positive": positive, "object": objects, "ignored": list(ignored)}


def test_equal_answers_agree():
    assert detections_agree(THEIRS, THEIRS) == "all 2 detections"
    assert kept_agree({"kept": [3, 1]}, {"kept": [1, 3]}) == "all 2 kept boxes"
    said = matches_agree(matched([5, 9], [0, 1]), matched([5, 9], [0, 1]))
    assert said == "all 2 positive anchors, the same ignored"


def test_an_anchor_of_another_object_differs_and_a_few_may():
    theirs = matched(list(range(2000)), [0] * 2000)
    # Each counts twice, once on either side.
    assert "2000 positive anchors but 4" in matches_agree(matched(list(range(2000)), [1, 1] + [0] * 1998), theirs)
    with pytest.raises(DisagreementError, match="6 positive anchors differ"):
        matches_agree(matched(list(range(2000)), [1, 1, 1] + [0] * 1997), theirs)
    assert "other ignored" in matches_agree(matched([1], [0], (3, 78)), matched([1], [0]))


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        (lambda a: a["boxes"][0].__setitem__(0, 0.05), True),
        (lambda a: a["boxes"][0].__setitem__(0, 0.2), False),
        (lambda a: a["labels"].__setitem__(0, 3), False),
        (lambda a: a["scores"].__setitem__(0, 0.9005), True),
        (lambda a: a["scores"].__setitem__(0, 0.902), False),
        (lambda a: a["scores"].append(0.5), None),
    ],
)
def test_detections_are_told_apart_by_place_class_and_score(change, fine):
    ours = found(BOXES, torch.tensor([0.9, 0.8]), torch.tensor([1, 2]))
    change(ours)
    if fine is None:
        with pytest.raises(DisagreementError, match="3 detections against 2"):
            detections_agree(ours, THEIRS)
    else:
        assert detections_agree(ours, THEIRS) == ("all 2 detections" if fine else "2 detections but 1")


def test_a_detection_answers_for_one_only():
    twice = found(BOXES[[0] * 4], torch.full((4,), 0.9), torch.ones(4, dtype=torch.int64))
    once = found(
        torch.cat([BOXES[:1], BOXES[1:].repeat(3, 1)]), torch.full((4,), 0.9), torch.ones(4, dtype=torch.int64)
    )
    with pytest.raises(DisagreementError, match="3 detections differ"):
        detections_agree(once, twice)


def test_a_gradient_that_is_off_by_a_hundredth_somewhere_disagrees():
    gradient = torch.linspace(1, 2, 100)
    theirs = {"value": 1.0, "gradient": digest(gradient)}
    assert losses_agree({"value": 1.0, "gradient": digest(gradient)}, theirs) == "value equal, gradient equal"
    with pytest.raises(DisagreementError, match="gradient differs"):
        losses_agree({"value": 1.0, "gradient": digest(gradient.clone().index_fill(0, torch.tensor(3), 1.02))}, theirs)
    with pytest.raises(DisagreementError, match=r"value differs by 0\.01"):
        losses_agree({"value": 1.01, "gradient": digest(gradient)}, theirs)


def test_a_loss_that_is_not_a_number_agrees_with_nothing():
    with pytest.raises(DisagreementError):
        steps_agree({"classification": math.nan, "box": 1.0}, {"classification": math.nan, "box": 1.0})


def test_inputs_are_as_large_as_they_say_and_the_same_each_time():
    assert sum(anchor_count(600, 600)) == 67_995
    assert sum(anchor_count(1024, 1040)) == 199_800
    one, other = loss_inputs(64, 96, 3), loss_inputs(64, 96, 3)
    assert one.logits.shape == (sum(anchor_count(64, 96)), 3)
    assert torch.equal(one.logits, other.logits)
    assert not torch.isin(one.ignored, one.positive).any()
    logits, deltas = head_outputs(64, 96, "worst")
    assert len(logits) == len(deltas) == sum(anchor_count(64, 96))
    assert ((logits.sigmoid() > 0.05).all(), (head_outputs(64, 96, "typical")[0].sigmoid() > 0.05).all()) == (
        True,
        False,
    )
    for kind in ("random", "clustered"):
        assert [len(part) for part in boxes_to_suppress(50, kind)] == [50, 50, 50]
