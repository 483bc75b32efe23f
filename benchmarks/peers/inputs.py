"""What both sides are given: the same numbers from the same seeds. Needs torch alone.

Letters: N anchors, G objects, K classes, D boxes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
PER_CELL = 9
CLASSES = 91
"""Outputs of torchvision's detector for COCO."""
SAMPLED = 4096
"""Elements of a large tensor that are compared one by one."""


def anchor_count(height: int, width: int) -> list[int]:
    """Anchors on each level."""
    return [-(-height // stride) * -(-width // stride) * PER_CELL for stride in STRIDES]


@dataclass(frozen=True)
class LossInputs:
    """logits: [N, K] near the prior. positive: [P] anchors. object: [P], whose they are. ignored: [I] anchors."""

    logits: Tensor
    positive: Tensor
    object: Tensor
    ignored: Tensor
    labels: Tensor


def loss_inputs(height: int, width: int, classes: int, objects: int = 20) -> LossInputs:
    """About 200 positive anchors of 20 objects, 2,000 ignored ones; everything else is background."""
    generator = torch.Generator().manual_seed(0)
    anchors = sum(anchor_count(height, width))
    logits = torch.randn(anchors, classes, generator=generator) - 4.6
    positive = torch.randint(0, anchors, (200,), generator=generator).unique()
    ignored = torch.randint(0, anchors, (2000,), generator=generator).unique()
    return LossInputs(
        logits=logits,
        positive=positive,
        object=torch.randint(0, objects, (len(positive),), generator=generator),
        ignored=ignored[~torch.isin(ignored, positive)],
        labels=torch.randint(0, classes, (objects,), generator=generator),
    )


def objects_in(count: int, height: int, width: int, spread: float, least: float, seed: int = 1) -> Tensor:
    """[G, 4] boxes inside the picture; sides are log-uniform from e^least to e^(least + spread) pixels."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.tensor([width, height])
    wh = torch.exp(torch.rand(count, 2, generator=generator) * spread + least)
    xy = torch.rand(count, 2, generator=generator) * (side - wh).clamp(min=1)
    return torch.cat([xy, torch.minimum(xy + wh, side)], 1)


def head_outputs(height: int, width: int, kind: str) -> tuple[Tensor, Tensor]:
    """[N, K] logits and [N, 4] offsets.

    typical: what a trained head says, few scores above .05 and 200 objects' among them. worst: an untrained head
    without the prior, every score about .5.
    """
    generator = torch.Generator().manual_seed(0)
    anchors = sum(anchor_count(height, width))
    deltas = torch.randn(anchors, 4, generator=generator) * 0.1
    if kind == "worst":
        return torch.randn(anchors, CLASSES, generator=generator) * 0.1, deltas
    logits = torch.randn(anchors, CLASSES, generator=generator) * 0.5 - 4.6
    places = torch.randint(0, anchors, (200,), generator=generator)
    classes = torch.randint(0, CLASSES, (200,), generator=generator)
    logits[places, classes] = torch.rand(200, generator=generator) * 5 - 1
    return logits, deltas


def boxes_to_suppress(count: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """[D, 4] boxes in 800 x 1066 pixels, [D] scores, [D] labels of 80.

    random: anywhere, of any size. clustered: 25 boxes of about 80 pixels around each of D / 25 places, of one class.
    """
    generator = torch.Generator().manual_seed(2)
    picture = torch.tensor([1066.0, 800.0])
    if kind == "random":
        centres = torch.rand(count, 2, generator=generator) * picture
        labels = torch.randint(0, 80, (count,), generator=generator)
        sides = torch.exp(torch.rand(count, 2, generator=generator) * 2.5 + 2.5)
    else:
        places = torch.rand(count // 25, 2, generator=generator) * picture
        classes = torch.randint(0, 80, (count // 25,), generator=generator)
        of = torch.randint(0, count // 25, (count,), generator=generator)
        centres, labels = places[of] + torch.randn(count, 2, generator=generator) * 6, classes[of]
        sides = 80 * torch.exp(torch.randn(count, 2, generator=generator) * 0.1)
    return torch.cat([centres - sides / 2, centres + sides / 2], 1), torch.rand(count, generator=generator), labels


def pictures(count: int, side: int) -> Tensor:
    """[B, 3, S, S] uint8 noise."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def digest(tensor: Tensor) -> dict[str, Any]:
    """A large tensor in few numbers: its sums with and without signs in float64, and elements drawn from its size.

    The few places where objects are may not be drawn; the sum with signs has them.
    """
    flat = tensor.detach().reshape(-1)
    places = torch.randint(0, len(flat), (SAMPLED,), generator=torch.Generator().manual_seed(len(flat)))
    exact = flat.double()
    return {"sum": float(exact.sum()), "magnitude": float(exact.abs().sum()), "sample": exact[places].tolist()}


def found(boxes: Tensor, scores: Tensor, labels: Tensor) -> dict[str, Any]:
    """Detections as plain numbers."""
    return {"boxes": boxes.tolist(), "scores": scores.tolist(), "labels": labels.tolist()}


def assignment(positive: Tensor, objects: Tensor, ignored: Tensor) -> dict[str, Any]:
    """Which anchor answers for which object, and a checksum of the ignored ones."""
    listed = ignored.to(torch.int64).contiguous().numpy().tobytes()
    return {"positive": positive.tolist(), "object": objects.tolist(), "ignored": [len(ignored), zlib.crc32(listed)]}
