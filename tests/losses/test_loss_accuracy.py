"""How near float32 comes to float64: sums of equal logits, whose roundings do not cancel, and soft targets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from foveal.losses import CrossEntropy, Focal, FocalStar, Hinge, QualityFocal, Varifocal
from foveal.losses.classification import ClassificationLoss
from foveal.losses.fused import Places, fused_sums

pytestmark = pytest.mark.usefixtures("with_and_without_kernels")

MEMBERS: list[ClassificationLoss] = [
    CrossEntropy(),
    CrossEntropy(0.75),
    *(Focal(0.25, gamma) for gamma in (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0)),
    *(FocalStar(0.25, gamma, beta) for gamma, beta in ((2, 1), (4, 0), (0.1, -1), (5, 2))),
    QualityFocal(),
    Varifocal(),
]
CONSTANTS = torch.linspace(-16, 16, 3201)
"""Each stands for thousands of equal logits: their sum is as far off as the one."""
NORMAL = torch.finfo(torch.float32).tiny
NOWHERE = Places(*torch.zeros(3, 0, dtype=torch.int64))


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("loss", [*MEMBERS, QualityFocal(5.0), Varifocal(gamma=5.0)], ids=str)
def test_a_sum_of_equal_logits_is_within_a_millionth(loss: ClassificationLoss, target: float) -> None:
    assert_close(loss(CONSTANTS, target).double(), loss(CONSTANTS.double(), target), rtol=1e-6, atol=NORMAL)


def test_twenty_thousand_equal_logits_are_within_a_millionth() -> None:
    for logit in (-11.0, -7.56):
        logits = torch.full((20_000,), logit)
        for loss in (Focal(gamma=5.0), Focal(gamma=3.0), FocalStar(), FocalStar(gamma=5.0, beta=2.0)):
            found = loss(logits, 0.0).sum(dtype=torch.float64)
            assert_close(found, loss(logits.double(), 0.0).sum(), rtol=1e-6, atol=0)


BETWEEN = [*(Focal(gamma=gamma) for gamma in (0.3, 1.3, 2.3, 3.7, 4.3, 4.9)), QualityFocal(4.9), Varifocal(gamma=4.9)]
"""Exponents that float32 does not hold: at a logit of -16 its own for 4.3 is 3e-6 of the loss away."""


@pytest.mark.parametrize("loss", BETWEEN, ids=str)
def test_a_gamma_that_is_no_float32_is_as_exact(loss: ClassificationLoss) -> None:
    exact = CONSTANTS.double()
    for target in (0.0, 1.0):
        assert_close(loss(CONSTANTS, target).double(), loss(exact, target), rtol=1e-6, atol=NORMAL)
        slope = loss.derivative(CONSTANTS, target).double()
        assert_close(slope, loss.derivative(exact, target), rtol=2e-6, atol=1e-12)
    for logit in CONSTANTS[::20].tolist():
        leaf = torch.full((1, 1, 2, 40), logit, requires_grad=True)
        sums = fused_sums([leaf], loss, [NOWHERE], [NOWHERE], torch.zeros(0, 2))
        assert_close(sums, loss(leaf.double(), 0.0).sum()[None], rtol=1e-6, atol=80 * NORMAL)
        (gradient,) = torch.autograd.grad(sums.sum(), leaf)
        assert_close(gradient.double(), loss.derivative(leaf.double(), 0.0), rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("margin", [0.5, 0.95, 1.0])
def test_a_hinge_is_a_difference_and_off_by_its_rounding(margin: float, target: float) -> None:
    loss = Hinge(margin)
    assert_close(loss(CONSTANTS, target).double(), loss(CONSTANTS.double(), target), rtol=0, atol=1e-7)


@pytest.mark.parametrize("target", [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("loss", MEMBERS, ids=str)
def test_a_soft_gradient_is_within_a_millionth_of_its_two_sides(loss: ClassificationLoss, target: float) -> None:
    """They cancel where the logit is right, so relative to the gradient itself no bound holds."""
    full = torch.full_like(CONSTANTS, target)
    exact_x, exact_q = CONSTANTS.double(), full.double()
    found, expected = loss.derivative(CONSTANTS, full).double(), loss.derivative(exact_x, exact_q)
    assert bool(((found - expected).abs() <= 1e-6 * sides(loss, exact_x, exact_q) + 1e-12).all())


def sides(loss: ClassificationLoss, x: Tensor, q: Tensor) -> Tensor:
    """The sizes that a soft target's gradient is the difference of, added up."""
    if isinstance(loss, QualityFocal):  # |q - p| for q of a p_t on one side and 1 - q on the other
        p = torch.sigmoid(x)
        return q * (1 - p) + (1 - q) * p
    if isinstance(loss, Varifocal):
        p = torch.sigmoid(x)
        return q * (q * (1 - p) + (1 - q) * p)
    return q * loss.derivative(x, 1.0).abs() + (1 - q) * loss.derivative(x, 0.0).abs()


