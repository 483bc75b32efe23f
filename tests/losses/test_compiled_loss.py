"""The compiled class loss alone: many pieces, threads, holes at every border. What it computes: `test_fused.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from foveal import compiled
from foveal.losses import CrossEntropy, Focal, Hinge
from foveal.losses.classification import ClassificationLoss
from foveal.losses.fused import Places, fused_sums

pytestmark = pytest.mark.usefixtures("kernels")

GAMMAS = (0.01, 0.1, 0.5, 1.0, 1.3, 2.0, 3.0, 4.9, 5.0)
BLOCK, PIECE = 1024, 32 * 1024
"""As in csrc/loss.c."""


def arguments(**other: Any) -> list[Any]:
    """For two images of 3 anchors, 5 classes and 7 cells, without holes; gamma 2."""
    given = {
        "logits": np.linspace(-6, 6, 210, dtype=np.float32),
        "slopes": np.zeros(210, np.float32),
        "shape": (2, 3, 5, 7),
        "planes": True,
        "hole": np.empty(0, np.int64),
        "hole_end": np.zeros(6, np.int64),
        "weights": np.empty(0, np.float32),
        "scale": np.ones(2),
        "loss": ("focal", 2.0, 0.0),
        "threads": 1,
        "sums": np.zeros(2),
        "way": "",
    }
    return list({**given, **other}.values())


def call(*given: Any) -> None:
    assert compiled.KERNELS is not None
    if not compiled.KERNELS.class_loss_ways():
        pytest.skip("this processor lacks the instructions")
    compiled.KERNELS.class_loss(*given)


def test_a_logit_of_0_by_hand() -> None:
    """p = .5: the loss is .25 log 2, its derivative .25 (2 x .5 log 2 + .5)."""
    sums, slopes = np.zeros(1), np.zeros(3, np.float32)
    call(*arguments(logits=np.zeros(3, np.float32), slopes=slopes, shape=(1, 1, 1, 3), sums=sums))
    assert sums[0] == pytest.approx(3 * 0.25 * np.log(2), rel=1e-7)
    assert slopes.tolist() == pytest.approx([0.25 * (np.log(2) + 0.5)] * 3, rel=1e-7)


@pytest.mark.parametrize(
    "short",
    [
        {"logits": np.zeros(209, np.float32)},
        {"slopes": np.zeros(209, np.float32)},
        {"hole_end": np.zeros(5, np.int64)},
        {"weights": np.zeros(4, np.float32)},
        {"scale": np.zeros(1)},
        {"sums": np.zeros(1)},
    ],
    ids=lambda short: next(iter(short)),
)
def test_an_array_that_is_too_short_is_refused_and_nothing_is_written_past_it(short: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(short))} is shorter"):
        call(*arguments(**short))


@pytest.mark.parametrize("hole", [[7], [-1], [3, 2]])
def test_holes_outside_or_out_of_order_are_refused(hole: list[int]) -> None:
    ends = np.array([0, 0, len(hole), len(hole), len(hole), len(hole)])
    with pytest.raises(ValueError, match="holes are not sorted, or lie outside"):
        call(*arguments(hole=np.array(hole), hole_end=ends))


def test_holes_that_end_beyond_their_array_are_refused() -> None:
    with pytest.raises(ValueError, match="holes are not sorted, or lie outside"):
        call(*arguments(hole=np.array([1]), hole_end=np.array([0, 0, 2, 2, 2, 2])))


@pytest.mark.parametrize("shape", [(2, 3, 5, -7), (2, -3, -5, 7), (1, 2**32, 2**32, 1), (2**62, 4, 1, 1)])
@pytest.mark.parametrize("planes", [True, False])
def test_a_shape_that_no_array_has_is_refused(shape: tuple[int, ...], planes: bool) -> None:
    with pytest.raises(ValueError, match="the shape is not one"):
        call(*arguments(shape=shape, planes=planes))


def test_it_is_the_same_to_the_last_bit_with_any_number_of_threads() -> None:
    logits = np.random.default_rng(0).normal(-3, 3, (3, 2, 5, 20_011)).astype(np.float32)
    found = []
    for threads in (1, 2, 7, 1000, 0, -1):
        slopes, sums = np.zeros_like(logits), np.zeros(3)
        given = {"logits": logits, "slopes": slopes, "shape": logits.shape, "sums": sums}
        call(*arguments(**given, hole_end=np.zeros(6, np.int64), scale=np.ones(3), threads=threads))
        found.append((slopes.tobytes(), sums.tobytes()))
    assert len(set(found)) == 1


def test_a_machine_with_more_cores_than_it_makes_threads() -> None:
    logits, sums = np.zeros(140 * PIECE, np.float32), np.zeros(1)
    slopes, shape = np.empty(0, np.float32), (1, 1, 1, len(logits))
    call(*arguments(logits=logits, slopes=slopes, shape=shape, threads=1000, sums=sums))
    assert sums[0] == pytest.approx(len(logits) * 0.25 * np.log(2), rel=1e-7)


def around_borders(cells: int, classes: int, planes: bool) -> list[int]:
    """Cells of the one anchor whose logits begin or end a block or a piece, with their neighbours."""
    places = [border + step for border in (0, BLOCK, PIECE, 2 * PIECE) for step in (-2, -1, 0, 1)]
    cells_there = {place % cells if planes else place // classes for place in places}
    return sorted(cell for cell in cells_there if 0 <= cell < cells)


@pytest.mark.parametrize("planes", [True, False])
@pytest.mark.parametrize(("classes", "cells"), [(7, 20_011), (700, 150), (5000, 40), (1, 70_000)])
def test_holes_at_the_borders_of_blocks_and_pieces(planes: bool, classes: int, cells: int) -> None:
    logits = torch.randn(2, 1, classes, cells, generator=torch.Generator().manual_seed(1)) * 3 - 3
    cell = torch.tensor(around_borders(cells, classes, planes))
    image = torch.arange(len(cell)) % 2
    keep = torch.ones(2, cells, dtype=torch.bool)
    keep[image, cell] = False
    if not planes:
        logits = logits.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    leaf = logits.requires_grad_()
    nowhere, ignored = Places(*torch.zeros(3, 0, dtype=torch.int64)), Places(image, torch.zeros_like(cell), cell)
    sums = fused_sums([leaf], Focal(), [nowhere], [ignored], torch.zeros(0, classes))
    (gradient,) = torch.autograd.grad(sums.sum(), leaf)

    exact, kept = logits.detach().double(), keep[:, None, None]
    assert_close(sums, of_kept(Focal()(exact, 0.0), kept).sum((1, 2, 3)), rtol=1e-6, atol=0)
    assert_close(gradient.double(), of_kept(Focal().derivative(exact, 0.0), kept), rtol=2e-6, atol=1e-12)
    assert not gradient.masked_select(~kept).any()


MEMBERS = [("cross_entropy", CrossEntropy()), ("hinge", Hinge(0.5)), *(("focal", Focal(0.0, g)) for g in GAMMAS)]


@pytest.mark.parametrize("way", compiled.KERNELS.class_loss_ways() if compiled.KERNELS else [])
@pytest.mark.parametrize(("kind", "loss"), MEMBERS, ids=str)
def test_every_way_is_within_the_bounds_of_float64(way: str, kind: str, loss: ClassificationLoss) -> None:
    """One logit an image, so that each value is seen."""
    logits = torch.cat([torch.linspace(-30, 30, 30_001), torch.tensor([-1e4, -104, -87.4, -87.3, 0, 87.3, 104, 1e4])])
    if isinstance(loss, Hinge):
        logits = logits[logits.abs() > 1e-3]  # at its corner float32 may be on the other side
    count, slopes, sums = len(logits), np.zeros(len(logits), np.float32), np.zeros(len(logits))
    call(
        *arguments(
            logits=logits.numpy(),
            slopes=slopes,
            shape=(count, 1, 1, 1),
            hole_end=np.zeros(count, np.int64),
            scale=np.ones(count),
            loss=(kind, getattr(loss, "gamma", 0.0), 0.5),
            sums=sums,
            way=way,
        )
    )
    exact, tiny = logits.double(), torch.finfo(torch.float32).tiny
    rounding = 1e-7 if isinstance(loss, Hinge) else tiny  # its values are differences
    assert_close(torch.from_numpy(sums), loss(exact, 0.0), rtol=1e-6, atol=rounding)
    assert_close(torch.from_numpy(slopes).double(), loss.derivative(exact, 0.0), rtol=2e-6, atol=1e-12)


def test_a_way_that_this_processor_does_not_know_is_refused() -> None:
    with pytest.raises(RuntimeError, match="class_loss_ways"):
        call(*arguments(way="mmx"))


def of_kept(numbers: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, numbers, 0.0)
