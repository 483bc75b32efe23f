"""Who counts: by hand, against a plain greedy loop, batched against single, where candidates run out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foveal.boxes import iou
from foveal.config import LossConfig
from foveal.losses.mining import hardest_apart, keep_mask

# Three boxes that overlap by two thirds one after the other (IoU .5), and one far away.
ROW = torch.tensor([[0.0, 0, 30, 10], [10, 0, 40, 10], [20, 0, 50, 10], [200, 0, 230, 10]])
ALL = torch.ones(1, 4, dtype=torch.bool)


def kept(loss: list[float], count: int, nms_iou: float, candidates: Tensor = ALL) -> list[int]:
    keep = hardest_apart(torch.tensor([loss]), candidates, ROW, torch.tensor([count]), nms_iou)
    return keep[0].nonzero().squeeze(1).tolist()


def greedy(loss_N: Tensor, candidates_N: Tensor, boxes_N4: Tensor, count: int, nms_iou: float) -> list[int]:
    """One anchor at a time, from the hardest down."""
    chosen: list[int] = []
    for index in sorted(candidates_N.nonzero().squeeze(1).tolist(), key=lambda i: (-float(loss_N[i]), i)):
        if len(chosen) == count:
            break
        if not chosen or bool((iou(boxes_N4[index : index + 1], boxes_N4[chosen]) <= nms_iou).all()):
            chosen.append(index)
    return sorted(chosen)


def scene(seed: int, images: int, anchors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Losses with ties, candidates, and boxes in clusters."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 60, (anchors, 2), generator=generator).float()
    sides = torch.randint(8, 30, (anchors, 2), generator=generator).float()
    loss = torch.randint(0, 40, (images, anchors), generator=generator) / 8
    candidates = torch.rand(images, anchors, generator=generator) < 0.8
    return loss, candidates, torch.cat([corners, corners + sides], 1)


def test_the_hardest_apart_by_hand() -> None:
    losses = [1.0, 3.0, 2.0, 0.5]
    assert kept(losses, 4, 0.49) == [1, 3]  # the middle one displaces both neighbours
    assert kept(losses, 4, 0.5) == [0, 1, 2, 3]  # an overlap of .5 is allowed
    assert kept(losses, 2, 0.5) == [1, 2]  # and NMS stops when two are kept
    assert kept([2.0, 1.0, 3.0, 0.5], 1, 0.4) == [2]
    assert kept([1.0, 1.0, 1.0, 1.0], 2, 0.49) == [0, 2]  # ties go to the lower anchor
    assert kept(losses, 4, 0.49, torch.tensor([[True, False, True, False]])) == [0, 2]
    assert kept(losses, 0, 0.5) == []
    assert kept(losses, 3, 0.5, torch.zeros(1, 4, dtype=torch.bool)) == []


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 700), st.integers(1, 60), st.sampled_from([0.3, 0.5, 0.7])
)
def test_a_batch_keeps_what_a_plain_greedy_loop_keeps(
    seed: int, images: int, anchors: int, count: int, nms_iou: float
) -> None:
    loss, candidates, boxes = scene(seed, images, anchors)
    counts = torch.arange(images) * 5 + count
    keep = hardest_apart(loss, candidates, boxes, counts, nms_iou)
    for image in range(images):
        expected = greedy(loss[image], candidates[image], boxes, int(counts[image]), nms_iou)
        assert keep[image].nonzero().squeeze(1).tolist() == expected


def mined(settings: dict[str, object], loss: Tensor, positive: Tensor, counted: Tensor, boxes: Tensor) -> Tensor:
    return keep_mask(loss, positive, counted, boxes, LossConfig(normaliser="image", **settings))


def test_every_anchor_that_is_not_ignored_counts_without_mining() -> None:
    loss, counted, boxes = scene(0, 2, 50)
    assert torch.equal(mined({}, loss, ~counted, counted, boxes), counted)


@pytest.mark.parametrize("mining", ["ohem", "ohem_1_3", "ssd"])
def test_ignored_anchors_never_count_and_a_batch_is_its_pictures(mining: str) -> None:
    loss, counted, boxes = scene(1, 3, 600)
    positive = torch.rand(3, 600, generator=torch.Generator().manual_seed(2)) < 0.1
    positive[1] = False
    together = mined({"mining": mining, "mining_count": 32}, loss, positive, counted, boxes)
    assert not bool((together & ~counted).any())
    for image in range(3):
        part = slice(image, image + 1)
        alone = mined({"mining": mining, "mining_count": 32}, loss[part], positive[part], counted[part], boxes)
        assert torch.equal(together[part], alone)


def test_ohem_keeps_the_hardest_of_either_kind() -> None:
    loss, counted, boxes = scene(3, 1, 400)
    positive = torch.zeros(1, 400, dtype=torch.bool)
    keep = mined({"mining": "ohem", "mining_count": 24, "mining_nms": 0.7}, loss, positive, counted, boxes)
    assert keep[0].nonzero().squeeze(1).tolist() == greedy(loss[0], counted[0], boxes, 24, 0.7)


@pytest.mark.parametrize(("positives", "foreground", "background"), [(400, 8, 24), (3, 3, 9), (0, 0, 3)])
def test_ohem_1_3_keeps_three_background_anchors_for_each_positive(
    positives: int, foreground: int, background: int
) -> None:
    # Far apart, so that NMS takes none.
    corners = 100.0 * torch.arange(800)[:, None]
    boxes = torch.cat([corners, corners, corners + 10, corners + 10], 1)
    loss = torch.rand(1, 800, generator=torch.Generator().manual_seed(0))
    positive = torch.arange(800)[None] < positives
    keep = mined({"mining": "ohem_1_3", "mining_count": 32}, loss, positive, torch.ones_like(positive), boxes)
    assert int((keep & positive).sum()) == foreground
    assert int((keep & ~positive).sum()) == background
    for kind in (positive, ~positive):
        inside, outside = loss[keep & kind], loss[~keep & kind]
        if len(inside) and len(outside):
            assert float(inside.min()) >= float(outside.max())


def test_ssd_keeps_all_positives_and_the_hardest_background_at_its_ratio() -> None:
    loss = torch.tensor([[9.0, 0.1, 5, 4, 3, 8, 7], [1.0, 2, 3, 4, 5, 6, 7]])
    positive = torch.zeros(2, 7, dtype=torch.bool)
    positive[0, 1] = True
    counted = torch.ones(2, 7, dtype=torch.bool)
    counted[0, 0] = False
    boxes = torch.zeros(7, 4)
    keep = mined({"mining": "ssd"}, loss, positive, counted, boxes)
    assert keep[0].nonzero().squeeze(1).tolist() == [1, 2, 5, 6]
    assert not bool(keep[1].any())  # no positives, no background
    keep = mined({"mining": "ssd", "mining_ratio": 1.0}, loss, positive, counted, boxes)
    assert keep[0].nonzero().squeeze(1).tolist() == [1, 5]


@pytest.mark.parametrize("count", [2_000, 10**12, 10**30])
@pytest.mark.parametrize("mining", ["ohem", "ohem_1_3"])
def test_a_number_beyond_all_anchors_keeps_all_that_are_apart(mining: str, count: int) -> None:
    loss, counted, boxes = scene(4, 2, 500)
    positive = torch.rand(2, 500, generator=torch.Generator().manual_seed(5)) < 0.1
    keep = mined({"mining": mining, "mining_count": count}, loss, positive, counted, boxes)
    assert torch.equal(keep, mined({"mining": mining, "mining_count": 2_000}, loss, positive, counted, boxes))
    for image in range(2):
        candidates = counted[image] & positive[image] if mining == "ohem_1_3" else counted[image]
        expected = greedy(loss[image], candidates, boxes, 500, 0.5)
        assert (keep[image] & candidates).nonzero().squeeze(1).tolist() == expected


@pytest.mark.parametrize("mining", ["ohem", "ohem_1_3", "ssd"])
def test_no_pictures(mining: str) -> None:
    nothing = torch.zeros(0, 4)
    keep = mined({"mining": mining}, nothing, nothing.bool(), nothing.bool(), ROW)
    assert keep.shape == (0, 4)
