"""Who holds the loss: numbers worked by hand, and equality with sorting every element."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foveal.analysis.logit_counts import BINS_PER_LOGIT, LogitCounts
from foveal.analysis.loss_shares import FRACTIONS, HARDEST, Elements
from foveal.losses import CrossEntropy, Focal, FocalStar, Hinge, QualityFocal, Varifocal
from foveal.losses.classification import ClassificationLoss
from foveal.matching import BACKGROUND

CE = CrossEntropy()
FAMILY = [CE, Focal(0.25, 2), FocalStar(), Hinge(), QualityFocal(), Varifocal()]
each_loss = pytest.mark.parametrize("loss", FAMILY, ids=str)


def logits_of(p_t: list[float], side: str = "positives") -> Tensor:
    """[M] logits with these p_t."""
    margin = torch.tensor([math.log(p / (1 - p)) for p in p_t], dtype=torch.float64)
    return margin if side == "positives" else -margin


def counted(logits_M: Tensor, side: str = "positives") -> LogitCounts:
    counts = LogitCounts(1, 1)
    class_BN = torch.full((1, len(logits_M)), 0 if side == "positives" else BACKGROUND)
    counts.add([logits_M.view(1, 1, 1, -1)], class_BN)
    return counts


def elements(logits_M: Tensor, loss: ClassificationLoss, side: str = "positives") -> Elements:
    return Elements.of(counted(logits_M, side), side, loss)


def sorted_out(logits_M: Tensor, loss: ClassificationLoss, target: float, fractions: np.ndarray) -> list[np.ndarray]:
    """Share of the loss, and of the |gradient|, that the hardest fractions hold, from every element."""
    loss_M, slope_M = loss(logits_M, target).numpy(), loss.derivative(logits_M, target).abs().numpy()
    order = np.argsort(-loss_M, kind="stable")
    reached = np.arange(len(logits_M) + 1)
    held = [np.concatenate([[0], part[order].cumsum()]) / part.sum() for part in (loss_M, slope_M)]
    return [np.interp(fractions * len(logits_M), reached, part) for part in held]


def tolerance(gamma: float) -> float:
    return (gamma + 1) / 250


# -- by hand -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["positives", "background"])
def test_losses_of_1_2_3_4_are_shared_as_counted_by_hand(side):
    # -log p_t is 1, 2, 3, 4: 10 in all. The hardest 20 % are .8 of the hardest element, which holds .4.
    four = elements(logits_of([math.exp(-loss) for loss in (3, 1, 4, 2)], side), CE, side)
    shares = four.shares(2 * four.sums)
    assert shares.elements == 4
    assert shares.of_all.loss == pytest.approx(0.5)
    assert {f: share.loss for f, share in shares.hardest.items()} == pytest.approx({0.01: 0.016, 0.1: 0.16, 0.2: 0.32})
    # The gradient of cross entropy is p_t - 1.
    slopes = [1 - math.exp(-loss) for loss in (1, 2, 3, 4)]
    assert shares.hardest[0.2].gradient == pytest.approx(0.8 * slopes[3] / sum(slopes))
    curve = four.curve()
    assert np.interp([0.25, 0.5, 0.75, 0.875], FRACTIONS, curve.loss) == pytest.approx([0.1, 0.3, 0.6, 0.8])


def test_focusing_moves_the_loss_to_the_hard_element_by_hand():
    # p_t .9 and .5: cross entropies .10536 and .69315; gamma = 2 multiplies them by .01 and .25.
    both = logits_of([0.9, 0.5])
    halves = [np.interp(0.5, FRACTIONS, elements(both, Focal(0.25, gamma)).curve().loss) for gamma in (0, 2)]
    assert halves == pytest.approx([0.10536 / 0.79851, 0.0010536 / 0.1743415], rel=1e-4)


def test_easy_elements_are_those_above_p_t_of_nine_tenths_by_hand():
    four = elements(logits_of([0.95, 0.91, 0.89, 0.5]), CE)
    shares = four.shares(4 * four.sums)
    easy = -math.log(0.95) - math.log(0.91)
    held = easy / (easy - math.log(0.89) - math.log(0.5))
    assert shares.easy_elements == 0.5
    assert shares.easy.loss == pytest.approx(held)
    assert shares.easy_of_all.loss == pytest.approx(held / 4)
    assert shares.easy.gradient == pytest.approx(0.14 / 0.75)


def test_a_class_with_a_weight_of_its_own_is_ranked_by_its_loss():
    # Two classes at p_t .5; alpha .75 and .25 make the first three times as expensive.
    counts = LogitCounts(1, 2)
    counts.add([torch.zeros(1, 2, 1, 2)], torch.tensor([[0, 1]]))
    two = Elements.of(counts, "positives", Focal((0.75, 0.25), 2.0))
    assert np.interp(0.5, FRACTIONS, two.curve().loss) == pytest.approx(0.25)
    assert two[..., 0].shares(two.sums).of_all.loss == pytest.approx(0.75)
    assert two[..., 1].shares(two.sums).of_all.gradient == pytest.approx(0.25)


# -- none, one, many ---------------------------------------------------------------------------------------------------


@each_loss
def test_a_side_without_elements_has_no_shares(loss):
    none = elements(torch.zeros(0, dtype=torch.float64), loss)
    shares = none.shares(np.array([1.0, 1.0]))
    assert (shares.elements, shares.easy_elements, shares.easy.loss, shares.hardest[0.1].gradient) == (0, *[None] * 3)
    assert shares.of_all.loss == 0
    assert none.shares(none.sums).of_all.loss is None
    assert none.curve().loss is None


@each_loss
def test_one_element_holds_everything_evenly(loss):
    one = elements(logits_of([0.3]), loss)
    shares = one.shares(one.sums)
    assert shares.of_all.loss == 1
    assert shares.hardest[0.2].loss == pytest.approx(0.2)
    assert one.curve().loss == pytest.approx(FRACTIONS)


def test_elements_that_cost_nothing_share_nothing():
    easy = elements(logits_of([0.8, 0.9, 0.95]), Hinge())
    assert easy.shares(easy.sums).hardest[0.1].loss is None
    assert easy.curve().loss is None
    mixed = elements(logits_of([0.8, 0.9, 0.25]), Hinge())
    assert mixed.shares(mixed.sums).easy.loss == 0
    assert np.interp(0.5, FRACTIONS, mixed.curve().loss) == 0


# -- properties --------------------------------------------------------------------------------------------------------

spread = st.lists(st.floats(-20, 20), min_size=1, max_size=60)
narrow = st.lists(st.floats(-4.61, -4.59), min_size=1, max_size=60)
gammas = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])


@given(st.one_of(spread, narrow), gammas, st.sampled_from(["positives", "background"]))
def test_the_histogram_says_what_sorting_says(logits, gamma, side):
    logits_M, loss = torch.tensor(logits, dtype=torch.float64), Focal(0.25, gamma)
    found = elements(logits_M, loss, side)
    target = float(side == "positives")
    for curve, exact in zip(
        (found.curve().loss, found.curve().gradient), sorted_out(logits_M, loss, target, 1 - FRACTIONS), strict=True
    ):
        assert curve == pytest.approx(1 - exact, abs=tolerance(gamma))
    shares = found.shares(found.sums)
    exact_loss, exact_slope = sorted_out(logits_M, loss, target, np.array(HARDEST))
    assert [share.loss for share in shares.hardest.values()] == pytest.approx(exact_loss, abs=tolerance(gamma))
    assert [share.gradient for share in shares.hardest.values()] == pytest.approx(exact_slope, abs=tolerance(gamma))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_tolerance_is_needed_where_all_logits_lie_in_one_bin_and_not_where_they_spread(gamma):
    draw = torch.Generator().manual_seed(0)
    worst = {}
    for name, width in (("one bin", 1 / BINS_PER_LOGIT), ("many bins", 8.0)):
        logits_M = -8 + width * torch.rand(4000, generator=draw, dtype=torch.float64)
        curve = elements(logits_M, Focal(0.25, gamma), "background").curve().loss
        (exact, _) = sorted_out(logits_M, Focal(0.25, gamma), 0.0, 1 - FRACTIONS)
        worst[name] = np.abs(curve - 1 + exact).max()
    assert tolerance(gamma) / 10 < worst["one bin"] < tolerance(gamma)
    assert worst["many bins"] < tolerance(gamma) / 30


@given(spread, gammas)
def test_curves_rise_from_0_to_1_and_lie_below_the_diagonal(logits, gamma):
    curve = elements(torch.tensor(logits, dtype=torch.float64), Focal(0.25, gamma)).curve()
    for part in (curve.loss, curve.gradient):
        assert part[0] == 0
        assert part[-1] == 1
        assert (np.diff(part) >= 0).all()
    assert (curve.loss <= FRACTIONS + 1e-9).all()


@given(spread)
def test_more_focusing_never_gives_easy_elements_more(logits):
    curves = [elements(torch.tensor(logits, dtype=torch.float64), Focal(0.25, g)).curve().loss for g in (0, 0.5, 1, 2)]
    for less, more in pairwise(curves):
        assert (more <= less + 1e-9).all()


@given(spread, st.sampled_from([0.1, 0.5, 0.9]))
def test_alpha_moves_nothing_within_a_side(logits, alpha):
    logits_M = torch.tensor(logits, dtype=torch.float64)
    curves = [elements(logits_M, Focal(weight, 2.0)).curve().loss for weight in (0.25, alpha)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-12)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), gammas)
def test_shares_of_the_parts_add_up(labels, gamma):
    draw = torch.Generator().manual_seed(len(labels))
    counts = LogitCounts(1, 6)
    counts.add([3 * torch.randn(1, 6, 1, len(labels), generator=draw)], torch.tensor([labels]))
    sides = {side: Elements.of(counts, side, Focal(0.25, gamma)) for side in ("positives", "background")}
    sums = sides["positives"].sums + sides["background"].sums
    held = [side[..., label].shares(sums).of_all for side in sides.values() for label in range(6)]
    assert sum(share.loss for share in held) == pytest.approx(1)
    assert sum(share.gradient for share in held) == pytest.approx(1)
