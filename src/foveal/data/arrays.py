"""Whatever holds a picture (path, Pillow image, array, tensor) as one uint8 RGB array."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image

from foveal.data.images import from_pillow, read_image
from foveal.errors import ImageError


def to_array(image: Any, max_pixels: int) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a path, a Pillow image, an array [H, W, 3] or [H, W], or a tensor [3, H, W].

    Arrays and tensors must hold uint8 in 0 .. 255: a float picture may mean 0 .. 1 or 0 .. 255, so it is refused.
    Files with more than `max_pixels` pixels are refused before they are decoded.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(os.fspath(image), max_pixels)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if isinstance(image, torch.Tensor):
        fits = image.ndim == 3 and image.shape[0] == 3
        _check(image, tuple(image.shape), image.dtype == torch.uint8, fits, "[3, H, W]")
        return image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        _check(image, image.shape, image.dtype == np.uint8, fits, "[H, W, 3] in RGB order")
        return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
    raise ImageError(
        f"a {type(image).__name__} is no picture: "
        "give a path, a Pillow image, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W]"
    )


def _check(image: Any, shape: tuple[int, ...], is_bytes: bool, fits: bool, expected: str) -> None:
    if not fits or 0 in shape:
        raise ImageError(f"a {type(image).__name__} of shape {list(shape)} is no picture: give {expected}")
    if not is_bytes:
        raise ImageError(
            f"a {type(image).__name__} of {image.dtype} is ambiguous: give uint8 in 0 .. 255 "
            "(for floats in 0 .. 1: multiply by 255, round and convert)"
        )
