"""Large pictures in overlapping tiles: each tile is a picture of its own, so small objects keep their pixels.

An object that a tile's border cuts is found a second time, whole, in the neighbour, as long as it is smaller than the
overlap: the piece then goes. Pieces of which no tile has the whole are joined across the border.

Letters: D detections, P pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from foveal.boxes import area, intersection
from foveal.data.arrays import to_array
from foveal.detections import Detections
from foveal.engine.predict import Detector
from foveal.errors import UsageError
from foveal.nms import batched_nms

Rect = tuple[int, int, int, int]
"""(x1, y1, x2, y2) in whole pixels of the picture."""

COVERED = 0.6
"""A piece goes when a whole detection of its class covers this share of it."""
ALIGNED = 0.5
"""Pieces are joined when their sides along the border overlap by this IoU."""
_ROWS = 512


def tile_grid(size: tuple[int, int], tile: int, overlap: float) -> list[Rect]:
    """Tiles of `tile` pixels a side, row by row, that cover a picture of (height, width).

    Neighbours share at least `overlap` of a side; the tiles are spread evenly, so none is a sliver. A picture 1440 wide
    in tiles of 800 with overlap .2 has tiles at x = 0 and 640; a side shorter than `tile` has one tile of its length.
    """
    check_tiling(tile, overlap)
    rows, columns = (_starts(side, tile, overlap) for side in size)
    return [(x, y, min(x + tile, size[1]), min(y + tile, size[0])) for y in rows for x in columns]


def check_tiling(tile: int, overlap: float) -> None:
    """UsageError unless tiles of this side can share this much."""
    if tile < 32:
        raise UsageError(f"tile {tile}: give at least 32 pixels, such as 800")
    if not 0 <= overlap <= 0.9:
        raise UsageError(f"overlap {overlap:g}: give a share from 0 to .9, such as .2")


def detect_tiled(
    detector: Detector,
    image: Any,
    tile: int = 800,
    overlap: float = 0.2,
    min_score: float | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Detections:
    """Detections of one picture seen through tiles, in the picture's own pixels, best score first.

    The picture is decoded once and held as uint8; `batch_size` tiles at a time are cut, resized and looked at.
    `inference.max_detections` holds for each tile, not for the picture. Objects should be smaller than the overlap.
    progress(done, total) is called after each batch of tiles.
    """
    pixels = to_array(image, detector.config.data.max_pixels)
    size = pixels.shape[0], pixels.shape[1]
    tiles = tile_grid(size, tile, overlap)
    grid = iter(tiles)
    boxes, cuts, scores, labels = [], [], [], []
    while rects := list(islice(grid, batch_size)):
        found = detector([pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in rects], min_score, batch_size)
        for rect, detections in zip(rects, found, strict=True):
            boxes.append(detections.boxes + torch.tensor([rect[0], rect[1]] * 2))
            cuts.append(_cut_sides(boxes[-1], rect, size, margin=tile / 100))
            scores.append(detections.scores)
            labels.append(detections.labels)
        if progress:
            progress(len(boxes), len(tiles))
    everything = Detections(torch.cat(boxes), torch.cat(scores), torch.cat(labels), detector.class_names)
    return merge(everything, torch.cat(cuts), detector.config.inference.nms_iou)


def merge(found: Detections, cut_D4: Tensor, iou: float) -> Detections:
    """One detection for each object out of those of all tiles.

    found: in the picture's pixels. cut_D4: bool, whether the box ends (left, top, right, bottom) at a border inside the
    picture. First pieces that lie in a whole detection go, then the rest are joined, then NMS per class at `iou`.
    """
    cut_D = cut_D4.any(1)
    kept = torch.ones(len(found), dtype=torch.bool)
    for label in found.labels[cut_D].unique():
        mine = found.labels == label
        pieces = (mine & cut_D).nonzero().squeeze(1)
        kept[pieces] = _largest_share(found.boxes[pieces], found.boxes[mine & ~cut_D]) < COVERED
    found, cut_D4 = found[kept], cut_D4[kept]
    found = _join(found, cut_D4)
    return found[batched_nms(found.boxes, found.scores, found.labels, iou)]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    if side <= tile:
        return [0]
    steps = math.ceil((side - tile) / max(1, math.floor(tile * (1 - overlap))))
    return [round(step * (side - tile) / steps) for step in range(steps + 1)]


def _cut_sides(boxes_D4: Tensor, rect: Rect, size: tuple[int, int], margin: float) -> Tensor:
    """[D, 4] bool: which sides of each box lie at a border of its tile that is not the picture's."""
    height, width = size
    inner = torch.tensor([rect[0] > 0, rect[1] > 0, rect[2] < width, rect[3] < height])
    return ((boxes_D4 - torch.tensor(rect)).abs() <= margin) & inner


