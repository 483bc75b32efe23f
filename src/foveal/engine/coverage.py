"""Which objects the anchors reach at the training resolution, in numbers and, before training starts, in words.

An object that no anchor overlaps by the positive IoU is seen by the loss through its best anchor at most, or not at
all: most detectors that "train but find nothing" have such objects. Everything here needs boxes and sizes only.

Letters: I pictures, G objects, K classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.config import AssignmentConfig, Config
from foveal.data.images import target_sizes
from foveal.data.table import Table
from foveal.matching import best_iou
from foveal.wording import counted

# COCO's bounds of a box's area in square pixels.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
WEAK = 0.5
"""A class with a smaller share of objects covered is warned of."""


@dataclass(frozen=True)
class LabelledBoxes:
    """The objects of a split without its crowd regions.

    boxes: [G, 4] float32 xyxy in original pixels; labels: [G] int64; rows: [G] int64, the pictures they are in;
    sizes: [G, 2] int64 (height, width) of those; class_names: K.
    """

    boxes: Tensor
    labels: Tensor
    rows: Tensor
    sizes: Tensor
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, table: Table) -> LabelledBoxes:
        rows = torch.repeat_interleave(torch.arange(len(table)), table.first_object.diff())
        sizes = table.sizes.long()[rows]
        kept = ~table.crowd & (sizes > 0).all(1)
        return cls(table.boxes[kept], table.labels[kept].long(), rows[kept], sizes[kept], table.class_names)

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, chosen: Tensor) -> LabelledBoxes:
        return replace(
            self, boxes=self.boxes[chosen], labels=self.labels[chosen], rows=self.rows[chosen], sizes=self.sizes[chosen]
        )

    def at_training(self, config: Config) -> tuple[Tensor, Tensor]:
        """(boxes [G, 4], (height, width) [G, 2]) of the resized pictures that hold them."""
        targets = target_sizes(self.sizes.numpy().reshape(-1, 2), config.data.size, config.data.longest)
        targets_G2 = torch.from_numpy(targets)
        scale_G2 = (targets_G2 / self.sizes).float().flip(1)
        return self.boxes * torch.cat([scale_G2, scale_G2], 1), targets_G2

    def best_iou(self, config: Config, anchors: Anchors | None = None) -> Tensor:
        """[G] float32: the best IoU that any of the anchors (default: the config's) reaches with each object.

        Objects are as large as at the training resolution.
        """
        if not len(self):
            return torch.zeros(0)
        boxes_G4, shapes_G2 = self.at_training(config)
        # Anchors on padding are ignored by default, so the picture counts; peers' strides come from the padded side.
        if config.assignment.padding == "background" or config.anchors.stride == "floor_of_padded":
            multiple = config.data.pad_multiple
            shapes_G2 = (shapes_G2 + multiple - 1) // multiple * multiple
        return best_iou(anchors or Anchors.from_config(config), boxes_G4, shapes_G2)


@dataclass(frozen=True)
class Reach:
    """How well the anchors reach a group of objects; shares are 0 .. 1, None for a group without any.

    at_positive_iou: share with an anchor at IoU >= .5 (`assignment.positive_iou`): sure to be learnt from.
    at_background_iou: share with one at >= .4 (`assignment.background_iou`), the former included.
    only_best: share with only a best anchor below that: never assigned, unless `assignment.low_quality` is `all`.
    """

    objects: int
    at_positive_iou: float | None
    at_background_iou: float | None
    only_best: float | None
    mean_best_iou: float | None

    @classmethod
    def of(cls, best_G: Tensor, config: AssignmentConfig) -> Reach:
        if not len(best_G):
            return cls(0, None, None, None, None)
        positive = float((best_G >= config.positive_iou).double().mean())
        near = float((best_G >= config.background_iou).double().mean())
        return cls(len(best_G), positive, near, 1 - near, float(best_G.double().mean()))


@dataclass(frozen=True)
class Coverage:
    """Reach of all objects of a split, of each class, of each size at the training resolution, of both together."""

    split: str
    all: Reach
    per_class: dict[str, Reach]
    per_size: dict[str, Reach]
    per_class_and_size: dict[str, dict[str, Reach]]

    def weak_classes(self) -> list[str]:
        """Classes of which less than half of the objects are covered, those with most uncovered objects first."""
        shares = {name: reach.at_positive_iou for name, reach in self.per_class.items()}
        uncovered = {
            name: self.per_class[name].objects * (1 - s) for name, s in shares.items() if s is not None and s < WEAK
        }
        return sorted(uncovered, key=lambda name: -uncovered[name])

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def coverage(table: Table, config: Config) -> Coverage:
    """How the anchors of `config` reach the objects of a split."""
    boxes = LabelledBoxes.of(table)
    best_G = boxes.best_iou(config)
    resized_G4, _ = boxes.at_training(config)
    size_G = size_index(resized_G4)

    def reach(mask_G: Tensor) -> Reach:
        return Reach.of(best_G[mask_G], config.assignment)

    of_class = {name: boxes.labels == label for label, name in enumerate(boxes.class_names)}
    of_size = {name: size_G == index for index, name in enumerate(SIZES)}
    return Coverage(
        split=table.split,
        all=Reach.of(best_G, config.assignment),
        per_class={name: reach(mask) for name, mask in of_class.items()},
        per_size={name: reach(mask) for name, mask in of_size.items()},
        per_class_and_size={
            name: {size: reach(mask & also) for size, also in of_size.items()} for name, mask in of_class.items()
        },
    )


def size_index(boxes_G4: Tensor) -> Tensor:
    """[G] int64: 0 small, 1 medium, 2 large by COCO's bounds: 31.9 x 31.9 is small, 32 x 32 medium, 96 x 96 large."""
    areas = (boxes_G4[:, 2] - boxes_G4[:, 0]).double() * (boxes_G4[:, 3] - boxes_G4[:, 1]).double()
    return torch.from_numpy(np.digitize(areas.numpy(), [low for low, _ in SIZES.values()][1:]))


def percent(share: float | None) -> str:
    """ "99.9 %", never rounded to a 100 or a 0 that it is not; "-" for None."""
    if share is None:
        return "-"
    rounded = f"{100 * share:.1f}".removesuffix(".0")
    if rounded in ("0", "100") and share not in (0, 1):
        rounded = "<0.1" if share < 0.5 else ">99.9"
    return f"{rounded} %"


def in_words(found: Coverage, config: Config, worst: int = 5) -> str:
    """The share of objects that an anchor reaches, with the worst classes and the sizes, in two or three lines."""
    positive, near = config.assignment.positive_iou, config.assignment.background_iou
    everything = found.all
    first = (
        f"anchors at {config.data.size} px: {percent(everything.at_positive_iou)} of "
        f"{counted(everything.objects, 'object')} have one at IoU >= {positive:g}, "
        f"{percent(everything.at_background_iou)} at >= {near:g}, {percent(everything.only_best)} only a best one below"
    )
    present = [name for name, reach in found.per_class.items() if reach.objects]
    present.sort(key=lambda name: found.per_class[name].at_positive_iou or 0)
    shown = [f"{name} {percent(found.per_class[name].at_positive_iou)}" for name in present[:worst]]
    more = f", {counted(len(present) - worst, 'class')} better" if len(present) > worst else ""
    sizes = [f"{name} {percent(r.at_positive_iou)} of {r.objects}" for name, r in found.per_size.items() if r.objects]
    return "\n".join([first, f"  by class: {', '.join(shown)}{more}", f"  by size: {', '.join(sizes)}"])


def warning(found: Coverage) -> str:
    """Names the classes that would hardly be found; empty where there is none."""
    weak = found.weak_classes()
    if not weak:
        return ""
    named = [
        f"{name} ({percent(r.at_positive_iou)} of {r.objects})" for name in weak[:8] for r in [found.per_class[name]]
    ]
    more = f" and {counted(len(weak) - 8, 'more class')}" if len(weak) > 8 else ""
    return f"WARNING: no anchor reaches most objects of {', '.join(named)}{more}: they will hardly be found"
