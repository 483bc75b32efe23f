"""Brushes of the embedded data set: ink, stickers, strokes and blobs on a canvas of [H, W, 3] float32 RGB, 0 .. 255.

Every brush changes the canvas in place and takes what is random from the generator it is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Box = tuple[int, int, int, int]
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def ink(scan: np.ndarray, side: float, rng: np.random.Generator, turn: float) -> np.ndarray:
    """A scan as opacity [h, w] in 0 .. 1, its 8 rows about `side` pixels high, cut tight where it is at least .5."""
    angle = np.deg2rad(rng.uniform(-turn, turn))
    wide, scale = rng.uniform(0.9, 1.15), side / 8
    extent = int(side * 1.7) + 4
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cos * wide, -sin], [sin * wide, cos]])
    shift = np.array([extent / 2, extent / 2]) - linear @ np.array([3.5, 3.5])
    grown = cv2.warpAffine(scan, np.column_stack([linear, shift]), (extent, extent), flags=cv2.INTER_CUBIC)
    # A scan's grey levels are shares of a pixel under ink, so a threshold restores the stroke; 1.5 px of soft edge.
    alpha = np.clip((grown - 0.5) * side / 12 + 0.5, 0, 1).astype(np.float32)
    rows, columns = np.flatnonzero((alpha >= 0.5).any(1)), np.flatnonzero((alpha >= 0.5).any(0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def write_ink(
    canvas: np.ndarray, alpha: np.ndarray, box: Box, rng: np.random.Generator, contrast: float, opacity: float
) -> None:
    """Blends ink of a random colour that stands out by `contrast` into the box, at least `opacity` opaque."""
    x1, y1, x2, y2 = box
    behind = canvas[y1:y2, x1:x2]
    colour = _contrasting(rng, behind, contrast)
    _blend(behind, alpha * rng.uniform(opacity, 1), colour)


def sticker(canvas: np.ndarray, box: Box, rng: np.random.Generator, keep_off: Sequence[Box] = ()) -> None:
    """A slightly turned rectangle of pale or dark paper under a box, unless it would reach under another one."""
    x1, y1, x2, y2 = box
    margin = rng.uniform(0.12, 0.3) * max(x2 - x1, y2 - y1)
    rectangle = ((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1 + 2 * margin, y2 - y1 + 2 * margin), rng.uniform(-8, 8)
    corners = np.rint(cv2.boxPoints(rectangle)).astype(np.int32)
    paper = (rng.uniform(200, 250) if rng.random() < 0.7 else rng.uniform(20, 70)) + rng.uniform(-18, 18, 3)
    opacity = rng.uniform(0.75, 1)
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    if any(covered((left, top, right, bottom), other) > 0 for other in keep_off):
        return
    mask = np.zeros(canvas.shape[:2], dtype=np.uint8)
    cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA)
    _blend(canvas, mask.astype(np.float32) / 255 * opacity, paper)


def stroke(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """A curved line."""
    size = canvas.shape[0]
    start, bend, end = (rng.uniform(0, size, 2) for _ in range(3))
    t = np.linspace(0, 1, 24)[:, None]
    reach = rng.uniform(0.15, 0.6)
    bend, end = start + (bend - start) * reach, start + (end - start) * reach
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    mask = np.zeros(canvas.shape[:2], dtype=np.uint8)
    thickness = int(rng.integers(1, max(3, size // 28)))
    cv2.polylines(mask, [np.rint(curve).astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    _blend(canvas, mask.astype(np.float32) / 255 * rng.uniform(0.5, 1), rng.uniform(0, 255, 3))


def blob(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """A soft or hard ellipse."""
    size = canvas.shape[0]
    mask = np.zeros(canvas.shape[:2], dtype=np.uint8)
    centre, axes = rng.uniform(0, size, 2), rng.uniform(0.02, 0.11, 2) * size + 1
    cv2.ellipse(mask, (tuple(centre.tolist()), tuple((2 * axes).tolist()), rng.uniform(0, 180)), 255, -1, cv2.LINE_AA)
    alpha = mask.astype(np.float32) / 255
    if rng.random() < 0.5:
        alpha = cv2.GaussianBlur(alpha, (0, 0), float(axes.min()) / 3).astype(np.float32)
    _blend(canvas, alpha * rng.uniform(0.5, 1), rng.uniform(0, 255, 3))


def covered(a: Box, b: Box) -> float:
    """Intersection over the smaller of two boxes' areas."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0, width) * max(0, height) / smaller


def _contrasting(rng: np.random.Generator, behind: np.ndarray, contrast: float) -> np.ndarray:
    """A random colour [3], driven towards black or white until its luminance differs by `contrast`."""
    local = float(behind.reshape(-1, 3).mean(0) @ LUMINANCE)
    colour = rng.uniform(0, 255, 3).astype(np.float32)
    extreme = np.float32(0 if local > 127 else 255)
    for share in np.linspace(0, 1, 9, dtype=np.float32):
        mixed = colour * (1 - share) + extreme * share
        if abs(float(mixed @ LUMINANCE) - local) >= contrast:
            return mixed
    return np.full(3, extreme)


def _blend(target: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    target += alpha[..., None] * (colour - target)
