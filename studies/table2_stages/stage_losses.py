"""The losses of both stages, candidate by candidate, and their mean over pictures.

Letters: B pictures, N anchors of a picture, S picked anchors, R RoIs, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.anchors import Anchors
from foveal.boxes import decode, encode
from foveal.config import LossConfig
from foveal.decoding import by_anchor
from foveal.detections import Batch
from foveal.losses.boxes import box_loss, smooth_l1
from foveal.losses.classification import classification_loss
from foveal.matching import Match
from foveal.model.retinanet import Outputs
from studies.table2_stages.faster_rcnn import RoiOutputs
from studies.table2_stages.rois import Rois

OFFSET_UNITS = (0.1, 0.1, 0.2, 0.2)
"""The second stage speaks in tenths of a side and fifths of a logarithm, so that its small offsets weigh as much as its
classes (the authors' code of Fast R-CNN)."""


def anchor_losses(
    outputs: Outputs, anchors: Anchors, matched: Match, batch: Batch, picked_S: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """[S] class loss and [S] box loss of the first stage; the latter is 0 for background.

    picked_S: indices into the B x N anchors of the batch. The class loss is cross entropy of "is an object".
    """
    logits_S = torch.cat([by_anchor(level, anchors.per_cell) for level in outputs.logits], 1).flatten()[picked_S]
    deltas_S4 = torch.cat([by_anchor(level, anchors.per_cell) for level in outputs.deltas], 1).flatten(0, 1)[picked_S]
    height, width = batch.images.shape[-2:]
    anchors_S4 = anchors.boxes(height, width, picked_S.device)[picked_S % matched.num_anchors]
    object_BN = picked_S.new_full((matched.num_images * matched.num_anchors,), -1)
    object_BN[matched.positive] = matched.object
    object_S = object_BN[picked_S]
    mine_S = object_S >= 0
    targets_S4 = anchors_S4.clone()
    targets_S4[mine_S] = batch.boxes[object_S[mine_S]]
    boxes_S = box_loss(deltas_S4, anchors_S4, targets_S4, config)
    return classification_loss(config)(logits_S, mine_S.float()), torch.where(mine_S, boxes_S, 0.0)


def roi_losses(outputs: RoiOutputs, rois: Rois) -> tuple[Tensor, Tensor]:
    """[R] class loss and [R] box loss of the second stage; the latter is 0 for background.

    Softmax cross entropy over K + 1 classes, and the standard smooth L1 of the own class's offsets.
    """
    num_classes = outputs.deltas.shape[1]
    mine_R = rois.label < num_classes
    own_R4 = outputs.deltas[torch.arange(len(rois), device=mine_R.device), rois.label.clamp(max=num_classes - 1)]
    units = own_R4.new_tensor(OFFSET_UNITS)
    boxes_R = smooth_l1(own_R4 - encode(rois.boxes, rois.target) / units, beta=1.0).sum(1)
    classes_R = F.cross_entropy(outputs.logits.float(), rois.label, reduction="none")
    return classes_R, torch.where(mine_R, boxes_R, 0.0)


def moved(boxes_R4: Tensor, deltas_RK4: Tensor) -> Tensor:
    """[R, K, 4] where the second stage puts a box if it holds an object of each class."""
    deltas_RK4 = deltas_RK4.float() * deltas_RK4.new_tensor(OFFSET_UNITS)
    every_RK4 = boxes_R4[:, None].expand_as(deltas_RK4)
    return decode(every_RK4.flatten(0, 1), deltas_RK4.flatten(0, 1)).unflatten(0, deltas_RK4.shape[:2])


def over_pictures(loss_S: Tensor, image_S: Tensor, images: int) -> Tensor:
    """The sum over pictures of the mean loss in each; one that nothing was picked from adds 0."""
    count_B = torch.bincount(image_S, minlength=images)
    return (loss_S / count_B[image_S]).sum()
