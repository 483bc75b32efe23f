"""The fast path of NMS by hand, then against the plain one: the same boxes in the same order."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foveal.sweep_nms as module
from foveal.nms import batched_nms, batched_nms_plainly
from foveal.sweep_nms import sweep

THRESHOLDS = (0.0, 1 / 3, 0.5, 0.9, 1.0)
KINDS = ("whole", "any", "far", "negative", "none", "inverted", "again")


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
    labels = torch.randint(0, classes, (len(rows),), generator=generator)
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), scores, labels


def clustered(count: int, clusters: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.randint(0, clusters, (count,), generator=generator)
    centres = torch.rand(clusters, 2, generator=generator) * 900
    centre = centres[cluster] + torch.randn(count, 2, generator=generator) * 6
    half = 40 * torch.exp(torch.randn(count, 2, generator=generator) * 0.1)
    labels = torch.randint(0, classes, (clusters,), generator=generator)[cluster]
    return torch.cat([centre - half, centre + half], 1), torch.rand(count, generator=generator), labels


def assert_equal_to_plain(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, limit: int | None = None) -> None:
    plain = batched_nms_plainly(boxes, scores, labels, iou)
    assert batched_nms(boxes, scores, labels, iou, limit).tolist() == plain[:limit].tolist()


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_a_box_goes_for_a_better_one_of_its_class_on_either_side() -> None:
    # Neighbours share 8 of 12 pixels, IoU 2/3; the middle one is the best, the others share 6 of 14.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [2.0, 0.0, 12.0, 1.0], [4.0, 0.0, 14.0, 1.0]])
    scores = torch.tensor([0.7, 0.9, 0.8])
    assert sweep(boxes.numpy(), scores.numpy(), torch.tensor([0, 0, 0]).numpy(), 0.5).tolist() == [1]
    assert sweep(boxes.numpy(), scores.numpy(), torch.tensor([1, 0, 1]).numpy(), 0.5).tolist() == [1, 2, 0]
    assert sweep(boxes.numpy(), scores.numpy(), torch.tensor([1, 0, 1]).numpy(), 0.4).tolist() == [1, 2]
    assert sweep(boxes.numpy(), scores.numpy(), torch.tensor([0, 0, 0]).numpy(), 0.7, limit=2).tolist() == [1, 2]


def test_boxes_one_above_the_other_do_not_compete() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 5.0], [0.0, 5.0, 9.0, 10.0], [0.0, 5.0, 9.0, 10.0]])
    assert batched_nms(boxes, torch.ones(3), torch.zeros(3, dtype=torch.int64), 0.0).tolist() == [0, 1]


def test_every_second_box_of_a_chain_stays() -> None:
    # Each overlaps the next alone, by 6 / 14; scores fall along the chain, so each step waits for the one before.
    x = torch.arange(3000.0) * 4
    boxes = torch.stack([x, torch.zeros_like(x), x + 10, torch.ones_like(x)], 1)
    kept = batched_nms(boxes, -x, torch.zeros(3000, dtype=torch.int64), 0.4)
    assert kept.tolist() == list(range(0, 3000, 2))


def test_a_limit_looks_further_where_the_best_are_one_crowd() -> None:
    crowd = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(500, 1)
    apart = torch.tensor([[20.0 * i, 50.0, 20.0 * i + 10, 60.0] for i in range(5)])
    boxes, scores = torch.cat([apart, crowd]), torch.cat([torch.full((5,), 0.1), torch.ones(500)])
    kept = batched_nms(boxes, scores, torch.zeros(505, dtype=torch.int64), 0.5, limit=4)
    assert kept.tolist() == [5, 0, 1, 2]


# -- against the plain path --------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(KINDS), max_size=80),
    st.sampled_from([1, 3, 1203]),
    st.sampled_from([1, 6, 1000]),
    st.integers(0, 1000),
    st.sampled_from(THRESHOLDS),
    st.sampled_from([None, 1, 3, 100]),
)
def test_it_keeps_what_the_plain_path_keeps(
    kinds: list[str], classes: int, levels: int, seed: int, iou: float, limit: int | None
) -> None:
    assert_equal_to_plain(*problem(kinds, classes, levels, seed), iou, limit)


@settings(max_examples=300)
@given(
    st.integers(0, 80), st.sampled_from([1, 2, 40]), st.integers(0, 1000), st.sampled_from(THRESHOLDS), st.booleans()
)
def test_nor_do_blocks_change_the_answer(count: int, classes: int, seed: int, iou: float, crowd: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEWEST_HEADS", 3)
        patch.setattr(module, "_PAIRS_AT_ONCE", 4)
        patch.setattr(module, "_MOST_PAIRS", 8)
        patch.setattr(module, "_FEW_PAIRS", 2)
        if crowd:
            assert_equal_to_plain(*clustered(count, max(1, count // 20), classes, seed), iou)
        else:
            assert_equal_to_plain(*problem(["whole", "any"] * (count // 2), classes, 3, seed), iou)


@pytest.mark.parametrize(("count", "clusters", "classes"), [(3000, 120, 80), (3000, 3000, 80), (2000, 40, 1)])
def test_many_boxes(count: int, clusters: int, classes: int) -> None:
    assert_equal_to_plain(*clustered(count, clusters, classes), 0.5)


@pytest.mark.parametrize("what", ["nan box", "infinite box", "huge box", "nan score", "float64"])
def test_what_the_fast_path_does_not_take_has_the_same_answer(what: str) -> None:
    boxes, scores, labels = clustered(60, 5, 2)
    match what:
        case "nan box":
            boxes[7, 2] = torch.nan
        case "infinite box":
            boxes[7:9] = torch.tensor([-torch.inf, -torch.inf, torch.inf, torch.inf])
        case "huge box":
            boxes[7:9] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
        case "nan score":
            scores[7] = torch.nan
        case "float64":
            boxes = boxes.double()
    assert_equal_to_plain(boxes, scores, labels, 0.5)
    assert_equal_to_plain(boxes, scores, labels, 0.5, limit=3)


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("clusters", [20, 500])
def test_it_does_not_matter_whether_all_compete_at_once(
    clusters: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, scores, labels = clustered(1000, clusters, 4)
    expected = batched_nms_plainly(boxes, scores, labels, 0.5)
    monkeypatch.setattr(module, "_FEW_A_BOX", few)
    assert torch.equal(batched_nms(boxes, scores, labels, 0.5), expected)


def test_a_crowd_needs_no_matrix() -> None:
    boxes, scores, labels = clustered(20_000, 1, 1)
    tracemalloc.start()
    kept = batched_nms(boxes, scores, labels, 0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1 <= len(kept) < 20
    assert peak < 60e6  # a matrix of bytes would take 400 MB
