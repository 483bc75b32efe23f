"""`csrc/nms.c` by hand, then against the plain path: the same boxes in the same order, wherever its cells lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.memory import resident_bytes
from foveal.boxes import iou as iou_of
from foveal.compiled import KERNELS
from foveal.nms import batched_nms_plainly

pytestmark = pytest.mark.usefixtures("kernels")

THRESHOLDS = (0.0, 1e-6, 0.1, 1 / 3, 0.5, 0.9, 1.0)
KINDS = ("whole", "any", "far", "negative", "none", "inverted", "again", "tiny", "huge", "strip")
MANY = 100
"""Boxes of a class that it keeps in cells."""


def kernel(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, limit: int | None = None) -> list[int] | None:
    kept = np.full(len(scores) if limit is None else limit, -1, dtype=np.int64)
    count = KERNELS.nms(boxes.numpy(), scores.numpy(), labels.numpy(), iou, kept)
    return None if count is None else kept[:count].tolist()


def assert_equal_to_plain(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, limit: int | None = None) -> None:
    assert kernel(boxes, scores, labels, iou, limit) == batched_nms_plainly(boxes, scores, labels, iou)[:limit].tolist()


def box_of(kind: str, before: list[list[float]], generator: torch.Generator) -> list[float]:
    """A box of a kind that has been, or could be, got wrong."""
    x, y, w, h = torch.rand(4, generator=generator).tolist()
    match kind:
        case "whole":  # corners that meet, and equal ones
            return [int(x * 8), int(y * 4), int(x * 8) + 1 + int(w * 6), int(y * 4) + 1 + int(h * 6)]
        case "far":
            return [9e5 + x, 9e5 + y, 9e5 + x + w, 9e5 + y + h]
        case "negative":
            return [-x * 10, -y * 10, w * 10 - x * 10, h * 10 - y * 10]
        case "none":
            return [int(x * 8), int(y * 8), int(x * 8) + int(w * 4) * (h < 0.5), int(y * 8)]
        case "inverted":
            return [x * 8 + w, y * 8 + h, x * 8, y * 8 + 2 * h]
        case "again" if before:
            return before[int(x * len(before))]
        case "tiny":  # areas that float32 hardly tells from 0
            return [x * 1e-22, y * 1e-22, (x + w) * 1e-22, (y + h) * 1e-22]
        case "huge":
            return [x * 4e17, -y * 4e17, (x + w) * 4e17, (h - y) * 4e17]
        case "strip":
            return [x, y * 9, x + 1000 * w, y * 9 + h] if x < 0.5 else [y * 9, x, y * 9 + h, x + 1000 * w]
    return [x * 8, y * 8, x * 8 + w * 8, y * 8 + h * 8]


def problem(kinds: list[str], classes: int, levels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of these kinds; scores with many ties, -0 and infinities among them; labels."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[float]] = []
    for kind in kinds:
        rows.append(box_of(kind, rows, generator))
    scores = torch.randint(-levels, levels + 1, (len(rows),), generator=generator) / levels
    scores[torch.rand(len(rows), generator=generator) < 0.1] = -0.0
    scores[torch.rand(len(rows), generator=generator) < 0.05] = torch.inf
    scores[torch.rand(len(rows), generator=generator) < 0.05] = -torch.inf
    labels = torch.randint(-(classes // 2), classes - classes // 2, (len(rows),), generator=generator)
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), scores, labels


def clustered(count: int, clusters: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.randint(0, clusters, (count,), generator=generator)
    centres = torch.rand(clusters, 2, generator=generator) * 900
    centre = centres[cluster] + torch.randn(count, 2, generator=generator) * 6
    half = 40 * torch.exp(torch.randn(count, 2, generator=generator) * 0.1)
    labels = torch.randint(0, classes, (clusters,), generator=generator)[cluster]
    return torch.cat([centre - half, centre + half], 1), torch.rand(count, generator=generator), labels


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_of_two_boxes_on_one_object_the_better_stays() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [50.0, 50.0, 60.0, 60.0]])
    assert kernel(boxes, torch.tensor([0.6, 0.9, 0.7]), torch.zeros(3, dtype=torch.int64), 0.5) == [1, 2]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("start", [0.0, -6001.5])
def test_every_second_box_of_a_chain_stays(start: float, turned: bool) -> None:
    # Each overlaps the next alone, by 6 / 14; scores fall along the chain, so each step waits for the one before.
    x = torch.arange(3000.0) * 4 + start
    boxes = torch.stack([x, torch.zeros_like(x), x + 10, torch.ones_like(x)], 1)
    boxes = boxes[:, [1, 0, 3, 2]] if turned else boxes
    assert kernel(boxes, -x, torch.zeros(3000, dtype=torch.int64), 0.4) == list(range(0, 3000, 2))


def test_each_box_of_a_chessboard_stays_and_one_over_all_does_too() -> None:
    corner = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0)) * 10 - 100
    boxes = torch.cat([torch.cat([corner, corner + 10], 1), torch.tensor([[-100.0, -100.0, 100.0, 100.0]])])
    scores, labels = torch.ones(401), torch.zeros(401, dtype=torch.int64)
    assert kernel(boxes, scores, labels, 1 / 400) == list(range(401))
    assert kernel(boxes, scores, labels, 0.0024) == list(range(400))  # IoU 1 / 400 = .0025
    scores[400] = 2
    assert kernel(boxes, scores, labels, 0.0024) == [400]


@pytest.mark.parametrize("side", range(4))
def test_a_box_shares_just_half_with_the_one_that_displaces_it(side: int) -> None:
    """100 pairs 200 apart: of each the better one is one side's half of the other, and a bit more."""
    x = 200.3 * torch.arange(100.0)
    large = torch.stack([x, x / 3, x + 100, x / 3 + 100], 1)
    small = large.clone()
    small[:, side] = (large[:, side] + large[:, (side + 2) % 4]) / 2 + (0.01 if side > 1 else -0.01)
    scores, labels = torch.cat([torch.ones(100), torch.zeros(100)]), torch.zeros(200, dtype=torch.int64)
    assert kernel(torch.cat([small, large]), scores, labels, 0.5) == list(range(100))
    assert kernel(torch.cat([small, large]), scores, labels, 0.502) == list(range(200))
    assert kernel(torch.cat([large, small]), scores, labels, 0.5) == list(range(100))


