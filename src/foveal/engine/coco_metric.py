"""The twelve COCO numbers, by hotcoco: pycocotools' results, a hundred times faster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveal.engine.evaluation import NUMBERS
from foveal.engine.metrics import Found, Truth


@dataclass(frozen=True)
class CocoNumbers:
    """numbers: the twelve by name; class_ap, class_ap50: one a class. None where there is no object to find."""

    numbers: dict[str, float | None]
    class_ap: list[float | None]
    class_ap50: list[float | None]


def coco_numbers(truth: Truth, found: Found) -> CocoNumbers:
    """AP averaged over IoU .5 to .95 and its relatives, COCO's rules: crowds ignored, at most 100 a picture and class.

    The AP of a class without objects is None and left out of the mean.
    """
    K = len(truth.class_names)
    if K == 0 or truth.num_images == 0 or bool(truth.ignored.all()):
        return CocoNumbers(dict.fromkeys(NUMBERS), [None] * K, [None] * K)
    from hotcoco import COCO, COCOeval

    objects = COCO.from_arrays(
        [{"id": row, "width": 0, "height": 0, "file_name": ""} for row in range(truth.num_images)],
        [{"id": label, "name": name} for label, name in enumerate(truth.class_names)],
        truth.image,
        truth.label,
        truth.xywh,
        area=truth.area,
        iscrowd=truth.ignored,
    )
    detections = objects.load_res(np.column_stack((found.image, found.xywh, found.score, found.label)))
    evaluator = COCOeval(objects, detections, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()
    numbers = {name: _known(value) for name, value in zip(NUMBERS, evaluator.stats, strict=True)}
    accumulated = evaluator.eval
    assert accumulated is not None
    # [10 IoUs, 101 recalls, K classes, 4 area ranges, 3 limits]; -1 where a class has no objects.
    precision_K = np.asarray(accumulated["precision"])[:, :, :, 0, -1].transpose(2, 0, 1)
    return CocoNumbers(numbers, [_mean(p) for p in precision_K], [_mean(p[0]) for p in precision_K])


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)
