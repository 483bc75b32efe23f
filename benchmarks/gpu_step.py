"""The whole training step on a GPU, ours and torchvision's, and what the card can do at best (see `gpu.py`).

Data are on the device already: a loader is another question. Weights are random, statistics of batch norm fixed, as
they are when training starts from ImageNet's. torchvision trains the same layers, on the same boxes, without the
augmentation and logging of its reference script. Neither clips gradients less than the other: both leave them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from benchmarks.gpu_card import ANCHORS, Card, Row
from foveal.config import Config, preset
from foveal.detections import Batch
from foveal.engine.step import make_optimiser, train_step
from foveal.model.retinanet import build_model

NOT_INSTALLED = "torchvision is not installed"
MARK = "160 images/s on one H200"


def rate_rows(card: Card) -> Iterator[Row]:
    """TFLOP/s of a large bfloat16 product, and of a convolution as the heads have it on their largest level."""
    side, channels = card.side, card.channels
    left, right = (torch.randn(side, side, device=card.device, dtype=card.low_precision) for _ in range(2))
    yield _rate_row(card, "matrix product", partial(torch.mm, left, right), 2 * side**3)
    rows, columns = ANCHORS.feature_shapes(*card.shape)[0]
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=card.device, dtype=card.low_precision)
    conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(card.batch, channels, rows, columns, device=card.device, dtype=card.low_precision)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        yield _rate_row(card, "3 x 3 convolution", partial(conv, x), 2 * 9 * channels**2 * x[:, 0].numel())


def _rate_row(card: Card, case: str, work: Callable[[], Any], operations: float) -> Row:
    timing = card.timed(work)
    told = {"part": "bf16 rate", "case": case, "path": "torch"}
    return {**told, **timing.per(1), "rate": float(f"{operations / timing.median_s / 1e12:.4g}"), "unit": "TFLOP/s"}


def step_rows(card: Card, best_rate: float) -> Iterator[Row]:
    """Images a second, peak memory, and which share of the best measured rate the step's products reach.

    torchvision's rows are there where it can be imported, and say so where it cannot.
    """
    batch = card.pictures(card.objects[0])
    for row in _both_ways(card, "foveal", *_ours(card, batch), best_rate):
        yield row | {"mark": MARK}
    if find_spec("torchvision"):
        yield from _both_ways(card, "torchvision", *_torchvisions(card, batch), best_rate)
    else:
        for way in ("eager", "compiled"):
            yield {**_told(f"torchvision {way}"), "median_ms": NOT_INSTALLED}


def _told(path: str) -> Row:
    return {"part": "training step", "case": "ResNet-50, 16 x 800 x 1333, bf16", "path": path}


def _both_ways(card: Card, name: str, model: nn.Module, step: Callable[[], Any], best_rate: float) -> Iterator[Row]:
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton along, which must not come before its settings

    with FlopCounterMode(display=False) as counter:
        step()
    for way in ("eager", "compiled"):
        if way == "compiled":
            # On a CPU only traced: that shows whether it can be compiled, and needs no C++ compiler.
            model.compile(backend="inductor" if card.on_gpu else "eager")
            step()
        timing = card.timed(step, card.step_runs)
        rate = counter.get_total_flops() / timing.median_s / 1e12
        yield {
            **_told(f"{name} {way}"),
            **timing.per(1),
            "rate": round(card.batch / timing.median_s, 2),
            "unit": "images/s",
            "percent": round(100 * rate / best_rate, 1),
            "peak_MB": card.peak_mb(step),
        }


def _ours(card: Card, batch: Batch) -> tuple[nn.Module, Callable[[], Any]]:
    config = settings(card)
    model = build_model(config, card.classes, pretrained=False).to(card.device).train()
    optimiser = make_optimiser(model, config.train)
    return model, partial(train_step, model, optimiser, [batch], ANCHORS, config, lr=1e-5)


def settings(card: Card) -> Config:
    """The paper's, in mixed precision; on a CPU with a network that takes milliseconds."""
    if card.on_gpu:
        return preset("paper").with_changes({"train.precision": "bf16"})
    small = {"backbone": "resnet18", "pyramid_channels": 8, "head_channels": 8, "head_depth": 1}
    return preset("paper").with_changes({"model": small})


def _torchvisions(card: Card, batch: Batch) -> tuple[nn.Module, Callable[[], Any]]:
    from torchvision.models import resnet50
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from torchvision.ops.misc import FrozenBatchNorm2d

    body = _resnet_fpn_extractor(
        resnet50(weights=None, norm_layer=FrozenBatchNorm2d),
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(2048, 256),
    )
    # Sides at which its own resize leaves the pictures as they are.
    model = RetinaNet(body, card.classes, min_size=min(card.shape), max_size=max(card.shape))
    model = model.to(card.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4, fused=True)
    images = [image.float() / 255 for image in batch.images]
    targets = [
        {"boxes": batch.boxes[batch.image_index == i], "labels": batch.labels[batch.image_index == i]}
        for i in range(len(images))
    ]

    def step() -> None:
        with torch.autocast(card.device, dtype=torch.bfloat16, enabled=card.on_gpu):
            losses = model(images, targets)
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return model, step
