# What `csrc/` builds. Arrays are C-contiguous buffers; "y" is read, "w" is written.
from typing import Any

SOURCES: int  # a checksum of the C files

def class_loss_ways() -> list[str]: ...
def class_loss(
    logits: Any,  # "y" float32, as they lie in memory
    slopes: Any,  # "w" float32, or of length 0
    shape_BAKX: tuple[int, int, int, int],
    planes: bool,
    hole: Any,  # "y" int64
    hole_end: Any,  # "y" int64
    weights_K: Any,  # "y" float32, or of length 0
    scale_B: Any,  # "y" float64
    loss: tuple[str, float, float],  # kind, gamma, margin
    threads: int,
    sums_B: Any,  # "w" float64
    way: str,  # of `class_loss_ways`, or "" for the best
    /,
) -> None: ...
def match(
    anchors_N4: Any,  # "y" float32
    levels_L4: Any,  # "y" int64: columns, rows, stride in x, stride in y
    bounds_S5: Any,  # "y" float64: `reach.shape_bounds`, shapes level by level
    boxes_G4: Any,  # "y" float32
    crowd_G: Any,  # "y" bool
    image_index_G: Any,  # "y" int64, ascending
    sizes_B2: Any,  # "y" int64: height, width
    num_levels: int,
    per_cell: int,
    num_objects: int,
    num_images: int,
    on_corner: bool,
    low_quality: int,  # 0 none, 1 authors, 2 all
    positive_iou: float,
    background_iou: float,
    padding_is_ignored: bool,
    crowd_overlap: float,
) -> tuple[bytearray, bytearray, bytearray]:
    """int64 numbers: positive anchors, the object of each, ignored anchors, as `matching.Match` has them."""

def nms(boxes: Any, scores: Any, labels: Any, iou: float, kept: Any, /) -> int | None: ...