@pytest.mark.parametrize("target", [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("loss", [m for m in MEMBERS if not isinstance(m, QualityFocal)], ids=str)
def test_a_soft_sum_is_within_a_millionth(loss: ClassificationLoss, target: float) -> None:
    full = torch.full_like(CONSTANTS, target)
    assert_close(loss(CONSTANTS, full).double(), loss(CONSTANTS.double(), full.double()), rtol=1e-6, atol=NORMAL)


def fast(logits_X: Tensor, loss: ClassificationLoss, planes: bool) -> tuple[Tensor, Tensor]:
    """The fast path's sum and gradient, of logits that are all background, for two classes that have them both."""
    logits = torch.stack([logits_X, logits_X])[None, None]  # [1, 1, K, X]
    logits = logits if planes else logits.movedim(3, 1).contiguous().movedim(1, 3)
    leaf = logits.requires_grad_()
    sums = fused_sums([leaf], loss, [NOWHERE], [NOWHERE], torch.zeros(0, 2))
    (gradient,) = torch.autograd.grad(sums.sum(), leaf)
    return sums, gradient[0, 0]


def holds(logits_X: Tensor, loss: ClassificationLoss, planes: bool) -> None:
    sums, gradient_KX = fast(logits_X, loss, planes)
    exact_X = logits_X.double()
    absolute = 1e-7 * len(logits_X) if isinstance(loss, Hinge) else NORMAL * len(logits_X)
    assert_close(sums, 2 * loss(exact_X, 0.0).sum()[None], rtol=1e-6, atol=2 * absolute)
    assert_close(gradient_KX.double(), loss.derivative(exact_X, 0.0).expand(2, -1), rtol=2e-6, atol=1e-12)


FAST = [*MEMBERS, Hinge(), QualityFocal(5.0), Varifocal(gamma=5.0)]
each_layout = pytest.mark.parametrize("planes", [True, False], ids=["contiguous", "channels_last"])


@each_layout
@pytest.mark.parametrize("loss", FAST, ids=str)
def test_the_fast_path_of_equal_logits_is_within_a_millionth(loss: ClassificationLoss, planes: bool) -> None:
    for logit in CONSTANTS[::20].tolist():
        holds(torch.full((8,), logit), loss, planes)


@each_layout
@pytest.mark.parametrize("loss", FAST, ids=str)
def test_the_fast_path_of_a_whole_block_of_equal_logits_is_within_a_millionth(
    loss: ClassificationLoss, planes: bool
) -> None:
    for logit in (-7.56, 3.1):
        holds(torch.full((1 << 17,), logit), loss, planes)


@each_layout
@pytest.mark.parametrize("highest", [16.0, 0.5])
@pytest.mark.parametrize("loss", FAST, ids=str)
def test_the_fast_path_of_unequal_logits_is_within_a_millionth(
    loss: ClassificationLoss, highest: float, planes: bool
) -> None:
    """With probabilities near 1, and with none."""
    holds(torch.linspace(-16, highest, 3201), loss, planes)
