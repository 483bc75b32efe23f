"""The learning rate as a pure function of the step: nothing to save, nothing to get out of step on resume."""

from __future__ import annotations

import math

from foveal.config import TrainConfig


def base_lr(train: TrainConfig) -> float:
    """The rate for this batch size: `lr` scaled by batch_size / lr_batch, by its root for AdamW.

    Linear scaling keeps SGD's step per picture (Goyal et al. 2017); Adam's step does not grow with the gradient,
    so its noise scale follows the root.
    """
    if not train.lr_batch:
        return train.lr
    ratio = train.batch_size / train.lr_batch
    return train.lr * (math.sqrt(ratio) if train.optimiser == "adamw" else ratio)


def warmup_steps(train: TrainConfig, total: int) -> int:
    """Warm-up steps of a run of `total`: as configured, but never more than a tenth of the run."""
    return min(train.warmup, total // 10)


def lr_at(step: int, total: int, train: TrainConfig) -> float:
    """The learning rate of step `step` (0 .. total - 1).

    For example with the paper's settings: a third of .01 at step 0, .01 from step 500, .001 from 60k, .0001 from 80k.
    """
    factor = 1.0
    warmup = warmup_steps(train, total)
    if step < warmup:
        factor = train.warmup_start + (1 - train.warmup_start) * step / warmup
    elif train.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    elif train.schedule == "step":
        factor = 0.1 ** sum(step >= round(share * total) for share in train.milestones)
    return base_lr(train) * factor


def is_due(step: int, every: int, total: int) -> bool:
    """Whether something that happens every `every` steps happens after `step` steps; it always does at the end."""
    return step == total or (every > 0 and step > 0 and step % every == 0)
