"""Boxes and labels on a picture, for a person to judge: detections, or labelled objects with their anchors.

Lines and letters grow with the picture. A line lies around its box, not on it, and a label goes where it covers the
least, so small objects stay visible; where a label would bury another object it is made smaller, then left out.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from foveal.data.arrays import to_array
from foveal.data.images import MAX_PIXELS
from foveal.detections import Detections, Objects

Colour = tuple[int, int, int]

# Far apart from each other and from skin, blood, grass and asphalt; further classes take golden-angle hues.
PALETTE: tuple[Colour, ...] = (
    (255, 214, 10),
    (0, 194, 255),
    (255, 64, 129),
    (57, 255, 20),
    (255, 128, 0),
    (178, 102, 255),
    (0, 230, 172),
    (255, 51, 51),
    (64, 105, 255),
    (255, 153, 204),
    (166, 206, 57),
    (160, 90, 44),
)
CROWD: Colour = (200, 200, 200)
DARK: Colour = (16, 16, 16)
_SMALLEST_FONT = 9
# For class names outside Latin script; the first one that the machine has is taken.
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansKR-Regular.otf",
    "NanumGothic.ttf",
    "AppleSDGothicNeo.ttc",
    "malgun.ttf",
    "DejaVuSans.ttf",
)


def draw_detections(image: Any, detections: Detections) -> Image.Image:
    """The picture (path, Pillow image, uint8 array or tensor) with a box, class name and score for each detection.

    The best scores are drawn last, on top. The picture given is not changed.
    """
    marks = [
        _Mark(box, f"{name} {score:.2f}", class_colour(label))
        for (box, score, name), label in zip(detections, detections.labels.tolist(), strict=True)
    ]
    return _draw(image, marks[::-1])


def draw_objects(image: Any, objects: Objects, names: Sequence[str], anchors: Tensor | None = None) -> Image.Image:
    """The picture with its labelled objects; crowd regions are grey and dashed.

    `anchors` [P, 4] xyxy, such as those that are assigned to the objects, are drawn as thin white lines below them.
    """
    marks = []
    for box, label, crowd in zip(objects.boxes.tolist(), objects.labels.tolist(), objects.crowd.tolist(), strict=True):
        text = f"{names[label]} (ignored)" if crowd else names[label]
        marks.append(_Mark(box, text, CROWD if crowd else class_colour(label), dashed=crowd))
    return _draw(image, marks, [] if anchors is None else anchors.tolist())


def class_colour(label: int) -> Colour:
    """The colour of a class: the same in every picture and every run."""
    if label < len(PALETTE):
        return PALETTE[label]
    hue = (label * 0.61803398875) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65 + 0.35 * (label % 2), 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def contact_sheet(images: Sequence[Image.Image], columns: int, cell: int = 480, gap: int = 6) -> Image.Image:
    """The pictures in rows on one dark sheet, each scaled to fit a square cell, its proportions kept."""
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * (cell + gap) + gap), DARK)
    for index, image in enumerate(images):
        scale = cell / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        column, row = index % columns, index // columns
        x = gap + column * (cell + gap) + (cell - size[0]) // 2
        y = gap + row * (cell + gap) + (cell - size[1]) // 2
        sheet.paste(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), (x, y))
    return sheet


@dataclass(frozen=True)
class _Mark:
    """A box [4] xyxy with what is written beside it."""

    box: Sequence[float]
    text: str
    colour: Colour
    dashed: bool = False


def _draw(image: Any, marks: Sequence[_Mark], anchors: Sequence[Sequence[float]] = ()) -> Image.Image:
    picture = Image.fromarray(to_array(image, MAX_PIXELS))  # a copy: Pillow stores four bytes a pixel
    canvas = ImageDraw.Draw(picture)
    font_size = _font_size(picture.size, len(marks))
    line = max(2, round(font_size / 7))
    for anchor in anchors:
        _outline(canvas, anchor, max(1, line // 3), (255, 255, 255), picture.size)
    for mark in marks:
        _box(canvas, mark, line, picture.size)
    labels = _Labels(picture, np.array([mark.box for mark in marks], dtype=np.float64).reshape(-1, 4), line)
    # The best come last in `marks` and choose their place first.
    for index in range(len(marks) - 1, -1, -1):
        labels.write(index, marks[index], font_size)
    return picture


def _font_size(size: tuple[int, int], num_marks: int) -> int:
    """Grows with the picture; in a crowd, all labels together shall cover no more than about a tenth of it."""
    shorter = min(size)
    for_the_picture = max(shorter / 36, min(12, shorter / 16))
    # A label is about four letters' heights wide and 1.3 high.
    for_the_crowd = math.sqrt(0.02 * size[0] * size[1] / max(1, num_marks))
    return max(_SMALLEST_FONT, round(min(for_the_picture, for_the_crowd)))


def _box(canvas: ImageDraw.ImageDraw, mark: _Mark, line: int, size: tuple[int, int]) -> None:
    """A coloured line around the box with a dark casing, so that it shows on any background."""
    side = min(mark.box[2] - mark.box[0], mark.box[3] - mark.box[1])
    line = max(1, min(line, round(side / 6)))
    casing = max(1, line // 3)
    _outline(canvas, mark.box, line + casing, DARK, size)
    _outline(canvas, mark.box, line, mark.colour, size, dashed=mark.dashed)


def _outline(
    canvas: ImageDraw.ImageDraw,
    box: Sequence[float],
    line: int,
    colour: Colour,
    size: tuple[int, int],
    dashed: bool = False,
) -> None:
    """A frame of `line` pixels just outside the box, pushed back in where it would leave the picture."""
    width, height = size
    left, top = max(0, round(box[0]) - line), max(0, round(box[1]) - line)
    right, bottom = min(width, round(box[2]) + line) - 1, min(height, round(box[3]) + line) - 1
    if right < left or bottom < top:
        return
    if not dashed:
        canvas.rectangle((left, top, right, bottom), outline=colour, width=line)
        return
    dash = 4 * line
    for x in range(left, right + 1, 2 * dash):
        end = min(x + dash - 1, right)
        canvas.rectangle((x, top, end, min(top + line - 1, bottom)), fill=colour)
        canvas.rectangle((x, max(bottom - line + 1, top), end, bottom), fill=colour)
    for y in range(top, bottom + 1, 2 * dash):
        end = min(y + dash - 1, bottom)
        canvas.rectangle((left, y, min(left + line - 1, right), end), fill=colour)
        canvas.rectangle((max(right - line + 1, left), y, right, end), fill=colour)


class _Labels:
    """Finds a place for each label: inside the picture, off other labels, and not burying an object."""

    BURIED = 0.5  # a label may cover this share of a box, not more
    OVERLAID = 0.1  # ... and this share of it may lie on other labels

    def __init__(self, picture: Image.Image, boxes_M4: np.ndarray, line: int):
        self.picture = picture
        self.canvas = ImageDraw.Draw(picture)
        self.boxes_M4 = boxes_M4
        self.areas_M = np.maximum(1, (boxes_M4[:, 2:] - boxes_M4[:, :2]).prod(axis=1))
        self.line = line
        self.placed_M4 = np.zeros_like(boxes_M4)
        self.num_placed = 0

    def write(self, index: int, mark: _Mark, font_size: int) -> None:
        """Writes the label of box `index` at the cheapest place, smaller where it must be, or not at all."""
        for size in (font_size, max(_SMALLEST_FONT, round(0.72 * font_size))):
            font = _font(size, mark.text.isascii())
            left, top, right, bottom = map(round, self.canvas.textbbox((0, 0), mark.text, font=font, anchor="ls"))
            pad = max(1, size // 6)
            ascent, descent = max(-top, round(0.72 * size)), max(bottom, round(0.2 * size))
            width, height = right - left + 2 * pad, ascent + descent + 2 * pad
            place = self._place(self.boxes_M4[index], width, height)
            if place is None:
                continue
            x, y = place
            self.placed_M4[self.num_placed] = x, y, x + width, y + height
            self.num_placed += 1
            self.canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=mark.colour)
            ink = DARK if _luminance(mark.colour) > 0.36 else (255, 255, 255)
            self.canvas.text((x + pad - left, y + pad + ascent), mark.text, fill=ink, font=font, anchor="ls")
            return

    def _place(self, box: np.ndarray, width: int, height: int) -> tuple[int, int] | None:
        """Upper left corner of the cheapest of seven places; None where each covers a label or buries an object."""
        x1, y1, x2, y2 = np.round(box).astype(int).tolist()
        x1, x2 = x1 - self.line, x2 + self.line
        above, below, right_aligned = y1 - height, y2, x2 - width
        wanted = np.array([
            (x1, above), (right_aligned, above), (x1, below), (right_aligned, below),
            (x2, y1), (x1 - width, y1), (x1, y1),
        ])  # fmt: skip
        room = np.array([self.picture.width - width, self.picture.height - height])
        corners_R2 = np.maximum(0, np.minimum(wanted, room))
        rects_R4 = np.hstack([corners_R2, corners_R2 + np.array([width, height])])
        near = _overlapping(rects_R4, self.boxes_M4)
        covered_RM = _covered(rects_R4, self.boxes_M4[near])
        placed_P4 = self.placed_M4[: self.num_placed]
        labels_R = _covered(rects_R4, placed_P4[_overlapping(rects_R4, placed_P4)]).sum(axis=1)
        in_order_R = np.arange(len(rects_R4)) * 1e-3 * width * height
        cost_R = covered_RM.sum(axis=1) + 4 * labels_R + in_order_R
        buries_R = (covered_RM > self.BURIED * self.areas_M[near]).any(axis=1)
        cost_R[buries_R | (labels_R > self.OVERLAID * width * height)] = np.inf
        best = int(cost_R.argmin())
        return (int(corners_R2[best, 0]), int(corners_R2[best, 1])) if np.isfinite(cost_R[best]) else None


def _overlapping(rects_R4: np.ndarray, boxes_M4: np.ndarray) -> np.ndarray:
    """Indices of the boxes that meet the rectangle around all of `rects`."""
    (left, top), (right, bottom) = rects_R4[:, :2].min(axis=0), rects_R4[:, 2:].max(axis=0)
    x1, y1, x2, y2 = boxes_M4.T
    return np.flatnonzero((x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top))


def _covered(rects_R4: np.ndarray, boxes_M4: np.ndarray) -> np.ndarray:
    """[R, M] area of each box that each rectangle covers."""
    upper = np.minimum(rects_R4[:, None, 2:], boxes_M4[None, :, 2:])
    lower = np.maximum(rects_R4[:, None, :2], boxes_M4[None, :, :2])
    return np.clip(upper - lower, 0, None).prod(axis=2)


def _luminance(colour: Colour) -> float:
    """Relative luminance 0 .. 1, close enough to choose between dark and white ink."""
    red, green, blue = ((value / 255) ** 2.2 for value in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@lru_cache(maxsize=64)
def _font(size: int, ascii_only: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if not ascii_only:
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)
