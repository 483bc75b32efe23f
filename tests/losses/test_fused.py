"""The pass by hand; then, over every member, layout and dtype, what the plain path says in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from benchmarks.memory import peak_bytes
from foveal.errors import UsageError
from foveal.losses import CrossEntropy, Focal, FocalStar, Hinge, QualityFocal, Varifocal
from foveal.losses import fused as file
from foveal.losses.classification import ClassificationLoss
from foveal.losses.fused import Places, fused_sums, has_fast_path

pytestmark = pytest.mark.usefixtures("with_and_without_kernels")

GAMMAS = [0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
PER_CLASS = (0.0, 0.1, 0.25, 0.5, 1.0)
MEMBERS: list[ClassificationLoss] = [
    CrossEntropy(),
    CrossEntropy(0.75),
    *(Focal(0.25, gamma) for gamma in GAMMAS),
    Focal(1.0),
    FocalStar(),
    FocalStar(0.25, 4.0, 0.0),
    FocalStar(0.5, 0.1, -1.0),
    Hinge(),
    Hinge(0.95),
    Hinge(1.0),
    QualityFocal(0.5),
    QualityFocal(),
    Varifocal(),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small logits are many blocks, and rows wider than one."""
    monkeypatch.setattr(file, "BLOCK", 64)


def indices(triples: Any) -> Places:
    """Of (image, anchor, cell)."""
    return Places(*torch.tensor(triples, dtype=torch.int64).reshape(-1, 3).T)


NOWHERE = indices([])


def in_layout(logits_BAKX: Tensor, channels_last: bool) -> Tensor:
    if not channels_last:
        return logits_BAKX.contiguous()
    return logits_BAKX.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


def sums_of(logits: Tensor, loss: ClassificationLoss, positive: Places, ignored: Places, targets_PK: Tensor) -> Tensor:
    """Of one level."""
    return fused_sums([logits], loss, [positive], [ignored], targets_PK)


def plain_sums(
    logits: Tensor, loss: ClassificationLoss, positive: Places, ignored: Places, targets_PK: Tensor
) -> Tensor:
    """[B] of dense targets and a mask, element by element."""
    by_class = logits.permute(0, 1, 3, 2)
    targets, keep = torch.zeros_like(by_class), torch.ones_like(by_class[..., :1], dtype=torch.bool)
    targets[positive.image, positive.anchor, positive.cell] = targets_PK.to(targets.dtype)
    keep[ignored.image, ignored.anchor, ignored.cell] = False
    return loss(torch.where(keep, by_class, -5.0), targets, keep=keep).sum((1, 2, 3))


