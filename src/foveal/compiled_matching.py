"""Matching on a CPU by the compiled kernel (`csrc/matching.c`), which works as `grid_matching.py` does, in loops.

Letters: N anchors of an image, L levels, S shapes of anchors, G objects, P positive anchors, I ignored ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from foveal import compiled
from foveal.anchors import Anchors
from foveal.config import AssignmentConfig
from foveal.detections import Batch
from foveal.reach import shape_bounds, strides_and_cells

_POLICIES = {"none": 0, "authors": 1, "all": 2}


def takes(batch: Batch) -> bool:
    """Whether the kernel does this batch: it is there, and the tensors are on a CPU and of the types they should be."""
    return (
        compiled.KERNELS is not None
        and batch.boxes.device.type == "cpu"
        and batch.boxes.dtype == torch.float32
        and batch.crowd.dtype == torch.bool
        and batch.image_index.dtype == batch.sizes.dtype == torch.int64
    )


def assign(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> tuple[Tensor, Tensor, Tensor]:
    """[P] positive anchors of a batch, [P] the object of each, [I] ignored anchors, as `matching.Match` has them."""
    assert compiled.KERNELS is not None
    positive, of_object, ignored = compiled.KERNELS.match(
        *_grid(anchors, *batch.images.shape[-2:]),
        *(_array(one) for one in (batch.boxes, batch.crowd, batch.image_index, batch.sizes)),
        len(anchors.levels),
        anchors.per_cell,
        len(batch.boxes),
        len(batch),
        anchors.offset == "corner",
        _POLICIES[config.low_quality],
        config.positive_iou,
        config.background_iou,
        config.padding == "ignored",
        config.crowd_overlap,
    )
    return _tensor(positive), _tensor(of_object), _tensor(ignored)


@lru_cache(maxsize=32)
def _grid(anchors: Anchors, height: int, width: int) -> tuple[Any, Any, Any]:
    """The anchors: [N, 4] float32. [L, 4] int64 columns, rows, stride in x and in y. [S, 5] float64 `shape_bounds`."""
    stride_21L, cells_21L = strides_and_cells(anchors, torch.tensor([[[width]], [[height]]]))
    lower_21S, upper_21S, least_area_S = shape_bounds(anchors, height, width)
    levels_L4 = torch.cat([cells_21L, stride_21L]).squeeze(1).t()
    shapes_S5 = torch.cat([lower_21S, upper_21S, least_area_S[None, None]]).squeeze(1).t()
    return _array(anchors.boxes(height, width)), _array(levels_L4), _array(shapes_S5)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _tensor(found: bytearray) -> Tensor:
    return torch.frombuffer(found, dtype=torch.int64) if found else torch.empty(0, dtype=torch.int64)
