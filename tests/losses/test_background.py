"""A block by hand. What the plain path says of every member, layout and dtype: see test_fused.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from foveal.losses import CrossEntropy, Focal, FocalStar, Hinge, QualityFocal, Varifocal
from foveal.losses.background import Background


def test_background_is_a_factor_times_weights_times_a_member_without_any() -> None:
    assert Background.of(Focal(0.25, 2.0)) == Background(Focal(0.0, 2.0), 0.75)
    assert Background.of(FocalStar((0.25, 1.0))) == Background(FocalStar(0.0), 1.0, (0.75, 0.0))
    assert Background.of(CrossEntropy()) == Background(CrossEntropy())
    assert Background.of(Hinge(0.9)) == Background(Hinge(0.9))
    assert Background.of(QualityFocal(1.0)) == Background(Focal(0.0, 1.0))
    assert Background.of(Varifocal(0.75, 2.0)) == Background(Focal(0.0, 2.0), 0.75)


@pytest.mark.parametrize("highest", [0.5, 0.9], ids=["1 - p from p", "1 - p from the logit"])
def test_two_logits_and_a_hole(highest: float) -> None:
    p = torch.tensor([[0.2, 0.4], [highest, 0.1]])
    hole = (slice(0, 1), 1, torch.tensor([1]))
    buffers, slopes = torch.empty(3, 2, 2).unbind(), torch.empty(2, 2)
    total = Background.of(Focal(0.25, 2.0)).of_block((p / (1 - p)).log(), [hole], None, buffers, slopes, 4.0)
    assert total == pytest.approx(0.75 * sum(q**2 * -math.log(1 - q) for q in (0.2, highest, 0.1)), rel=1e-6)

    def slope(q: float) -> float:
        return 3 * q**2 * (q - 2 * (1 - q) * math.log(1 - q))

    assert_close(slopes, torch.tensor([[slope(0.2), 0.0], [slope(highest), slope(0.1)]]), rtol=2e-6, atol=0)
