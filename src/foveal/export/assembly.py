"""One ONNX file of three parts: pixels, network, boxes; each of the outer two is an option."""

from __future__ import annotations

import onnx

from foveal.config import Config
from foveal.export.boxes import detections, in_original_pixels
from foveal.export.graph import FLOAT, INT64, UINT8, Graph
from foveal.export.network import output_names
from foveal.export.pixels import channels_first, one_size_each, padded, resized

DOC = (
    "RetinaNet from RGB pixels, images [B, H, W, 3] uint8 of any size, to boxes x1, y1, x2, y2. "
    "The metadata holds class names, threshold and settings; docs/export.md of Foveal tells the rest."
)


def assemble(network: onnx.ModelProto, config: Config, num_classes: int, resize: bool, nms: bool) -> onnx.ModelProto:
    """The whole file from the network of `network.as_onnx`.

    resize: pictures of one size each batch are resized and padded inside, and boxes are in their pixels. Without it the
    caller pads, and says in `sizes` [B, 2] how much of each is picture, where boxes are found inside.
    nms: boxes, scores, labels. Without it the network's own outputs, level by level.
    """
    graph = Graph()
    images = channels_first(graph, graph.input("images", UINT8, ["B", "H", "W", 3]))
    original = size = sizes = ""
    if resize:
        images, size, original = resized(graph, images, config.data)
        images = padded(graph, images, size, config.data.pad_multiple)
        sizes = one_size_each(graph, images, size)
    elif nms:
        sizes = graph.input("sizes", INT64, ["B", 2])
    outputs = graph.embed(network, "network/", images)
    levels = config.model.level_numbers
    if not nms:
        for name, value in zip(output_names(levels), outputs, strict=True):
            level, what = name[-1], name[0]
            graph.output(name, value, FLOAT, ["B", f"{what}{level}", f"h{level}", f"w{level}"])
        return graph.model(DOC)
    shape = graph("Shape", images, start=2, end=4)
    logits_L, deltas_L = outputs[: len(levels)], outputs[len(levels) :]
    boxes, scores, labels = detections(graph, logits_L, deltas_L, shape, sizes, config, num_classes)
    if resize:
        boxes = in_original_pixels(graph, boxes, size, original)
    graph.output("boxes", boxes, FLOAT, ["B", "D", 4])
    graph.output("scores", scores, FLOAT, ["B", "D"])
    graph.output("labels", labels, INT64, ["B", "D"])
    return graph.model(DOC)