def _largest_share(pieces_P4: Tensor, whole_M4: Tensor) -> Tensor:
    """[P] the largest share of each piece that one of the whole boxes covers; 0 where there is none."""
    shares = [torch.zeros(0)]
    for chunk in pieces_P4.split(_ROWS):
        if len(whole_M4):
            shares.append(intersection(chunk, whole_M4).max(1).values / area(chunk).clamp(min=1e-6))
        else:
            shares.append(torch.zeros(len(chunk)))
    return torch.cat(shares)


def _join(found: Detections, cut_D4: Tensor) -> Detections:
    """Replaces pieces that continue one another across a border by their common box, with the best of their scores."""
    pieces = cut_D4.any(1).nonzero().squeeze(1)
    first = _groups(found.boxes[pieces], found.labels[pieces], cut_D4[pieces])
    boxes, scores = found.boxes.clone(), found.scores.clone()
    kept = torch.ones(len(found), dtype=torch.bool)
    for position, leader in enumerate(first):
        if leader == position:
            continue
        piece, into = pieces[position], pieces[leader]
        boxes[into, :2] = torch.minimum(boxes[into, :2], boxes[piece, :2])
        boxes[into, 2:] = torch.maximum(boxes[into, 2:], boxes[piece, 2:])
        scores[into] = torch.maximum(scores[into], scores[piece])
        kept[piece] = False
    return Detections(boxes[kept], scores[kept], found.labels[kept], found.class_names)


def _groups(boxes_P4: Tensor, labels_P: Tensor, cut_P4: Tensor) -> list[int]:
    """For each piece the first piece of the group that it is joined to; itself where it stands alone."""
    first = list(range(len(boxes_P4)))

    def find(piece: int) -> int:
        while first[piece] != piece:
            first[piece] = first[first[piece]]
            piece = first[piece]
        return piece

    for axis in (0, 1):
        for one, other in _continuations(boxes_P4, labels_P, cut_P4, axis):
            low, high = sorted((find(one), find(other)))
            first[high] = low
    return [find(piece) for piece in range(len(first))]


def _continuations(boxes_P4: Tensor, labels_P: Tensor, cut_P4: Tensor, axis: int) -> Iterator[tuple[int, int]]:
    """Pairs of pieces of one class that overlap and line up: one cut on its right, the other on its left (axis 0, x),
    or one at its bottom and the other at its top (axis 1, y).
    """
    along, across = [axis, axis + 2], [1 - axis, 3 - axis]
    ends, starts = cut_P4[:, axis + 2].nonzero().squeeze(1), cut_P4[:, axis].nonzero().squeeze(1)
    for chunk in ends.split(_ROWS):
        shared, _ = _spans(boxes_P4[chunk][:, along], boxes_P4[starts][:, along])
        beside, outer = _spans(boxes_P4[chunk][:, across], boxes_P4[starts][:, across])
        meet = (shared > 0) & (beside >= ALIGNED * outer) & (labels_P[chunk, None] == labels_P[starts])
        for one, other in meet.nonzero().tolist():
            yield int(chunk[one]), int(starts[other])


def _spans(a_P2: Tensor, b_Q2: Tensor) -> tuple[Tensor, Tensor]:
    """[P, Q] lengths of what two intervals share, and from the first start to the last end."""
    shared = torch.minimum(a_P2[:, None, 1], b_Q2[:, 1]) - torch.maximum(a_P2[:, None, 0], b_Q2[:, 0])
    outer = torch.maximum(a_P2[:, None, 1], b_Q2[:, 1]) - torch.minimum(a_P2[:, None, 0], b_Q2[:, 0])
    return shared.clamp(min=0), outer
