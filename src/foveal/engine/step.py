"""One optimiser step: pictures in, better weights out. The whole of training is this, repeated.

A global batch is split over processes and, in each, over micro-batches; the result is the same for every split,
because everything is divided by counts of the whole global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from foveal.anchors import Anchors
from foveal.config import Config, TrainConfig
from foveal.detections import Batch
from foveal.engine.schedule import base_lr
from foveal.losses.total import LossSums, detector_loss
from foveal.matching import Match, match

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """Sums over the global batch, on the device: read them only where a number is printed."""

    classification: Tensor
    box: Tensor
    positives: Tensor
    gradient_norm: Tensor
    stop: Tensor
    """True if any process was asked to stop: all of them then do, after the same step."""
    finite: Tensor
    """False if the loss, or without a loss scaler the gradient, is not finite; the weights are then unchanged."""


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    anchors: Anchors,
    config: Config,
    lr: float,
    scaler: torch.amp.GradScaler | None = None,
    stop: bool = False,
) -> StepResult:
    """One step on this process's share of the global batch; `model` may be wrapped in DistributedDataParallel.

    stop: this process was asked to; it travels to the others with the sums of the losses.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    # Which anchor answers for what needs only boxes and shapes, so the normaliser is known before the first backward.
    matches = [match(anchors, batch, config.assignment) for batch in micro_batches]
    assigned = torch.stack([m.positives_per_image().sum() for m in matches]).sum().float()
    assigned = _summed_over_processes(assigned)
    images = sum(len(batch) for batch in micro_batches) * world

    totals = torch.zeros(2, device=assigned.device)
    for number, (batch, matched) in enumerate(zip(micro_batches, matches, strict=True), start=1):
        with _synchronised(model, last=number == len(micro_batches)):
            with autocast(batch.images.device, config.train):
                outputs = model(batch.images)
            upstream_B = class_gradient(matched, config, assigned, images, world, scaler)
            sums = detector_loss(outputs.logits, outputs.deltas, anchors, matched, batch, config.loss, upstream_B)
            terms = normalised(sums, config, assigned, images)
            loss = (terms[0] + config.loss.box_weight * terms[1]) * world  # DDP averages gradients over processes
            (scaler.scale(loss) if scaler else loss).backward()
        totals += terms.detach()

    totals, stops = _summed_over_processes(torch.cat([totals, totals.new_tensor([stop])])).split([2, 1])
    if scaler:
        scaler.unscale_(optimiser)
    norm = _clip([p for p in model.parameters() if p.grad is not None], config.train.clip)
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_factor"]
    if scaler:
        scaler.step(optimiser)  # skips by itself while the scale is too high
        scaler.update()
        finite = totals.isfinite().all()
    else:
        finite = totals.isfinite().all() & norm.isfinite()
        # The fused optimisers leave weights and moments alone where found_inf is 1.
        optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return StepResult(totals[0], totals[1], assigned, norm, stops[0] > 0, finite)


def normalised(sums: LossSums, config: Config, assigned: Tensor, images: int) -> Tensor:
    """[2] classification and box loss of these pictures as their part of the global batch's loss.

    `batch`: divided by the anchors assigned in the whole global batch. `image`: each picture by its own, then averaged
    over the `images` of the global batch (the paper's words, torchvision's rule). Nothing assigned divides by 1.
    """
    if config.loss.normaliser == "batch":
        return torch.stack([sums.classification.sum(), sums.box.sum()]) / assigned.clamp(min=1)
    classification = sums.classification / sums.counted.clamp(min=1)
    box = sums.box / sums.positives.clamp(min=1)
    return torch.stack([classification.sum(), box.sum()]) / images


def class_gradient(
    match: Match, config: Config, assigned: Tensor, images: int, world: int, scaler: torch.amp.GradScaler | None = None
) -> Tensor:
    """[B] float32: the gradient that backward will bring to each image's class sum, to the bit, before there is a loss.

    Division by division as backward does it: `3 / tensor` is the reciprocal times 3, and rounds twice.
    """
    above_B = torch.full((match.num_images,), float(world), device=assigned.device)
    if scaler:
        above_B = scaler.scale(above_B)
    if config.loss.normaliser == "batch":
        return above_B / assigned.clamp(min=1)
    return above_B / images / match.positives_per_image().float().clamp(min=1)


def make_optimiser(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the trained parameters; each group carries `lr_factor` for the schedule to scale.

    Under AdamW biases and norm parameters do not decay; SGD decays all, as the paper's peers do.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = train.backbone_lr if name.startswith("backbone.") else 1.0
        decays = train.optimiser == "sgd" or parameter.dim() > 1
        groups.setdefault((factor, train.weight_decay if decays else 0.0), []).append(parameter)
    described = [{"params": p, "lr_factor": f, "weight_decay": decay} for (f, decay), p in groups.items()]
    lr = base_lr(train)
    if train.optimiser == "adamw":
        return torch.optim.AdamW(described, lr=lr, betas=(train.momentum, 0.999), fused=True)
    optimiser = torch.optim.SGD(described, lr=lr, momentum=train.momentum, fused=True)
    if train.momentum:
        # The fused SGD leaves the buffers of a first step that is skipped uninitialised; from 0 it does the same step.
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


def autocast(device: torch.device, train: TrainConfig) -> AbstractContextManager[object]:
    """Mixed precision for the convolutions; nothing for fp32."""
    if train.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[train.precision])


def _clip(parameters: list[nn.Parameter], largest: float) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if largest:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm


def _summed_over_processes(value: Tensor) -> Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value


def _synchronised(model: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Gradients of all but the last micro-batch stay on this process until the last one carries them along."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()
