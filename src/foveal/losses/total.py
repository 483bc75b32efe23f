"""The detector's loss: classification over all anchors that count, boxes over the assigned ones (paper section 4).

Background is the default and objects are the exception, so no target tensor is built. The class loss is one pass over
the logits as if every anchor were background, except that an anchor which is not is given logits whose background loss
is exactly 0; positives are then added from their own few logits. Outputs stay per level as the convolution left them.
Only mining, which compares anchors of all levels, puts their losses (not their logits) side by side.

Sums alone come from a fast path where there is one (`losses/fused.py` on a CPU, `losses/triton_loss.py` on a GPU);
whoever asks for levels or anchors gets the plain path, which is written here.

Letters: B images, N anchors of an image, A anchors per cell, K classes, L levels, H W cells of a level, P positive
anchors, I ignored ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.boxes import decode, paired_iou
from foveal.config import LossConfig
from foveal.detections import Batch
from foveal.losses import triton_loss
from foveal.losses.background import SURELY_BACKGROUND
from foveal.losses.boxes import box_loss
from foveal.losses.classification import ClassificationLoss, classification_loss
from foveal.losses.fused import Places, fused_sums, has_fast_path
from foveal.losses.mining import keep_mask
from foveal.matching import Match


@dataclass(frozen=True)
class LossSums:
    """Sums over the anchors of each image, not yet divided by anything: the normaliser is the caller's, and visible.

    classification: [B] float32. box: [B] float32, without `box_weight`.
    positives: [B] float32, assigned anchors that count in the box loss; what it is divided by.
    counted: [B] float32, what the class loss is divided by: the positives, or under OHEM the anchors that were kept.
    """

    classification: Tensor
    box: Tensor
    positives: Tensor
    counted: Tensor


def detector_loss(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Anchors,
    match: Match,
    batch: Batch,
    config: LossConfig,
    upstream_B: Tensor | None = None,
) -> LossSums:
    """Differentiable sums per image of both losses.

    logits: L of [B, A*K, H, W], channel a*K + k. deltas: L of [B, A*4, H, W], channel a*4 + (dx, dy, dw, dh).
    A batch without objects has a box loss of 0 that still leads back to every delta. upstream_B: what the gradient of
    the class sums will be, if that is known: the gradient is then made with the value, and never gone through again. A
    wrong one costs time, no correctness.
    """
    loss = classification_loss(config)
    levels = list(_levels(logits, deltas, anchors, match, batch))
    if config.mining != "all":
        return _mined(levels, loss, anchors, match, batch, config)
    if all(triton_loss.takes(level, config) for level in logits):
        classification_B = _kernel_sums(logits, anchors, match, batch, config, upstream_B)
    else:
        classification_B = _class_sums(levels, loss, config, upstream_B)
    box_B = _box_sums(levels, config)
    positives_B = match.positives_per_image().float()
    return LossSums(classification_B.float(), box_B.float(), positives_B, positives_B)


def anchor_losses(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Anchors,
    match: Match,
    batch: Batch,
    config: LossConfig,
) -> tuple[Tensor, Tensor]:
    """The summands of `detector_loss` before mining: [B, N] class loss of anchors, 0 where ignored; [P] box loss.

    P are the positive anchors in the order of `match.positive`. Both float32; the first float64 for float64 logits.
    """
    loss = classification_loss(config)
    levels = list(_levels(logits, deltas, anchors, match, batch))
    classification_BN = torch.cat([_flat(_by_anchor_loss(level, loss, config)) for level in levels], 1)
    box_P = torch.zeros(len(match.positive), device=classification_BN.device)
    for level in levels:
        box_P = box_P.index_copy(0, level.index, _box_losses([level], config))
    return classification_BN, box_P


def per_level_terms(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Anchors,
    match: Match,
    batch: Batch,
    config: LossConfig,
) -> list[tuple[int, str, Tensor]]:
    """Every summand, before mining, as (level, "classification" or "box", [B] float64): which one is not finite?"""
    loss = classification_loss(config)
    terms = []
    for number, level in zip(anchors.levels, _levels(logits, deltas, anchors, match, batch), strict=True):
        terms.append((number, "classification", _summed(_by_anchor_loss(level, loss, config))))
        terms.append((number, "box", _box_sums([level], config)))
    return terms


@dataclass(frozen=True)
class _Level:
    """What one level's losses need.

    logits: [B, A, K, H*W], deltas: [B, A, 4, H*W], views of the head's outputs.
    labels: [P] classes, boxes: [P, 4] objects and anchors: [P, 4] of the `positive` anchors; index: [P], which of the
    batch's positive anchors they are.
    """

    logits: Tensor
    deltas: Tensor
    positive: Places
    ignored: Places
    labels: Tensor
    boxes: Tensor
    anchors: Tensor
    index: Tensor


def _levels(
    logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Anchors, match: Match, batch: Batch
) -> Iterator[_Level]:
    height, width = batch.images.shape[-2:]
    counts = anchors.level_counts(height, width)
    positive_anchor = match.positive % match.num_anchors
    anchors_P4 = anchors.boxes(height, width, batch.boxes.device)[positive_anchor]
    boxes_P4, labels_P = batch.boxes[match.object], batch.labels[match.object]
    firsts = list(accumulate(counts[:-1], initial=0))
    positive_L = _split_by_level(positive_anchor, firsts)
    ignored_L = _split_by_level(match.ignored % match.num_anchors, firsts)
    for logits_BCHW, deltas_BCHW, first, own, left_out in zip(
        logits, deltas, firsts, positive_L, ignored_L, strict=True
    ):
        yield _Level(
            logits=_by_anchor(logits_BCHW, anchors.per_cell),
            deltas=_by_anchor(deltas_BCHW, anchors.per_cell),
            positive=_places(match.positive[own], match.num_anchors, first, anchors.per_cell),
            ignored=_places(match.ignored[left_out], match.num_anchors, first, anchors.per_cell),
            labels=labels_P[own],
            boxes=boxes_P4[own],
            anchors=anchors_P4[own],
            index=own,
        )


def _split_by_level(anchor_X: Tensor, firsts: Sequence[int]) -> Sequence[Tensor]:
    """For each level the indices, ascending, of those anchors that lie on it; `firsts`: the levels' first anchors.

    The host waits once, for how many they are; a mask for each level would make it wait as often.
    """
    starts = torch.tensor(firsts, device=anchor_X.device)
    level_X, order = (torch.bucketize(anchor_X, starts, right=True) - 1).sort(stable=True)
    edges = torch.searchsorted(level_X, torch.arange(len(firsts) + 1, device=anchor_X.device))
    return order.split(edges.diff().tolist())


def _class_sums(
    levels: Sequence[_Level], loss: ClassificationLoss, config: LossConfig, upstream_B: Tensor | None
) -> Tensor:
    """[B] float64."""
    if all(has_fast_path(level.logits) for level in levels):
        targets_PK = torch.cat([_targets(level, config) for level in levels])
        positive, ignored = [level.positive for level in levels], [level.ignored for level in levels]
        return fused_sums([level.logits for level in levels], loss, positive, ignored, targets_PK, upstream_B)
    return torch.stack([_summed(_by_anchor_loss(level, loss, config)) for level in levels]).sum(0)


def _kernel_sums(
    logits: Sequence[Tensor],
    anchors: Anchors,
    match: Match,
    batch: Batch,
    config: LossConfig,
    upstream_B: Tensor | None,
) -> Tensor:
    """[B] float64, on a GPU."""
    classes = logits[0].shape[1] // anchors.per_cell
    labels_BN = triton_loss.anchor_labels(match, batch.labels, classes)
    labels_L = labels_BN.split(anchors.level_counts(*batch.images.shape[-2:]), 1)
    sums = [
        triton_loss.level_loss(level, labels, config, upstream_B)
        for level, labels in zip(logits, labels_L, strict=True)
    ]
    return torch.stack(sums).sum(0)


def _by_anchor_loss(level: _Level, loss: ClassificationLoss, config: LossConfig) -> Tensor:
    """[B, A, H*W] float32: class loss of each anchor, summed over the classes; 0 where ignored."""
    at, ignored = level.positive, level.ignored
    own_PK = level.logits[at.image, at.anchor, :, at.cell]
    elsewhere = level.logits.permute(0, 1, 3, 2)
    fill = elsewhere.new_full((), SURELY_BACKGROUND)
    elsewhere = elsewhere.index_put((ignored.image, ignored.anchor, ignored.cell), fill)
    elsewhere.index_put_((at.image, at.anchor, at.cell), fill)
    background = loss(elsewhere, 0.0).sum(3)
    positive_P = loss(own_PK, _targets(level, config)).sum(1)
    # The fill costs 0, but under an FL* of gamma .001, which falls so slowly that it must be put in.
    background = background.index_put((ignored.image, ignored.anchor, ignored.cell), background.new_zeros(()))
    return background.index_put((at.image, at.anchor, at.cell), positive_P)


def _targets(level: _Level, config: LossConfig) -> Tensor:
    """[P, K] what the logits of the positive anchors should say."""
    classes = level.logits.shape[2]
    own_P: Tensor | float = 1.0
    if config.name in ("quality_focal", "varifocal"):
        own_P = paired_iou(decode(level.anchors, _own_deltas(level).detach()), level.boxes)[:, None]
    targets = torch.zeros(len(level.labels), classes, device=level.labels.device)
    targets.scatter_(1, level.labels[:, None], own_P)
    return targets * (1 - config.label_smoothing) + config.label_smoothing / classes


def _box_sums(levels: Sequence[_Level], config: LossConfig, keep_P: Tensor | None = None) -> Tensor:
    """[B] float64 over the positive anchors of some levels, or over those of the batch's that are kept."""
    loss_P = _box_losses(levels, config).double()
    if keep_P is not None:
        loss_P = torch.where(keep_P[torch.cat([level.index for level in levels])], loss_P, 0.0)
    image_P = torch.cat([level.positive.image for level in levels])
    return loss_P.new_zeros(len(levels[0].deltas)).index_add(0, image_P, loss_P)


