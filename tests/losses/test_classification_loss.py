"""The focal loss: the paper's facts, its closed-form derivative, its behaviour at the ends of float32."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from foveal.losses.classification import background_loss, focal_gradient, focal_loss, foreground_loss

GAMMAS = [0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
GRID = torch.linspace(-20, 20, 401)


def logit(p: float) -> Tensor:
    return torch.tensor(math.log(p / (1 - p)), dtype=torch.float64)


def discount(p_t: float) -> float:
    """How many times less than cross entropy a foreground logit costs at gamma = 2."""
    return float(focal_loss(logit(p_t), 1.0, 0.5, 0.0) / focal_loss(logit(p_t), 1.0, 0.5, 2.0))


def by_automatic_differentiation(logits: Tensor, targets: Tensor | float, alpha: float, gamma: float) -> Tensor:
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(focal_loss(logits, targets, alpha, gamma).sum(), logits)
    return gradient


def test_an_easy_example_costs_100_times_less_and_a_very_easy_one_1000_times() -> None:
    assert discount(0.9) == pytest.approx(100)
    assert discount(0.968) == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize("p_t", [0.001, 0.1, 0.3, 0.5])
def test_a_misclassified_example_costs_at_most_4_times_less(p_t: float) -> None:
    assert 1 < discount(p_t) <= 4 + 1e-9


def test_focal_loss_by_hand() -> None:
    value = 0.25 * (1 - 0.9) ** 2 * -math.log(0.9)
    assert_close(focal_loss(logit(0.9), 1.0), torch.tensor(value, dtype=torch.float64))
    # The same logit as background: p_t = .1 and alpha_t = .75.
    value = 0.75 * 0.9**2 * -math.log(0.1)
    assert_close(focal_loss(logit(0.9), 0.0), torch.tensor(value, dtype=torch.float64))


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_gamma_0_is_cross_entropy(target: float) -> None:
    expected = binary_cross_entropy_with_logits(GRID, torch.full_like(GRID, target), reduction="none")
    assert_close(2 * focal_loss(GRID, target, 0.5, 0.0), expected)


def test_alpha_weights_foreground_and_its_rest_background() -> None:
    assert_close(focal_loss(GRID, 1.0, 0.2, 2.0), 0.4 * focal_loss(GRID, 1.0, 0.5, 2.0))
    assert_close(focal_loss(GRID, 0.0, 0.2, 2.0), 1.6 * focal_loss(GRID, 0.0, 0.5, 2.0))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_foreground_and_background_mirror_each_other(gamma: float) -> None:
    assert torch.equal(foreground_loss(GRID, 0.5, gamma), background_loss(-GRID, 0.5, gamma))
    assert_close(foreground_loss(GRID, 0.25, gamma), focal_loss(GRID, 1.0, 0.25, gamma))
    assert_close(background_loss(GRID, 0.25, gamma), focal_loss(GRID, 0.0, 0.25, gamma))


def test_a_soft_target_costs_its_share_of_either_side() -> None:
    expected = 0.3 * foreground_loss(GRID) + 0.7 * background_loss(GRID)
    assert_close(focal_loss(GRID, torch.full_like(GRID, 0.3)), expected)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_automatic_differentiation_finds_the_closed_form(gamma: float, target: float) -> None:
    expected = focal_gradient(GRID, target, 0.25, gamma)
    assert_close(by_automatic_differentiation(GRID, target, 0.25, gamma), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_closed_form_is_equation_10_of_the_paper(gamma: float) -> None:
    x = torch.linspace(-6, 6, 25, dtype=torch.float64)
    for target, alpha_t, y in ((1.0, 0.25, 1), (0.0, 0.75, -1)):
        p_t = torch.sigmoid(y * x)
        expected = alpha_t * y * (1 - p_t) ** gamma * (gamma * p_t * p_t.log() + p_t - 1)
        assert_close(focal_gradient(x, target, 0.25, gamma), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradcheck(gamma: float) -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.0, 1.0, 0.3] * 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, targets, 0.25, gamma), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: focal_loss(x, targets, 0.25, gamma), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_value_and_gradient_are_finite_for_every_logit(dtype: torch.dtype, gamma: float, target: float) -> None:
    magnitudes = torch.tensor([0.0, 1e-3, 1.0, 12.0, 17.0, 18.0, 88.0, 104.0, 1e3, 1e4])
    logits = torch.cat([magnitudes, -magnitudes]).to(dtype)
    value = focal_loss(logits, target, 0.25, gamma)
    assert value.dtype == torch.float32
    for tensor in (
        value,
        focal_gradient(logits, target, 0.25, gamma),
        by_automatic_differentiation(logits, target, 0.25, gamma),
    ):
        assert bool(tensor.isfinite().all())


@pytest.mark.parametrize("gamma", [0.1, 2.0])
def test_float32_is_right_where_the_usual_formula_cancels(gamma: float) -> None:
    # At a background logit of -12, p_t - 1 is 2.7 % off in float32.
    exact = focal_gradient(torch.tensor(-12.0, dtype=torch.float64), 0.0, 0.25, gamma)
    assert_close(focal_gradient(torch.tensor(-12.0), 0.0, 0.25, gamma).double(), exact, rtol=2e-6, atol=0)


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits = GRID.bfloat16()
    assert torch.equal(focal_loss(logits, 0.0), focal_loss(logits.float(), 0.0))


@given(st.floats(-30, 30), st.sampled_from(GAMMAS), st.floats(0, 1))
def test_the_loss_is_never_negative_and_never_above_cross_entropy(x: float, gamma: float, target: float) -> None:
    logits = torch.tensor(x)
    value, cross_entropy = focal_loss(logits, target, 0.25, gamma), focal_loss(logits, target, 0.25, 0.0)
    assert 0 <= value <= cross_entropy * (1 + 1e-6)


def test_no_logits_give_no_losses() -> None:
    assert focal_loss(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("alpha", "gamma", "expected"),
    [(0.25, 2.0, 1.265), (0.5, 0.0, 912), (0.75, 0.0, 458)],
    ids=["FL", "CE .5", "CE .75"],
)
def test_a_fresh_net_starts_where_the_paper_says(alpha: float, gamma: float, expected: float) -> None:
    # 113,193 anchors of 600 x 1000, 80 classes, 50 positives; every anchor is foreground with probability .01.
    logits = torch.tensor(-math.log(99), dtype=torch.float64)
    background = background_loss(logits, alpha, gamma) * 113_193 * 80 / 50
    assert float(foreground_loss(logits, alpha, gamma) + background) == pytest.approx(expected, rel=2e-3)
