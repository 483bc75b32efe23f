"""Matching on a GPU: two Triton kernels in place of some hundred small operations that wait for one another.

`grid_matching.assign` runs on a GPU too, but its tensors are as long as what they hold: each of them stops the host
until the device has counted, and then costs a launch. Here every anchor looks at every object of its picture, which a
GPU does faster than it can be told where not to look, and memory stays at a number an anchor.

Letters: B images, N anchors of an image, G objects, P positive anchors, I ignored ones.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.config import AssignmentConfig
from foveal.detections import Batch

BLOCK, WARPS = 256, 4
"""Anchors of one program, and its warps of 32 threads. Reasoned, not yet tuned on a card."""

_NEVER = torch.inf


def takes(boxes_G4: Tensor) -> bool:
    """Whether the kernels do this batch: on a GPU, with Triton."""
    return boxes_G4.is_cuda and find_spec("triton") is not None


def assign(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> tuple[Tensor, Tensor, Tensor]:
    """[P] positive anchors of a batch, [P] the object of each, [I] ignored anchors, as `matching.Match` has them.

    The host waits twice: for how many are positive, and how many are ignored.
    """
    flat = anchor_objects(anchors, batch, config).view(-1)
    positive = (flat >= 0).nonzero().squeeze(1)
    ignored = (flat == -2).nonzero().squeeze(1)
    return positive, flat[positive].long(), ignored


def anchor_objects(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> Tensor:
    """[B, N] int32: the packed object each anchor answers for, or -1 background, -2 ignored. The host never waits."""
    from foveal.matching_kernels import best_kernel, label_kernel

    device, images = batch.boxes.device, len(batch)
    height, width = batch.images.shape[-2:]
    anchors_N4 = anchors.boxes(height, width, device)
    labels_BN = torch.empty(images, len(anchors_N4), dtype=torch.int32, device=device)
    best_G = torch.zeros(len(batch.boxes), dtype=torch.int32, device=device)
    starts = torch.searchsorted(batch.image_index, torch.arange(images + 1, device=device)).int()
    inputs = anchors_N4, batch.boxes.contiguous(), batch.crowd.contiguous(), starts, _limits(batch, config), best_G
    if not labels_BN.numel():
        return labels_BN
    grid = -(-len(anchors_N4) // BLOCK), images
    # A fused multiply-add would round once where boxes.iou rounds twice.
    options = {"BLOCK": BLOCK, "num_warps": WARPS, "enable_fp_fusion": False}
    with torch.cuda.device(device if device.type == "cuda" else -1):
        if config.low_quality != "none":
            best_kernel[grid](*inputs, len(anchors_N4), **options)
        label_kernel[grid](
            *inputs,
            labels_BN,
            len(anchors_N4),
            config.positive_iou,
            config.background_iou,
            config.crowd_overlap,
            LOW_QUALITY=config.low_quality,
            PADDING_IGNORED=config.padding == "ignored",
            **options,
        )
    return labels_BN


def _limits(batch: Batch, config: AssignmentConfig) -> Tensor:
    """[B, 2] float32: an anchor is inside where x1 + x2 and y1 + y2 are less; see `anchors.centred_inside`."""
    if config.padding == "background":
        return torch.full((len(batch), 2), _NEVER, device=batch.boxes.device)
    return (2 * batch.sizes.flip(1).double() - 0.01).float()
