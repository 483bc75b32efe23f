"""The part of an exported file before the network: resize and padding as `data/images.py` does them.

ONNX's own Resize is not used: OpenVINO ignores its `antialias`, and ONNX Runtime's differs from torch's, in a few
columns by up to 14 levels of 255. Here a resize is two products with matrices of weights, which every runtime computes
alike. The weights are torch's, down to its rounding of them to 16 bits, and the picture between the passes is rounded
to whole levels as torch does it.

Letters: B images, H W sides before, h w after.
"""

from __future__ import annotations

import numpy as np

from foveal.config import DataConfig
from foveal.export.graph import FLOAT, INT32, Graph

MEAN_COLOUR = (124, 116, 104)
"""What padding holds, as in `Batch.pack`."""


def resized(graph: Graph, images: str, data: DataConfig) -> tuple[str, str, str]:
    """(pictures [B, 3, h, w] float32 in whole levels, their (h, w), (H, W) before) of float32 [B, 3, H, W].

    Sizes are int64 [2].
    """
    before = graph("Shape", images, start=2, end=4)
    after = _target_size(graph, before, data)
    height, width = (graph("Gather", before, graph.ints(axis)) for axis in (0, 1))
    new_height, new_width = (graph("Gather", after, graph.ints(axis)) for axis in (0, 1))
    # Width first and levels in between, as torch does it.
    across_wW = _weights(graph, width, new_width)
    images = _levels(graph, graph("MatMul", images, graph("Transpose", across_wW, perm=[1, 0])))
    down_hH = _weights(graph, height, new_height)
    images = _levels(graph, graph("MatMul", down_hH, images))
    return images, after, before


def padded(graph: Graph, images: str, size: str, multiple: int) -> str:
    """Pictures [B, 3, h, w] with the mean colour right and below, so that both sides are multiples."""
    step = graph.ints(multiple, multiple)
    up = graph("Sub", graph("Add", size, step), graph.ints(1, 1))
    missing = graph("Sub", graph("Mul", graph("Div", up, step), step), size)
    pads = graph("Concat", graph.ints(0, 0, 0, 0, 0, 0), missing, axis=0)
    # Pad knows one value for all channels, so the colour becomes 0 and then itself again: exact, on whole levels.
    colour = graph.constant(np.reshape(MEAN_COLOUR, (1, 3, 1, 1)), np.float32)
    return graph("Add", graph("Pad", graph("Sub", images, colour), pads), colour)


def _target_size(graph: Graph, size: str, data: DataConfig) -> str:
    """`target_size` in whole numbers: floor(side * numerator / denominator + .5), int64 [2]."""
    shorter = graph("ReduceMin", size, graph.ints(0), keepdims=1)
    longer = graph("ReduceMax", size, graph.ints(0), keepdims=1)
    by_shorter = graph(
        "LessOrEqual", graph("Mul", longer, graph.ints(data.size)), graph("Mul", shorter, graph.ints(data.longest))
    )
    numerator = graph("Where", by_shorter, graph.ints(data.size), graph.ints(data.longest))
    denominator = graph("Where", by_shorter, shorter, longer)
    two = graph.ints(2)
    doubled = graph("Add", graph("Mul", graph("Mul", size, numerator), two), denominator)
    return graph("Max", graph("Div", doubled, graph("Mul", denominator, two)), graph.ints(1))


def _weights(graph: Graph, before: str, after: str) -> str:
    """[after, before] float32: how much of each old pixel is in a new one; the filter is a triangle.

    In units of 1 / (2 * after) old pixels everything is a whole number: old centre j lies at (2j + 1) * after, new
    centre i at (2i + 1) * before, and the triangle is 2 * max(before, after) wide to each side.
    """
    old, new = graph.cast(before, INT32), graph.cast(after, INT32)
    old_j = _odd_multiples(graph, before, new)
    new_i = graph("Unsqueeze", _odd_multiples(graph, after, old), graph.ints(1))
    reach = graph("Mul", graph("Max", old, new), graph.constant([2], np.int32))
    distance = graph("Abs", graph("Sub", old_j, new_i))
    triangle = graph.cast(graph("Max", graph("Sub", reach, distance), graph.constant([0], np.int32)), FLOAT)
    total = graph("ReduceSum", triangle, graph.ints(1), keepdims=1)
    return _as_16_bits(graph, graph("Div", triangle, total))


def _as_16_bits(graph: Graph, weights: str) -> str:
    """Weights rounded to multiples of 2^-p, the finest with which the largest stays below 2^15."""
    largest = graph("ReduceMax", weights, keepdims=0)
    bits = graph.constant(2.0 ** np.arange(23), np.float32)
    room = graph("Less", graph("Mul", bits, largest), graph.constant(2.0**15 - 0.5, np.float32))
    scale = graph("ReduceMax", graph("Where", room, bits, graph.constant(1, np.float32)), keepdims=0)
    return graph("Div", _rounded(graph, graph("Mul", weights, scale)), scale)


def _odd_multiples(graph: Graph, length: str, step: str) -> str:
    """[length] int32: (2i + 1) * step."""
    i = graph.range(length, INT32)
    odd = graph("Add", graph("Mul", i, graph.constant(2, np.int32)), graph.constant(1, np.int32))
    return graph("Mul", odd, step)


def _levels(graph: Graph, values: str) -> str:
    lowest, highest = graph.constant(0, np.float32), graph.constant(255, np.float32)
    return graph("Clip", _rounded(graph, values), lowest, highest)


def _rounded(graph: Graph, values: str) -> str:
    """Halves go up, where ONNX's Round takes them to the even side."""
    return graph("Floor", graph("Add", values, graph.constant(0.5, np.float32)))


def channels_first(graph: Graph, images: str) -> str:
    """[B, H, W, 3] uint8 to [B, 3, H, W] float32."""
    return graph.cast(graph("Transpose", images, perm=[0, 3, 1, 2]), FLOAT)


def one_size_each(graph: Graph, images: str, size: str) -> str:
    """(height, width) [2] as the size of each picture of a batch, [B, 2] int64."""
    return graph("Expand", size, graph("Concat", graph.side(images, 0), graph.ints(2), axis=0))
