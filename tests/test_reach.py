"""Pairs by hand, that none is missing and few are too many, and the places of what is marked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from foveal.anchors import Anchors, centred_inside
from foveal.boxes import iou
from foveal.config import Config
from foveal.detections import Batch, Objects
from foveal.reach import Reach, places

PAPER = Anchors.from_config(Config())


def reach_of(boxes: list[list[float]], anchors: Anchors = PAPER, side: int = 32, inside: int = 32) -> Reach:
    objects = Objects.of(boxes, [0] * len(boxes))
    batch = Batch.pack([torch.zeros(3, inside, inside, dtype=torch.uint8)], [objects], (side, side))
    return Reach.of(anchors, batch, on_padding=False)


@pytest.mark.parametrize(
    ("threshold", "inside", "pairs", "enough"),
    [
        (0.4, 32, [5], [5]),
        (0.33, 32, [0, 1, 2, 4, 5, 6, 8, 9, 10], [1, 4, 5, 6, 9]),  # neighbours have 1/3, corners 1/7
        (0.33, 20, [0, 1, 4, 5], [1, 4, 5]),  # without the column and the row centred on 20
        (0.1, 32, [0, 1, 2, 4, 5, 6, 8, 9, 10], [0, 1, 2, 4, 5, 6, 8, 9, 10]),
    ],
)
def test_the_anchors_that_a_box_reaches(threshold: float, inside: int, pairs: list[int], enough: list[int]) -> None:
    # Squares of 16 pixels centred on 4, 12, 20 and 28; the box is number 5.
    reach = reach_of([[4, 4, 20, 20]], Anchors((3,), (16.0,), (1.0,), (1.0,)), inside=inside)
    ((_, anchor_Q, iou_Q),) = reach.overlaps(torch.tensor([[threshold]]))
    assert anchor_Q.tolist() == pairs
    assert anchor_Q[iou_Q >= threshold].tolist() == enough


def test_about_half_of_the_pairs_are_needed() -> None:
    corners = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) * 200
    boxes_G4 = torch.cat([corners, corners + 20 + corners.flip(1) / 2], 1)
    reach = reach_of(boxes_G4.tolist(), side=320, inside=300)
    anchors_N4 = PAPER.boxes(320, 320)
    needed = int((iou(boxes_G4, anchors_N4[centred_inside(anchors_N4, (300, 300))]) >= 0.4).sum())
    ((_, _, iou_Q),) = reach.overlaps(torch.full((60, 1), 0.4))
    assert int((iou_Q >= 0.4).sum()) == needed > 1000
    assert len(iou_Q) < 2.5 * needed


def test_the_best_nearby_is_the_best_of_all() -> None:
    boxes = [[4.0, 4.0, 36.0, 36.0], [0.0, 0.0, 3.0, 3.0], [5.0, 5.0, 5.0, 9.0], [900.0, 0.0, 910.0, 9.0]]
    best_G = reach_of(boxes).best_nearby()
    assert_close(best_G, iou(torch.tensor(boxes), PAPER.boxes(32, 32)).amax(1), atol=1e-6, rtol=0)
    assert len(reach_of([]).best_nearby()) == 0


@given(st.lists(st.booleans(), max_size=40))
def test_places_are_where_it_is_true(marks: list[bool]) -> None:
    assert places(torch.tensor(marks, dtype=torch.bool)).tolist() == [n for n, marked in enumerate(marks) if marked]
