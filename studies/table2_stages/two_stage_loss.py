"""Pictures in, the loss of both stages out: what a step of training differentiates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.config import Config
from foveal.detections import Batch
from foveal.matching import Match, match
from studies.table2_stages.faster_rcnn import FasterRCNN
from studies.table2_stages.rois import Rois, labelled, proposals
from studies.table2_stages.sampling import at_random, hardest
from studies.table2_stages.settings import Settings
from studies.table2_stages.stage_losses import anchor_losses, over_pictures, roi_losses

ANCHOR_SHARE = 0.5
"""Objects among the anchors that the first stage learns from: 1:1 (Ren et al. 2015)."""
ROI_SHARE = 0.25
"""Objects among the RoIs that the second stage learns from: 1:3 (Girshick 2015)."""


@dataclass(frozen=True)
class LossSums:
    """Sums over pictures of each one's mean, both stages together, and how many RoIs of objects were learnt from."""

    classification: Tensor
    box: Tensor
    positives: Tensor


def two_stage_loss(
    model: FasterRCNN, batch: Batch, anchors: Anchors, config: Config, settings: Settings, rng: np.random.Generator
) -> LossSums:
    """Differentiable sums over the pictures of a batch. `config.assignment` is that of the first stage."""
    images, shape = len(batch), (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    features = model.features(batch.images)

    outputs = model.propose(features)
    matched = match(anchors, batch, config.assignment)
    picked_S = pick_anchors(matched, settings.anchors, rng)
    first = anchor_losses(outputs, anchors, matched, batch, picked_S, config.loss)

    found = proposals(outputs, anchors, shape, batch.sizes, settings.proposals_trained, config.assignment)
    num_classes = model.box_head.num_classes
    rois = pick_rois(model, features, labelled(found, batch, num_classes, config.assignment), images, settings, rng)
    second = roi_losses(model.classify(features, rois.boxes, rois.image), rois)

    of_anchor_S = picked_S // matched.num_anchors
    classification, box = (
        over_pictures(of_first, of_anchor_S, images) + over_pictures(of_second, rois.image, images)
        for of_first, of_second in zip(first, second, strict=True)
    )
    return LossSums(classification, box, (rois.label < num_classes).sum())


def pick_anchors(matched: Match, count: int, rng: np.random.Generator) -> Tensor:
    """[S] int64, ascending: of the B x N anchors those that count, `count` a picture, at most half of them objects."""
    shape = (matched.num_images, matched.num_anchors)
    object_BN = _marked(matched.positive, shape)
    background_BN = ~(object_BN | _marked(matched.ignored, shape))
    picked = [
        at_random(object_N, background_N, count, ANCHOR_SHARE, rng) + image * matched.num_anchors
        for image, (object_N, background_N) in enumerate(zip(object_BN, background_BN, strict=True))
    ]
    return torch.cat(picked)


def pick_rois(
    model: FasterRCNN,
    features: Sequence[Tensor],
    rois: Rois,
    images: int,
    settings: Settings,
    rng: np.random.Generator,
) -> Rois:
    """Of all RoIs those that are learnt from, `settings.rois` a picture.

    OHEM runs the box head over all of them first, without gradients, and ranks by the sum of both losses.
    """
    loss_R = torch.zeros(0)
    if settings.sampling == "hardest":
        with torch.no_grad():
            classes_R, boxes_R = roi_losses(model.classify(features, rois.boxes, rois.image), rois)
            loss_R = classes_R + boxes_R
    picked = []
    for image in range(images):
        mine = (rois.image == image).nonzero().squeeze(1)
        if settings.sampling == "hardest":
            chosen = hardest(loss_R[mine], rois.boxes[mine], settings.rois)
        else:
            object_N = rois.label[mine] < model.box_head.num_classes
            chosen = at_random(object_N, ~object_N, settings.rois, ROI_SHARE, rng)
        picked.append(mine[chosen])
    return rois[torch.cat(picked)]


def _marked(indices: Tensor, shape: tuple[int, int]) -> Tensor:
    marked = torch.zeros(shape, dtype=torch.bool, device=indices.device)
    marked.view(-1)[indices] = True
    return marked
