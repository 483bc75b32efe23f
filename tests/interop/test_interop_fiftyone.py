import json
import math

import pytest
from detections_of_all_kinds import NAMES, SIZE, TWO, assert_same, detections
from hypothesis import given

from foveal.errors import DataError, UsageError
from foveal.interop import from_fiftyone, to_fiftyone


def test_boxes_are_shares_of_the_pictures_sides():
    assert to_fiftyone(TWO, SIZE) == {
        "_cls": "Detections",
        "detections": [
            {
                "_cls": "Detection",
                "label": "dog",
                "bounding_box": [0.25, 0.1, 0.5, 0.2],
                "confidence": 0.75,
            },
            {"_cls": "Detection", "label": "cat", "bounding_box": [0, 0, 0.1, 0.5], "confidence": 0.5},
        ],
    }
    assert to_fiftyone(TWO[:0], SIZE) == {"_cls": "Detections", "detections": []}


@given(detections())
def test_fiftyones_json_and_back_is_the_same(found):
    assert_same(from_fiftyone(json.loads(json.dumps(to_fiftyone(found, SIZE))), SIZE, found.class_names), found)


def test_a_label_as_fiftyone_stores_it_is_read():
    stored = {
        "_cls": "Detections",
        "detections": [
            {
                "_id": {"$oid": "5f452489ef00e6374aad384a"},
                "_cls": "Detection",
                "attributes": {},
                "tags": ["checked"],
                "label": "dog",
                "bounding_box": [0.25, 0.1, 0.5, 0.2],
                "mask": None,
                "confidence": None,
                "index": None,
            }
        ],
    }

    class Label:
        def to_dict(self):
            return stored

    for label in (stored, Label()):
        assert [*from_fiftyone(label, SIZE)] == [([100, 30, 300, 90], 1, "dog")]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({}, "missing required field detections"),
        ({"detections": [{"label": "dog", "bounding_box": [0, 0, 1]}]}, r"\$\.detections\[0\]\.bounding_box"),
        ({"detections": [{"label": "dog", "bounding_box": [0, 0, 1, 1], "rotation": 3.0}]}, "rotated"),
        ({"detections": [{"label": "cow", "bounding_box": [0, 0, 1, 1]}]}, "class 'cow' is none of cat, dog, 0"),
    ],
)
def test_faults_are_told_with_their_place(label, said):
    with pytest.raises(DataError, match=said):
        from_fiftyone(label, SIZE, NAMES)


def test_a_picture_without_a_size_is_misuse():
    with pytest.raises(UsageError, match=r"0 x 400: give its \(height, width\)"):
        to_fiftyone(TWO, (0, 400))
    for size in ((math.inf, 5), (5, math.inf), (math.nan, 5)):
        with pytest.raises(UsageError, match=r"give its \(height, width\)"):
            to_fiftyone(TWO, size)
    for size in (None, 3, (3,), ("3", "4"), (1, 2, 3)):
        with pytest.raises(UsageError, match=r"give its \(height, width\) in pixels"):
            to_fiftyone(TWO, size)
