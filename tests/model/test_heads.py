"""The subnets: their layers, their start, the prior."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from foveal.model.heads import Subnet, prior_bias


def hidden_convolutions(subnet: Subnet) -> list[nn.Conv2d]:
    return [m for m in subnet.tower if isinstance(m, nn.Conv2d)]


def test_the_prior_of_a_hundredth_is_a_logit_of_minus_4_595():
    assert prior_bias(0.01) == pytest.approx(-math.log(99))
    assert prior_bias(0.5) == 0
    assert torch.tensor(prior_bias(0.2)).sigmoid().item() == pytest.approx(0.2)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_a_subnet_is_so_many_3x3_convolutions_and_a_predicting_one(depth):
    subnet = Subnet(8, 12, depth, 18)
    convs = [*hidden_convolutions(subnet), subnet.predict]
    assert [c.kernel_size for c in convs] == [(3, 3)] * (depth + 1)
    assert [c.in_channels for c in convs] == [8, 12, 12, 12, 12][: depth + 1]
    assert subnet(torch.zeros(2, 8, 5, 7)).shape == (2, 18, 5, 7)


def test_the_papers_start_is_n_0_01_everywhere():
    torch.manual_seed(0)
    subnet = Subnet(256, 256, 4, 36)
    for conv in [*hidden_convolutions(subnet), subnet.predict]:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert conv.weight.mean().item() == pytest.approx(0, abs=2e-4)
        assert_close(conv.bias, torch.zeros_like(conv.bias))


def test_the_scaled_start_is_hes_but_for_the_predicting_convolution():
    torch.manual_seed(0)
    subnet = Subnet(64, 64, 4, 36, init="scaled")
    for conv in hidden_convolutions(subnet):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert subnet.predict.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert_close(subnet.predict.bias, torch.zeros(36))


@pytest.mark.parametrize("norm", ["none", "group"])
def test_the_scaled_start_carries_a_signal_through_a_narrow_tower(norm):
    torch.manual_seed(0)
    x = torch.randn(2, 64, 16, 16)
    y = Subnet(64, 64, 4, 36, norm, "scaled").tower(x)
    assert 0.5 < y.square().mean().sqrt().item() < 2


def test_the_papers_start_loses_it_there():
    torch.manual_seed(0)
    y = Subnet(64, 64, 4, 36).tower(torch.randn(2, 64, 16, 16))
    assert y.square().mean().sqrt().item() < 5e-3


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (96, 32), (48, 16), (36, 4), (32, 16), (7, 1)])
def test_group_norm_has_32_groups_where_the_channels_allow(channels, groups):
    subnet = Subnet(8, channels, 2, 4, norm="group")
    norms = [m for m in subnet.tower if isinstance(m, nn.GroupNorm)]
    assert [n.num_groups for n in norms] == [groups, groups]
    assert all(conv.bias is None for conv in hidden_convolutions(subnet))
