"""Box algebra by hand, then its laws on any boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from foveal import boxes as algebra

UNIT = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


@st.composite
def box_lists(draw: st.DrawFn, least: int = 0, most: int = 6) -> Tensor:
    """[N, 4] boxes with whole corners in 0 .. 80 and sides of at least 1."""
    count = draw(st.integers(least, most))
    corner, side = st.integers(0, 40), st.integers(1, 40)
    rows = [(draw(corner), draw(corner), draw(side), draw(side)) for _ in range(count)]
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32).reshape(-1, 4)


def test_area_is_width_times_height_without_plus_one() -> None:
    assert_close(algebra.area(torch.tensor([[1.0, 2.0, 4.0, 8.0]])), torch.tensor([18.0]))


def test_inverted_and_flat_boxes_have_no_area() -> None:
    boxes = torch.tensor([[5.0, 5.0, 1.0, 1.0], [3.0, 3.0, 3.0, 9.0]])
    assert_close(algebra.area(boxes), torch.zeros(2))
    assert_close(algebra.iou(boxes, UNIT), torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0.0, 0.0, 10.0, 10.0], 1.0),  # itself
        ([0.0, 0.0, 10.0, 5.0], 0.5),  # its upper half: 50 / 100
        ([5.0, 0.0, 15.0, 10.0], 1 / 3),  # shifted by half: 50 / 150
        ([10.0, 0.0, 20.0, 10.0], 0.0),  # touching: half-open boxes share nothing
        ([2.0, 2.0, 6.0, 7.0], 0.2),  # inside: 20 / 100
    ],
)
def test_iou_by_hand(other: list[float], expected: float) -> None:
    assert_close(algebra.iou(UNIT, torch.tensor([other])), torch.tensor([[expected]]))


def test_iou_of_two_boxes_without_area_is_zero_and_not_nan() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert_close(algebra.iou(point, point), torch.zeros(1, 1))


def test_iou_with_no_boxes_is_an_empty_matrix() -> None:
    assert algebra.iou(torch.zeros(0, 4), UNIT).shape == (0, 1)
    assert algebra.iou(UNIT, torch.zeros(0, 4)).shape == (1, 0)


def test_intersection_leaves_its_operands_as_they_were() -> None:
    boxes = UNIT.clone()
    algebra.iou(boxes, boxes)
    assert_close(boxes, UNIT)


@given(box_lists(), box_lists())
def test_iou_is_symmetric_to_the_last_bit_and_within_0_and_1(a: Tensor, b: Tensor) -> None:
    overlaps = algebra.iou(a, b)
    assert torch.equal(overlaps, algebra.iou(b, a).T)
    assert bool(((overlaps >= 0) & (overlaps <= 1)).all())


@given(box_lists(least=1))
def test_every_box_overlaps_itself_wholly(boxes: Tensor) -> None:
    assert torch.equal(algebra.iou(boxes, boxes).diagonal(), torch.ones(len(boxes)))


def test_giou_of_boxes_apart_is_minus_the_empty_share_of_what_encloses_them() -> None:
    # Two 10 x 10 boxes with a gap of 10: the enclosing 30 x 10 is a third empty.
    apart = torch.tensor([[20.0, 0.0, 30.0, 10.0]])
    assert_close(algebra.giou(UNIT, apart), torch.tensor([-1 / 3]))


@given(box_lists(least=1))
def test_giou_never_exceeds_iou_and_is_1_for_a_box_with_itself(boxes: Tensor) -> None:
    others = boxes.roll(1, 0)
    assert bool((algebra.giou(boxes, others) <= algebra.iou(boxes, others).diagonal() + 1e-6).all())
    assert_close(algebra.giou(boxes, boxes), torch.ones(len(boxes)))


def test_encode_by_hand() -> None:
    # Anchor centred on (10, 10), sides 20 x 20; box centred on (15, 8), sides 40 x 10.
    anchor, box = torch.tensor([[0.0, 0.0, 20.0, 20.0]]), torch.tensor([[-5.0, 3.0, 35.0, 13.0]])
    expected = torch.tensor([[5 / 20, -2 / 20, math.log(2), math.log(0.5)]])
    assert_close(algebra.encode(anchor, box), expected)


@given(box_lists(least=3, most=3), box_lists(least=3, most=3))
def test_decode_undoes_encode(anchors: Tensor, boxes: Tensor) -> None:
    assert_close(algebra.decode(anchors, algebra.encode(anchors, boxes)), boxes, atol=1e-4, rtol=1e-5)


def test_decode_does_not_believe_a_wild_scale() -> None:
    decoded = algebra.decode(UNIT, torch.tensor([[0.0, 0.0, 100.0, 1e4]]))
    side = 10 * 1000 / 16
    assert_close(decoded, torch.tensor([[5 - side / 2, 5 - side / 2, 5 + side / 2, 5 + side / 2]]))


def test_encode_and_decode_take_no_boxes() -> None:
    none = torch.zeros(0, 4)
    assert algebra.encode(none, none).shape == (0, 4)
    assert algebra.decode(none, none).shape == (0, 4)


def test_clip_keeps_what_is_inside_the_picture() -> None:
    boxes = torch.tensor([[-5.0, -5.0, 50.0, 50.0], [30.0, 0.0, 40.0, 5.0]])
    clipped = algebra.clip(boxes, (20, 25))
    assert_close(clipped, torch.tensor([[0.0, 0.0, 25.0, 20.0], [25.0, 0.0, 25.0, 5.0]]))
    assert_close(algebra.area(clipped)[1], torch.tensor(0.0))


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4])
def test_boxes_turn_as_numpy_turns_the_picture(turns: int) -> None:
    picture = np.zeros((5, 7), dtype=bool)
    picture[1:3, 2:6] = True
    y, x = np.nonzero(np.rot90(picture, turns))
    expected = torch.tensor([[x.min(), y.min(), x.max() + 1, y.max() + 1]], dtype=torch.float32)
    assert_close(algebra.quarter_turn(torch.tensor([[2.0, 1.0, 6.0, 3.0]]), (5, 7), turns), expected)


def test_boxes_flip_as_the_picture_flips() -> None:
    box = torch.tensor([[2.0, 1.0, 6.0, 3.0]])
    assert_close(algebra.flip_horizontal(box, 7), torch.tensor([[1.0, 1.0, 5.0, 3.0]]))
    assert_close(algebra.flip_vertical(box, 5), torch.tensor([[2.0, 2.0, 6.0, 4.0]]))


@given(box_lists())
def test_flips_undo_themselves_and_two_quarter_turns_are_both_flips(boxes: Tensor) -> None:
    height, width = 80, 96
    both = algebra.flip_vertical(algebra.flip_horizontal(boxes, width), height)
    assert_close(algebra.flip_horizontal(algebra.flip_horizontal(boxes, width), width), boxes)
    assert_close(algebra.quarter_turn(boxes, (height, width), 2), both)
