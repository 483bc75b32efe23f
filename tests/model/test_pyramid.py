"""The feature pyramid: its levels, the top-down path, what P6 and P7 are made of."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from foveal.model.pyramid import Pyramid

CHANNELS = (4, 6, 8, 10)


def features(height: int, width: int, seed: int = 0) -> list[Tensor]:
    """C2 .. C5 of a picture of this size."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(-(-height // 2**level), -(-width // 2**level)) for level in (2, 3, 4, 5)]
    return [torch.randn(1, c, *shape, generator=g) for c, shape in zip(CHANNELS, shapes, strict=True)]


@pytest.mark.parametrize(
    ("levels", "cells"),
    [
        (range(3, 8), [75, 38, 19, 10, 5]),
        (range(2, 7), [150, 75, 38, 19, 10]),
        (range(3, 6), [75, 38, 19]),
        (range(5, 10), [19, 10, 5, 3, 2]),
        (range(5, 6), [19]),
    ],
)
def test_levels_of_600_pixels(levels, cells):
    outputs = Pyramid(CHANNELS, levels, 5)(features(600, 600))
    assert [tuple(p.shape) for p in outputs] == [(1, 5, n, n) for n in cells]


def test_levels_without_a_use_for_a_feature_have_no_layer_for_it():
    assert set(Pyramid(CHANNELS, range(4, 8), 5).lateral) == {"4", "5"}


def test_the_top_down_path_adds_the_nearest_cell_of_the_level_above():
    """One channel, 3 cells under 2: cells 0, 1, 2 get cells 0, 0, 1 of the level above."""
    pyramid = Pyramid((1, 1, 1, 1), (4, 5), 1)
    for conv in pyramid.lateral.values():
        torch.nn.init.ones_(conv.weight)
    for conv in pyramid.output.values():
        torch.nn.init.dirac_(conv.weight)
    c4, c5 = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[10.0, 20.0]]]])
    p4, p5 = pyramid([c4, c4, c4, c5])
    assert_close(p5, c5)
    assert_close(p4, torch.tensor([[[[11.0, 12.0, 23.0]]]]))


def test_p6_is_a_convolution_of_c5():
    pyramid, inputs = Pyramid(CHANNELS, range(3, 8), 5), features(64, 96)
    expected = F.conv2d(inputs[-1], pyramid.extra["6"].weight, pyramid.extra["6"].bias, stride=2, padding=1)
    assert_close(pyramid(inputs)[3], expected)


def test_p6_can_be_a_convolution_of_p5():
    pyramid = Pyramid(CHANNELS, range(3, 8), 5, p6_from="P5")
    outputs = pyramid(features(64, 96))
    expected = F.conv2d(outputs[2], pyramid.extra["6"].weight, pyramid.extra["6"].bias, stride=2, padding=1)
    assert_close(outputs[3], expected)


def test_c5_linear_is_c5_without_the_relu_before_p7():
    pyramid = Pyramid(CHANNELS, range(3, 8), 5, p6_from="C5_linear")
    x = features(256, 256)
    *_, p6, p7 = pyramid(x)
    assert_close(p6, F.conv2d(x[-1], pyramid.extra["6"].weight, pyramid.extra["6"].bias, stride=2, padding=1))
    assert_close(p7, F.conv2d(p6, pyramid.extra["7"].weight, pyramid.extra["7"].bias, stride=2, padding=1))


def test_p7_is_a_convolution_of_rectified_p6_and_p6_itself_is_not_rectified():
    pyramid = Pyramid(CHANNELS, range(3, 8), 5)
    *_, p6, p7 = pyramid(features(256, 256))
    assert (p6 < 0).any()
    assert_close(p7, F.conv2d(p6.relu(), pyramid.extra["7"].weight, pyramid.extra["7"].bias, stride=2, padding=1))


def test_convolutions_start_with_the_authors_xavier():
    """Uniform in +-sqrt(3 / fan_in), biases 0."""
    torch.manual_seed(0)
    pyramid = Pyramid((64, 64, 64, 64), range(3, 8), 64)
    for name, weight in pyramid.named_parameters():
        if name.endswith("bias"):
            assert_close(weight, torch.zeros_like(weight))
        else:
            bound = math.sqrt(3 / weight[0].numel())
            assert weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_features_that_come_in_are_not_changed():
    pyramid, inputs = Pyramid(CHANNELS, range(2, 8), 5), features(64, 64)
    before = [f.clone() for f in inputs]
    pyramid(inputs)
    assert_close(inputs, before)


def test_gradients_of_maps_one_cell_wide_are_numbers_in_bfloat16() -> None:
    """torch 2.13 reads memory that it did not write there: whatever was in it, NaN here, came into the weights."""
    for seed in range(8):
        pyramid = Pyramid(CHANNELS, range(3, 8), 8).to(memory_format=torch.channels_last)
        maps = [one.contiguous(memory_format=torch.channels_last) for one in features(96, 32, seed)]
        left = [torch.full((count,), math.nan) for count in (100, 1_000, 5_000, 20_000, 100_000) for _ in range(20)]
        del left
        with torch.autocast("cpu", torch.bfloat16):
            outputs = pyramid(maps)
        sum(level.float().sum() for level in outputs).backward()
        assert [name for name, weight in pyramid.named_parameters() if not bool(weight.grad.isfinite().all())] == []


def test_maps_one_cell_wide_say_the_same_in_training_and_after() -> None:
    pyramid = Pyramid(CHANNELS, range(3, 8), 5)
    trained, later = pyramid(features(96, 32)), pyramid.eval()(features(96, 32))
    assert [tuple(level.shape[2:]) for level in trained] == [(12, 4), (6, 2), (3, 1), (2, 1), (1, 1)]
    for one, other in zip(trained, later, strict=True):
        assert_close(one, other)
