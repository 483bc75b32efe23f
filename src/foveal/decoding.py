"""From the head's outputs to detections in network-input pixels (paper section 4.1, "Inference").

On each level: drop scores below the threshold, keep the best (anchor, class) pairs, decode their boxes. Then merge the
levels and let boxes of one class compete. Threshold and ranking are on logits, since sigmoid saturates: many scores
that print as 1.0 still have an order. Ties go to the lower flat index, anchor * K + class.

`decode_plainly` says so in code; read it first. `decode` finds the same by the fast paths.

Letters: B images, N anchors (here of one level), A anchors of a cell, K classes, L levels, D detections, M cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveal import boxes as algebra
from foveal.anchors import Anchors, centred_inside
from foveal.candidates import Pairs, Rule, best_class, best_pairs, by_class, rows_of
from foveal.config import InferenceConfig
from foveal.model.retinanet import Outputs
from foveal.nms import batched_nms, batched_nms_plainly
from foveal.padded_decoding import MOST_STEPS, decode_padded

Found = tuple[Tensor, Tensor, Tensor]
"""(boxes [D, 4] xyxy pixels, scores [D] in 0 .. 1, labels [D] int64), best score first."""


def decode(
    outputs: Outputs,
    anchors: Anchors,
    shape: tuple[int, int],
    sizes_B2: Tensor,
    config: InferenceConfig,
    score_threshold: float | None = None,
    padding_answers: bool = False,
) -> list[Found]:
    """The detections of each image, at most `config.max_detections`, clipped to the picture inside its padding.

    shape: (height, width) of the network input. sizes_B2: (height, width) of each picture in it.
    score_threshold: lowest score kept, default `config.score_threshold`. At 0 everything counts but logits of -inf.
    padding_answers: also asks anchors centred on padding, which training leaves alone; for peers that train them.
    Boxes of which nothing is left in the picture are dropped before they compete; what is not a number is no detection.
    """
    if outputs.logits[0].is_cuda and config.max_detections <= MOST_STEPS:
        padded = decode_padded(outputs, anchors, shape, sizes_B2, config, score_threshold, padding_answers)
        return [
            (boxes[:count], scores[:count], labels[:count])
            for boxes, scores, labels, count in zip(
                padded.boxes, padded.scores, padded.labels, padded.count.tolist(), strict=True
            )
        ]
    rule = Rule.of(config, score_threshold, padding_answers)
    anchors_L = anchors.levels_of(*shape, outputs.logits[0].device)
    logits_L = [by_class(level, anchors.per_cell) for level in outputs.logits]
    deltas_L = [by_class(level, anchors.per_cell) for level in outputs.deltas]
    best_L = [best_class(level, anchors.per_cell) for level in outputs.logits]
    decoded = []
    for image, size in enumerate(_pixels(sizes_B2)):
        pairs_L = [
            best_pairs(logits_BAKM[image], best_BN[image], anchors_N4, size, rule)
            for logits_BAKM, best_BN, anchors_N4 in zip(logits_L, best_L, anchors_L, strict=True)
        ]
        anchors_D4 = torch.cat([level[pairs[0]] for level, pairs in zip(anchors_L, pairs_L, strict=True)])
        deltas_D4 = torch.cat([rows_of(d[image], pairs[0]) for d, pairs in zip(deltas_L, pairs_L, strict=True)])
        labels_D, logits_D = (torch.cat([pairs[part] for pairs in pairs_L]) for part in (1, 2))
        boxes_D4, logits_D, labels_D = _in_picture(anchors_D4, deltas_D4, logits_D, labels_D, size)
        kept = batched_nms(boxes_D4, logits_D, labels_D, config.nms_iou, config.max_detections)
        decoded.append((boxes_D4[kept], logits_D[kept].sigmoid(), labels_D[kept]))
    return decoded


def decode_plainly(
    outputs: Outputs,
    anchors: Anchors,
    shape: tuple[int, int],
    sizes_B2: Tensor,
    config: InferenceConfig,
    score_threshold: float | None = None,
    padding_answers: bool = False,
) -> list[Found]:
    """`decode` as the paper tells it: what the fast paths are held to."""
    rule = Rule.of(config, score_threshold, padding_answers)
    anchors_L = anchors.levels_of(*shape, outputs.logits[0].device)
    logits_L = [by_anchor(level, anchors.per_cell) for level in outputs.logits]
    deltas_L = [by_anchor(level, anchors.per_cell) for level in outputs.deltas]
    decoded = []
    for image, size in enumerate(_pixels(sizes_B2)):
        candidates = []
        for anchors_N4, logits_BNK, deltas_BN4 in zip(anchors_L, logits_L, deltas_L, strict=True):
            anchor, labels, logits = _pairs(logits_BNK[image], anchors_N4, size, rule)
            candidates.append(_in_picture(anchors_N4[anchor], deltas_BN4[image, anchor], logits, labels, size))
        boxes_D4, logits_D, labels_D = (torch.cat(parts) for parts in zip(*candidates, strict=True))
        kept = batched_nms_plainly(boxes_D4, logits_D, labels_D, config.nms_iou)[: config.max_detections]
        decoded.append((boxes_D4[kept], logits_D[kept].sigmoid(), labels_D[kept]))
    return decoded


def by_anchor(output_BCHW: Tensor, per_cell: int) -> Tensor:
    """[B, H*W*A, C / A] float32 in flat order; a view where the convolution left channels last."""
    rows = output_BCHW.float().permute(0, 2, 3, 1)
    return rows.reshape(len(rows), -1, output_BCHW.shape[1] // per_cell)


def _pixels(sizes_B2: Tensor) -> list[tuple[int, int]]:
    return [(height, width) for height, width in sizes_B2.tolist()]


def _pairs(logits_NK: Tensor, anchors_N4: Tensor, size: tuple[int, int], rule: Rule) -> Pairs:
    """The best pairs of one level of one image."""
    num_classes = logits_NK.shape[1]
    logits_X = logits_NK.reshape(-1)
    pairs = (logits_X >= rule.lowest).nonzero().squeeze(1)
    if not rule.padding_answers:
        pairs = pairs[centred_inside(anchors_N4, size)[pairs // num_classes]]
    pairs = pairs[_best(logits_X[pairs], rule.limit)]
    return pairs // num_classes, pairs % num_classes, logits_X[pairs]


def _best(logits_X: Tensor, limit: int) -> Tensor:
    """Indices of the `limit` largest, best first, ties to the lower index."""
    if len(logits_X) <= limit:
        return logits_X.argsort(descending=True, stable=True)
    # topk breaks ties as it likes: it only says where the bar is, and those that reach it are sorted.
    bar = logits_X.topk(limit).values[-1]
    reached = (logits_X >= bar).nonzero().squeeze(1)
    return reached[logits_X[reached].argsort(descending=True, stable=True)[:limit]]


def _in_picture(
    anchors_D4: Tensor, deltas_D4: Tensor, logits_D: Tensor, labels_D: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, clipped, with logits and labels, of those of which something is left in the picture."""
    boxes_D4 = algebra.clip(algebra.decode(anchors_D4, deltas_D4), size)
    left = algebra.area(boxes_D4) > 0
    return boxes_D4[left], logits_D[left], labels_D[left]