def value_and_gradient(sums: Any, logits: Tensor, upstream: Tensor, *of: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    found = sums(leaf, *of)
    (gradient,) = torch.autograd.grad(found, leaf, upstream.to(found.dtype))
    return found.detach(), gradient


def agree(logits: Tensor, upstream: Tensor, *of: Any, gradient_rtol: float = 2e-6, soft: Places = NOWHERE) -> None:
    """soft: anchors whose targets are between 0 and 1. The two sides of their gradient cancel and leave a rounding."""
    found, slopes = value_and_gradient(sums_of, logits, upstream, *of)
    expected, exact = value_and_gradient(plain_sums, logits.double(), upstream, *of)
    assert_close(found, expected, rtol=1e-6, atol=1e-12)
    assert slopes.stride() == logits.stride()
    assert slopes.dtype == logits.dtype
    at = (soft.image, soft.anchor, slice(None), soft.cell)
    assert_close(slopes[at].double(), exact[at], rtol=gradient_rtol, atol=2e-7 * float(upstream.abs().sum()))
    slopes[at], exact[at] = 0.0, 0.0
    assert_close(slopes.double(), exact, rtol=gradient_rtol, atol=max(1e-12, torch.finfo(logits.dtype).tiny / 1e3))


# -- by hand -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
def test_two_classes_and_three_cells_by_hand(channels_last: bool) -> None:
    """Probabilities .1 and .2; then a positive of class 1 with .5 and .9; then an ignored anchor."""
    p = torch.tensor([[0.1, 0.5, 0.3], [0.2, 0.9, 0.4]], dtype=torch.float64)
    logits = in_layout((p / (1 - p)).log().float()[None, None], channels_last).requires_grad_()
    targets = torch.tensor([[0.0, 1.0]])
    found = sums_of(logits, Focal(0.25, 2.0), indices([[0, 0, 1]]), indices([[0, 0, 2]]), targets)
    background = 0.75 * (0.1**2 * -math.log(0.9) + 0.2**2 * -math.log(0.8) + 0.5**2 * -math.log(0.5))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(background + 0.25 * 0.1**2 * -math.log(0.9), rel=1e-6)

    (gradient,) = torch.autograd.grad(3 * found.sum(), logits)
    slopes = [[0.75 * q**2 * (2 * (1 - q) * -math.log(1 - q) + q) for q in row] for row in p.tolist()]
    slopes[1][1] = 0.25 * 0.1**2 * (2 * 0.9 * math.log(0.9) - 0.1)
    slopes[0][2] = slopes[1][2] = 0.0
    assert_close(gradient[0, 0], 3 * torch.tensor(slopes), rtol=1e-5, atol=0)
    assert gradient[0, 0, :, 2].tolist() == [0, 0]


@pytest.mark.parametrize("gamma", [1e-40, 1e-31, 1e-29])
@pytest.mark.parametrize("largest", [-1.0, 5.0])
def test_a_gamma_of_next_to_nothing_is_cross_entropy(gamma: float, largest: float) -> None:
    logits = torch.linspace(-8, largest, 130).reshape(1, 1, 2, 65)
    of = (NOWHERE, NOWHERE, torch.zeros(0, 2))
    found = value_and_gradient(sums_of, logits, torch.ones(1), Focal(0.25, gamma), *of)
    assert_close(found, value_and_gradient(sums_of, logits, torch.ones(1), Focal(0.25, 0.0), *of))


# -- what the plain path says ------------------------------------------------------------------------------------------


@given(data=st.data(), loss=st.sampled_from(MEMBERS), channels_last=st.booleans(), seed=st.integers(0, 2**16))
def test_it_is_the_plain_path_over_dense_targets(
    data: st.DataObject, loss: ClassificationLoss, channels_last: bool, seed: int
) -> None:
    images, per_cell, cells = (data.draw(st.integers(*bounds)) for bounds in ((0, 3), (1, 3), (1, 40)))
    classes = data.draw(st.sampled_from([1, 2, len(PER_CLASS), 70]))
    if classes == len(PER_CLASS) and isinstance(loss, (CrossEntropy, Focal, FocalStar)) and data.draw(st.booleans()):
        loss = type(loss)(**{**vars(loss), "alpha": PER_CLASS})
    spread = data.draw(st.sampled_from([1.0, 5.0, 100.0]))
    generator = torch.Generator().manual_seed(seed)
    logits = in_layout(torch.randn(images, per_cell, classes, cells, generator=generator) * spread - 2, channels_last)
    if isinstance(loss, Hinge):  # at its corner float32 may be on the other side
        logits += 0.01 * ((torch.sigmoid(-logits.double()) - loss.margin).abs() < 1e-5)

    anchors = images * per_cell * cells
    order = torch.randperm(anchors, generator=generator)
    ends = sorted(data.draw(st.lists(st.integers(0, min(anchors, 30)), min_size=2, max_size=2)))
    places = torch.stack(torch.unravel_index(order[: ends[1]], (images, per_cell, cells)), 1)
    positive, ignored = indices(places[: ends[0]].tolist()), indices(places[ends[0] :].tolist())
    kind = data.draw(st.sampled_from(["hard", "smoothed", "soft"]))
    targets = torch.zeros(ends[0], classes)
    targets[torch.arange(ends[0]), torch.randint(classes, (ends[0],), generator=generator)] = 1.0
    if kind == "smoothed":
        targets = targets * 0.9 + 0.1 / classes
    if kind == "soft":
        targets = targets * torch.rand(ends[0], 1, generator=generator)
    upstream = data.draw(st.sampled_from([torch.ones(3), torch.tensor([0.5, -3.0, 1e-3])]))[:images]
    agree(logits, upstream, loss, positive, ignored, targets, soft=NOWHERE if kind == "hard" else positive)


@pytest.mark.parametrize("blocks", ["one", "many"])
@pytest.mark.parametrize("loss", MEMBERS, ids=str)
def test_background_is_within_the_bounds_of_float64_for_every_logit(
    loss: ClassificationLoss, blocks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of neighbours, p says 1 - p exactly enough in those far below 0; in one of all it does not."""
    monkeypatch.setattr(file, "BLOCK", 1 << 10)
    wide = torch.tensor([0.0, 1e-3, 1.0, 12.0, 17.0, 18.0, 80.0, 88.0, 89.0, 104.0, 1e3, 1e4])
    logits = torch.cat([torch.linspace(-30, 30, 30_001), wide, -wide]).sort()[0]
    if isinstance(loss, Hinge):
        logits = logits[(torch.sigmoid(-logits.double()) - loss.margin).abs() > 1e-6]
    for part in (logits[logits <= 80], logits):
        of = part[None, None, None] if blocks == "one" else part[None, None, :, None]
        agree(of, torch.ones(1), loss, NOWHERE, NOWHERE, torch.zeros(0, of.shape[2]))


@pytest.mark.parametrize("loss", MEMBERS, ids=str)
def test_equal_logits_add_up_in_blocks_of_their_real_size(
    loss: ClassificationLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal summands are rounded the same way each time: a float32 sum one after the other would be off by 1e-4."""
    monkeypatch.undo()
    for logit in (-4.6, 0.3):
        logits = torch.full((1, 1, 64, file.BLOCK // 32), logit)
        expected = loss(torch.tensor(logit, dtype=torch.float64), 0.0) * logits.numel()
        found = sums_of(logits, loss, NOWHERE, NOWHERE, torch.zeros(0, 64))
        assert_close(found[0], expected, rtol=1e-6, atol=1e-12)


# -- the ends of float32 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("loss", [*MEMBERS, Focal(PER_CLASS), CrossEntropy(PER_CLASS)], ids=str)
def test_logits_whose_exponential_is_no_float32(loss: ClassificationLoss, channels_last: bool) -> None:
    logits = in_layout(torch.linspace(-1e4, 1e4, 2 * 2 * 5 * 30).view(2, 2, 5, 30), channels_last)
    if isinstance(loss, Hinge):
        logits += 1
    positive, ignored = indices([[0, 1, 29], [1, 0, 3]]), indices([[1, 1, 7], [1, 1, 8]])
    agree(logits, torch.tensor([2.0, 1.0]), loss, positive, ignored, torch.eye(5)[:2])


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_ignored_anchor_is_not_looked_at_and_any_other_spoils_its_own_image_only(
    channels_last: bool, poison: float
) -> None:
    logits = in_layout(torch.randn(2, 2, 5, 30, generator=torch.Generator().manual_seed(1)), channels_last)
    of = (Focal(), NOWHERE, indices([[0, 1, 4]]), torch.zeros(0, 5))
    before = value_and_gradient(sums_of, logits, torch.ones(2), *of)
    logits[0, 1, :, 4] = poison
    after = value_and_gradient(sums_of, logits, torch.ones(2), *of)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(after[1][0, 1, :, 4], torch.zeros(5))

    logits[0, 0, 2, 4] = math.nan
    spoiled = sums_of(logits, *of)
    assert spoiled.isnan().tolist() == [True, False]
    assert spoiled[1] == before[0][1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_precision_logits_are_computed_in_float32(channels_last: bool, dtype: torch.dtype) -> None:
    logits = torch.randn(2, 3, 5, 30, generator=torch.Generator().manual_seed(1)) * 4 - 3
    logits = in_layout(logits.to(dtype), channels_last)
    positive, ignored = indices([[0, 1, 29], [1, 0, 3]]), indices([[1, 1, 7], [1, 1, 8]])
    rounding = torch.finfo(dtype).eps
    for loss in (Focal(), CrossEntropy(PER_CLASS)):
        of = (loss, positive, ignored, torch.eye(5)[:2])
        agree(logits, torch.tensor([64.0, 16.0]), *of, gradient_rtol=rounding)


@pytest.mark.parametrize("loss", [Focal(), Focal(gamma=0.5), CrossEntropy(), FocalStar()], ids=str)
def test_a_float16_gradient_is_right_after_a_loss_scaler(loss: ClassificationLoss) -> None:
    """Background at a logit of -8: under FL its gradient is 8e-11, which float16 alone would make 0."""
    logits = torch.full((1, 1, 2, 4), -8.0, dtype=torch.float16)
    _, scaled = value_and_gradient(sums_of, logits, torch.tensor([65536.0]), loss, NOWHERE, NOWHERE, torch.zeros(0, 2))
    expected = loss.derivative(torch.tensor(-8.0, dtype=torch.float64), 0.0)
    # float16 keeps what lies under 6e-5 in steps of 6e-8.
    assert_close(scaled.double() / 65536, expected.expand(1, 1, 2, 4), rtol=1e-3, atol=3e-8 / 65536)
    assert bool((scaled > 0).all())


# -- how it behaves in a graph -----------------------------------------------------------------------------------------


def leaf_and_arguments(dtype: torch.dtype = torch.float32) -> tuple[Tensor, tuple[Any, ...]]:
    logits = torch.randn(2, 2, 5, 30, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    return logits, (Focal(), indices([[0, 1, 29]]), indices([[1, 1, 7]]), torch.eye(5)[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_second_backward_gives_the_same_and_touches_nothing_given_before(dtype: torch.dtype) -> None:
    logits, of = leaf_and_arguments(dtype)
    sums = sums_of(logits, *of)
    (first,) = torch.autograd.grad(sums, logits, torch.tensor([2.0, 1.0]).double(), retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(sums, logits, torch.tensor([4.0, -1.0]).double())
    assert torch.equal(first, kept)
    assert_close(second[0], 2 * first[0])
    assert_close(second[1], -first[1])


def test_what_was_told_may_be_changed_before_backward() -> None:
    logits, of = leaf_and_arguments(torch.float32)
    told, upstream = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0])
    sums = fused_sums([logits], *((part,) if isinstance(part, Places) else part for part in of), told)  # type: ignore[arg-type]
    told.mul_(4)
    (gradient,) = torch.autograd.grad(sums, logits, upstream.double())
    _, expected = value_and_gradient(sums_of, logits.double(), upstream, *of)
    assert_close(gradient.double(), expected, rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("told", ["nothing", "right", "wrong", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_backward_will_bring_may_be_told_before(told: str, dtype: torch.dtype) -> None:
    logits, of = leaf_and_arguments(dtype)
    upstream = torch.tensor([0.25, 3.0])
    before = {"nothing": None, "right": upstream, "wrong": upstream * 7, "zero": upstream * 0}[told]
    sums = fused_sums([logits], *((part,) if isinstance(part, Places) else part for part in of), before)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(sums, logits, upstream.double())
    _, expected = value_and_gradient(sums_of, logits.double(), upstream, *of)
    assert_close(
        gradient.double(),
        expected,
        rtol=max(2e-6, torch.finfo(dtype).eps),
        atol=max(1e-12, 6e-8 * (dtype == torch.float16)),
    )


def test_a_second_consumer_adds_its_gradient_and_sees_the_logits_as_they_were() -> None:
    logits, of = leaf_and_arguments()
    before = logits.detach().clone()
    through = logits * 1
    sums, other = sums_of(through, *of), (through**2).sum()
    (sums.sum() + other).backward()
    _, alone = value_and_gradient(sums_of, before, torch.ones(2), *of)
    assert torch.equal(through.detach(), before)
    assert_close(logits.grad, alone + 2 * before)


@pytest.mark.parametrize("shape", [lambda sums: sums.sum(), lambda sums: sums.square().sum()], ids=["sum", "square"])
def test_it_is_differentiable_once_and_says_so(shape: Callable[[Tensor], Tensor]) -> None:
    logits, of = leaf_and_arguments()
    (gradient,) = torch.autograd.grad(shape(sums_of(logits, *of)), logits, create_graph=True)
    (once,) = torch.autograd.grad(shape(sums_of(logits, *of)), logits)
    assert torch.equal(gradient, once)
    with pytest.raises(UsageError, match="differentiated once"):
        gradient.sum().backward()


def test_its_hessian_and_its_gradient_penalty_are_refused_too() -> None:
    logits, of = leaf_and_arguments()
    with pytest.raises(UsageError, match="differentiated once"):
        torch.autograd.functional.hessian(lambda x: sums_of(x, *of).sum(), logits.detach())
    weight = torch.ones((), requires_grad=True)
    (gradient,) = torch.autograd.grad(sums_of(logits * weight, *of).sum(), logits, create_graph=True)
    with pytest.raises(UsageError, match="differentiated once"):
        gradient.square().sum().backward()


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_a_graph_of_the_gradient_that_nobody_follows_does_no_harm() -> None:
    logits, of = leaf_and_arguments()
    sums_of(logits, *of).sum().backward()
    alone, logits.grad = logits.grad, None
    sums_of(logits, *of).sum().backward(create_graph=True)
    sums_of(logits, *of).sum().backward()
    assert_close(logits.grad.detach(), 2 * alone)
    logits.grad = None  # else leaf and graph hold each other


def test_gradcheck() -> None:
    logits = torch.linspace(-4, 4, 60, dtype=torch.float64).view(2, 2, 5, 3).requires_grad_()
    positive, ignored, targets = indices([[0, 1, 2]]), indices([[1, 1, 1]]), torch.eye(5, dtype=torch.float64)[:1]
    assert torch.autograd.gradcheck(lambda x: sums_of(x, Focal(), positive, ignored, targets), (logits,))


@pytest.mark.parametrize("loss", [Focal(), FocalStar()], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_one_tensor_of_the_logits_size_is_made_and_without_a_gradient_none(
    channels_last: bool, loss: ClassificationLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "BLOCK", 1 << 12)
    logits = in_layout(torch.randn(2, 9, 20, 2000) - 3, channels_last)
    of = (loss, indices([[0, 1, 29], [1, 8, 2]]), indices([[1, 1, 7]]), torch.eye(20)[:2])

    def forward() -> Tensor:
        return sums_of(logits, *of)

    def both() -> Tensor:
        (gradient,) = torch.autograd.grad(forward(), logits, torch.ones(2).double())
        return gradient

    assert peak_bytes(forward) < logits.nbytes / 20
    logits.requires_grad_()
    assert logits.nbytes <= peak_bytes(both) < 1.05 * logits.nbytes
    with torch.no_grad():
        assert peak_bytes(forward) < logits.nbytes / 20


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_level_without_cells_costs_nothing(channels_last: bool) -> None:
    logits = in_layout(torch.zeros(2, 3, 4, 0), channels_last).requires_grad_()
    sums = sums_of(logits, Focal(), NOWHERE, NOWHERE, torch.zeros(0, 4))
    assert sums.tolist() == [0.0, 0.0]
    sums.sum().backward()


def test_logits_in_no_layout_of_a_convolution_have_no_fast_path() -> None:
    logits = torch.zeros(2, 3, 4, 5)
    assert has_fast_path(logits)
    assert has_fast_path(in_layout(logits, channels_last=True))
    assert has_fast_path(logits[:0])
    assert not has_fast_path(logits[..., ::2])
    assert not has_fast_path(logits.transpose(1, 2))
    assert not has_fast_path(logits.to("meta"))


@pytest.mark.parametrize("loss", [Focal(), FocalStar(), CrossEntropy(PER_CLASS)], ids=str)
def test_another_default_device_changes_nothing(loss: ClassificationLoss) -> None:
    logits, (_, *of) = leaf_and_arguments()
    expected = value_and_gradient(sums_of, logits, torch.ones(2), loss, *of)
    ones = torch.ones(2)
    with torch.device("meta"):
        found = value_and_gradient(sums_of, logits, ones, loss, *of)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
