"""The family on logits: the paper's facts, closed-form derivatives, exactness against float64, the ends of float32."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, one_hot
from torch.testing import assert_close

from foveal import losses
from foveal.config import Config, LossConfig
from foveal.errors import ConfigError, UsageError
from foveal.losses import CrossEntropy, Focal, FocalStar, Hinge, QualityFocal, Varifocal
from foveal.losses.classification import ClassificationLoss, classification_loss, inverse_frequency_alpha

GAMMAS = [0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
GRID = torch.linspace(-20, 20, 401)
WIDE = torch.cat([m := torch.tensor([0.0, 1e-3, 1.0, 12.0, 17.0, 18.0, 88.0, 104.0, 1e3, 1e4]), -m])
SMOOTH = [
    CrossEntropy(),
    CrossEntropy(alpha=0.75),
    *(Focal(0.25, gamma) for gamma in GAMMAS),
    *(FocalStar(0.25, gamma, beta) for gamma, beta in ((2, 1), (4, 0), (0.1, -1), (5, 2))),
    *(QualityFocal(gamma) for gamma in (0.0, 0.5, 1.0, 2.0)),
    *(Varifocal(0.75, gamma) for gamma in (0.0, 0.5, 2.0)),
]
FAMILY = [*SMOOTH, Hinge(), Hinge(margin=1.0)]
PAPERS = [
    CrossEntropy(),
    CrossEntropy(0.75),
    Focal(),
    Focal(0.5, 0.5),
    FocalStar(),
    FocalStar(gamma=4, beta=0),
    Hinge(),
]
TARGETS = [0.0, 0.3, 1.0]
each_member = pytest.mark.parametrize("loss", FAMILY, ids=str)
each_target = pytest.mark.parametrize("target", TARGETS)


def logit(p: float) -> Tensor:
    return torch.tensor(math.log(p / (1 - p)), dtype=torch.float64)


def discount(p_t: float) -> float:
    """How many times less than cross entropy a foreground logit costs at gamma = 2."""
    return float(Focal(0.5, 0.0)(logit(p_t), 1.0) / Focal(0.5, 2.0)(logit(p_t), 1.0))


def gradient_of(loss: ClassificationLoss, logits: Tensor, targets: Tensor | float, scale: float = 1.0) -> Tensor:
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((scale * loss(logits, targets)).sum(), logits)
    return gradient


# -- the paper's facts -------------------------------------------------------------------------------------------------


def test_an_easy_example_costs_100_times_less_and_a_very_easy_one_1000_times() -> None:
    assert discount(0.9) == pytest.approx(100)
    assert discount(0.968) == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize("p_t", [0.001, 0.1, 0.3, 0.5])
def test_a_misclassified_example_costs_at_most_4_times_less(p_t: float) -> None:
    assert 1 < discount(p_t) <= 4 + 1e-9


@each_target
def test_gamma_0_is_cross_entropy(target: float) -> None:
    expected = binary_cross_entropy_with_logits(GRID, torch.full_like(GRID, target), reduction="none")
    assert_close(2 * Focal(0.5, 0.0)(GRID, target), expected)
    assert_close(CrossEntropy()(GRID, target), expected)
    assert_close(QualityFocal(0.0)(GRID, target), expected)


@each_target
def test_gamma_0_is_cross_entropy_for_an_infinite_logit_too(target: float) -> None:
    infinite = torch.tensor([math.inf, -math.inf])
    assert torch.equal(2 * Focal(0.5, 0.0).derivative(infinite, target), CrossEntropy().derivative(infinite, target))


def test_fl_star_at_gamma_1_and_beta_0_is_cross_entropy() -> None:
    assert_close(FocalStar(0.75, 1.0, 0.0)(GRID, 1.0), CrossEntropy(0.75)(GRID, 1.0))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(Focal(), 1.265), (CrossEntropy(0.5), 912), (CrossEntropy(0.75), 458)],
    ids=["FL", "CE .5", "CE .75"],
)
def test_a_fresh_net_starts_where_the_paper_says(loss: ClassificationLoss, expected: float) -> None:
    # 113,193 anchors of 600 x 1000, 80 classes, 50 positives; every anchor is foreground with probability .01.
    logits = torch.tensor(-math.log(99), dtype=torch.float64)
    found = loss(logits, 1.0) + loss(logits, 0.0) * 113_193 * 80 / 50
    assert float(found) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_derivative_is_equation_10(gamma: float) -> None:
    x = torch.linspace(-6, 6, 25, dtype=torch.float64)
    for target, alpha_t, y in ((1.0, 0.25, 1), (0.0, 0.75, -1)):
        p_t = torch.sigmoid(y * x)
        expected = alpha_t * y * (1 - p_t) ** gamma * (gamma * p_t * p_t.log() + p_t - 1)
        assert_close(Focal(0.25, gamma).derivative(x, target), expected)


@pytest.mark.parametrize(("gamma", "beta"), [(2.0, 1.0), (4.0, 0.0)])
def test_the_fl_star_derivative_is_equation_11(gamma: float, beta: float) -> None:
    x = torch.linspace(-6, 6, 25, dtype=torch.float64)
    for target, alpha_t, y in ((1.0, 0.25, 1), (0.0, 0.75, -1)):
        expected = alpha_t * y * (torch.sigmoid(gamma * y * x + beta) - 1)
        assert_close(FocalStar(0.25, gamma, beta).derivative(x, target), expected)


# -- by hand -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "target", "expected"),
    [
        (CrossEntropy(), 1.0, -math.log(0.9)),
        (CrossEntropy(), 0.0, -math.log(0.1)),
        (CrossEntropy(0.75), 0.0, 0.25 * -math.log(0.1)),
        (Focal(), 1.0, 0.25 * 0.1**2 * -math.log(0.9)),
        (Focal(), 0.0, 0.75 * 0.9**2 * -math.log(0.1)),
        (FocalStar(0.25, 2.0, 1.0), 1.0, 0.25 * math.log(1 + math.exp(-1) / 81) / 2),
        (Hinge(0.95), 1.0, 0.05),
        (Hinge(0.5), 1.0, 0.0),
        (Hinge(0.5), 0.0, 0.4),
        (QualityFocal(2.0), 0.6, 0.3**2 * (-0.6 * math.log(0.9) - 0.4 * math.log(0.1))),
        (QualityFocal(2.0), 0.0, 0.9**2 * -math.log(0.1)),
        (Varifocal(0.75, 2.0), 0.6, 0.6 * (-0.6 * math.log(0.9) - 0.4 * math.log(0.1))),
        (Varifocal(0.75, 2.0), 0.0, 0.75 * 0.9**2 * -math.log(0.1)),
    ],
    ids=str,
)
def test_a_logit_of_probability_nine_tenths_by_hand(loss: ClassificationLoss, target: float, expected: float) -> None:
    assert float(loss(logit(0.9), target)) == pytest.approx(expected, rel=1e-12)


def test_alpha_weights_foreground_and_its_rest_background() -> None:
    assert_close(Focal(0.2)(GRID, 1.0), 0.4 * Focal(0.5)(GRID, 1.0))
    assert_close(Focal(0.2)(GRID, 0.0), 1.6 * Focal(0.5)(GRID, 0.0))


def test_an_alpha_for_each_class_is_that_alpha_in_its_column() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0.0, 1.0, 0.0]).expand(5, 3)
    found = Focal((0.1, 0.25, 0.9))(logits, targets)
    for column, alpha in enumerate((0.1, 0.25, 0.9)):
        assert_close(found[:, column], Focal(alpha)(logits[:, column], targets[:, column]))


def test_weights_and_mask() -> None:
    keep = torch.tensor([True, False])
    logits = torch.tensor([1.0, torch.inf], requires_grad=True)
    found = Focal()(logits, 0.0, weight=3.0, keep=keep)
    assert_close(found, torch.tensor([3 * float(Focal()(torch.tensor(1.0), 0.0)), 0.0]))
    assert torch.equal(Focal()(WIDE, 1.0, keep=torch.zeros(1, dtype=torch.bool)), torch.zeros_like(WIDE))


@each_member
@pytest.mark.parametrize("unkept", [math.inf, -math.inf, math.nan, 1e30])
def test_what_is_not_kept_costs_nothing_and_moves_nothing(loss: ClassificationLoss, unkept: float) -> None:
    keep = torch.tensor([True, False, True])
    targets, weight = torch.tensor([1.0, unkept, 0.0]), torch.tensor([2.0, unkept, 3.0])
    logits = torch.tensor([0.4, unkept, -0.3], requires_grad=True)
    value = loss(logits, targets, weight, keep)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    alone, sides = torch.tensor([0.4, -0.3]), torch.tensor([1.0, 0.0])
    expected = torch.tensor([2.0, 3.0]) * loss.derivative(alone, sides)
    assert value[1] == gradient[1] == 0
    assert_close(value[keep], torch.tensor([2.0, 3.0]) * loss(alone, sides))
    assert_close(gradient[keep], expected)
    assert torch.equal(loss.derivative(logits.detach(), targets, weight, keep), gradient)


@each_member
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64, torch.float16])
def test_a_mask_and_whole_numbers_are_targets(loss: ClassificationLoss, dtype: torch.dtype) -> None:
    sides = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    logits = torch.tensor([[-3.0, 0.5], [1.0, 9.0]])
    found = loss(logits, sides.to(dtype))
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(logits, sides))
    assert torch.equal(loss.derivative(logits, sides.to(dtype)), loss.derivative(logits, sides))
    assert torch.equal(gradient_of(loss, logits, sides.to(dtype)), gradient_of(loss, logits, sides))


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (7, "go from 7 to 7"),
        (torch.tensor([[0, 2, 1], [2, 1, 0]]), "go from 0 to 2.*class indices"),
        (torch.tensor([0, 2]), r"targets of shape \[2\] do not fit logits of shape \[2, 3\].*class indices"),
        (torch.zeros(2, 2, 3), r"targets of shape \[2, 2, 3\] do not fit"),
    ],
)
def test_targets_that_are_none_are_refused_in_words(targets: Tensor | float, told: str) -> None:
    for method in (Focal(), Focal().derivative):
        with pytest.raises(UsageError, match=told):
            method(torch.zeros(2, 3), targets)


def test_shapes_of_weights_and_masks_are_looked_at_too() -> None:
    with pytest.raises(UsageError, match=r"weight of shape \[2\]"):
        Focal()(torch.zeros(2, 3), 0.0, weight=torch.ones(2))
    with pytest.raises(UsageError, match=r"keep of shape \[2\]"):
        Focal()(torch.zeros(2, 3), 0.0, keep=torch.ones(2, dtype=torch.bool))


def test_a_target_that_is_not_finite_is_told_by_the_loss() -> None:
    """The IoU of a box that a broken net predicts: the run must stop with its own sentence."""
    assert bool(QualityFocal()(torch.zeros(1), torch.tensor([math.nan])).isnan())


# torch.compile makes an object of every autograd function, which torch itself advises against.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("loss", [Focal(), Focal(gamma=4.9), CrossEntropy(0.75), QualityFocal()], ids=str)
def test_a_loss_compiles_as_one_graph(loss: ClassificationLoss) -> None:
    logits, targets = torch.tensor([[-3.0, 0.5], [1.0, 9.0]], requires_grad=True), torch.tensor([[0.0, 1.0], [0.3, 0]])
    torch.compiler.reset()
    compiled = torch.compile(lambda x, t: loss(x, t).sum(), fullgraph=True, backend="eager")
    assert_close(compiled(logits, targets), loss(logits, targets).sum())


def test_an_alpha_for_each_class_wants_the_classes_last() -> None:
    maps = torch.zeros(2, 3, 5, 5)
    with pytest.raises(UsageError, match=r"alpha has 3 numbers.*\[2, 3, 5, 5\].*movedim\(1, -1\)"):
        Focal((0.1, 0.2, 0.3))(maps, 0.0)
    assert Focal((0.1, 0.2, 0.3))(maps.movedim(1, -1), 0.0).shape == (2, 5, 5, 3)


def test_inverse_frequency_by_hand() -> None:
    # A mean of 200: factors 2/3 and 2 on odds of 1/3.
    assert inverse_frequency_alpha([300, 100], 0.25) == pytest.approx((2 / 11, 2 / 5))
    assert inverse_frequency_alpha([7], 0.25) == pytest.approx((0.25,))
    # Factors end at .1 and at 10; a class without objects counts as the rarest.
    assert inverse_frequency_alpha([10**6, 1, 0], 0.5) == pytest.approx((1 / (1 + 3), 10 / 11, 10 / 11))
    assert inverse_frequency_alpha([], 0.25) == ()


# -- every member ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", PAPERS, ids=str)
def test_foreground_and_background_mirror_each_other(loss: ClassificationLoss) -> None:
    balanced = type(loss)(**{**vars(loss), "alpha": 0.5}) if "alpha" in vars(loss) and loss.alpha else loss
    assert_close(balanced(GRID, 1.0), balanced(-GRID, 0.0))
    assert_close(balanced.derivative(GRID, 1.0), -balanced.derivative(-GRID, 0.0))


@pytest.mark.parametrize("loss", PAPERS, ids=str)
def test_a_soft_target_costs_its_share_of_either_side(loss: ClassificationLoss) -> None:
    expected = 0.3 * loss(GRID, 1.0) + 0.7 * loss(GRID, 0.0)
    assert_close(loss(GRID, torch.full_like(GRID, 0.3)), expected)


@each_member
@each_target
def test_a_number_as_target_is_a_tensor_full_of_it(loss: ClassificationLoss, target: float) -> None:
    full = torch.full_like(GRID, target)
    assert_close(loss(GRID, target), loss(GRID, full), rtol=1e-6, atol=0)
    # Between 0 and 1 the two sides cancel where the logit is right.
    assert_close(loss.derivative(GRID, target), loss.derivative(GRID, full), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss", SMOOTH, ids=str)
def test_gradcheck(loss: ClassificationLoss) -> None:
    # No logit with p = .3, where |q - p| has no slope.
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.0, 1.0, 0.3] * 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), (logits,))


@pytest.mark.parametrize("loss", SMOOTH, ids=str)
def test_gradgradcheck(loss: ClassificationLoss) -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.0, 1.0, 0.3] * 3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, targets), (logits,))


@each_member
@each_target
def test_a_sum_has_the_second_derivative_of_its_elements(loss: ClassificationLoss, target: float) -> None:
    """Of a sum the gradient that comes back needs none itself."""
    logits = torch.tensor([-2.0, 0.1, 1.5], dtype=torch.float64)
    step = 1e-6
    around = [loss.derivative(logits + way * step, target) for way in (1, -1)]
    found = torch.autograd.functional.hessian(lambda x: loss(x, target).sum(), logits)
    assert_close(found, torch.diag((around[0] - around[1]) / (2 * step)), rtol=1e-6, atol=1e-8)


def test_a_gradient_penalty_is_the_one_of_plain_cross_entropy() -> None:
    inputs, targets = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.eye(5)[:, :2]
    weights = []
    for loss in (lambda x: CrossEntropy()(x, targets), lambda x: binary_cross_entropy_with_logits(x, targets) * 10):
        net, leaf = torch.nn.Linear(4, 2), inputs.clone().requires_grad_()
        torch.nn.init.eye_(net.weight)
        torch.nn.init.zeros_(net.bias)
        (gradient,) = torch.autograd.grad(loss(net(leaf)).sum(), leaf, create_graph=True)
        gradient.square().sum().backward()
        weights.append(net.weight.grad)
    assert_close(*weights)


@pytest.mark.parametrize("loss", [Focal(gamma=4.9), QualityFocal(4.9), QualityFocal(0.3)], ids=str)
def test_a_gamma_that_is_no_float32_stays_finite_at_the_ends(loss: ClassificationLoss) -> None:
    for target in TARGETS:
        assert bool(loss(WIDE, target).isfinite().all())
        assert bool(loss.derivative(WIDE, target).isfinite().all())


@each_member
@each_target
def test_second_derivatives_are_finite_for_logits_up_to_50(loss: ClassificationLoss, target: float) -> None:
    logits = torch.linspace(-50, 50, 202, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits, target).sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), logits)
    assert bool(second.isfinite().all())


def test_targets_get_no_gradient_by_way_of_the_second_derivative() -> None:
    logits, targets = torch.zeros(3, requires_grad=True), torch.full((3,), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(Focal()(logits, targets).sum(), logits, create_graph=True)
    gradient.sum().backward()
    assert targets.grad is None


def test_gradcheck_of_the_hinge_away_from_its_corner() -> None:
    logits = torch.tensor([-3.0, -1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    for target in (0.0, 1.0):
        assert torch.autograd.gradcheck(lambda x, t=target: Hinge()(x, t), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each_member
@each_target
def test_value_and_gradient_are_finite_for_every_logit(
    dtype: torch.dtype, loss: ClassificationLoss, target: float
) -> None:
    logits = WIDE.to(dtype)
    value = loss(logits, target)
    assert value.dtype == torch.float32
    assert bool((value >= 0).all())
    for tensor in (value, loss.derivative(logits, target), gradient_of(loss, logits, target)):
        assert bool(tensor.isfinite().all())


@each_member
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_float32_is_within_its_bounds_of_float64(loss: ClassificationLoss, target: float) -> None:
    """Sums within 1e-6 relative; gradients within 2e-6 relative and 1e-12 absolute, element by element."""
    logits = torch.cat([torch.linspace(-30, 30, 20_001), WIDE])
    exact = logits.double()
    assert_close(loss(logits, target).double().sum(), loss(exact, target).sum(), rtol=1e-6, atol=0)
    expected = loss.derivative(exact, target)
    if isinstance(loss, Hinge):  # at its corner float32 may be on the other side
        corner = (torch.sigmoid(exact if target else -exact) - loss.margin).abs() < 1e-6
        logits, expected = logits[~corner], expected[~corner]
    assert_close(loss.derivative(logits, target).double(), expected, rtol=2e-6, atol=1e-12)
    assert_close(gradient_of(loss, logits, target).double(), expected, rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("x", [15.0, 17.0, 30.0])
def test_a_hinge_with_margin_1_has_a_slope_where_p_t_rounds_to_1(x: float) -> None:
    for logit, target in ((x, 1.0), (-x, 0.0)):
        exact = Hinge(1.0).derivative(torch.tensor([logit], dtype=torch.float64), target)
        assert_close(Hinge(1.0).derivative(torch.tensor([logit]), target).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", [Focal(), Focal(gamma=0.5), CrossEntropy(), FocalStar()], ids=str)
def test_a_float16_gradient_is_right_after_a_loss_scaler(loss: ClassificationLoss) -> None:
    """Background at a logit of -8: under FL its gradient is 8e-11, which float16 alone would make 0."""
    logits = torch.full((4,), -8.0, dtype=torch.float16)
    scaled = gradient_of(loss, logits, 0.0, scale=65536.0)
    assert scaled.dtype == torch.float16
    expected = loss.derivative(torch.tensor(-8.0, dtype=torch.float64), 0.0)
    # float16 keeps what lies under 6e-5 in steps of 6e-8.
    assert_close(scaled.double() / 65536, expected.expand(4), rtol=1e-3, atol=3e-8 / 65536)
    assert bool((scaled > 0).all())


@each_member
def test_half_precision_logits_are_computed_in_float32(loss: ClassificationLoss) -> None:
    logits = GRID.bfloat16()
    assert torch.equal(loss(logits, 0.0), loss(logits.float(), 0.0))


@given(st.floats(-30, 30), st.sampled_from(GAMMAS), st.floats(0, 1))
def test_the_focal_loss_is_never_negative_and_never_above_cross_entropy(x: float, gamma: float, target: float) -> None:
    logits = torch.tensor(x)
    value, cross_entropy = Focal(0.25, gamma)(logits, target), Focal(0.25, 0.0)(logits, target)
    assert 0 <= value <= cross_entropy * (1 + 1e-6)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_a_better_logit_never_costs_more(x: float, y: float) -> None:
    worse, better = sorted((x, y))
    for loss in PAPERS:
        one, other = loss(torch.tensor([worse, better], dtype=torch.float64), 1.0).tolist()
        assert one >= other


@each_member
def test_no_logits_give_no_losses(loss: ClassificationLoss) -> None:
    assert loss(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)
    assert gradient_of(loss, torch.zeros(0, 3), 0.0).shape == (0, 3)


# -- alone -------------------------------------------------------------------------------------------------------------


def test_the_example_of_the_documents_runs_as_it_is_pasted() -> None:
    document = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```python\n(.*?)^```$", document, re.M | re.S)
    pasted: dict[str, Any] = {}
    exec(example, pasted)
    logits, targets = pasted["logits"], pasted["targets"]
    assert_close(logits.grad, Focal().derivative(logits.detach(), targets))
    assert losses.__doc__ is not None
    assert example in losses.__doc__


def test_class_indices_become_targets_as_the_documents_say() -> None:
    indices = torch.tensor([[[2, 255], [0, 1]]])
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    targets = one_hot(indices.clamp(max=2), 3).movedim(-1, 1)
    found = CrossEntropy()(logits, targets, keep=(indices != 255)[:, None])
    assert found[0, :, 0, 1].tolist() == [0, 0, 0]
    assert_close(found[0, 2, 0, 0], -logsigmoid(logits[0, 2, 0, 0]))
    assert_close(found[0, 1, 1, 0], -logsigmoid(-logits[0, 1, 1, 0]))


# -- from settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Focal(0.25, 2.0)),
        ({"name": "cross_entropy"}, CrossEntropy()),
        ({"name": "balanced_cross_entropy", "alpha": 0.75}, CrossEntropy(0.75)),
        ({"name": "focal_star", "gamma": 4.0, "beta": 0.0}, FocalStar(0.25, 4.0, 0.0)),
        ({"name": "hinge", "margin": 0.8}, Hinge(0.8)),
        ({"name": "quality_focal"}, QualityFocal(2.0)),
        ({"name": "varifocal", "alpha": 0.75}, Varifocal(0.75, 2.0)),
        ({"class_alpha": (0.2, 0.5)}, Focal((0.2, 0.5), 2.0)),
    ],
)
def test_a_config_names_a_member(settings: dict[str, object], expected: ClassificationLoss) -> None:
    assert classification_loss(LossConfig(**settings)) == expected


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "focal_star", "gamma": 0.0}, "loss.gamma is 0, and FL"),
        ({"name": "hinge", "class_alpha": (0.2, 0.5)}, "no effect on hinge"),
        ({"name": "cross_entropy", "balance": "inverse_frequency"}, "no effect on cross_entropy"),
        ({"name": "varifocal", "label_smoothing": 0.1}, "no effect on varifocal"),
        ({"mining": "ohem"}, "set loss.normaliser to image"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Config().with_changes({"loss": settings})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Focal(gamma=-1),
        lambda: Focal(gamma=math.nan),
        lambda: Focal(gamma=math.inf),
        lambda: Focal(alpha=2.0),
        lambda: Focal(alpha=math.nan),
        lambda: Focal(alpha=(0.5, -0.1)),
        lambda: Focal(alpha=()),
        lambda: Focal(alpha=[0.5, 0.5]),
        lambda: CrossEntropy(alpha=-0.1),
        lambda: FocalStar(gamma=0),
        lambda: FocalStar(alpha=1.5),
        lambda: FocalStar(beta=math.inf),
        lambda: Varifocal(alpha=2),
        lambda: Varifocal(alpha=(0.5, 0.5)),
        lambda: Hinge(margin=1.5),
        lambda: QualityFocal(gamma=-0.1),
        lambda: Varifocal(gamma=-1),
    ],
)
def test_impossible_members_are_refused_in_words(make) -> None:
    with pytest.raises(ConfigError, match="give"):
        make()
