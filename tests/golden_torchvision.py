"""What torchvision's RetinaNets answered, and how to make their weights again: a state dict filled from its own names.

`tests/golden` holds recordings of torchvision 0.29.2 without any weights; every tensor is drawn from its name.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.testing import assert_close

GOLDEN = Path(__file__).parent / "golden"


def recording_of(version: str) -> dict[str, np.ndarray]:
    """The recording of v1 or v2: seven classes, one picture of 256 x 320."""
    return dict(np.load(GOLDEN / f"torchvision_{version}_r50_k7_256x320.npz"))


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


def per_anchor(levels: tuple[Tensor, ...], width: int) -> Tensor:
    """L of [1, A*width, H, W] -> [N, width], level by level, row by row, anchor by anchor."""
    return torch.cat([x[0].permute(1, 2, 0).reshape(-1, width) for x in levels])


def assert_relatively_close(ours: Tensor, theirs: Any) -> None:
    """Within 1e-4 of the largest value that was recorded."""
    expected = torch.as_tensor(np.asarray(theirs)).to(ours.dtype)
    assert_close(ours, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
