"""Faster R-CNN on Foveal's backbone and pyramid (Ren et al. 2015, 1506.01497; Lin et al. 2017, 1612.03144).

The first stage, the region proposal network, says of every anchor whether it holds an object, and moves it. The second
takes the features inside each proposal, names a class or background, and moves the box again, each class in its way.

Letters: B pictures, A anchors per cell, K classes, L levels, R boxes, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.anchors import Anchors
from foveal.config import Config
from foveal.model.heads import Subnet
from foveal.model.retinanet import IMAGE_MEAN, IMAGE_STD, Outputs, build_model
from studies.table2_stages.roi_align import BINS, roi_align, roi_levels

LAST_POOLED = 5
"""Boxes take their features from no level above; those only propose (Lin et al. 2017, section 4.1)."""


@dataclass(frozen=True)
class RoiOutputs:
    """What the second stage says of R boxes.

    logits: [R, K + 1], the last one background. deltas: [R, K, 4], (dx, dy, dw, dh) for each class.
    """

    logits: Tensor
    deltas: Tensor


class FasterRCNN(nn.Module):
    """Backbone, pyramid, proposal network, box head; the normalisation of the pictures is inside.

    With one seed its backbone and pyramid start as those of the one-stage detector of the same config do. width: of the
    box head. pretrained: also loads the weights that `model.weights` names.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, num_classes: int, width: int, pretrained: bool = True):
        super().__init__()
        anchors = Anchors.from_config(config)
        one_stage = build_model(config, num_classes, pretrained)
        self.backbone, self.pyramid = one_stage.backbone, one_stage.pyramid
        self.rpn = ProposalNetwork(config, anchors.per_cell)
        self.box_head = BoxHead(config.model.pyramid_channels, width, num_classes)
        self.pooled = tuple(level for level in config.model.level_numbers if level <= LAST_POOLED)
        self.finest_anchor = config.anchor_sizes[0]
        self.channels_last = config.model.channels_last
        self.register_buffer("mean", 255 * torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: Tensor) -> list[Tensor]:
        """The pyramid of RGB pictures [B, 3, H, W], uint8 or float in 0 .. 255."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return self.pyramid(
            self.backbone(images.to(self.mean.dtype, memory_format=layout).sub(self.mean).div_(self.std))
        )

    def propose(self, features: Sequence[Tensor]) -> Outputs:
        """The first stage: what a dense detector of one class, object, says of every anchor."""
        logits, deltas = zip(*(self.rpn(level) for level in features), strict=True)
        return Outputs(logits, deltas)

    def classify(self, features: Sequence[Tensor], boxes_R4: Tensor, image_R: Tensor) -> RoiOutputs:
        """The second stage on boxes with area in network-input pixels, each with its picture's place in the batch."""
        level_R = roi_levels(boxes_R4, self.pooled, self.finest_anchor)
        return self.box_head(roi_align(features[: len(self.pooled)], self.pooled, boxes_R4, image_R, level_R))


class ProposalNetwork(nn.Module):
    """A 3x3 convolution with ReLU, and two 1x1 convolutions: A logits and A x 4 offsets; shared over the levels.

    Its hidden convolution has the norm and the start that the config gives to the subnets of the one-stage detector.
    """

    def __init__(self, config: Config, anchors_per_cell: int):
        super().__init__()
        model, channels = config.model, config.model.pyramid_channels
        self.tower = Subnet(channels, channels, 1, anchors_per_cell, model.head_norm, model.head_init).tower
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors_per_cell, 1)
        for layer in (self.objectness, self.deltas):
            _start(layer, 0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] to [B, A, H, W] logits and [B, 4 A, H, W] offsets, channel a * 4 + (dx, dy, dw, dh)."""
        hidden = self.tower(x)
        return self.objectness(hidden), self.deltas(hidden)


class BoxHead(nn.Module):
    """Two fully connected layers with ReLU over the bins of a box, then K + 1 logits and K x 4 offsets."""

    def __init__(self, channels: int, width: int, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.first = nn.Linear(BINS * BINS * channels, width)
        self.second = nn.Linear(width, width)
        self.logits = nn.Linear(width, num_classes + 1)
        self.deltas = nn.Linear(width, 4 * num_classes)
        for layer in (self.first, self.second):
            # The pyramid's start, which in Detectron is the box head's too.
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        _start(self.logits, 0.01)
        _start(self.deltas, 0.001)

    def forward(self, bins: Tensor) -> RoiOutputs:
        """[R, BINS, BINS, C] to what is said of R boxes."""
        hidden = F.relu(self.second(F.relu(self.first(bins.flatten(1)))))
        return RoiOutputs(self.logits(hidden), self.deltas(hidden).unflatten(1, (self.num_classes, 4)))


def _start(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Weights from N(0, std), bias 0 (Girshick 2015, section 2.3)."""
    nn.init.normal_(layer.weight, std=std)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
