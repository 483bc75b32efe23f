"""Results and annotations files: what is read, and how faults are named."""

from __future__ import annotations

import json

import pytest

from foveal.engine.evaluate import evaluate_files
from foveal.engine.scored_files import read_annotations
from foveal.errors import DataError, UsageError

TRUTH = {
    "images": [{"id": 7}, {"id": 3}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4.5]}],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
}
RESULT = {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4.5], "score": 0.9}


@pytest.fixture
def scored(tmp_path):
    """Scores what is given, objects or the text of a file."""

    def score(results, truth=TRUTH):
        for name, content in (("results.json", results), ("truth.json", truth)):
            (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return evaluate_files(tmp_path / "results.json", tmp_path / "truth.json")

    return score


def annotations_of(**changes):
    return TRUTH | {"annotations": [TRUTH["annotations"][0] | changes]}


def test_pictures_and_classes_come_in_the_order_of_their_ids(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    read = read_annotations(tmp_path / "truth.json")
    assert read.truth.class_names == ("cat", "dog")
    assert read.image_ids.tolist() == [3, 7]
    assert (read.truth.image.tolist(), read.truth.label.tolist()) == ([1], [0])
    assert read.truth.xywh.tolist() == [[1, 2, 3, 4.5]]
    assert read.truth.area.tolist() == [13.5]
    assert read.truth.ignored.tolist() == [False]


def test_a_right_detection_scores_one_and_an_empty_file_zero(scored):
    assert scored([RESULT]).ap == pytest.approx(1)
    assert scored([]).ap == 0


def test_categories_of_one_name_stay_apart(scored):
    truth = TRUTH | {"categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "cat"}]}
    assert list(scored([RESULT], truth).per_class) == ["cat (2)", "cat (5)"]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([RESULT, RESULT | {"score": "high"}], r"results.json, \[1\]: score: expected a number, got a text"),
        ([RESULT | {"bbox": [1, 2, 3]}], r"\[0\]: bbox: .*length 4"),
        ([RESULT | {"bbox": [1, 2, None, 4]}], r"\[0\]: bbox\[2\]: expected a number, got `null`"),
        ([{"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]}], r"\[0\]: .*missing required field `score`"),
        ([RESULT | {"image_id": "7.jpg"}], r"\[0\]: image_id: expected a whole number, got a text"),
        ([RESULT | {"image_id": 8}], r"\[0\]: image_id 8: the annotations have no such picture"),
        ([RESULT | {"bbox": [1, 2, -3, 4]}], r"\[0\]: bbox \[1.0, 2.0, -3.0, 4.0\]: has a negative width"),
        ([RESULT | {"category_id": 1}], r"category_id 1: not one detection .* write the annotations' ids \(2, 5\)"),
        ([7], r"\[0\]: expected an object, got a whole number"),
        (
            {"annotations": []},
            r"results.json: expected a list, got an object.* a list of \{image_id, cat",
        ),
        ('[{"image_id": 7,', r"results.json: .*is the file whole"),
        ("", r"results.json: .*is the file whole"),
        (json.dumps([RESULT | {"score": float("nan")}]), r"results.json: .*NaN and Infinity are no JSON numbers"),
        (json.dumps([RESULT]).replace("0.9", "1e999"), r"\[0\]: score: number out of range"),
    ],
)
def test_a_faulty_results_file_is_refused_by_entry_and_field(scored, results, message):
    with pytest.raises(DataError, match=message):
        scored(results)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"images": []}, "truth.json: has no annotations and no categories"),
        ([], r"truth.json: expected an object, got a list; it should hold an object with images"),
        (annotations_of(bbox=None), r"truth.json, annotations\[0\]: bbox: expected a list, got `null`"),
        (annotations_of(bbox=[0, 0, 4, -1]), r"annotations\[0\]: bbox .* negative"),
        (TRUTH | {"images": [{"id": 7}, {"id": 7}]}, r"truth.json, images: id 7: is there more than once"),
        (TRUTH | {"categories": [{"id": 2}]}, r"categories\[0\]: .*`name`"),
        (TRUTH | {"images": {}}, "truth.json: expected a list, got an object"),
    ],
)
def test_a_faulty_annotations_file_is_refused_by_entry_and_field(scored, truth, message):
    with pytest.raises(DataError, match=message):
        scored([RESULT], truth)


def test_all_faults_are_told_and_a_few_shown(scored):
    with pytest.raises(DataError, match="and 3 more") as caught:
        scored([RESULT | {"score": None}] * 8)
    assert len(caught.value.problems) == 8
    assert caught.value.problems[7].where == "[7]"


def test_what_the_annotations_do_not_list_is_left_out_and_noted(scored):
    stray = annotations_of()
    stray["annotations"].append({"id": 2, "image_id": 99, "category_id": 2, "bbox": [0, 0, 1, 1]})
    found = scored([RESULT, RESULT | {"category_id": 11}], stray)
    assert found.ap == pytest.approx(1)
    assert (found.objects, found.detections) == (1, 1)
    assert "left out 1 annotation of" in found.notes[0]
    assert "left out 1 detection of" in found.notes[1]
    assert "list: 11" in found.notes[1]


def test_a_file_that_is_not_there_is_misuse(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere.json: cannot be read"):
        evaluate_files(tmp_path / "nowhere.json", tmp_path / "nowhere.json")
