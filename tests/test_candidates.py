"""The best pairs of a level by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from foveal.anchors import Anchors
from foveal.candidates import Rule, best_class, best_pairs, by_class

ONE_ROW = Anchors(levels=(3,), sizes=(16.0,), scales=(1.0,), ratios=(0.5, 1.0))
#                          cell 0               cell 1               cell 2
#                    anchor 0  anchor 1   anchor 2  anchor 3   anchor 4  anchor 5
LOGITS_NK = torch.tensor([[1.0, 5.0], [5.0, 0.0], [3.0, 3.0], [-9.0, -9.0], [9.0, 3.0], [3.0, torch.nan]])


def pairs_of(lowest: float, limit: int, width: int = 24, padding_answers: bool = False) -> list[tuple[int, int, float]]:
    output_BCHW = LOGITS_NK.view(1, 1, 3, 4).permute(0, 3, 1, 2)
    rule = Rule(lowest, limit, padding_answers)
    best_BN = best_class(output_BCHW, 2)
    assert_close(best_BN, torch.tensor([[5.0, 5.0, 3.0, -9.0, 9.0, 3.0]]))
    pairs = best_pairs(by_class(output_BCHW, 2)[0], best_BN[0], ONE_ROW.boxes(8, 24), (8, width), rule)
    return list(zip(*(part.tolist() for part in pairs), strict=True))


def test_pairs_from_the_lowest_logit_on() -> None:
    assert pairs_of(4.0, 10) == [(0, 1, 5.0), (1, 0, 5.0), (4, 0, 9.0)]
    assert pairs_of(9.5, 10) == []


def test_the_best_are_chosen_and_of_equal_ones_the_lower() -> None:
    assert pairs_of(0.0, 1) == [(4, 0, 9.0)]
    assert pairs_of(0.0, 2) == [(0, 1, 5.0), (4, 0, 9.0)]
    assert pairs_of(0.0, 4) == [(0, 1, 5.0), (1, 0, 5.0), (2, 0, 3.0), (4, 0, 9.0)]


def test_anchors_outside_the_picture_take_no_place() -> None:
    assert pairs_of(0.0, 2, width=16) == [(0, 1, 5.0), (1, 0, 5.0)]
    assert pairs_of(0.0, 2, width=16, padding_answers=True) == [(0, 1, 5.0), (4, 0, 9.0)]


@pytest.mark.parametrize("classes", [1, 3, 32, 33, 64, 91])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_best_class_of_every_anchor(classes: int, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits_BNK = torch.randn(2, 5 * 7 * 2, classes, generator=generator)
    output = logits_BNK.view(2, 5, 7, -1).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    assert_close(best_class(output, 2), logits_BNK.amax(2), atol=0, rtol=0)
