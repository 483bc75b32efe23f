"""Smooth L1 by hand; whole boxes by each loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import smooth_l1_loss
from torch.testing import assert_close

from foveal.boxes import encode, giou
from foveal.config import LossConfig
from foveal.losses import CrossEntropy, Focal
from foveal.losses.boxes import box_loss, smooth_l1

ERRORS = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.05, 0.1, 0.5, 3.0])


def test_the_standard_smooth_l1_by_hand() -> None:
    expected = [1.5, 0.5, 0.125, 0.0, 0.00125, 0.005, 0.125, 2.5]
    assert_close(smooth_l1(ERRORS, 1.0), torch.tensor(expected))


def test_the_authors_ninth_turns_linear_at_a_ninth() -> None:
    assert_close(smooth_l1(torch.tensor([0.1, 1 / 9, 1.0]), 1 / 9), torch.tensor([0.045, 1 / 18, 1 - 1 / 18]))


def test_huber_turns_hard_examples_down_and_the_focal_loss_easy_ones() -> None:
    """Against the square an error of 3 pulls a third, one below 1 all; against CE the easy logit pulls less."""
    errors = torch.tensor([0.1, 0.5, 3.0], requires_grad=True)
    (robust,) = torch.autograd.grad(smooth_l1(errors, 1.0).sum(), errors)
    assert_close(robust / errors.detach(), torch.tensor([1.0, 1.0, 1 / 3]))
    logits = torch.tensor([-3.0, 0.0, 3.0])  # of an object: hard, undecided, easy
    shares = Focal(1.0, 2.0).derivative(logits, 1.0) / CrossEntropy().derivative(logits, 1.0)
    hard, undecided, easy = shares.tolist()
    assert easy < 0.02 < 0.4 < undecided < 1 < hard


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


ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 10]])
BOXES = torch.tensor([[5.0, 0, 15, 10], [0, 0, 20, 10]])


def test_box_losses_of_two_pairs_by_hand() -> None:
    deltas = torch.zeros(2, 4)
    # The first box is half a side to the right: dx = .5. Its IoU is 1/3, and so is its GIoU: the hull is their union.
    assert_close(box_loss(deltas, ANCHORS, BOXES, LossConfig(box="l1")), torch.tensor([0.5, 0.0]))
    assert_close(box_loss(deltas, ANCHORS, BOXES, LossConfig(box_beta=1.0)), torch.tensor([0.125, 0.0]))
    assert_close(box_loss(deltas, ANCHORS, BOXES, LossConfig(box="giou")), torch.tensor([2 / 3, 0.0]))


@pytest.mark.parametrize("box", ["smooth_l1", "l1", "giou"])
def test_right_offsets_cost_nothing_and_none_give_an_empty_loss(box: str) -> None:
    config = LossConfig(box=box)
    assert_close(box_loss(encode(ANCHORS, BOXES), ANCHORS, BOXES, config), torch.zeros(2), atol=1e-6, rtol=0)
    assert box_loss(torch.zeros(0, 4), ANCHORS[:0], BOXES[:0], config).shape == (0,)
    assert bool(box_loss(torch.full((2, 4), 40.0), ANCHORS, BOXES, config).isfinite().all())


def test_giou_of_boxes_apart_still_has_a_slope() -> None:
    deltas = torch.tensor([[5.0, 0, 0, 0]], requires_grad=True)
    loss = box_loss(deltas, ANCHORS[:1], ANCHORS[:1], LossConfig(box="giou"))
    assert_close(loss.detach(), torch.tensor([1 + 40 / 60]))
    loss.sum().backward()
    assert deltas.grad is not None
    assert float(deltas.grad[0, 0]) > 0
    assert float(giou(ANCHORS[:1] + 50.0, ANCHORS[:1])) < 0
