"""The fast path of `nms.batched_nms` on a CPU: only boxes that can overlap are compared, and the same boxes stay.

Of two boxes that overlap, one starts, from left to right, inside the other. So with the boxes sorted by class and left
side those that start inside a box are one run of the list, and there is no D x D matrix. It goes so:

1. The best eighth of the boxes compete, or all if they do not crowd. Those that stay have won for good.
2. The others that a winner overlaps too much go: in a crowd, nearly all.
3. What is left competes.

All is numpy: its calls cost less than torch's, and so few numbers are not worth a second thread.

Letters: D detections, H heads (those that compete), M, N boxes, Q pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

FARTHEST = 1e18
"""Areas of boxes with coordinates up to here are finite in float32."""
_LOOK = 4
"""To find some boxes that stay, so many times as many are looked at first; then so many times more."""
_HEADS = 8
_FEWEST_HEADS = 128
_PAIRS_AT_ONCE = 2**15
_MOST_PAIRS = 2**20
"""Heads with more pairs than this are divided: what the first ones displace need not be compared at all."""
_FEW_A_BOX = 4
"""Where boxes have so few pairs each, all compete at once: there is no crowd to let go before it is compared."""
_FEW_PAIRS = 256
"""So few are gone through one by one."""


def sweep(boxes_D4: Floats, scores_D: Floats, labels_D: Ints, iou: float, limit: int | None = None) -> Ints:
    """Indices of the boxes that stay where those of one class compete, best score first, at most `limit`.

    No score is NaN, and no coordinate beyond `FARTHEST`. iou: 0 .. 1. Ties in score go to the lower index.
    """
    order = (-scores_D).argsort(kind="stable")
    looked_at = len(order) if limit is None else _LOOK * limit
    while True:
        # Whether a box stays follows from better ones alone.
        some = order[:looked_at]
        kept = some[_keep_mask(boxes_D4.take(some, axis=0), labels_D.take(some), iou).nonzero()[0]]
        if looked_at >= len(order) or (limit is not None and len(kept) >= limit):
            return kept[:limit]
        looked_at *= _LOOK


def _keep_mask(boxes_D4: Floats, labels_D: Ints, iou: float) -> Bools:
    """[D] bool: which of boxes that are sorted from the best stay."""
    stay_D = np.ones(len(boxes_D4), dtype=np.bool_)
    alive = _Boxes.of(boxes_D4, labels_D)
    wanted = max(_FEWEST_HEADS, len(alive) // _HEADS)
    with np.errstate(invalid="ignore"):  # 0 / 0 of boxes without area
        while len(alive):
            heads, others, runs = _split(alive, wanted)
            better_Q, worse_Q = _rivals(heads, runs, iou)
            _settle(better_Q, worse_Q, stay_D)
            if len(others):
                _displace(heads[stay_D.take(heads.rank).nonzero()[0]], others, stay_D, iou)
                others = others[stay_D.take(others.rank).nonzero()[0]]
            alive, wanted = others, len(others)
    return stay_D


@dataclass(frozen=True)
class _Boxes:
    """[N] boxes, sorted by class and left side.

    rank: place among all, from the best. start, end: class and left side, class and right side, each as one number.
    columns: [5, N], x1, y1, x2, y2 and the area.
    """

    rank: Ints
    start: Ints
    end: Ints
    columns: Floats

    @classmethod
    def of(cls, boxes_D4: Floats, labels_D: Ints) -> _Boxes:
        class_D = labels_D << 32
        start_D = class_D + _ordered(boxes_D4[:, 0])
        rank = start_D.argsort()
        columns = np.empty((5, len(rank)), dtype=np.float32)
        boxes_D4.T.take(rank, axis=1, out=columns[:4])
        x1, y1, x2, y2, area = columns
        np.multiply(np.maximum(x2 - x1, 0), np.maximum(y2 - y1, 0), out=area)
        return cls(rank, start_D.take(rank), class_D.take(rank) + _ordered(x2), columns)

    def __len__(self) -> int:
        return len(self.rank)

    def __getitem__(self, index: Ints) -> _Boxes:
        return _Boxes(self.rank[index], self.start[index], self.end[index], self.columns.take(index, axis=1))


@dataclass(frozen=True)
class _Runs:
    """For each of M boxes a run of boxes in another list: the place of its first, and how many they are."""

    first: Ints
    count: Ints

    @classmethod
    def among(cls, boxes: _Boxes) -> _Runs:
        """Of a list's own boxes those that start inside each, itself and those before it apart."""
        first = np.arange(1, len(boxes) + 1)
        return cls(first, np.maximum(boxes.start.searchsorted(boxes.end) - first, 0))

    @classmethod
    def inside(cls, boxes: _Boxes, others: _Boxes, with_equal: bool) -> _Runs:
        """Those of `others` that start inside each of `boxes`; `with_equal` also those that start where it does."""
        first = others.start.searchsorted(boxes.start, "left" if with_equal else "right")
        return cls(first, np.maximum(others.start.searchsorted(boxes.end) - first, 0))

    def pairs(self) -> Iterator[tuple[Ints, Ints]]:
        """(place of the box, place in its run) of all, some at a time. The run of one box is never divided."""
        until = self.count.cumsum()
        total = int(until[-1]) if len(until) else 0
        cuts = until.searchsorted(np.arange(_PAIRS_AT_ONCE, total, _PAIRS_AT_ONCE), "right").tolist()
        for low, high in zip([0, *cuts], [*cuts, len(until)], strict=True):
            count = self.count[low:high]
            box_Q = np.arange(low, high).repeat(count)
            if len(box_Q):
                before = until[low:high] - count
                yield box_Q, np.arange(len(box_Q)) + (self.first[low:high] - before + before[0]).repeat(count)