def test_an_iou_that_is_above_the_threshold_by_rounding_alone() -> None:
    """Columns begin at whole numbers here: the root mean square of 200 widths is 1."""
    large, half = [-3.0, 0.0, 5.0, 1.4], [-3.0, 0.0, float(np.nextafter(np.float32(1), np.float32(0))), 1.4]
    others = [[10.0 * i, 5.0, 10.0 * i + 1, 6.0] for i in range(1, 121)] + [[0.0, 0.0, 0.0, 0.0]] * 78
    boxes, scores = torch.tensor([half, large, *others]), torch.linspace(1, 0, 200)
    # Less than half of the large box, which ends before the column of its middle; in float32 the IoU is .50000006.
    assert float(iou_of(boxes[:1], boxes[1:2])) > 0.5
    assert kernel(boxes, scores, torch.zeros(200, dtype=torch.int64), 0.5) == [0, *range(2, 200)]


# -- against the plain path --------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(KINDS), max_size=80),
    st.sampled_from([1, 3, 1203]),
    st.sampled_from([1, 6, 1000]),
    st.integers(0, 1000),
    st.sampled_from(THRESHOLDS),
    st.sampled_from([None, 0, 1, 3, 100]),
)
def test_it_keeps_what_the_plain_path_keeps(
    kinds: list[str], classes: int, levels: int, seed: int, iou: float, limit: int | None
) -> None:
    assert_equal_to_plain(*problem(kinds, classes, levels, seed), iou, limit)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    st.integers(MANY, 600),
    st.sampled_from([1, 3]),
    st.integers(0, 1000),
    st.sampled_from(THRESHOLDS),
)
def test_it_does_so_where_a_class_has_cells(kinds: list[str], count: int, classes: int, seed: int, iou: float) -> None:
    assert_equal_to_plain(*problem((kinds * count)[:count], classes, 1000, seed), iou)


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.integers(0, 1000), st.booleans())
def test_at_an_iou_that_two_boxes_have_and_just_below(kind: str, seed: int, few: bool) -> None:
    boxes, scores, labels = problem([kind] * (30 if few else 2 * MANY), 1, 1000, seed)
    a, b = torch.randint(0, len(boxes), (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    exact = float(iou_of(boxes[a : a + 1], boxes[b : b + 1]))
    for iou in (exact, max(0.0, float(np.nextafter(np.float32(exact), np.float32(-1))))):
        assert_equal_to_plain(boxes, scores, labels, iou)


@settings(max_examples=200)
@given(st.sampled_from(THRESHOLDS[1:-1]), st.integers(0, 1000))
def test_boxes_that_share_just_the_part_that_is_asked_for(iou: float, seed: int) -> None:
    """Each box with a part of itself, from one side: of its width or height `iou` and up to four roundings more."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(MANY, 2, generator=generator) * 500 - 250
    whole = torch.cat([corner, corner + 1 + 99 * torch.rand(MANY, 2, generator=generator)], 1)
    part, side = whole.clone(), torch.randint(0, 4, (MANY,), generator=generator)
    rows, fixed = torch.arange(MANY), (side + 2) % 4
    share = iou * (1 + torch.randint(0, 5, (MANY,), generator=generator) * 2.0**-22)
    part[rows, side] = whole[rows, fixed] + share * (whole[rows, side] - whole[rows, fixed])
    boxes, scores = torch.cat([whole, part]), torch.rand(2 * MANY, generator=generator)
    assert_equal_to_plain(boxes, scores, torch.zeros(2 * MANY, dtype=torch.int64), iou)


@pytest.mark.parametrize("iou", [0.1, 0.5, 0.9])
def test_areas_so_small_that_float32_hardly_has_them(iou: float) -> None:
    generator = torch.Generator().manual_seed(0)
    corner, sides = torch.rand(2, 2000, 2, generator=generator) * torch.tensor([20.0, 1.0])[:, None, None]
    boxes = torch.cat([corner, corner + 0.5 + sides], 1) * 4e-23  # areas of 0 to 3 of the smallest number
    assert_equal_to_plain(boxes, torch.rand(2000, generator=generator), torch.zeros(2000, dtype=torch.int64), iou)


@pytest.mark.parametrize("iou", [0.3, 0.5])
@pytest.mark.parametrize(
    ("count", "clusters", "classes"), [(3000, 120, 80), (3000, 3000, 80), (2000, 40, 1), (5000, 1000, 1)]
)
def test_many_boxes(count: int, clusters: int, classes: int, iou: float) -> None:
    assert_equal_to_plain(*clustered(count, clusters, classes), iou)
    assert_equal_to_plain(*clustered(count, clusters, classes), iou, limit=30)


def test_classes_that_are_many() -> None:
    boxes, scores, _ = clustered(3000, 10, 1)
    assert_equal_to_plain(boxes, scores, torch.arange(3000) % 1203 * 2**40 - 2**45, 0.5)


# -- what it refuses, and what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e18, -1e18])
@pytest.mark.parametrize("place", [0, 7, 239])
def test_a_coordinate_that_areas_cannot_be_made_of_is_left_to_the_plain_path(value: float, place: int) -> None:
    boxes, scores, labels = clustered(60, 5, 2)
    boxes.view(-1)[place] = value
    assert kernel(boxes, scores, labels, 0.5) is None


def test_a_score_that_is_no_number_and_thresholds_that_no_iou_has() -> None:
    boxes, scores, labels = clustered(60, 5, 2)
    for iou in (-0.1, 1.1, float("nan")):
        assert kernel(boxes, scores, labels, iou) is None
    scores[59] = torch.nan
    assert kernel(boxes, scores, labels, 0.5) is None


def test_buffers_that_are_too_short() -> None:
    boxes, scores, labels = (part.numpy() for part in clustered(10, 5, 2))
    kept = np.zeros(10, dtype=np.int64)
    with pytest.raises(ValueError, match="boxes is shorter"):
        KERNELS.nms(boxes[:9], scores, labels, 0.5, kept)
    with pytest.raises(ValueError, match="labels is shorter"):
        KERNELS.nms(boxes, scores, labels.astype(np.int32), 0.5, kept)
    assert not kept.any()


@pytest.mark.parametrize("iou", [0.3, 1.0])
def test_a_crowd_needs_no_matrix(iou: float) -> None:
    problem = clustered(20_000, 1, 1)
    kernel(*clustered(100, 1, 1), iou)
    taken = resident_bytes(lambda: kernel(*problem, iou))
    if taken is None:
        pytest.skip("this system does not tell how much memory a process took")
    assert taken < 60e6  # a matrix of bytes would take 400 MB
