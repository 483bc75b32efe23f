"""The part of an exported file after the network: from logits and offsets to detections by `decoding.py`'s rules.

Each picture and level: anchors centred on padding and logits below the threshold go, the best pairs stay, boxes are
decoded and clipped. Then NonMaxSuppression within each class, by logits, and the best of the picture. TopK takes the
lower index of equal values, as ours does. Fixed shapes stand in for lists: what has gone has the logit `GONE`.

Letters: B images, N anchors of a level, A anchors of a cell, K classes, M candidates of a picture, D detections.
"""

from __future__ import annotations

import math

import numpy as np

from foveal.anchors import Anchors
from foveal.boxes import MAX_LOG_SCALE
from foveal.candidates import logit
from foveal.config import Config
from foveal.export.graph import FLOAT, Graph

GONE = -1e30
_GONE_OR_WORSE = -1e29


def detections(
    graph: Graph, logits_L: list[str], deltas_L: list[str], shape: str, sizes: str, config: Config, num_classes: int
) -> tuple[str, str, str]:
    """(boxes [B, D, 4] in pixels of the network's input, scores [B, D], labels [B, D] int64), best first.

    logits, deltas: of each level as the network gives them. shape: (H, W) of its input, int64 [2]. sizes: (height,
    width) of each picture in its padding, int64 [B, 2]. D is at most `inference.max_detections`; places without a
    detection come last and have score 0, label -1 and a box of zeros.
    """
    anchors = Anchors.from_config(config)
    height, width = (graph.cast(side, FLOAT) for side in _sides(graph, sizes))
    levels = []
    for index, (logits, deltas) in enumerate(zip(logits_L, deltas_L, strict=True)):
        grid = _grid(graph, anchors, index, logits, shape)
        logits_BNK = _by_anchor(graph, logits, anchors.per_cell, num_classes)
        if config.assignment.padding != "background":
            logits_BNK = _on_picture(graph, grid, logits_BNK, height, width)
        levels.append(_candidates(graph, grid, logits_BNK, _by_anchor(graph, deltas, anchors.per_cell, 4), config))
    boxes, logits, labels = (graph("Concat", *parts, axis=1) for parts in zip(*levels, strict=True))
    boxes = _clipped(graph, boxes, height, width)
    logits = graph("Where", _with_area(graph, boxes), logits, graph.constant(GONE, np.float32))
    logits = _without_lesser(graph, boxes, logits, labels, config, num_classes)
    return _best(graph, boxes, logits, labels, config.inference.max_detections)


def in_original_pixels(graph: Graph, boxes: str, size: str, original: str) -> str:
    """Boxes [B, D, 4] from the pixels of pictures of `size` to those of `original`, both int64 [2]; clipped."""
    scale_yx = graph("Div", graph.cast(original, FLOAT), graph.cast(size, FLOAT))
    order = graph.ints(1, 0, 1, 0)
    scaled = graph("Mul", boxes, graph("Gather", scale_yx, order))
    return graph("Min", scaled, graph("Gather", graph.cast(original, FLOAT), order))


def _sides(graph: Graph, sizes: str) -> list[str]:
    """Heights and widths, [B, 1] each."""
    return graph.several("Split", 2, sizes, axis=1, num_outputs=2)


def _by_anchor(graph: Graph, output: str, per_cell: int, columns: int) -> str:
    """[B, A * C, h, w] to [B, N, C], in the flat order."""
    rows = graph("Transpose", output, perm=[0, 2, 3, 1])
    return graph("Reshape", rows, graph.ints(0, -1, columns))


def _grid(graph: Graph, anchors: Anchors, index: int, logits: str, shape: str) -> str:
    """[N, 4] float32: the anchors of one level, as `anchors.py` lays them."""
    rows, columns = graph.side(logits, 2), graph.side(logits, 3)
    if anchors.stride == "exact":
        stride_y = stride_x = graph.constant(2.0 ** anchors.levels[index], np.float32)
    else:
        cells = graph("Concat", rows, columns, axis=0)
        strides = graph.cast(graph("Div", shape, cells), FLOAT)
        stride_y, stride_x = graph.several("Split", 2, strides, axis=0, num_outputs=2)
    shift = graph.constant(0.5 if anchors.offset == "centre" else 0.0, np.float32)
    y = graph("Mul", graph("Add", graph.range(rows, FLOAT), shift), stride_y)
    x = graph("Mul", graph("Add", graph.range(columns, FLOAT), shift), stride_x)
    cells_shape = graph("Concat", rows, columns, axis=0)
    y = graph("Expand", graph("Unsqueeze", y, graph.ints(1)), cells_shape)
    x = graph("Expand", graph("Unsqueeze", x, graph.ints(0)), cells_shape)
    centres = graph("Reshape", graph.stacked(x, y, x, y), graph.ints(-1, 1, 4))
    boxes = graph("Add", centres, graph.constant(anchors.cell_boxes(index).numpy(), np.float32))
    return graph("Reshape", boxes, graph.ints(-1, 4))


