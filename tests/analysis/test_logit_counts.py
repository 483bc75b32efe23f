"""The histogram of logits: what goes where, by hand; and that order, batches and memory layout do not matter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from foveal.analysis.logit_counts import BINS, BINS_PER_LOGIT, FARTHEST, LogitCounts, anchor_classes
from foveal.matching import BACKGROUND, IGNORED, Match

# One picture, two anchors a cell, two classes: a level of one row and two cells, and one of a single cell. Channel
# a * K + k of a cell; anchors run cell by cell, then a.
#                            cell 0  cell 1
FINE = torch.tensor([[[-1.0, -2.0]],  # a 0, k 0
                     [[3.0, -4.0]],   # a 0, k 1
                     [[-5.0, 6.0]],   # a 1, k 0
                     [[-7.0, -8.0]]])[None]  # fmt: skip
COARSE = torch.tensor([-9.0, -10.0, 11.0, -12.0]).view(1, 4, 1, 1)
# Anchors: cell 0 a 0 is of class 1, cell 0 a 1 background, cell 1 a 0 ignored, cell 1 a 1 of class 0; then coarse.
CLASSES = torch.tensor([[1, BACKGROUND, IGNORED, 0, BACKGROUND, IGNORED]])


def said(counts: LogitCounts, side: str, level: int, label: int) -> list[tuple[float, int]]:
    """(mean logit, how often) of the bins in use."""
    number_LQK, logit_LQK = counts.elements(side)
    used = number_LQK[level, :, label] > 0
    return list(zip(logit_LQK[level, used, label].tolist(), number_LQK[level, used, label].tolist(), strict=True))


def random_batch(seed: int, images: int = 3) -> tuple[list[Tensor], Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = [4 * torch.randn(images, 6, h, w, generator=draw) - 3 for h, w in ((3, 4), (2, 2))]
    return logits, torch.randint(IGNORED, 3, (images, 2 * 16), generator=draw)


def test_every_element_is_counted_on_its_side_by_hand():
    counts = LogitCounts(num_levels=2, num_classes=2)
    counts.add([FINE, COARSE], CLASSES)
    assert said(counts, "positives", 0, 1) == [(3.0, 1)]
    assert said(counts, "positives", 0, 0) == [(6.0, 1)]
    # The other class of an assigned anchor is background; all of an ignored anchor is nothing.
    assert said(counts, "background", 0, 0) == [(-5.0, 1), (-1.0, 1)]
    assert said(counts, "background", 0, 1) == [(-8.0, 1), (-7.0, 1)]
    assert said(counts, "positives", 1, 0) == said(counts, "positives", 1, 1) == []
    assert said(counts, "background", 1, 0) == [(-9.0, 1)]
    assert said(counts, "background", 1, 1) == [(-10.0, 1)]


def test_logits_of_one_bin_share_their_mean_and_others_are_exact():
    counts = LogitCounts(1, 1)
    step = 1 / BINS_PER_LOGIT
    logits = torch.tensor([0.25 * step, 0.5 * step, 1.5 * step], dtype=torch.float64).view(1, 1, 1, 3)
    counts.add([logits], torch.full((1, 3), BACKGROUND))
    assert said(counts, "background", 0, 0) == [(0.375 * step, 2), (1.5 * step, 1)]


def test_far_logits_share_the_last_bins():
    counts = LogitCounts(1, 1)
    counts.add([torch.tensor([-1e4, -30.0, 30.0, 40.0]).view(1, 1, 1, 4)], torch.full((1, 4), BACKGROUND))
    assert said(counts, "background", 0, 0) == [(-5015.0, 2), (35.0, 2)]
    assert counts.count[0, 0, 0, 0] == counts.count[0, 0, BINS - 1, 0] == 2
    assert BINS == 2 * FARTHEST * BINS_PER_LOGIT


def test_nothing_was_counted_at_first_and_a_batch_of_none_adds_nothing():
    counts = LogitCounts(2, 2)
    counts.add([FINE[:0], COARSE[:0]], CLASSES[:0])
    assert counts.count.sum() == 0
    assert all(not torch.isnan(part).any() for part in counts.elements("positives"))


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.permutations(range(3)))
def test_order_and_size_of_batches_do_not_matter(seed, order):
    logits, class_BN = random_batch(seed)
    together, apart = LogitCounts(2, 3), LogitCounts(2, 3)
    together.add(logits, class_BN)
    for image in order:
        apart.add([level[[image]] for level in logits], class_BN[[image]])
    assert torch.equal(together.count, apart.count)
    assert_close(together.total, apart.total, rtol=1e-12, atol=1e-12)
    assert together.count[1].sum() == (class_BN >= 0).sum()
    assert together.count.sum() == 3 * (class_BN != IGNORED).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_layout_and_dtype_do_not_matter(dtype):
    logits, class_BN = random_batch(5)
    logits = [level.to(dtype) for level in logits]
    plain, last = LogitCounts(2, 3), LogitCounts(2, 3)
    plain.add(logits, class_BN)
    last.add([level.float().to(memory_format=torch.channels_last) for level in logits], class_BN)
    assert torch.equal(plain.count, last.count)
    assert_close(plain.total, last.total, rtol=1e-12, atol=1e-12)


def test_each_anchor_has_the_class_of_its_object_by_hand():
    # Two pictures of four anchors, three objects of classes 5, 2 and one that the run does not know.
    match = Match(torch.tensor([1, 4, 6]), torch.tensor([0, 1, 2]), torch.tensor([0, 7]), 2, 4)
    class_BN = anchor_classes(match, torch.tensor([5, 2, -1]))
    none, out = BACKGROUND, IGNORED
    assert class_BN.tolist() == [[out, 5, none, none], [2, none, out, out]]


def test_without_objects_every_anchor_is_background():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert anchor_classes(Match(nothing, nothing, nothing, 1, 3), nothing).tolist() == [[BACKGROUND] * 3]