def _box_losses(levels: Sequence[_Level], config: LossConfig) -> Tensor:
    """[P] of the levels' positive anchors."""
    own_P4 = torch.cat([_own_deltas(level) for level in levels])
    anchors_P4, boxes_P4 = torch.cat([level.anchors for level in levels]), torch.cat([level.boxes for level in levels])
    return box_loss(own_P4, anchors_P4, boxes_P4, config)


def _mined(
    levels: Sequence[_Level],
    loss: ClassificationLoss,
    anchors: Anchors,
    match: Match,
    batch: Batch,
    config: LossConfig,
) -> LossSums:
    """The sums over the anchors that mining keeps."""
    losses = [_by_anchor_loss(level, loss, config) for level in levels]
    flat_BN = torch.cat([_flat(level) for level in losses], 1)
    height, width = batch.images.shape[-2:]
    keep_BN = keep_mask(
        flat_BN.detach(),
        _marked(match.positive, flat_BN),
        ~_marked(match.ignored, flat_BN),
        anchors.boxes(height, width, batch.boxes.device),
        config,
    )
    keep_P = keep_BN.flatten()[match.positive]
    images_P = match.positive // match.num_anchors
    positives_B = torch.zeros(len(batch), device=flat_BN.device).index_add(0, images_P, keep_P.float())
    classification_B = torch.where(keep_BN, flat_BN, 0.0).sum(1, dtype=torch.float64)
    box_B = _box_sums(levels, config, keep_P)
    counted_B = positives_B if config.mining == "ssd" else keep_BN.sum(1).float()
    return LossSums(classification_B.float(), box_B.float(), positives_B, counted_B)