def _on_picture(graph: Graph, grid: str, logits_BNK: str, height_B1: str, width_B1: str) -> str:
    """Logits of anchors centred on padding are GONE; `centred_inside`'s rule."""
    x1, y1, x2, y2 = graph.columns(grid, 4)
    two, slack = graph.constant(2, np.float32), graph.constant(0.01, np.float32)
    right = graph("Sub", graph("Mul", two, width_B1), slack)
    below = graph("Sub", graph("Mul", two, height_B1), slack)
    inside = graph("And", graph("Less", graph("Add", x1, x2), right), graph("Less", graph("Add", y1, y2), below))
    return graph("Where", graph("Unsqueeze", inside, graph.ints(2)), logits_BNK, graph.constant(GONE, np.float32))


def _candidates(graph: Graph, grid: str, logits_BNK: str, deltas_BN4: str, config: Config) -> tuple[str, str, str]:
    """The best pairs of a level: boxes [B, m, 4], logits [B, m], labels [B, m]."""
    num_classes = graph.side(logits_BNK, 2)
    flat = graph("Reshape", logits_BNK, graph.ints(0, -1))
    limit = graph("Min", graph.ints(config.inference.candidates_per_level), graph.side(flat, 1))
    logits, pairs = graph.several("TopK", 2, flat, limit, axis=1)
    threshold = logit(config.inference.score_threshold)
    if math.isfinite(threshold):
        above = graph("GreaterOrEqual", logits, graph.constant(threshold, np.float32))
        logits = graph("Where", above, logits, graph.constant(GONE, np.float32))
    anchor = graph("Div", pairs, num_classes)
    label = graph("Sub", pairs, graph("Mul", anchor, num_classes))
    deltas = graph("GatherND", deltas_BN4, graph("Unsqueeze", anchor, graph.ints(2)), batch_dims=1)
    return _decoded(graph, graph("Gather", grid, anchor), deltas), logits, label


def _decoded(graph: Graph, anchors: str, deltas: str) -> str:
    """`boxes.decode` of [..., 4]."""
    x1, y1, x2, y2 = graph.columns(anchors, 4)
    dx, dy, dw, dh = graph.columns(deltas, 4)
    lower, upper = [], []
    for low, high, shift, scale in ((x1, x2, dx, dw), (y1, y2, dy, dh)):
        half, largest = graph.constant(0.5, np.float32), graph.constant(MAX_LOG_SCALE, np.float32)
        side = graph("Sub", high, low)
        centre = graph("Add", graph("Mul", shift, side), graph("Add", low, graph("Mul", half, side)))
        reach = graph("Mul", graph("Mul", half, side), graph("Exp", graph("Min", scale, largest)))
        lower.append(graph("Sub", centre, reach))
        upper.append(graph("Add", centre, reach))
    return graph.stacked(*lower, *upper)


def _clipped(graph: Graph, boxes: str, height_B1: str, width_B1: str) -> str:
    limits = graph("Unsqueeze", graph("Concat", width_B1, height_B1, width_B1, height_B1, axis=1), graph.ints(1))
    return graph("Min", graph("Max", boxes, graph.constant(0, np.float32)), limits)


def _with_area(graph: Graph, boxes: str) -> str:
    x1, y1, x2, y2 = graph.columns(boxes, 4)
    return graph("And", graph("Greater", x2, x1), graph("Greater", y2, y1))


def _without_lesser(
    graph: Graph, boxes_BM4: str, logits_BM: str, labels_BM: str, config: Config, num_classes: int
) -> str:
    """Logits [B, M] of the boxes that stay when those of one class compete, GONE for the others."""
    gone = graph.constant(GONE, np.float32)
    classes = graph("Reshape", graph.constant(np.arange(num_classes), np.int64), graph.ints(1, -1, 1))
    mine = graph("Equal", graph("Unsqueeze", labels_BM, graph.ints(1)), classes)
    scores_BKM = graph("Where", mine, graph("Unsqueeze", logits_BM, graph.ints(1)), gone)
    kept_S3 = graph(
        "NonMaxSuppression",
        boxes_BM4,
        scores_BKM,
        # The best of a picture hold at most that many of one class.
        graph.constant([config.inference.max_detections], np.int64),
        graph.constant([config.inference.nms_iou], np.float32),
        graph.constant([_GONE_OR_WORSE], np.float32),
    )
    kept_S2 = graph("Gather", kept_S3, graph.ints(0, 2), axis=1)  # picture, candidate: a candidate has one class
    nothing = graph("Expand", gone, graph("Shape", logits_BM))
    return graph("ScatterND", nothing, kept_S2, graph("GatherND", logits_BM, kept_S2))


def _best(graph: Graph, boxes: str, logits: str, labels: str, number: int) -> tuple[str, str, str]:
    """The best `number` of each picture; places that nothing holds are emptied."""
    limit = graph("Min", graph.ints(number), graph.side(logits, 1))
    logits, places = graph.several("TopK", 2, logits, limit, axis=1)
    there = graph("Greater", logits, graph.constant(_GONE_OR_WORSE, np.float32))
    labels = graph("Where", there, graph("GatherElements", labels, places, axis=1), graph.constant(-1, np.int64))
    scores = graph("Where", there, graph("Sigmoid", logits), graph.constant(0, np.float32))
    boxes = graph("GatherND", boxes, graph("Unsqueeze", places, graph.ints(2)), batch_dims=1)
    boxes = graph("Where", graph("Unsqueeze", there, graph.ints(2)), boxes, graph.constant(0, np.float32))
    return boxes, scores, labels
