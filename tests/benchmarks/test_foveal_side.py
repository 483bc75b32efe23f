"""Foveal's side of the comparison does what it says, without torchvision; and the switches of the parts work."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import foveal.engine.step
import foveal.matching
import foveal.model.resnet
from benchmarks.peers import foveal_side, inputs
from benchmarks.peers.agreement import RULES
from foveal.config import Config
from foveal.losses.classification import Focal

SMALL = {
    "loss": {"height": 64, "width": 96, "classes": 3},
    "matching": {"height": 64, "width": 96, "objects": 5},
    "decoding": {"height": 64, "width": 96, "kind": "typical"},
    "nms": {"boxes": 50, "kind": "clustered"},
    "anchors": {"side": 64},
}


@pytest.mark.parametrize("job", SMALL)
def test_a_job_gives_the_same_answer_each_time(job):
    made = foveal_side.JOBS[job](SMALL[job])
    first = made.answer()
    made.run()
    assert RULES[job](made.answer(), first)
    assert made.answer() == first


def test_every_job_has_a_rule_by_which_answers_agree():
    assert set(foveal_side.JOBS) == set(RULES)


def test_the_loss_is_the_focal_loss_of_the_flat_logits():
    given = inputs.loss_inputs(64, 96, 3)
    logits = given.logits.double().requires_grad_()
    targets = torch.zeros_like(logits)
    targets[given.positive, given.labels[given.object]] = 1
    keep = torch.ones(len(logits), 1, dtype=torch.bool)
    keep[given.ignored] = False
    value = Focal()(logits, targets, keep=keep).sum()
    value.backward()
    answer = foveal_side.loss(SMALL["loss"]).answer()
    assert answer["value"] == pytest.approx(float(value.detach()), rel=1e-6)
    expected = inputs.digest(logits.grad)
    assert_close(torch.tensor(answer["gradient"]["sample"]), torch.tensor(expected["sample"]), rtol=1e-5, atol=1e-9)


@pytest.fixture
def restored():
    yield
    foveal_side.restore_all()


@pytest.mark.parametrize("part", foveal_side.PARTS)
def test_a_part_that_is_switched_off_comes_back(part, restored):
    places = [(foveal.engine.step, "match"), (foveal.engine.step, "detector_loss"), (foveal.model.resnet, "conv_norm")]
    before = [getattr(module, name) for module, name in places]
    foveal_side.switch_off(part)
    changed = [name for (module, name), one in zip(places, before, strict=True) if getattr(module, name) is not one]
    expected = {"fast_matching": ["match"], "fast_loss": ["detector_loss"], "folding": ["conv_norm"]}
    assert changed == expected.get(part, [])  # the memory layout is a setting
    foveal_side.restore_all()
    assert [getattr(module, name) for module, name in places] == before


def test_without_folding_the_network_says_the_same(restored):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval()
    nn.init.uniform_(norm.weight)
    x = torch.randn(1, 3, 8, 8)
    folded = foveal.model.resnet.conv_norm(x, conv, norm)
    foveal_side.switch_off("folding")
    assert_close(foveal.model.resnet.conv_norm(x, conv, norm), folded)


def test_the_plain_loss_is_the_detectors_loss():
    torch.manual_seed(0)
    config = Config().with_changes(foveal_side.AS_TORCHVISION)
    anchors = foveal_side.Anchors.from_config(config)
    objects = foveal_side.Objects.of([[4, 4, 40, 40], [20, 8, 60, 60]], [0, 2])
    batch = foveal_side.Batch.pack([torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2, [objects, objects])
    matched = foveal_side.match(anchors, batch, config.assignment)
    shapes = anchors.feature_shapes(64, 64)
    logits, deltas = ([torch.randn(2, 9 * wide, *shape) for shape in shapes] for wide in (3, 4))
    arguments = (logits, deltas, anchors, matched, batch, config.loss, torch.ones(2))  # as `train_step` gives them
    ours, plain = foveal_side.detector_loss(*arguments), foveal_side.plain_loss(*arguments)
    for name in ("classification", "box", "positives", "counted"):
        assert_close(getattr(plain, name), getattr(ours, name), rtol=1e-6, atol=0)
