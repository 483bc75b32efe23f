"""The boxes between the stages: proposals from the first, RoIs with what the second should say of them.

Letters: B pictures, R RoIs, G objects, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.config import AssignmentConfig, InferenceConfig
from foveal.decoding import decode
from foveal.detections import Batch
from foveal.matching import IGNORED, match_image
from foveal.model.retinanet import Outputs

PROPOSAL_NMS = 0.7
ROI_IOU = 0.5
"""From this IoU on a RoI is its object's, below it background (Ren et al. 2015; Lin et al. 2017)."""


@dataclass(frozen=True)
class Rois:
    """Boxes of a batch's pictures, picture by picture, and what the second stage should say of them.

    boxes: [R, 4] network-input pixels, with area. image: [R] int64, the picture of each. label: [R] int64, its object's
    class, or K for background. target: [R, 4] its object's box; its own where it is background.
    """

    boxes: Tensor
    image: Tensor
    label: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Rois:
        return Rois(self.boxes[index], self.image[index], self.label[index], self.target[index])


@torch.no_grad()
def proposals(
    outputs: Outputs,
    anchors: Anchors,
    shape: tuple[int, int],
    sizes_B2: Tensor,
    count: int,
    assignment: AssignmentConfig,
) -> list[Tensor]:
    """B of [at most `count`, 4]: what the first stage finds in each picture, best first, clipped to the picture.

    They are the detections of a dense detector of one class, with NMS at .7 and no lowest score; `count` also limits
    what each level hands to NMS.
    """
    rule = InferenceConfig(candidates_per_level=count, nms_iou=PROPOSAL_NMS, max_detections=count)
    asked = assignment.padding == "background"
    found = decode(outputs, anchors, shape, sizes_B2, rule, score_threshold=0.0, padding_answers=asked)
    return [boxes_D4 for boxes_D4, _, _ in found]


def labelled(proposed: Sequence[Tensor], batch: Batch, num_classes: int, assignment: AssignmentConfig) -> Rois:
    """The RoIs to learn from: each picture's proposals and the boxes of its objects, with their labels.

    An IoU of .5 with an object is enough to be its RoI. What lies in a crowd region is left out, as anchors are.
    """
    rule = AssignmentConfig(
        positive_iou=ROI_IOU, background_iou=ROI_IOU, low_quality="none", crowd_overlap=assignment.crowd_overlap
    )
    parts = []
    for image, proposed_R4 in enumerate(proposed):
        objects = batch.objects_of(image)
        boxes_R4 = torch.cat([proposed_R4, objects.boxes[~objects.crowd]])
        object_R = match_image(boxes_R4, objects.boxes, objects.crowd, None, rule)
        boxes_R4, object_R = boxes_R4[object_R != IGNORED], object_R[object_R != IGNORED]
        mine_R = object_R >= 0
        label_R = torch.full_like(object_R, num_classes)
        label_R[mine_R] = objects.labels[object_R[mine_R]]
        target_R4 = boxes_R4.clone()
        target_R4[mine_R] = objects.boxes[object_R[mine_R]]
        parts.append(Rois(boxes_R4, torch.full_like(object_R, image), label_R, target_R4))
    return Rois(
        boxes=torch.cat([part.boxes for part in parts]),
        image=torch.cat([part.image for part in parts]),
        label=torch.cat([part.label for part in parts]),
        target=torch.cat([part.target for part in parts]),
    )