def _summed(loss_BAX: Tensor) -> Tensor:
    """[B] float64; float32 within an anchor, float64 over them."""
    return loss_BAX.sum((1, 2), dtype=torch.float64)


def _flat(loss_BAX: Tensor) -> Tensor:
    """[B, A, H*W] to [B, H*W*A], the anchors' order."""
    return loss_BAX.transpose(1, 2).flatten(1)


def _marked(indices: Tensor, like_BN: Tensor) -> Tensor:
    marked = torch.zeros(like_BN.numel(), dtype=torch.bool, device=like_BN.device)
    marked[indices] = True
    return marked.view_as(like_BN)


def _own_deltas(level: _Level) -> Tensor:
    """[P, 4] offsets that the head predicts at the positive anchors."""
    at = level.positive
    return level.deltas[at.image, at.anchor, :, at.cell].float()


def _by_anchor(output_BCHW: Tensor, per_cell: int) -> Tensor:
    """[B, A, C / A, H*W]; a view in either memory layout."""
    return output_BCHW.flatten(2).unflatten(1, (per_cell, -1))


def _places(flat: Tensor, num_anchors: int, first: int, per_cell: int) -> Places:
    local = flat % num_anchors - first
    return Places(image=flat // num_anchors, anchor=local % per_cell, cell=local // per_cell)
