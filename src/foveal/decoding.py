"""From the head's outputs to detections in network-input pixels (paper section 4.1, "Inference").

On each level: drop scores below the threshold, keep the best (anchor, class) pairs, decode their boxes. Then merge the
levels and let boxes of one class compete. Threshold and ranking are on logits, since sigmoid saturates: many scores
that print as 1.0 still have an order. Ties go to the lower flat index, anchor * K + class.

Letters: B images, N anchors (here of one level), K classes, L levels, D detections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal import boxes as algebra
from foveal.anchors import Anchors, centred_inside
from foveal.config import InferenceConfig
from foveal.model.retinanet import Outputs
from foveal.nms import batched_nms

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
    score_threshold: lowest score kept, default `config.score_threshold`.
    padding_answers: also asks anchors centred on padding, which training leaves alone; for peers that train them.
    Boxes of which nothing is left in the picture are dropped before they compete.
    """
    threshold = logit(config.score_threshold if score_threshold is None else score_threshold)
    rule = _Rule(threshold, config.candidates_per_level, padding_answers)
    anchors_L = anchors.levels_of(*shape, outputs.logits[0].device)
    logits_L = [by_anchor(level, anchors.per_cell) for level in outputs.logits]
    deltas_L = [by_anchor(level, anchors.per_cell) for level in outputs.deltas]
    decoded = []
    for image, (height, width) in enumerate(sizes_B2.tolist()):
        candidates = [
            _candidates(anchors_N4, logits_BNK[image], deltas_BN4[image], (height, width), rule)
            for anchors_N4, logits_BNK, deltas_BN4 in zip(anchors_L, logits_L, deltas_L, strict=True)
        ]
        boxes_D4, logits_D, labels_D = (torch.cat(parts) for parts in zip(*candidates, strict=True))
        kept = batched_nms(boxes_D4, logits_D, labels_D, config.nms_iou)[: config.max_detections]
        decoded.append((boxes_D4[kept], logits_D[kept].sigmoid(), labels_D[kept]))
    return decoded


def logit(score: float) -> float:
    """The logit of a score in 0 .. 1; infinite at both ends."""
    if 0 < score < 1:
        return math.log(score / (1 - score))
    return -math.inf if score <= 0 else math.inf


@dataclass(frozen=True)
class _Rule:
    """What a level's (anchor, class) pairs must meet: a lowest logit, a number of them, a place in the picture."""

    threshold: float
    limit: int
    padding_answers: bool


def _candidates(anchors_N4: Tensor, logits_NK: Tensor, deltas_N4: Tensor, size: tuple[int, int], rule: _Rule) -> Found:
    """The best pairs of one level of one image: clipped boxes, logits in place of scores, labels."""
    num_classes = logits_NK.shape[1]
    logits_X = logits_NK.reshape(-1)
    pairs = (logits_X >= rule.threshold).nonzero().squeeze(1)
    if not rule.padding_answers:
        pairs = pairs[centred_inside(anchors_N4, size)[pairs // num_classes]]
    pairs = pairs[_best(logits_X[pairs], rule.limit)]
    anchor, label = pairs // num_classes, pairs % num_classes
    boxes = algebra.clip(algebra.decode(anchors_N4[anchor], deltas_N4[anchor]), size)
    left = algebra.area(boxes) > 0
    return boxes[left], logits_X[pairs[left]], label[left]


def _best(logits_X: Tensor, limit: int) -> Tensor:
    """Indices of the `limit` largest, best first, ties to the lower index."""
    if len(logits_X) <= limit:
        return logits_X.argsort(descending=True, stable=True)
    # topk breaks ties as it likes: it only says where the bar is, and those that reach it are sorted.
    bar = logits_X.topk(limit).values[-1]
    reached = (logits_X >= bar).nonzero().squeeze(1)
    return reached[logits_X[reached].argsort(descending=True, stable=True)[:limit]]


def by_anchor(output_BCHW: Tensor, per_cell: int) -> Tensor:
    """[B, H*W*A, C / A] float32 in flat order; a view where the convolution left channels last."""
    rows = output_BCHW.float().permute(0, 2, 3, 1)
    return rows.reshape(len(rows), -1, output_BCHW.shape[1] // per_cell)
