"""Which anchors an object can reach: index arithmetic on the grid, in place of a G x N matrix.

The anchors of one level, size and ratio, a shape, are one box repeated from cell to cell. Two boxes that share an area
overlap in x by at least that area / the smaller of their heights; and so in y. So the anchors of a shape that can share
a given area with an object are centred between two limits in x and two in y: a rectangle of cells. The cells of all
rectangles make one list of pairs of an object and an anchor. It is about twice as long as it has to be: for the paper's
anchors and an IoU of .4 some ninety pairs an object, of 67,995.

Objects are taken by the hundred and pairs by the ten thousand, so that memory stays bounded whatever is asked for.

Letters: B images, N anchors of an image, X = B x N anchors of the batch, G objects, L levels, A anchors per cell,
S shapes (L x A), R rectangles (G x S), Q pairs, C cells of all levels, D some anchors. An axis of 2 is x, then y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from foveal.anchors import Anchors
from foveal.boxes import area, intersection, iou, paired_iou
from foveal.detections import Batch

OBJECTS_AT_ONCE = 512
PAIRS_AT_ONCE = 2**16
"""What is worked on together. The pairs of one object, N at most, are never divided."""

_FAR = -1e6
"""Where the anchors of a level are that has none in the picture."""


@dataclass(frozen=True)
class Reach:
    """The objects of a batch, and the anchors that each can reach in its picture.

    anchors: [N, 4], of each picture. inside: [2, B, L], how many columns and rows of cells, from 0 on, hold anchors
    that can be reached.
    """

    batch: Batch
    anchors: Tensor
    grid: _Grid
    inside: Tensor

    @classmethod
    def of(cls, anchors: Anchors, batch: Batch, on_padding: bool) -> Reach:
        """on_padding: whether anchors centred on a picture's padding can be reached."""
        height, width = batch.images.shape[-2:]
        grid = _grid(anchors, height, width, batch.boxes.device)
        if on_padding:
            inside_2BL = grid.cells.expand(-1, len(batch), -1)
        else:
            side_2B1 = batch.sizes.flip(1).t()[..., None]
            inside_2BL = cells_inside(side_2B1, grid.stride, grid.cells, grid.shift)
        return cls(batch, anchors.boxes(height, width, batch.boxes.device), grid, inside_2BL)

    @property
    def num_anchors(self) -> int:
        """N."""
        return len(self.anchors)

    @property
    def num_shapes(self) -> int:
        """S."""
        return len(self.grid.first)

    def image_and_shape(self, anchor_D: Tensor) -> tuple[Tensor, Tensor]:
        """Two [D] int64: which image and which shape each anchor of the batch belongs to."""
        per_cell, place_D = self.grid.per_cell, anchor_D % self.num_anchors
        level_D = torch.bucketize(place_D, self.grid.first[::per_cell].contiguous(), right=True) - 1
        return anchor_D // self.num_anchors, level_D * per_cell + place_D % per_cell

    def on_padding(self) -> Tensor:
        """[B, N] bool: anchors centred on a picture's padding, right of it or below."""
        x_C, y_C = self.grid.centres
        height_B1, width_B1 = self.batch.sizes.split(1, 1)
        return ((x_C >= width_B1) | (y_C >= height_B1)).repeat_interleave(self.grid.per_cell, 1)

    def best_nearby(self) -> Tensor:
        """[G] float32: an IoU that some anchor has with each object: the best one, but for rounding."""
        grid, best = self.grid, [self.batch.boxes.new_zeros(0)]
        for some in pieces(len(self.batch.boxes), OBJECTS_AT_ONCE):
            boxes_G4 = self.batch.boxes[some]
            inside_2GL = self.inside.index_select(1, self.batch.image_index[some])
            at_2GL = nearest_centres(boxes_G4, grid.stride, inside_2GL, grid.shift)
            anchors_GLA4 = torch.cat([at_2GL, at_2GL]).permute(1, 2, 0)[:, :, None] + grid.cell_boxes
            best_GL = iou(boxes_G4[:, None, None], anchors_GLA4).amax((2, 3))
            # A box may be so large that it reaches what is far off.
            best.append(torch.where((inside_2GL > 0).all(0), best_GL, 0).amax(1))
        return torch.cat(best)

    def overlaps(self, threshold_GS: Tensor, only_X: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(object, anchor, IoU), three [Q], piece by piece: all pairs of at least a threshold, and some below it.

        threshold_GS: [G, S], or [G, 1]. only_X: [X] bool, the anchors that are wanted. Crowds have no pairs. The pairs
        of one object are in one piece.
        A box on an anchor of 16 x 16 pixels, in a grid of 8, has an IoU of 1 with it, 1/3 with four neighbours and 1/7
        with the four at the corners: .4 gives one pair, .33 gives all nine.
        """
        # shared / (anchor + object - shared) >= t is shared >= t / (1 + t) x (anchor + object). Rounding changes an IoU
        # by far less than 1e-5 of it, unless it is so small that float32 has few digits left.
        threshold_GS = (threshold_GS.double() * (1 - 1e-5) - 1e-30).clamp(min=0)
        share_GS = threshold_GS / (1 + threshold_GS)
        for object_Q, anchor_Q, place_Q in self._pairs(~self.batch.crowd, share_GS, share_GS):
            if only_X is not None:
                wanted = places(only_X.index_select(0, anchor_Q))
                object_Q, anchor_Q, place_Q = object_Q[wanted], anchor_Q[wanted], place_Q[wanted]
            boxes_Q4 = self.batch.boxes.index_select(0, object_Q)
            yield object_Q, anchor_Q, paired_iou(boxes_Q4, self.anchors.index_select(0, place_Q))

    def in_crowds(self, overlap: float) -> Iterator[Tensor]:
        """[Q] int64, piece by piece: anchors with at least this share of their area in a crowd region."""
        share_G1 = torch.full_like(self.batch.boxes[:, :1], overlap * (1 - 1e-5), dtype=torch.float64)
        for object_Q, anchor_Q, place_Q in self._pairs(self.batch.crowd, share_G1, torch.zeros_like(share_G1)):
            anchors_Q4 = self.anchors.index_select(0, place_Q)
            shared_Q = intersection(self.batch.boxes[object_Q, None], anchors_Q4[:, None]).reshape(-1)
            yield anchor_Q[(shared_Q / area(anchors_Q4) >= overlap) & (shared_Q > 0)]

    def _pairs(
        self, among_G: Tensor, of_anchor_GS: Tensor, of_object_GS: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(object, anchor of the batch, anchor of the picture), three [Q] int64, piece by piece.

        All pairs that share as much of the anchor's area and of the object's together as is asked for, and others.
        """
        grid = self.grid
        for some in pieces(len(among_G), OBJECTS_AT_ONCE):
            first_2GS, count_2GS = self._rectangles(some, among_G[some], of_anchor_GS[some], of_object_GS[some])
            number_GS = count_2GS.prod(0)
            end_R = number_GS.flatten().cumsum(0)
            # Of each rectangle: pairs before it, columns, first anchor, anchors a row, object, first of the picture.
            table_6R = torch.stack(
                [
                    end_R.view_as(number_GS) - number_GS,
                    count_2GS[0],
                    grid.first + (first_2GS * grid.step).sum(0),
                    grid.step[1].expand_as(number_GS),
                    torch.arange(some.start, some.stop, device=end_R.device)[:, None].expand_as(number_GS),
                    (self.batch.image_index[some, None] * self.num_anchors).expand_as(number_GS),
                ]
            ).flatten(1)
            # Pieces of about one size that begin and end with whole objects.
            end_G = end_R[self.num_shapes - 1 :: self.num_shapes].contiguous()
            even = torch.arange(0, int(end_G[-1]), PAIRS_AT_ONCE, device=end_G.device)
            cuts = {*torch.searchsorted(end_G, even).tolist(), len(end_G)}
            for first, last in pairwise(sorted(cuts)):
                piece = slice(first * self.num_shapes, last * self.num_shapes)
                yield _cells(table_6R[:, piece], number_GS.view(-1)[piece], grid.per_cell)

    def _rectangles(
        self, some: slice, among_G: Tensor, of_anchor_GS: Tensor, of_object_GS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Two [2, G, S] int64: the first column and row, and how many, of the cells whose anchors can share enough."""
        grid = self.grid
        corner_4G1 = self.batch.boxes[some].double().t()[..., None]
        lower_2G1, upper_2G1 = corner_4G1[:2], corner_4G1[2:]
        # Sides are divided by. A box without area may get pairs; they share nothing.
        side_2G1 = (upper_2G1 - lower_2G1).clamp(min=1e-30)
        enough_GS = of_anchor_GS * grid.least_area + of_object_GS * side_2G1.prod(0)
        smaller_2GS = torch.minimum(side_2G1, grid.upper - grid.lower)
        overlap_2GS = enough_GS / smaller_2GS.flip(0)
        possible_GS = (overlap_2GS[0] <= smaller_2GS[0]) & among_G[:, None]

        inside_2GL = self.inside.index_select(1, self.batch.image_index[some])
        inside_2GS = inside_2GL.repeat_interleave(grid.per_cell, 2)
        first_2GS = (lower_2G1 + overlap_2GS - grid.upper) / grid.shape_stride - grid.shift
        last_2GS = (upper_2G1 - overlap_2GS - grid.lower) / grid.shape_stride - grid.shift
        first_2GS = first_2GS.ceil().clamp(min=0)
        count_2GS = (torch.minimum(last_2GS.floor() + 1, inside_2GS) - first_2GS).clamp(min=0)
        return first_2GS.long(), torch.where(possible_GS, count_2GS, 0).long()


def _cells(table_6R: Tensor, number_R: Tensor, per_cell: int) -> tuple[Tensor, Tensor, Tensor]:
    """(object, anchor of the batch, anchor of the picture), three [Q], of all cells of some rectangles, row by row."""
    rectangle_Q = torch.repeat_interleave(number_R)
    before_Q, columns_Q, corner_Q, below_Q, object_Q, picture_Q = table_6R.index_select(1, rectangle_Q)
    within_Q = torch.arange(len(before_Q), device=before_Q.device) - (before_Q - before_Q[:1])
    row_Q = within_Q // columns_Q
    place_Q = corner_Q + row_Q * below_Q + (within_Q - row_Q * columns_Q) * per_cell
    return object_Q, picture_Q + place_Q, place_Q


def places(marked_X: Tensor) -> Tensor:
    """[P] int64: where [X] bool is True, ascending.

    `nonzero` takes 2 ns an element on a CPU. Most are False: eight are read as one number, and most numbers are 0.
    """
    marked_E8 = pad(marked_X, (0, -len(marked_X) % 8)).view(-1, 8)
    some_E = marked_E8.view(torch.int64).squeeze(1).nonzero().squeeze(1)
    row_P, column_P = marked_E8.index_select(0, some_E).nonzero().unbind(1)
    return some_E.index_select(0, row_P) * 8 + column_P


@dataclass(frozen=True)
class _Grid:
    """The anchors of a network input by cell and by shape.

    cell_boxes: [L, A, 4] float32, around the origin. shift: where in its cell a centre lies, in strides.
    stride: [2, 1, L] pixels from cell to cell. cells: [2, 1, L] columns and rows. centres: [2, C] of all cells.
    first: [S] place of a shape's first anchor among the N. step: [2, 1, S] places from cell to cell.
    shape_stride: [2, 1, S]. lower, upper: [2, 1, S] float64, the box as large as rounding can make it. least_area: [S],
    as small.
    """

    cell_boxes: Tensor
    stride: Tensor
    cells: Tensor
    centres: Tensor
    first: Tensor
    step: Tensor
    shape_stride: Tensor
    lower: Tensor
    upper: Tensor
    least_area: Tensor
    shift: float
    per_cell: int


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what a prediction caches, training may use
def _grid(anchors: Anchors, height: int, width: int, device: torch.device) -> _Grid:
    per_cell, shift = anchors.per_cell, shift_of(anchors)
    boxes_LA4 = level_boxes(anchors)
    stride_21L, cells_21L = strides_and_cells(anchors, torch.tensor([[[width]], [[height]]]))
    centres = []
    for (columns, rows), stride_2 in zip(cells_21L[:, 0].t().tolist(), stride_21L[:, 0].t(), strict=True):
        row_column_C2 = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        centres.append((row_column_C2.flip(1) + shift) * stride_2)
    cells_L = cells_21L.prod(0)[0]
    first_LA = (cells_L.cumsum(0) - cells_L)[:, None] * per_cell + torch.arange(per_cell)
    columns_S = cells_21L[0, 0].repeat_interleave(per_cell)
    lower_21S, upper_21S, least_area_S = shape_bounds(anchors, height, width)
    return _Grid(
        cell_boxes=boxes_LA4.to(device),
        stride=stride_21L.to(device),
        cells=cells_21L.to(device),
        centres=torch.cat(centres).t().contiguous().to(device),
        first=first_LA.flatten().to(device),
        step=torch.stack([torch.full_like(columns_S, per_cell), columns_S * per_cell])[:, None].to(device),
        shape_stride=stride_21L.repeat_interleave(per_cell, 2).to(device),
        lower=lower_21S.to(device),
        upper=upper_21S.to(device),
        least_area=least_area_S.to(device),
        shift=shift,
        per_cell=per_cell,
    )


def shape_bounds(anchors: Anchors, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two [2, 1, S] float64, corners around the origin, as far out as rounding can put them; [S] the least area."""
    # A corner is rounded by half a unit in the last place when the centre is added; this is four units.
    slack = 2.0**-21 * float(anchors.boxes(height, width).abs().amax())
    corner_41S = level_boxes(anchors).double().flatten(0, 1).t()[:, None]
    side_21S = corner_41S[2:] - corner_41S[:2]
    return corner_41S[:2] - slack, corner_41S[2:] + slack, (side_21S - 2 * slack).clamp(min=0).prod(0)[0]


# What looks for the best anchor of an object, here and in `matching.best_iou`. I is the network inputs that are asked
# about: 1, or one for each of B images or G objects.


def pieces(count: int, at_once: int) -> list[slice]:
    """Slices of at most `at_once` that make up `count`."""
    return [slice(first, min(first + at_once, count)) for first in range(0, count, at_once)]


def level_boxes(anchors: Anchors) -> Tensor:
    """[L, A, 4] float32: the anchors of one cell of each level, around the origin."""
    return torch.stack([anchors.cell_boxes(index) for index in range(len(anchors.levels))])


def shift_of(anchors: Anchors) -> float:
    """Where in its cell an anchor is centred, in strides."""
    return 0.5 if anchors.offset == "centre" else 0.0


def strides_and_cells(anchors: Anchors, side_2I1: Tensor) -> tuple[Tensor, Tensor]:
    """Two [2, I, L] int64: pixels from cell to cell, and columns and rows, of inputs of (width, height) `side_2I1`."""
    cell_L = torch.tensor([2**level for level in anchors.levels], device=side_2I1.device)
    cells_2IL = (side_2I1 + cell_L - 1) // cell_L
    stride_2IL = cell_L.expand_as(cells_2IL) if anchors.stride == "exact" else side_2I1 // cells_2IL
    return stride_2IL, cells_2IL


def cells_inside(side_2I1: Tensor, stride_2IL: Tensor, cells_2IL: Tensor, shift: float) -> Tensor:
    """[2, I, L] float32: how many columns and rows, from 0 on, are centred within (width, height) `side_2I1`."""
    return (side_2I1 / stride_2IL - shift).ceil().clamp(min=0).minimum(cells_2IL)


def nearest_centres(boxes_G4: Tensor, stride_2IL: Tensor, inside_2IL: Tensor, shift: float) -> Tensor:
    """[2, G, L] float32: the centre of those anchors inside that are centred nearest to each box, in x and in y.

    Of the anchors of one shape these overlap the box most, wherever it lies. Where none is inside it is far off.
    """
    centre_2G1 = ((boxes_G4[:, :2] + boxes_G4[:, 2:]) / 2).t()[..., None]
    cell_2GL = (centre_2G1 / stride_2IL - shift).round().clamp(min=0).minimum(inside_2IL - 1)
    return torch.where(inside_2IL > 0, (cell_2GL + shift) * stride_2IL, _FAR)
