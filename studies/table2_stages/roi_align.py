"""RoIAlign: the features inside a box, as a square of bins (He et al. 2017, 1703.06870), and the level they come from.

A box is cut into BINS x BINS bins with SAMPLES x SAMPLES points each. A point's value is the bilinear mean of the four
cells around it, a bin's value the mean of its points. So a bin is a weighted sum of 16 cells, and all bins of all boxes
on all levels are one `embedding_bag` over a table of cells, without a loop.

Cell i of level l is centred on pixel (i + .5) 2^l, as the anchors are. A point beyond the outermost centres has the
value of the outermost cell.

Letters: B pictures, R boxes, L levels, C channels, H W cells of a level, P points of a box along an axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.boxes import area

BINS = 7
SAMPLES = 2
"""Points of a bin along each axis."""


def roi_levels(boxes_R4: Tensor, levels: Sequence[int], finest_anchor: float) -> Tensor:
    """[R] int64: the index into `levels` of the level that each box takes its features from.

    k = floor(k0 + log2(sqrt(w h) / side)), held within the levels (Lin et al. 2017, equation 1). There k0 is 4 and side
    224 on levels 2 to 5 with anchors from 32 pixels. That is two levels above the first, and seven times the finest
    anchor, and so it is here: with levels 3 to 5 and anchors from 32 pixels, sides below 112 are on level 3, those from
    224 on level 5. Boxes have area.
    """
    k0, side = levels[0] + 2, 7 * finest_anchor
    k_R = (k0 + (area(boxes_R4).sqrt() / side).log2()).floor()
    return k_R.clamp(levels[0], levels[-1]).long() - levels[0]


def roi_align(
    features: Sequence[Tensor], levels: Sequence[int], boxes_R4: Tensor, image_R: Tensor, level_R: Tensor
) -> Tensor:
    """[R, BINS, BINS, C] features of boxes, rows of bins first; differentiable by the features, not by the boxes.

    features: L of [B, C, H, W], cells of 2^level pixels. boxes_R4: network-input pixels. image_R: the picture of each.
    level_R: index into the levels. Where each cell holds the x of its centre, each bin holds the x of its own. No boxes
    give an empty tensor.
    """
    table = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in features])
    shape_L2 = torch.tensor([level.shape[-2:] for level in features], device=table.device)
    cells_L = shape_L2.prod(1)
    before_L = len(features[0]) * (cells_L.cumsum(0) - cells_L)
    first_R = before_L[level_R] + image_R * cells_L[level_R]
    rows_R, columns_R = shape_L2[level_R].unbind(1)
    stride_L = torch.tensor([2.0**level for level in levels], dtype=table.dtype, device=table.device)
    x1, y1, x2, y2 = (boxes_R4.detach() / stride_L[level_R][:, None]).unbind(1)

    row_RBX, y_weight_RBX = _along(y1, y2, rows_R)
    column_RBX, x_weight_RBX = _along(x1, x2, columns_R)
    # [R, BINS, BINS, 2 SAMPLES, 2 SAMPLES]: rows of bins, columns of bins, rows of cells, columns of cells
    start = (first_R[:, None, None] + row_RBX * columns_R[:, None, None])[:, :, None, :, None]
    cell = start + column_RBX[:, None, :, None, :]
    weight = y_weight_RBX[:, :, None, :, None] * x_weight_RBX[:, None, :, None, :]
    bins = F.embedding_bag(
        cell.flatten(3).flatten(0, 2), table, per_sample_weights=weight.flatten(3).flatten(0, 2), mode="sum"
    )
    return bins.unflatten(0, (len(boxes_R4), BINS, BINS))


def _along(low_R: Tensor, high_R: Tensor, cells_R: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: the cells that each bin adds up and their weights, both [R, BINS, 2 SAMPLES].

    low_R, high_R: the box's ends in cells. cells_R: how many cells there are.
    """
    last_R1 = (cells_R - 1)[:, None]
    share_P = (torch.arange(BINS * SAMPLES, device=low_R.device) + 0.5) / (BINS * SAMPLES)
    # Minus .5: the cell with index 0 is centred on .5.
    at_RP = low_R[:, None] + share_P * (high_R - low_R)[:, None] - 0.5
    at_RP = at_RP.clamp(min=0).minimum(last_R1.to(at_RP.dtype))
    lower_RP = at_RP.floor()
    upper_share_RP = at_RP - lower_RP
    cell = torch.stack([lower_RP.long(), (lower_RP.long() + 1).minimum(last_R1)], -1)
    weight = torch.stack([1 - upper_share_RP, upper_share_RP], -1) / SAMPLES
    return cell.flatten(1).unflatten(1, (BINS, -1)), weight.flatten(1).unflatten(1, (BINS, -1))