def _split(alive: _Boxes, wanted: int) -> tuple[_Boxes, _Boxes, _Runs]:
    """The best `wanted` boxes, or all, or fewer, as they have few or too many pairs; the others; the pairs as runs."""
    heads, others = alive, alive[np.empty(0, np.int64)]
    most = _MOST_PAIRS if wanted >= len(alive) else _FEW_A_BOX * len(alive)
    while True:
        runs = _Runs.among(heads)
        if len(heads) <= _FEWEST_HEADS or runs.count.sum() <= most:
            return heads, others, runs
        if wanted >= len(heads):
            wanted = max(_FEWEST_HEADS, len(heads) // 4)
        bar = np.partition(alive.rank, wanted)[wanted]
        heads, others = (alive[m.nonzero()[0]] for m in (alive.rank < bar, alive.rank >= bar))
        most = _MOST_PAIRS


def _rivals(heads: _Boxes, runs: _Runs, iou: float) -> tuple[Ints, Ints]:
    """Ranks of the better and of the worse of each pair of heads that overlap too much."""
    better, worse = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for m_Q, n_Q in runs.pairs():
        m_Q, n_Q = _overlapping(heads, heads, m_Q, n_Q, iou)
        one_Q, other_Q = heads.rank.take(m_Q), heads.rank.take(n_Q)
        better.append(np.minimum(one_Q, other_Q))
        worse.append(np.maximum(one_Q, other_Q))
    return np.concatenate(better), np.concatenate(worse)


def _settle(better_Q: Ints, worse_Q: Ints, stay_D: Bools) -> None:
    """Marks those that go: a box stays unless a better one that stays overlaps it."""
    while len(better_Q) > _FEW_PAIRS:
        doubtful_D = np.zeros_like(stay_D)
        doubtful_D[worse_Q] = True
        stay_D[worse_Q[~doubtful_D.take(better_Q)]] = False
        # A pair of which one has gone says nothing more. In a long chain of boxes few go at a time: see below.
        left = (stay_D.take(better_Q) & stay_D.take(worse_Q)).nonzero()[0]
        halved = 2 * len(left) < len(better_Q)
        better_Q, worse_Q = better_Q.take(left), worse_Q.take(left)
        if not halved:
            break
    order = better_Q.argsort()
    for better, worse in zip(better_Q.take(order).tolist(), worse_Q.take(order).tolist(), strict=True):
        if stay_D[better]:
            stay_D[worse] = False


def _displace(winners: _Boxes, others: _Boxes, stay_D: Bools, iou: float) -> None:
    """Marks the others that a winner overlaps too much: each pair once, by which of the two starts inside the other."""
    for w_Q, o_Q in _Runs.inside(winners, others, with_equal=True).pairs():
        stay_D[others.rank.take(_overlapping(winners, others, w_Q, o_Q, iou)[1])] = False
    for o_Q, w_Q in _Runs.inside(others, winners, with_equal=False).pairs():
        stay_D[others.rank.take(_overlapping(others, winners, o_Q, w_Q, iou)[0])] = False


def _overlapping(a: _Boxes, b: _Boxes, a_Q: Ints, b_Q: Ints, iou: float) -> tuple[Ints, Ints]:
    """Those pairs (places in `a` and in `b`) whose IoU is above `iou`, by the float32 operations of `boxes.iou`."""
    (_, top, _, bottom, _), (_, other_top, _, other_bottom, _) = a.columns, b.columns
    # Half the work or less for nearly all pairs: most do not meet from top to bottom.
    meet = (other_top.take(b_Q) < bottom.take(a_Q)) & (top.take(a_Q) < other_bottom.take(b_Q))
    meet_Q = meet.nonzero()[0]
    a_Q, b_Q = a_Q.take(meet_Q), b_Q.take(meet_Q)
    ax1, ay1, ax2, ay2, area = a.columns.take(a_Q, axis=1)
    bx1, by1, bx2, by2, other_area = b.columns.take(b_Q, axis=1)
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    shared = width * height
    # Where the union is 0 the ratio is not a number, which is above nothing, as 0 is.
    above_Q = (shared / (area + other_area - shared) > np.float32(iou)).nonzero()[0]
    return a_Q.take(above_Q), b_Q.take(above_Q)


def _ordered(x_N: Floats) -> Ints:
    """[N] integers in the order of the floats: their bits, and those of negative ones turned round."""
    bits = np.ascontiguousarray(x_N).view(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
