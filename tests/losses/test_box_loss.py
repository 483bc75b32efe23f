"""Smooth L1 by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import smooth_l1_loss
from torch.testing import assert_close

from foveal.losses.boxes import smooth_l1

ERRORS = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.05, 0.1, 0.5, 3.0])


def test_the_standard_smooth_l1_by_hand() -> None:
    expected = [1.5, 0.5, 0.125, 0.0, 0.00125, 0.005, 0.125, 2.5]
    assert_close(smooth_l1(ERRORS, 1.0), torch.tensor(expected))


def test_the_authors_ninth_turns_linear_at_a_ninth() -> None:
    assert_close(smooth_l1(torch.tensor([0.1, 1 / 9, 1.0]), 1 / 9), torch.tensor([0.045, 1 / 18, 1 - 1 / 18]))


def test_beta_0_is_l1() -> None:
    assert torch.equal(smooth_l1(ERRORS, 0.0), ERRORS.abs())


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_it_agrees_with_torch(beta: float) -> None:
    expected = smooth_l1_loss(ERRORS, torch.zeros_like(ERRORS), beta=beta, reduction="none")
    assert_close(smooth_l1(ERRORS, beta), expected)


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_gradcheck(beta: float) -> None:
    errors = (ERRORS + 0.013).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: smooth_l1(e, beta), (errors,))


def test_no_errors_and_half_precision() -> None:
    assert smooth_l1(torch.zeros(0, 4), 1.0).shape == (0, 4)
    assert smooth_l1(ERRORS.bfloat16(), 1.0).dtype == torch.float32
