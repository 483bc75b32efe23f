"""The detector's loss: classification over all anchors that count, boxes over the assigned ones (paper section 4).

Background is the default and objects are the exception, so no target tensor is built. The class loss is one pass over
the logits as if every anchor were background, except that a place which is not is given a logit whose background loss
is exactly 0; positives are then added from their own few logits. Outputs stay per level as the convolution left them.

Letters: B images, A anchors per cell, K classes, L levels, H W cells of a level, P positive anchors, I ignored ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.boxes import encode
from foveal.config import LossConfig
from foveal.detections import Batch
from foveal.losses.boxes import smooth_l1
from foveal.losses.classification import background_loss, foreground_loss
from foveal.matching import Match

_SURELY_BACKGROUND = -1e4
"""A logit with a background loss and a gradient of exactly 0 in float32, whatever gamma."""


@dataclass(frozen=True)
class LossSums:
    """Sums over the anchors of each image, not yet divided by anything: the normaliser is the caller's, and visible.

    classification: [B] float32. box: [B] float32, without `box_weight`. positives: [B] float32, assigned anchors.
    """

    classification: Tensor
    box: Tensor
    positives: Tensor


def detector_loss(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Anchors,
    match: Match,
    batch: Batch,
    config: LossConfig,
) -> LossSums:
    """Differentiable sums per image of both losses.

    logits: L of [B, A*K, H, W], channel a*K + k. deltas: L of [B, A*4, H, W], channel a*4 + (dx, dy, dw, dh).
    A batch without objects has a box loss of 0 that still leads back to every delta.
    """
    classification_B = torch.zeros(len(batch), dtype=torch.float64, device=batch.boxes.device)
    box_B = torch.zeros_like(classification_B)
    for level in _levels(logits, deltas, anchors, match, batch):
        classification_B = classification_B + _classification_sums(level, config)
        box_B = box_B + _box_sums(level, config)
    return LossSums(classification_B.float(), box_B.float(), match.positives_per_image().float())


def per_level_terms(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Anchors,
    match: Match,
    batch: Batch,
    config: LossConfig,
) -> list[tuple[int, str, Tensor]]:
    """Every summand of `detector_loss` as (level, "classification" or "box", [B] float64): which one is not finite?"""
    terms = []
    for number, level in zip(anchors.levels, _levels(logits, deltas, anchors, match, batch), strict=True):
        terms.append((number, "classification", _classification_sums(level, config)))
        terms.append((number, "box", _box_sums(level, config)))
    return terms


@dataclass(frozen=True)
class _Places:
    """Anchors of one level by where the head's output speaks of them: three [P] int64 indices."""

    image: Tensor
    anchor: Tensor
    cell: Tensor


@dataclass(frozen=True)
class _Level:
    """What one level's losses need.

    logits: [B, A, K, H*W], deltas: [B, A, 4, H*W], views of the head's outputs.
    labels: [P] classes and targets: [P, 4] offsets of the `positive` anchors.
    """

    logits: Tensor
    deltas: Tensor
    positive: _Places
    ignored: _Places
    labels: Tensor
    targets: Tensor


def _levels(
    logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Anchors, match: Match, batch: Batch
) -> Iterator[_Level]:
    height, width = batch.images.shape[-2:]
    counts = anchors.level_counts(height, width)
    anchors_N4 = anchors.boxes(height, width, batch.boxes.device)
    positive_anchor = match.positive % match.num_anchors
    targets_P4 = encode(anchors_N4[positive_anchor], batch.boxes[match.object])
    labels_P = batch.labels[match.object]
    first = 0
    for logits_BCHW, deltas_BCHW, count in zip(logits, deltas, counts, strict=True):
        on_level = (positive_anchor >= first) & (positive_anchor < first + count)
        yield _Level(
            logits=_by_anchor(logits_BCHW, anchors.per_cell),
            deltas=_by_anchor(deltas_BCHW, anchors.per_cell),
            positive=_places(match.positive[on_level], match.num_anchors, first, anchors.per_cell),
            ignored=_places(_within(match, first, count), match.num_anchors, first, anchors.per_cell),
            labels=labels_P[on_level],
            targets=targets_P4[on_level],
        )
        first += count


def _classification_sums(level: _Level, config: LossConfig) -> Tensor:
    """[B] float64."""
    at, ignored = level.positive, level.ignored
    own_logits = level.logits[at.image, at.anchor, level.labels, at.cell]
    elsewhere = level.logits.permute(0, 1, 3, 2)
    fill = elsewhere.new_full((), _SURELY_BACKGROUND)
    elsewhere = elsewhere.index_put((ignored.image, ignored.anchor, ignored.cell), fill)
    elsewhere.index_put_((at.image, at.anchor, at.cell, level.labels), fill)
    background = background_loss(elsewhere, config.alpha, config.gamma)
    foreground = foreground_loss(own_logits, config.alpha, config.gamma)
    # float32 within an anchor slot's map, float64 from there on.
    sums_B = background.sum(2).double().sum((1, 2))
    return sums_B.index_add(0, at.image, foreground.double())


def _box_sums(level: _Level, config: LossConfig) -> Tensor:
    """[B] float64."""
    at = level.positive
    error_P4 = level.deltas[at.image, at.anchor, :, at.cell].float() - level.targets
    loss_P = smooth_l1(error_P4, config.beta).sum(1, dtype=torch.float64)
    return loss_P.new_zeros(len(level.deltas)).index_add(0, at.image, loss_P)


def _by_anchor(output_BCHW: Tensor, per_cell: int) -> Tensor:
    """[B, A, C / A, H*W]; a view in either memory layout."""
    return output_BCHW.flatten(2).unflatten(1, (per_cell, -1))


def _within(match: Match, first: int, count: int) -> Tensor:
    """Those of the ignored indices that lie on the level whose anchors start at `first`."""
    anchor = match.ignored % match.num_anchors
    return match.ignored[(anchor >= first) & (anchor < first + count)]


def _places(flat: Tensor, num_anchors: int, first: int, per_cell: int) -> _Places:
    local = flat % num_anchors - first
    return _Places(image=flat // num_anchors, anchor=local % per_cell, cell=local // per_cell)
