"""NMS by hand, then against the loop that the paper describes, with the compiled kernel and without."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from foveal import nms as module
from foveal.boxes import iou
from foveal.nms import batched_nms, batched_nms_plainly, nms

pytestmark = pytest.mark.usefixtures("with_and_without_kernels")


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """One box at a time, best first; equal scores in the order of their index."""
    allowed = iou(boxes, boxes) <= threshold
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i)):
        if all(bool(allowed[index, better]) for better in kept):
            kept.append(index)
    return kept


def crowded(count: int, seed: int, side: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping boxes, scores with many ties, three classes."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, side, (count, 2), generator=generator).float()
    sides = torch.randint(5, 25, (count, 2), generator=generator).float()
    scores = torch.randint(0, 8, (count,), generator=generator).float() / 8
    return torch.cat([corners, corners + sides], 1), scores, torch.randint(0, 3, (count,), generator=generator)


# -- one class ---------------------------------------------------------------------------------------------------------


def test_of_two_boxes_on_one_object_the_better_stays() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [50.0, 50.0, 60.0, 60.0]])
    assert nms(boxes, torch.tensor([0.6, 0.9, 0.7]), 0.5).tolist() == [1, 2]


def test_a_box_at_exactly_the_threshold_stays() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]])  # IoU .5
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]


def test_a_box_that_went_displaces_nothing() -> None:
    # Each overlaps the next by 6 / 14 pixels; the second goes, so the third stays.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [4.0, 0.0, 14.0, 1.0], [8.0, 0.0, 18.0, 1.0]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


def test_equal_scores_go_to_the_lower_index() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1)
    assert nms(boxes, torch.ones(3), 0.5).tolist() == [0]


def test_no_boxes_and_one_box() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    assert nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5).tolist() == [0]


def test_boxes_without_area_displace_nothing() -> None:
    assert nms(torch.zeros(2, 4), torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]


@given(st.integers(0, 40), st.integers(0, 1000), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_it_keeps_what_the_greedy_loop_keeps(count: int, seed: int, threshold: float) -> None:
    boxes, scores, _ = crowded(count, seed)
    assert nms(boxes, scores, threshold).tolist() == greedy(boxes, scores, threshold)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    boxes, scores, _ = crowded(300, seed=5, side=80)
    monkeypatch.setattr(module, "_BLOCK", block)
    assert nms(boxes, scores, 0.5).tolist() == greedy(boxes, scores, 0.5)


# -- class by class ----------------------------------------------------------------------------------------------------


def test_a_box_goes_for_a_better_one_of_its_class_on_either_side() -> None:
    # Neighbours share 8 of 12 pixels, IoU 2/3; the middle one is the best, the others share 6 of 14.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [2.0, 0.0, 12.0, 1.0], [4.0, 0.0, 14.0, 1.0]])
    scores = torch.tensor([0.7, 0.9, 0.8])
    one, two = torch.tensor([0, 0, 0]), torch.tensor([1, 0, 1])
    assert batched_nms(boxes, scores, one, 0.5).tolist() == [1]
    assert batched_nms(boxes, scores, two, 0.5).tolist() == [1, 2, 0]
    assert batched_nms(boxes, scores, two, 0.4).tolist() == [1, 2]
    assert batched_nms(boxes, scores, one, 0.7).tolist() == [1, 2, 0]


@pytest.mark.parametrize(("limit", "kept"), [(0, []), (1, [1]), (2, [1, 2]), (9, [1, 2, 0])])
def test_the_best_of_those_that_stay(limit: int, kept: list[int]) -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [2.0, 0.0, 12.0, 1.0], [4.0, 0.0, 14.0, 1.0]])
    scores = torch.tensor([0.7, 0.9, 0.8])
    assert batched_nms(boxes, scores, torch.tensor([0, 0, 0]), 0.7, limit).tolist() == kept


def test_a_limit_looks_further_where_the_best_are_one_crowd() -> None:
    crowd = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(500, 1)
    apart = torch.tensor([[20.0 * i, 50.0, 20.0 * i + 10, 60.0] for i in range(5)])
    boxes, scores = torch.cat([apart, crowd]), torch.cat([torch.full((5,), 0.1), torch.ones(500)])
    kept = batched_nms(boxes, scores, torch.zeros(505, dtype=torch.int64), 0.5, limit=4)
    assert kept.tolist() == [5, 0, 1, 2]


def test_no_boxes_and_one_box_of_any_class() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert_close(batched_nms(torch.zeros(0, 4), torch.zeros(0), none, 0.5), none)
    assert_close(batched_nms(torch.zeros(0, 4), torch.zeros(0), none, 0.5, limit=3), none)
    one = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert batched_nms(one, torch.ones(1), torch.tensor([7]), 0.5).tolist() == [0]


def test_scores_of_0_and_minus_0_are_equal() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1)
    assert batched_nms(boxes, torch.tensor([-0.0, 0.0, -0.0]), torch.zeros(3), 0.5).tolist() == [0]
    assert batched_nms(boxes, torch.tensor([-0.0, 0.0, 0.0]), torch.arange(3), 0.5).tolist() == [0, 1, 2]


def test_boxes_that_only_touch_do_not_compete() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 5.0], [0.0, 5.0, 9.0, 10.0], [0.0, 5.0, 9.0, 10.0]])
    assert batched_nms(boxes, torch.ones(3), torch.zeros(3), 0.0).tolist() == [0, 1]


def test_labels_may_be_any_whole_number() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(6, 1)
    labels = torch.tensor([-1, 2**63 - 1, -(2**63), 2**32 - 1, 2**33, -1])
    assert batched_nms(boxes, torch.ones(6), labels, 0.5).tolist() == [0, 1, 2, 3, 4]


def test_far_away_boxes_are_compared_without_loss_of_precision() -> None:
    # Shifting classes apart by an offset, as is often done, would round these corners in float32.
    boxes = torch.tensor([[1e6, 0.0, 1e6 + 1, 1.0], [1e6, 0.0, 1e6 + 1, 0.4375]])
    labels = torch.tensor([79, 79])
    assert_close(batched_nms(boxes, torch.tensor([0.9, 0.8]), labels, 0.4375), torch.tensor([0, 1]))
    assert_close(batched_nms(boxes, torch.tensor([0.9, 0.8]), labels, 0.4374), torch.tensor([0]))


@pytest.mark.parametrize("what", ["nan box", "infinite box", "huge box", "nan score"])
def test_what_is_no_number_or_infinite(what: str) -> None:
    boxes, scores, labels = crowded(60, seed=1)
    match what:
        case "nan box":
            boxes[7, 2] = torch.nan
        case "infinite box":
            boxes[7:9] = torch.tensor([-torch.inf, -torch.inf, torch.inf, torch.inf])
        case "huge box":
            boxes[7:9] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
        case "nan score":
            scores[7] = torch.nan
    assert_equal_to_plain(boxes, scores, labels, 0.5)
    assert_equal_to_plain(boxes, scores, labels, 0.5, limit=3)


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_that_no_iou_has(threshold: float) -> None:
    assert_equal_to_plain(*crowded(60, seed=1), threshold)


def test_labels_that_differ_by_less_than_1_are_two_classes() -> None:
    boxes, scores = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(2, 1), torch.tensor([0.9, 0.8])
    assert batched_nms(boxes, scores, torch.tensor([0.25, 0.75]), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("shapes", [((3, 5), 3, 3), ((3, 4), 2, 3), ((3, 4), 3, 4), ((12,), 3, 3)], ids=str)
def test_boxes_scores_and_labels_that_do_not_belong_together_are_refused(
    shapes: tuple[tuple[int, ...], int, int],
) -> None:
    boxes, scores, labels = shapes
    with pytest.raises((IndexError, ValueError)):
        batched_nms(torch.rand(boxes), torch.rand(scores), torch.zeros(labels, dtype=torch.int64), 0.5)


def test_any_dtype_and_layout() -> None:
    boxes, scores, labels = crowded(60, seed=1)
    kept = batched_nms(boxes, scores, labels, 0.5)
    assert_close(batched_nms(boxes.double(), scores.double(), labels, 0.5), kept)
    assert_close(batched_nms(boxes, scores, labels.to(torch.uint8), 0.5), kept)
    columns = boxes.T.contiguous().T.requires_grad_()
    assert_close(batched_nms(columns, scores.repeat_interleave(2)[::2], labels, 0.5), kept)


@given(st.integers(0, 40), st.integers(0, 1000))
def test_only_boxes_of_one_class_compete(count: int, seed: int) -> None:
    boxes, scores, labels = crowded(count, seed)
    kept = batched_nms(boxes, scores, labels, 0.5)
    of_each = [i for c in range(3) for i in _greedy_of_class(boxes, scores, labels, c)]
    assert kept.tolist() == sorted(of_each, key=lambda i: (-float(scores[i]), i))


def assert_equal_to_plain(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, limit: int | None = None) -> None:
    plain = batched_nms_plainly(boxes, scores, labels, iou)
    assert_close(batched_nms(boxes, scores, labels, iou, limit), plain[:limit])


def _greedy_of_class(boxes: Tensor, scores: Tensor, labels: Tensor, label: int) -> list[int]:
    mine = (labels == label).nonzero().squeeze(1)
    return [int(mine[i]) for i in greedy(boxes[mine], scores[mine], 0.5)]
