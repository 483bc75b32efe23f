"""What torchvision's RetinaNets answered, recorded, against ours with the same weights.

No weights are stored: both sides fill a state dict from torchvision's names and shapes, each tensor from its own name.
v1: norms without training, heads without norm, P6 from P5. v2: heads with group norm, P6 from C5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_torchvision import (
    assert_relatively_close,
    filled,
    per_anchor,
    recording_of,
    torchvision_name,
    with_block_numbers,
)
from torch import Tensor

from foveal.config import ModelConfig
from foveal.model.retinanet import Outputs, RetinaNet

VERSIONS: dict[str, dict[str, Any]] = {
    "v1": {"p6_from": "P5", "head_norm": "none"},
    "v2": {"p6_from": "C5", "head_norm": "group"},
}


@pytest.fixture(scope="module", params=list(VERSIONS))
def answer(request: pytest.FixtureRequest) -> tuple[dict[str, np.ndarray], list[Tensor], Outputs]:
    """(the recording, our pyramid's features, our outputs) of one version."""
    recording = recording_of(request.param)
    config = ModelConfig(backbone="resnet50", **VERSIONS[request.param])
    model = RetinaNet(config, num_classes=int(recording["num_classes"]), anchors_per_cell=9).eval()
    layers_per_block = 3 if config.head_norm == "group" else 2
    state = {
        ours: filled(with_block_numbers(torchvision_name(ours), layers_per_block), tensor.shape, int(recording["seed"]))
        for ours, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
    model.load_state_dict(state, strict=False)
    images = torch.from_numpy(recording["image"])[None]
    with torch.no_grad():
        return recording, model.pyramid(model.backbone(model.normalise(images))), model(images)


def test_the_pyramids_features_are_torchvisions(answer):
    recording, features, _ = answer
    assert [list(f.shape[-2:]) for f in features] == recording["feature_shapes"].tolist()
    assert_relatively_close(torch.stack([f.mean() for f in features]), recording["feature_mean"])
    assert_relatively_close(torch.stack([f.std() for f in features]), recording["feature_std"])


def test_logits_and_offsets_of_sampled_anchors_are_torchvisions(answer):
    recording, _, outputs = answer
    logits_NK, deltas_N4 = per_anchor(outputs.logits, 7), per_anchor(outputs.deltas, 4)
    assert len(logits_NK) == len(deltas_N4) == recording["num_anchors"]
    assert_relatively_close(logits_NK[recording["anchor_index"]], recording["logits"])
    assert_relatively_close(deltas_N4[recording["anchor_index"]], recording["deltas"])


def test_sums_over_all_anchors_are_torchvisions(answer):
    recording, _, outputs = answer
    assert_relatively_close(per_anchor(outputs.logits, 7).double().sum(), recording["logits_sum"])
    assert_relatively_close(per_anchor(outputs.deltas, 4).double().abs().sum(), recording["deltas_abs_sum"])
