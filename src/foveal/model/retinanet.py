"""RetinaNet: pictures in, class logits and box offsets of every level out.

Letters: B images, A anchors per cell, K classes, L levels, H W pixels of the padded picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from foveal.anchors import Anchors
from foveal.config import Config, ModelConfig
from foveal.errors import ConfigError
from foveal.model.backbone import IMAGE_MEAN as IMAGE_MEAN  # what importers and studies measure pixels by
from foveal.model.backbone import IMAGE_STD as IMAGE_STD
from foveal.model.backbone import Backbone
from foveal.model.heads import Subnet, prior_bias
from foveal.model.mobilenet import MobileNetV2
from foveal.model.pyramid import Pyramid
from foveal.model.resnet import resnet
from foveal.model.transformers_backbone import TransformersBackbone
from foveal.model.transformers_files import PREFIX, describe
from foveal.model.weights import load_backbone


@dataclass(frozen=True)
class Outputs:
    """What the network says of every anchor, per level as the last convolution left it.

    logits: L of [B, A*K, H_l, W_l], channel a*K + k. deltas: L of [B, A*4, H_l, W_l], channel a*4 + (dx, dy, dw, dh).
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]


class RetinaNet(nn.Module):
    """Backbone, pyramid, class subnet, box subnet; the normalisation of the pictures is inside.

    kept_in: where a run keeps what its config does not say of the backbone; None asks for it by name.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, num_classes: int, anchors_per_cell: int, kept_in: Path | None = None):
        super().__init__()
        self.channels_last = config.channels_last
        self.backbone = _backbone(config, kept_in)
        self.pyramid = Pyramid(self.backbone.channels, config.level_numbers, config.pyramid_channels, config.p6_from)
        self.class_head = _subnet(config, anchors_per_cell * num_classes)
        self.box_head = _subnet(config, anchors_per_cell * 4)
        nn.init.constant_(cast(Tensor, self.class_head.predict.bias), prior_bias(config.prior))
        self.register_buffer("mean", 255 * torch.tensor(self.backbone.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.backbone.pixel_std).view(3, 1, 1), persistent=False)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Outputs:
        """Outputs of RGB pictures [B, 3, H, W], uint8 or float in 0 .. 255, of any height and width."""
        features = self.pyramid(self.backbone(self.normalise(images)))
        return Outputs(
            logits=tuple(self.class_head(x) for x in features),
            deltas=tuple(self.box_head(x) for x in features),
        )

    def normalise(self, images: Tensor) -> Tensor:
        """(images - mean) / std by the backbone's statistics (ImageNet's), float32, in the model's memory layout."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.to(self.mean.dtype, memory_format=layout).sub(self.mean).div_(self.std)


def build_model(config: Config, num_classes: int, pretrained: bool = True, kept_in: Path | None = None) -> RetinaNet:
    """The network of a config; `pretrained` also loads the backbone's weights that `model.weights` names.

    kept_in: the folder `backbone` of a run whose network it is; without it a `hf:` backbone is asked for by name.
    """
    if pretrained:
        _check_start(config.model)
    model = RetinaNet(config.model, num_classes, Anchors.from_config(config).per_cell, kept_in)
    if pretrained and config.model.weights != "none":
        if isinstance(model.backbone, TransformersBackbone):
            model.backbone.load_published()
        else:
            load_backbone(model.backbone, config.model.weights, config.model.backbone)
    if config.train.recompute_backbone:
        model.backbone.enable_recompute()
    return model


def _check_start(config: ModelConfig) -> None:
    """ConfigError where layers that start at random would be kept so. The weights of a run may have such settings."""
    if config.weights != "none":
        return
    if config.batch_norm == "frozen":
        raise ConfigError(
            "model.batch_norm is frozen but model.weights is none: frozen statistics of a random network are "
            "random; set model.batch_norm to trained, give weights, or start from a run with --weights"
        )
    if config.frozen_stages:
        raise ConfigError(
            f"model.frozen_stages is {config.frozen_stages} but model.weights is none: frozen random layers "
            "never learn; set model.frozen_stages to 0, give weights, or start from a run with --weights"
        )


def _backbone(config: ModelConfig, kept_in: Path | None) -> Backbone:
    if config.backbone.startswith(PREFIX):
        description = describe(config.backbone, kept_in)
        return TransformersBackbone(description, config.batch_norm, config.frozen_stages, config.level_numbers[0])
    if config.backbone == "mobilenet_v2":
        return MobileNetV2(config.batch_norm, config.frozen_stages)
    return resnet(config.backbone, config.batch_norm, config.frozen_stages)


def _subnet(config: ModelConfig, outputs: int) -> Subnet:
    return Subnet(
        config.pyramid_channels, config.head_channels, config.head_depth, outputs, config.head_norm, config.head_init
    )
