"""COCO's results: a list of {image_id, category_id, bbox: [x, y, width, height], score}, for many pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from foveal.detections import Detections
from foveal.errors import DataError, UsageError
from foveal.interop.assembling import assembled, checked, listed, numbered


class _Result(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float = 1.0


def to_coco(found: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The results of one picture; `json.dump` of several lists together is a results file.

    category_ids: the data set's own ids by label, as `Detector.category_ids` has them; UsageError where a label has
    none.
    """
    most = max(found.labels.tolist(), default=-1)
    if most >= len(category_ids):
        raise UsageError(f"label {most} has none of the {len(category_ids)} category_ids; give one for every class")
    return [
        {
            "image_id": image_id,
            "category_id": int(category_ids[label]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), score, label in numbered(found)
    ]


def from_coco(
    results: Iterable[Mapping[str, Any]] | str | os.PathLike[str],
    category_ids: Sequence[int],
    class_names: Sequence[str] = (),
) -> dict[int, Detections]:
    """Detections by image id of results, or of the JSON file that holds them; in the order in which ids occur.

    category_ids, class_names: of each label. Annotations, which have no score, are read too. DataError names the
    place of what is wrong, and a category that is not listed.
    """
    content, what = listed(results)
    fix = "write {image_id, category_id, bbox: [x, y, width, height], score}"
    pictures: dict[int, list[_Result]] = {}
    for result in checked(content, list[_Result], what, fix):
        pictures.setdefault(result.image_id, []).append(result)
    labels = {category: label for label, category in enumerate(category_ids)}
    for result in (result for picture in pictures.values() for result in picture):
        if result.category_id not in labels:
            raise DataError(
                f"{what}: category_id {result.category_id} is none of {', '.join(map(str, category_ids))}; "
                "give all category_ids, in the order of the labels"
            )
        if result.bbox[2] < 0 or result.bbox[3] < 0:
            raise DataError(
                f"{what}: image_id {result.image_id}: bbox {list(result.bbox)} has a negative width or height; {fix}"
            )
    return {
        image_id: assembled(
            [(x, y, x + width, y + height) for x, y, width, height in (result.bbox for result in picture)],
            [result.score for result in picture],
            [labels[result.category_id] for result in picture],
            class_names,
            f"{what}: image_id {image_id}",
        )
        for image_id, picture in pictures.items()
    }
