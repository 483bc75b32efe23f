"""What torchvision's RetinaNets answered, recorded, against ours with the same weights.

No weights are stored: both sides fill a state dict from torchvision's names and shapes, each tensor from its own name.
v1: norms without training, heads without norm, P6 from P5. v2: heads with group norm, P6 from C5.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from foveal.config import ModelConfig
from foveal.model.retinanet import Outputs, RetinaNet

GOLDEN = Path(__file__).parents[1] / "golden"

VERSIONS: dict[str, dict[str, Any]] = {
    "v1": {"p6_from": "P5", "head_norm": "none"},
    "v2": {"p6_from": "C5", "head_norm": "group"},
}


def torchvision_name(ours: str) -> str:
    """The name that torchvision gives one of our tensors."""
    part, _, rest = ours.partition(".")
    if part == "backbone":
        return f"backbone.body.{rest}"
    if part == "pyramid":
        kind, level, parameter = rest.split(".")
        if kind == "extra":
            return f"backbone.fpn.extra_blocks.p{level}.{parameter}"
        block = {"lateral": "inner_blocks", "output": "layer_blocks"}[kind]
        return f"backbone.fpn.{block}.{int(level) - 3}.0.{parameter}"
    head, predict = {
        "class_head": ("classification_head", "cls_logits"),
        "box_head": ("regression_head", "bbox_reg"),
    }[part]
    if rest.startswith("predict."):
        return f"head.{head}.{rest.replace('predict', predict)}"
    return f"head.{head}.conv.{rest.removeprefix('tower.')}"


def with_block_numbers(name: str, layers_per_block: int) -> str:
    """Our towers are flat (0 conv, 1 norm, 2 ReLU, 3 conv, ...); torchvision counts blocks (conv.1.0 is the second)."""
    if ".conv." not in name or not name.startswith("head."):
        return name
    before, _, after = name.partition(".conv.")
    layer, _, parameter = after.partition(".")
    block, place = divmod(int(layer), layers_per_block)
    return f"{before}.conv.{block}.{place}.{parameter}"


def filled(name: str, shape: torch.Size, seed: int) -> Tensor:
    """The tensor that the recording used for torchvision's `name`."""
    g = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    if name.endswith("running_var"):
        return torch.rand(shape, generator=g) + 0.5
    if len(shape) == 4:
        values = torch.randn(shape, generator=g) * math.sqrt(2.0 / (shape[1] * shape[2] * shape[3]))
    elif name.endswith("weight"):
        return torch.rand(shape, generator=g) * 0.2 + 0.4
    else:
        values = torch.randn(shape, generator=g) * 0.05
    return {
        "head.classification_head.cls_logits.bias": lambda v: v - 2.0,
        "head.classification_head.cls_logits.weight": lambda v: v * 0.5,
        "head.regression_head.bbox_reg.weight": lambda v: v * 0.3,
    }.get(name, lambda v: v)(values)


@pytest.fixture(scope="module", params=list(VERSIONS))
def answer(request: pytest.FixtureRequest) -> tuple[dict[str, np.ndarray], list[Tensor], Outputs]:
    """(the recording, our pyramid's features, our outputs) of one version."""
    recording = dict(np.load(GOLDEN / f"torchvision_{request.param}_r50_k7_256x320.npz"))
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


def per_anchor(levels: tuple[Tensor, ...], width: int) -> Tensor:
    """L of [1, A*width, H, W] -> [N, width], level by level, row by row, anchor by anchor."""
    return torch.cat([x[0].permute(1, 2, 0).reshape(-1, width) for x in levels])


def assert_relatively_close(ours: Tensor, theirs: Any) -> None:
    """Within 1e-4 of the largest value that was recorded."""
    expected = torch.as_tensor(np.asarray(theirs)).to(ours.dtype)
    assert_close(ours, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


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
