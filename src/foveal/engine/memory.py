"""Will the largest batch fit? Asked before the first step, without touching weights, statistics or random state."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveal.config import Config
from foveal.errors import TrainingError
from foveal.free_memory import free_bytes
from foveal.model.retinanet import RetinaNet

# Measured against the resident peak: what convolutions and the losses need beside the tensors kept for backward.
WORKSPACE = 1.25
# Buffers of the outputs' size: the outputs and their gradients; and what the plain loss, which mining needs, adds.
OUTPUTS, PLAIN_LOSS = 2, 4


def estimate_step_bytes(model: RetinaNet, images: int, shape: tuple[int, int], mining: bool = False) -> int:
    """Bytes that one forward and backward pass over `images` pictures of `shape` (H, W) keeps alive.

    mining: whether the loss compares anchors, as every `loss.mining` but `all` does.
    Counted on the meta device: every tensor saved for the backward pass, the outputs and their gradients, and a
    gradient of every trained parameter. Nothing of that size is allocated. Of what the backbone computes twice only
    the largest segment counts, since one is alive at a time.
    """
    ghost = copy.deepcopy(model).to("meta")
    parameters = {id(p) for p in ghost.parameters()}
    kept: dict[int, int] = {}
    segments: list[dict[int, int]] = []

    def run_once(function: Callable[..., Any], *inputs: Any) -> Any:
        segments.append({})
        with _noting_saved(segments[-1], parameters):
            result = function(*inputs)
        kept.update((_storage(x), _bytes(x)) for x in inputs if isinstance(x, Tensor))
        return result

    if ghost.backbone.recompute:
        ghost.backbone.run_twice = run_once  # type: ignore[method-assign]
    with _noting_saved(kept, parameters):
        outputs = ghost(torch.empty(images, 3, *shape, dtype=torch.uint8, device="meta"))
    predicted = sum(t.numel() * t.element_size() for t in (*outputs.logits, *outputs.deltas))
    held = sum(kept.values()) + max((sum(part.values()) for part in segments), default=0)
    largest = max((size for part in (kept, *segments) for size in part.values()), default=0)
    of_outputs = predicted * (OUTPUTS + PLAIN_LOSS if mining else OUTPUTS)
    # The largest activation has a gradient as well.
    return int(WORKSPACE * (held + largest + of_outputs + _trained_bytes(ghost)))


def check_memory(
    model: RetinaNet, config: Config, images: int, shape: tuple[int, int], try_step: Callable[[], None]
) -> int:
    """Raises TrainingError if a step over `images` pictures of `shape` cannot fit; returns its bytes.

    On a CPU the estimate, with the optimiser's moments, is held against free memory, since the system would otherwise
    kill the process. On a GPU `try_step` really runs forward and backward once; statistics and random state are put
    back.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        return _run_once(model, config, images, shape, try_step)
    moments = _trained_bytes(model) * (2 if config.train.optimiser == "adamw" else 1)
    needed = estimate_step_bytes(model, images, shape, config.loss.mining != "all") + moments
    if needed > (free := free_bytes()):
        raise TrainingError(_too_large(config, f"{images} pictures of {shape[0]} x {shape[1]}", needed, free))
    return needed


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside, buffers (batch norm's statistics) are the same afterwards, and gradients are gone."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


@contextmanager
def out_of_memory_explained(config: Config) -> Iterator[None]:
    """A GPU that runs out of memory in the middle of training says what helps."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise TrainingError(
            _too_large(config, "this batch", None, free_bytes("cuda")) + "; then go on with --resume"
        ) from None


def _run_once(
    model: nn.Module, config: Config, images: int, shape: tuple[int, int], try_step: Callable[[], None]
) -> int:
    torch.cuda.reset_peak_memory_stats()
    try:
        with statistics_kept(model), torch.random.fork_rng(devices=[torch.cuda.current_device()]):
            try_step()
        return torch.cuda.max_memory_allocated()
    except torch.OutOfMemoryError:
        pictures = f"{images} pictures of {shape[0]} x {shape[1]}"
        raise TrainingError(_too_large(config, pictures, None, free_bytes("cuda"))) from None
    finally:
        torch.cuda.empty_cache()


@contextmanager
def _noting_saved(sizes: dict[int, int], parameters: set[int]) -> Iterator[None]:
    """Every tensor but the parameters that is saved for the backward pass meanwhile: its storage and bytes."""

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters:
            sizes[_storage(tensor)] = _bytes(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def _storage(tensor: Tensor) -> int:
    # Meta storages have no address: views of one tensor share its untyped storage object.
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _trained_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _too_large(config: Config, pictures: str, needed: int | None, free: int) -> str:
    wants = f"needs about {needed / 2**30:.1f} GiB" if needed else "does not fit"
    train = config.train
    world = int(os.environ.get("WORLD_SIZE", "1"))
    each = train.batch_size // world
    finer = next((n for n in range(train.accumulate + 1, each + 1) if each % n == 0), None)
    remedies = [f"--train.accumulate {finer} (the same step in smaller parts)"] if finer else []
    if not train.recompute_backbone:
        remedies.append("--train.recompute-backbone (slower, the same step)")
    remedies.append(f"--data.size {round(config.data.size * 0.75)} (smaller pictures)")
    parts = world * train.accumulate
    if (smaller := train.batch_size // 2 // parts * parts) > 0:
        remedies.append(f"--train.batch-size {smaller}")
    return (
        f"a training step over {pictures} {wants}, {free / 2**30:.1f} GiB are free; use one of: {'; '.join(remedies)}"
    )
