"""What goes into the detector's training and what comes out of the detector.

Boxes everywhere are xyxy in pixels, float32, half-open: a box covers x1 <= x < x2, so its width is x2 - x1
(no "+ 1") and a horizontal flip in a picture W wide is x' = W - x. Labels are 0 .. K-1: K foreground classes,
no background slot.

Letters: B images, G objects, D detections, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Objects:
    """The labelled objects of one picture; `Objects.empty()` is a picture without any.

    boxes: [G, 4] float32 xyxy pixels.
    labels: [G] int64, 0 .. K-1.
    crowd: [G] bool; True marks a region to ignore (COCO's iscrowd, VOC's difficult), never an object to learn.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor

    @classmethod
    def empty(cls) -> Objects:
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))

    @classmethod
    def of(cls, boxes: Any, labels: Any, crowd: Any = None) -> Objects:
        """Builds from anything array-like; `crowd` defaults to False for every box."""
        boxes_G4 = torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4)
        labels_G = torch.as_tensor(np.asarray(labels, dtype=np.int64)).reshape(-1)
        if crowd is None:
            crowd_G = torch.zeros(len(labels_G), dtype=torch.bool)
        else:
            crowd_G = torch.as_tensor(np.asarray(crowd, dtype=bool)).reshape(-1)
        if not len(boxes_G4) == len(labels_G) == len(crowd_G):
            raise ValueError(
                f"{len(boxes_G4)} boxes, {len(labels_G)} labels, {len(crowd_G)} crowd flags: one of each an object"
            )
        return cls(boxes_G4, labels_G, crowd_G)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Objects:
        return Objects(self.boxes[index], self.labels[index], self.crowd[index])


@dataclass(frozen=True)
class Batch:
    """B pictures padded to one shape, with all their objects packed into one list.

    images: [B, 3, H, W] uint8 RGB; padding (right and below) holds the mean colour.
    sizes: [B, 2] int64 (height, width) of the picture inside the padding.
    boxes, labels, crowd: [G, 4], [G], [G] as in `Objects`, for all pictures one after the other.
    image_index: [G] int64, non-decreasing: which of the B pictures an object belongs to.
    rows: [B] int64, the pictures' rows in the data set's table (-1 where there is none).
    original_sizes: [B, 2] int64 (height, width) of the pictures before they were resized.
    """

    images: Tensor
    sizes: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    image_index: Tensor
    rows: Tensor
    original_sizes: Tensor

    @classmethod
    def pack(
        cls,
        images: Sequence[Tensor],
        objects: Sequence[Objects],
        shape: tuple[int, int] | None = None,
        rows: Sequence[int] | None = None,
        original_sizes: Sequence[tuple[int, int]] | None = None,
        fill: tuple[int, int, int] = (124, 116, 104),
    ) -> Batch:
        """Pads [3, h, w] uint8 pictures to `shape` (default: the largest of them) and packs their objects."""
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height, width = shape or (max(h for h, _ in sizes), max(w for _, w in sizes))
        if any(h > height or w > width for h, w in sizes):
            raise ValueError(f"pictures of {sizes} do not fit into a batch of {height} x {width}")
        padded = torch.empty(len(images), 3, height, width, dtype=torch.uint8)
        for row, image, (h, w) in zip(padded, images, sizes, strict=True):
            if (h, w) != (height, width):
                row.copy_(torch.tensor(fill, dtype=torch.uint8)[:, None, None].expand_as(row))
            row[:, :h, :w] = image
        counts = torch.tensor([len(o) for o in objects], dtype=torch.int64)
        return cls(
            images=padded,
            sizes=torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
            boxes=torch.cat([o.boxes for o in objects]) if objects else torch.zeros(0, 4),
            labels=torch.cat([o.labels for o in objects]) if objects else torch.zeros(0, dtype=torch.int64),
            crowd=torch.cat([o.crowd for o in objects]) if objects else torch.zeros(0, dtype=torch.bool),
            image_index=torch.repeat_interleave(torch.arange(len(objects)), counts),
            rows=torch.tensor(list(rows) if rows is not None else [-1] * len(images), dtype=torch.int64),
            original_sizes=torch.tensor(list(original_sizes or sizes), dtype=torch.int64).reshape(-1, 2),
        )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in self.__dataclass_fields__}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        return replace(self, **{name: getattr(self, name).pin_memory() for name in self.__dataclass_fields__})

    def objects_of(self, image: int) -> Objects:
        mine = self.image_index == image
        return Objects(self.boxes[mine], self.labels[mine], self.crowd[mine])


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best score first.

    boxes: [D, 4] float32 xyxy in the original picture's pixels.
    scores: [D] float32 in 0 .. 1.
    labels: [D] int64, 0 .. K-1; `class_names[label]` is the name.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = field(default=())

    @classmethod
    def empty(cls, class_names: tuple[str, ...] = ()) -> Detections:
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), class_names)

    @property
    def names(self) -> list[str]:
        """The class name of every detection, in order."""
        return [self.class_names[i] if i < len(self.class_names) else str(i) for i in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[tuple[list[float], float, str]]:
        """(box, score, name) of each detection as plain Python values."""
        return iter(zip(self.boxes.tolist(), self.scores.tolist(), self.names, strict=True))

    def __getitem__(self, index: Any) -> Detections:
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def above(self, min_score: float) -> Detections:
        """Those with a score of at least `min_score`."""
        return self[self.scores >= min_score]

    def draw(self, image: Any) -> Image.Image:
        """The picture (path, array or PIL image) with these boxes drawn on it."""
        from foveal.drawing import draw_detections

        return draw_detections(image, self)

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {score:.2f}" for _, score, name in list(self)[:3])
        return f"Detections({len(self)}{': ' + best if best else ''}{', ...' if len(self) > 3 else ''})"


@dataclass(frozen=True)
class DetectionTable:
    """What was found in many pictures, as flat arrays on the CPU; the pictures of one table in any order.

    rows: [D] int64, the pictures' rows in the data set's table.
    boxes, scores, labels: [D, 4] float32, [D] float32, [D] int64 as in `Detections`, in original pixels.
    """

    rows: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor

    @classmethod
    def of(cls, found: Iterable[tuple[int, Detections]]) -> DetectionTable:
        """From (row, detections) of each picture."""
        rows, parts = [], [Detections.empty()]
        for row, detections in found:
            rows.append(torch.full((len(detections),), row, dtype=torch.int64))
            parts.append(detections)
        return cls(
            rows=torch.cat([torch.zeros(0, dtype=torch.int64), *rows]),
            boxes=torch.cat([part.boxes.detach().cpu().float() for part in parts]),
            scores=torch.cat([part.scores.detach().cpu().float() for part in parts]),
            labels=torch.cat([part.labels.detach().cpu().long() for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> DetectionTable:
        """The detections that a mask or an index tensor picks."""
        return DetectionTable(self.rows[index], self.boxes[index], self.scores[index], self.labels[index])
