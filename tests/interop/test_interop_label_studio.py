import json

import pytest
from detections_of_all_kinds import NAMES, SIZE, TWO, assert_same, detections
from hypothesis import given
from hypothesis import strategies as st

from foveal.errors import DataError, UsageError
from foveal.interop import from_label_studio, to_label_studio
from foveal.interop.label_studio import local_file


def task(found=TWO, image="a.png", side="annotations"):
    return to_label_studio(found, SIZE, image, side)


def changed(**value):
    one = task(TWO[:1])
    one["annotations"][0]["result"][0]["value"].update(value)
    return [one]


def test_a_task_has_boxes_in_percent():
    found = task(side="predictions")
    assert found["data"] == {"image": "a.png"}
    [prediction] = found["predictions"]
    assert prediction["model_version"] == "foveal"
    assert prediction["result"][0] == {
        "id": "0",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 400,
        "original_height": 300,
        "image_rotation": 0,
        "value": {"x": 25, "y": 10, "width": 50, "height": 20, "rotation": 0, "rectanglelabels": ["dog"]},
        "score": 0.75,
    }
    assert "score" not in task()["annotations"][0]["result"][0]


@given(detections(NAMES))
def test_predictions_and_back_are_the_same(found):
    tasks = json.loads(json.dumps([task(found, side="predictions")]))
    assert_same(from_label_studio(tasks, NAMES, "predictions")["a.png"], found)


@given(detections(NAMES))
def test_annotations_and_back_have_the_same_boxes_and_a_score_of_one(found):
    back = from_label_studio([task(found)], NAMES)["a.png"]
    assert back.boxes.tolist() == found.boxes.tolist()
    assert back.names == found.names
    assert back.scores.tolist() == [1] * len(found)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_local_picture_comes_back_under_its_path(path):
    assert local_file("scans/a b&#.png") == "/data/local-files/?d=scans/a%20b%26%23.png"
    assert list(from_label_studio([task(image=local_file(path))])) == [path]


def test_an_export_is_read(tmp_path):
    choice = {"id": "x", "type": "choices", "value": {"choices": ["sharp"]}, "from_name": "c", "to_name": "image"}
    relation = {"type": "relation", "from_id": "0", "to_id": "1"}
    exported = task()
    exported["annotations"][0]["result"] += [choice, relation]
    exported |= {"id": 1, "predictions": [], "created_at": "2026-01-02T03:04:05Z"}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([exported]))
    assert from_label_studio(path)["a.png"].names == ["dog", "cat"]


def test_what_nobody_labelled_is_left_out_and_what_holds_nothing_is_empty():
    skipped = task(image="skipped.png")
    skipped["annotations"][0]["was_cancelled"] = True
    unseen = {"data": {"image": "unseen.png"}, "annotations": []}
    found = from_label_studio([task(TWO[:0], "empty.png"), skipped, unseen, task()])
    assert {path: len(one) for path, one in found.items()} == {"empty.png": 0, "a.png": 2}
    assert found["empty.png"].class_names == ("cat", "dog")


def test_of_two_people_the_last_counts():
    twice = task()
    twice["annotations"] += task(TWO[1:])["annotations"]
    assert from_label_studio([twice])["a.png"].names == ["cat"]


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (changed(rotation=12), "task 0: rectangle 0 is rotated by 12 degrees"),
        (changed(rectanglelabels=["cat", "dog"]), "has 2 labels; give it exactly one"),
        (changed(rectanglelabels=[]), "has 0 labels"),
        (changed(x="left"), r"task 0: Expected float, got str - at \$\[0\]\.value\.x; give original_width"),
        (changed(rectanglelabels=["cow"]), "class 'cow' is none of cat, dog, 0"),
        ([{"image": "a.png", "label": []}], "missing required field data .*; export it as JSON, not as JSON-MIN"),
        ([{"data": {"picture": "a.png"}}], "has no image; say which of picture is the picture"),
        ({"data": {}}, "array, got object"),
        ([task(), task()], "task 1: its picture a.png is that of task 0 as well"),
        (changed(width=-5), "x2 < x1"),
    ],
)
def test_faults_are_told_with_their_place(tasks, said):
    with pytest.raises(DataError, match=said):
        from_label_studio(tasks, NAMES)


def test_boxes_on_a_turned_picture_are_refused():
    turned = task(TWO[:1])
    turned["annotations"][0]["result"][0]["image_rotation"] = 90
    with pytest.raises(DataError, match="task 0: rectangle 0 is of a picture that was turned by 90 degrees"):
        from_label_studio([turned], NAMES)


def test_a_picture_may_have_a_second_task_that_nobody_labelled():
    unseen = {"data": {"image": "a.png"}, "annotations": []}
    assert len(from_label_studio([task(), unseen])["a.png"]) == 2


@pytest.mark.parametrize("call", [lambda: from_label_studio([task()], side="annotation"), lambda: task(side="results")])
def test_a_side_that_is_none_is_misuse(call):
    with pytest.raises(UsageError, match="is neither predictions nor annotations"):
        call()


def test_a_local_picture_behind_its_host_has_the_same_path():
    there = "https://a-long-name-of-a-host.in-some-company.example.com:8080/label-studio" + local_file("a b/c.png")
    assert list(from_label_studio([task(image=there)])) == ["a b/c.png"]


def test_what_is_no_list_is_told():
    with pytest.raises(UsageError, match="3: is neither a list nor the path"):
        from_label_studio(3)
