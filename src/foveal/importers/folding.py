"""What a source does differently, moved into the weights, so that the network needs no setting for it.

Every function takes tensors by Foveal's names and puts changed ones in their place; arithmetic is float64. Letters: A
anchors of a cell, K classes, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.model.retinanet import IMAGE_MEAN, IMAGE_STD

# What torch's batch norm, and so Foveal's, adds to a variance.
EPSILON = 1e-5


def fold_pixels(tensors: dict[str, Tensor], mean: Sequence[float], std: Sequence[float], bgr: bool) -> None:
    """First convolution: takes pixels as Foveal normalises them where the source gave it (pixel - mean) / std.

    mean, std: of values 0 .. 255, in the order of the source's channels, which is blue, green, red where `bgr`.
    Exact where the means are Foveal's. Where they are not, their difference goes into the batch norm behind; only the
    outermost outputs, which see the zeros around the picture, are then off, by less than the difference itself.
    """
    weight = tensors["backbone.conv1.weight"].double()
    means, stds = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    if bgr:
        weight, means, stds = weight.flip(1), means.flip(0), stds.flip(0)
    our_means, our_stds = (255 * torch.tensor(values, dtype=torch.float64) for values in (IMAGE_MEAN, IMAGE_STD))
    tensors["backbone.conv1.weight"] = (weight * (our_stds / stds)[:, None, None]).float()
    constant_C = torch.einsum("ocij,c->o", weight, (our_means - means) / stds)
    if not torch.allclose(our_means, means, atol=1e-3, rtol=0):
        running = tensors["backbone.bn1.running_mean"]
        tensors["backbone.bn1.running_mean"] = (running.double() - constant_C).float()


def fold_epsilon(tensors: dict[str, Tensor], epsilon: float) -> None:
    """Batch norms of the backbone: the variance makes up for another epsilon than torch's."""
    for name in [name for name in tensors if name.startswith("backbone.") and name.endswith("running_var")]:
        tensors[name] = (tensors[name].double() + (epsilon - EPSILON)).float()


def fold_boxes(tensors: dict[str, Tensor], offsets_44: Sequence[Sequence[float]]) -> None:
    """Last box convolution: (dx, dy, dw, dh) of each anchor = `offsets_44` times the source's four numbers."""
    matrix = torch.tensor(offsets_44, dtype=torch.float64)
    for part in ("weight", "bias"):
        name = f"box_head.predict.{part}"
        rows_A4C = tensors[name].double().unflatten(0, (-1, 4))
        tensors[name] = torch.einsum("ij,aj...->ai...", matrix, rows_A4C).flatten(0, 1).float()


def reorder_anchors(tensors: dict[str, Tensor], order: Sequence[int]) -> None:
    """Last convolutions: anchor a of a cell becomes what the source calls anchor order[a]."""
    for head in ("class_head", "box_head"):
        for part in ("weight", "bias"):
            name = f"{head}.predict.{part}"
            tensors[name] = tensors[name].unflatten(0, (len(order), -1))[list(order)].flatten(0, 1)


def keep_classes(tensors: dict[str, Tensor], anchors: int, kept: Sequence[int]) -> None:
    """Last class convolution: only the rows of the `kept` classes, which do not change by it."""
    for part in ("weight", "bias"):
        name = f"class_head.predict.{part}"
        tensors[name] = tensors[name].unflatten(0, (anchors, -1))[:, list(kept)].flatten(0, 1)
