"""Will the largest batch fit? Asked before the first step, without touching weights, statistics or random state."""

from __future__ import annotations

import copy
from collections.abc import Callable

import psutil
import torch
from torch import Tensor, nn

from foveal.config import Config
from foveal.errors import TrainingError
from foveal.model.retinanet import RetinaNet

# Measured against the resident peak: what convolutions and the losses need beside the tensors kept for backward.
WORKSPACE = 1.25


def estimate_step_bytes(model: RetinaNet, images: int, shape: tuple[int, int]) -> int:
    """Bytes that one forward and backward pass over `images` pictures of `shape` (H, W) keeps alive.

    Counted on the meta device: every tensor saved for the backward pass, the outputs and their gradients, and a
    gradient of every trained parameter. Nothing of that size is allocated.
    """
    ghost = copy.deepcopy(model).to("meta")
    kept: dict[int, int] = {}
    parameters = {id(p) for p in ghost.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters:
            # meta storages have no address: views of one tensor share its untyped storage object
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = ghost(torch.empty(images, 3, *shape, dtype=torch.uint8, device="meta"))
    predicted = sum(t.numel() * t.element_size() for t in (*outputs.logits, *outputs.deltas))
    gradients = sum(p.numel() * p.element_size() for p in ghost.parameters() if p.requires_grad)
    # The plain loss holds about four buffers of the logits' size; the largest activation has a gradient as well.
    return int(WORKSPACE * (sum(kept.values()) + max(kept.values(), default=0) + 4 * predicted + gradients))


def check_memory(
    model: RetinaNet, config: Config, images: int, shape: tuple[int, int], try_step: Callable[[], None]
) -> int:
    """Raises TrainingError if a step over `images` pictures of `shape` cannot fit; returns its bytes.

    On a CPU the estimate is held against free memory, since the system would otherwise kill the process. On a GPU
    `try_step` really runs forward and backward once, inside a guard that puts statistics and random state back.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        return _run_once(model, config, images, shape, try_step)
    needed, free = estimate_step_bytes(model, images, shape), psutil.virtual_memory().available
    if needed > free:
        raise TrainingError(_too_large(config, images, shape, needed, free))
    return needed


def _run_once(
    model: nn.Module, config: Config, images: int, shape: tuple[int, int], try_step: Callable[[], None]
) -> int:
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.cuda.reset_peak_memory_stats()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
            try_step()
        return torch.cuda.max_memory_allocated()
    except torch.OutOfMemoryError:
        free, _ = torch.cuda.mem_get_info()
        raise TrainingError(_too_large(config, images, shape, None, free)) from None
    finally:
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        torch.cuda.empty_cache()


def _too_large(config: Config, images: int, shape: tuple[int, int], needed: int | None, free: int) -> str:
    wants = f"needs about {needed / 2**30:.1f} GiB" if needed else "does not fit"
    remedies = [f"--train.accumulate {config.train.accumulate * 2} (same result, more micro-batches)"]
    remedies.append(f"--data.size {round(config.data.size * 0.75)} (smaller pictures)")
    remedies.append(f"--train.batch-size {max(1, config.train.batch_size // 2)}")
    return (
        f"a training step over {images} pictures of {shape[0]} x {shape[1]} {wants}, {free / 2**30:.1f} GiB are free; "
        f"use one of: {'; '.join(remedies)}"
    )
