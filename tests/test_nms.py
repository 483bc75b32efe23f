"""NMS by hand, then against the loop that the paper describes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from foveal import nms as module
from foveal.boxes import iou
from foveal.nms import batched_nms, nms


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
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []
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


@given(st.integers(0, 40), st.integers(0, 1000))
def test_only_boxes_of_one_class_compete(count: int, seed: int) -> None:
    boxes, scores, labels = crowded(count, seed)
    kept = batched_nms(boxes, scores, labels, 0.5)
    of_each = [i for c in range(3) for i in _greedy_of_class(boxes, scores, labels, c)]
    assert kept.tolist() == sorted(of_each, key=lambda i: (-float(scores[i]), i))


def test_far_away_boxes_are_compared_without_loss_of_precision() -> None:
    # Shifting classes apart by an offset, as is often done, would round these corners in float32.
    boxes = torch.tensor([[1e6, 0.0, 1e6 + 1, 1.0], [1e6, 0.0, 1e6 + 1, 0.4375]])
    labels = torch.tensor([79, 79])
    assert_close(batched_nms(boxes, torch.tensor([0.9, 0.8]), labels, 0.4375), torch.tensor([0, 1]))
    assert_close(batched_nms(boxes, torch.tensor([0.9, 0.8]), labels, 0.4374), torch.tensor([0]))


def _greedy_of_class(boxes: Tensor, scores: Tensor, labels: Tensor, label: int) -> list[int]:
    mine = (labels == label).nonzero().squeeze(1)
    return [int(mine[i]) for i in greedy(boxes[mine], scores[mine], 0.5)]
