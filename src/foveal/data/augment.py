"""A picture and its boxes change together: crop, flips, quarter turns, colour.

Pictures are [H, W, 3] uint8 RGB arrays, objects are in their pixels. Every function returns new arrays, draws from the
generator it is given and from nothing else, and clips boxes to the picture, dropping those under 1 px.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch

from foveal.boxes import area, clip, flip_horizontal, flip_vertical, quarter_turn
from foveal.config import DataConfig
from foveal.detections import Objects

CROP_SIDES = (0.3, 1.0)
CROP_TRIES = 10
MIN_VISIBLE = 0.3
GREY = np.array([0.299, 0.587, 0.114])


def crop(
    image: np.ndarray, objects: Objects, config: DataConfig, rng: np.random.Generator
) -> tuple[np.ndarray, Objects]:
    """With probability `config.crop` a random window holding 30 to 100 % of each side, else all of it.

    A picture with objects keeps at least one: windows without any are drawn again, and after ten such the whole
    picture stays. Its objects follow the rule of `crop_objects`.
    """
    if rng.random() >= config.crop:
        return image, objects
    height, width = image.shape[:2]
    had_any = bool((~objects.crowd).any())
    for _ in range(CROP_TRIES):
        sides = rng.uniform(*CROP_SIDES, size=2) * (height, width)
        h, w = max(1, round(sides[0])), max(1, round(sides[1]))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        kept = crop_objects(objects, (x, y, x + w, y + h))
        if not had_any or bool((~kept.crowd).any()):
            return np.ascontiguousarray(image[y : y + h, x : x + w]), kept
    return image, objects


def crop_objects(objects: Objects, window: tuple[int, int, int, int]) -> Objects:
    """The objects in a window (x1, y1, x2, y2), in its pixels.

    An object of which less than 30 % of the area is left becomes a region to ignore: too little to learn from, too
    much to be called background. An object of area 100 with 29 inside is ignored, with 30 it is kept.
    """
    x1, y1, x2, y2 = window
    boxes = clip(objects.boxes - torch.tensor([x1, y1, x1, y1], dtype=torch.float32), (y2 - y1, x2 - x1))
    too_little = area(boxes) < MIN_VISIBLE * area(objects.boxes)
    return visible(Objects(boxes, objects.labels, objects.crowd | too_little), (y2 - y1, x2 - x1))


def visible(objects: Objects, size: tuple[int, int]) -> Objects:
    """Boxes clipped to a picture of (height, width), without those under 1 px on either side."""
    boxes = clip(objects.boxes, size)
    sides = boxes[:, 2:] - boxes[:, :2]
    return replace(objects, boxes=boxes)[(sides >= 1).all(dim=1)]


def augment(
    image: np.ndarray, objects: Objects, config: DataConfig, rng: np.random.Generator, turns: int | None = None
) -> tuple[np.ndarray, Objects]:
    """Everything that comes after the resize: flips, quarter turns, colour.

    turns: quarter turns anticlockwise, drawn here if None; the loader gives them, since they decide the batch's shape.
    """
    height, width = image.shape[:2]
    boxes = objects.boxes
    pixels = torch.from_numpy(image)  # whose flips and turns are 10 times faster than numpy's
    if rng.random() < config.horizontal_flip:
        pixels, boxes = pixels.flip(1), flip_horizontal(boxes, width)
    if rng.random() < config.vertical_flip:
        pixels, boxes = pixels.flip(0), flip_vertical(boxes, height)
    if turns is None:
        turns = int(rng.integers(4)) if config.quarter_turns else 0
    if turns:
        pixels, boxes = pixels.rot90(turns), quarter_turn(boxes, (height, width), turns)
    image = pixels.contiguous().numpy()
    if config.colour_jitter:
        image = jitter_colour(image, config.colour_jitter, rng)
    return image, visible(replace(objects, boxes=boxes), (image.shape[0], image.shape[1]))


def jitter_colour(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Random saturation, contrast and brightness, each by a factor between 2^-strength and 2^strength.

    All three are linear, so they are one 3 x 3 matrix and an offset, and the picture is rounded and clipped once.
    """
    saturation, contrast, brightness = 2.0 ** rng.uniform(-strength, strength, size=3)
    colour_to_grey = np.tile(GREY, (3, 1))
    matrix = contrast * brightness * (saturation * np.eye(3) + (1 - saturation) * colour_to_grey)
    mean_grey = float(np.array(cv2.mean(image)[:3]) @ GREY)
    offset = np.full((3, 1), (1 - contrast) * brightness * mean_grey)
    return cv2.transform(image, np.hstack([matrix, offset]))
