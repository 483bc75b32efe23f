"""A network that needs no training: it finds plain rectangles in pure red, green or blue on a dark ground."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from foveal.anchors import Anchors
from foveal.boxes import encode, iou
from foveal.config import Config, build_config
from foveal.engine.predict import Detector
from foveal.model.retinanet import Outputs

NAMES = ("red", "green", "blue")


def config(size: int = 64, **changes: object) -> Config:
    settings = {"model.weights": "none", "model.batch_norm": "trained", "data.size": size, "data.workers": 0}
    return build_config({}).with_changes({**settings, **changes})


class RectangleNet(nn.Module):
    """Each rectangle's best anchor gets a logit of 2 + the rectangle's brightness / 64, all others -8."""

    def __init__(self, settings: Config):
        super().__init__()
        self.anchors = Anchors.from_config(settings)
        self.unused = nn.Parameter(torch.zeros(1))
        self.calls: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Outputs:
        self.calls.append(tuple(images.shape))
        height, width = images.shape[-2:]
        levels = self.anchors.levels_of(height, width, images.device)
        anchors_N4 = torch.cat(levels)
        logits = torch.full((len(images), len(anchors_N4), 3), -8.0)
        deltas = torch.zeros(len(images), len(anchors_N4), 4)
        for b, image in enumerate(images.numpy()):
            for label, box, brightness in rectangles_in(image):
                best = int(iou(torch.tensor([box]), anchors_N4).argmax())
                logits[b, best, label] = 2 + brightness / 64
                deltas[b, best] = encode(anchors_N4[best : best + 1], torch.tensor([box]))[0]
        shapes = self.anchors.feature_shapes(height, width)
        counts = [len(level) for level in levels]
        return Outputs(
            tuple(_as_channels(part, *shape) for part, shape in zip(logits.split(counts, 1), shapes, strict=True)),
            tuple(_as_channels(part, *shape) for part, shape in zip(deltas.split(counts, 1), shapes, strict=True)),
        )


def rectangles_in(image: np.ndarray) -> list[tuple[int, list[float], float]]:
    """(label, box, brightness) of each rectangle in [3, H, W] uint8."""
    found = []
    for label in range(3):
        others = np.delete(image, label, axis=0).max(axis=0)
        mask = ((image[label] >= 100) & (others < 64)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        for x, y, w, h, _ in stats[1:].tolist():
            brightness = float(image[label, y : y + h, x : x + w].mean())
            found.append((label, [float(x), float(y), float(x + w), float(y + h)], brightness))
    return found


def detector(size: int = 64, threshold: float | None = None, **changes: object) -> Detector:
    settings = config(size, **changes)
    return Detector(RectangleNet(settings), settings, NAMES, threshold, category_ids=(10, 20, 30))


def picture(
    height: int, width: int, *rectangles: tuple[int, tuple[int, int, int, int]], value: int = 255
) -> np.ndarray:
    """[H, W, 3] uint8: (label, (x1, y1, x2, y2)) each, on black."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for label, (x1, y1, x2, y2) in rectangles:
        image[y1:y2, x1:x2, label] = value
    return image


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def _as_channels(part_BNC: Tensor, height: int, width: int) -> Tensor:
    """[B, H*W*A, C] as the head's output [B, A*C, H, W]."""
    return part_BNC.reshape(len(part_BNC), height, width, -1).permute(0, 3, 1, 2).contiguous()
