import json

import pytest
from detections_of_all_kinds import NAMES, TWO, assert_same, detections
from hypothesis import given
from hypothesis import strategies as st

from foveal.errors import DataError, UsageError
from foveal.interop import from_coco, to_coco

IDS = (3, 90, 7)


def test_results_are_xywh_under_the_data_sets_ids():
    assert to_coco(TWO, 12, IDS) == [
        {"image_id": 12, "category_id": 90, "bbox": [100, 30, 200, 60], "score": 0.75},
        {"image_id": 12, "category_id": 3, "bbox": [0, 0, 40, 150], "score": 0.5},
    ]
    assert to_coco(TWO[:0], 12, IDS) == []


@given(detections(NAMES), detections(NAMES))
def test_results_of_two_pictures_and_back_are_the_same(first, second):
    results = json.loads(json.dumps(to_coco(first, 1, IDS) + to_coco(second, 2, IDS)))
    found = from_coco(results, IDS, NAMES)
    assert set(found) == {number for number, one in ((1, first), (2, second)) if len(one)}
    for number, one in ((1, first), (2, second)):
        if len(one):
            assert_same(found[number], one)


@given(st.permutations(to_coco(TWO, 1, IDS)))
def test_the_best_comes_first_whatever_the_order(results):
    assert_same(from_coco(results, IDS, NAMES)[1], TWO)


def test_a_file_of_results_is_read(tmp_path):
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(to_coco(TWO, 5, IDS)))
    assert_same(from_coco(path, IDS, NAMES)[5], TWO)
    assert from_coco([], IDS) == {}


def test_annotations_are_read_with_a_score_of_one():
    annotation = {"id": 9, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    assert [*from_coco([annotation], IDS, NAMES)[4]] == [([1, 2, 4, 6], 1, "0")]


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1], "score": 1}], r"at \$\[0\]\.bbox; write \{image_id"),
        ([{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1], "score": "1"}], r"at \$\[0\]\.score"),
        ([{"image_id": 1, "category_id": 4, "bbox": [0, 0, 1, 1], "score": 1}], "category_id 4 is none of 3, 90, 7"),
        ([{"image_id": 1, "category_id": 3, "bbox": [0, 0, float("inf"), 1], "score": 1}], "image_id 1: box and score"),
        ([{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1e300, 1], "score": 1}], "finite"),
        ({"annotations": []}, "array, got object"),
    ],
)
def test_faults_are_told_with_their_place(results, said):
    with pytest.raises(DataError, match=said):
        from_coco(results, IDS)


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        from_coco(tmp_path / "none.json", IDS)
    (tmp_path / "cut.json").write_text("[{")
    with pytest.raises(DataError, match=r"cut\.json: is not JSON"):
        from_coco(tmp_path / "cut.json", IDS)


def test_too_few_category_ids_are_told():
    with pytest.raises(UsageError, match="has none of the 0 category_ids"):
        to_coco(TWO, 1, ())


def test_what_is_no_list_is_told():
    with pytest.raises(UsageError, match="3: is neither a list nor the path"):
        from_coco(3, (1,))


@pytest.mark.parametrize("bbox", [[1, 2, -3, 4], [1, 2, 3, -4]])
def test_a_negative_side_is_told(bbox):
    with pytest.raises(DataError, match=r"image_id 5: bbox .* negative width or height"):
        from_coco([{"image_id": 5, "category_id": 1, "bbox": bbox}], (1,))
