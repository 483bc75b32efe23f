"""COCO JSON: what is read, where it is looked for, and everything that can be wrong with it, told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from label_files import faults, read_back, save_picture

from foveal.data.coco import coco_classes, find_coco, read_coco
from foveal.data.table import Table

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "cow"}]


def image(id: Any = 1, name: Any = "a.png", width: Any = 60, height: Any = 40) -> dict[str, Any]:
    return {"id": id, "file_name": name, "width": width, "height": height}


def box(id: Any = 1, bbox: Any = (10, 5, 20, 30), category: Any = 3, image: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": id, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def document(images: Any = None, annotations: Any = (), categories: Any = None) -> dict[str, Any]:
    return {
        "info": {"year": 2017},
        "images": [image()] if images is None else images,
        "annotations": list(annotations),
        "categories": CATEGORIES if categories is None else categories,
    }


def read(folder: Path, content: dict[str, Any] | str | bytes, **options: Any) -> Table:
    file = folder / "train.json"
    text = json.dumps(content) if isinstance(content, dict) else content
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_coco(file, **options)


def test_boxes_become_corners_and_classes_stand_in_the_order_of_their_ids(tmp_path: Path):
    table = read(tmp_path, document([image(), image(5, "b.png")], [box(1), box(2, (0, 0, 1.5, 2), 90, 5, iscrowd=1)]))
    assert (table.class_names, table.category_ids) == (("cat", "dog", "cow"), (3, 7, 90))
    assert read_back(table) == [
        ("a.png", (40, 60), [((10, 5, 30, 35), "cat", False)]),
        ("b.png", (40, 60), [((0, 0, 1.5, 2), "cow", True)]),
    ]
    assert table.image_ids.tolist() == [1, 5]
    assert (table.split, table.format, table.problems) == ("train", "coco", ())


def test_boxes_of_a_picture_may_be_scattered_and_keep_their_order(tmp_path: Path):
    boxes = [box(n, (n, 0, 1, 1), image=1 + n % 2) for n in range(6)]
    table = read(tmp_path, document([image(), image(2, "b.png")], boxes))
    assert table.objects(0).boxes[:, 0].tolist() == [0, 2, 4]
    assert table.objects(1).boxes[:, 0].tolist() == [1, 3, 5]


def test_an_empty_set_is_a_table_without_pictures(tmp_path: Path):
    table = read(tmp_path, document([], [], []))
    assert (len(table), table.num_boxes, table.class_names, table.problems) == (0, 0, (), ())


def test_whole_floats_and_truth_values_are_taken_for_what_they_mean(tmp_path: Path):
    table = read(tmp_path, document([image(1.0, width=60.0)], [box(1.0, image=1.0, category=3.0, iscrowd=True)]))
    assert read_back(table) == [("a.png", (40, 60), [((10, 5, 30, 35), "cat", True)])]
    assert not table.problems


def test_a_box_costs_few_bytes_all_of_them_shared_with_workers(tmp_path: Path):
    boxes = [box(n, image=n % 200, area=9.5) for n in range(2000)]
    table = read(tmp_path, document([image(n, f"{n:012d}.jpg") for n in range(200)], boxes))
    tensors = [value for value in vars(table).values() if isinstance(value, torch.Tensor)]
    assert all(tensor.is_shared() for tensor in tensors)
    # 16 for the box, 4 + 4 + 1 for label, area and flag, and a tenth of a picture's row.
    assert sum(tensor.nbytes for tensor in tensors) / 2000 < 32


@pytest.mark.parametrize(
    ("written", "problem", "fatal"),
    [
        ([1, 2, float("nan"), 4], "not finite", True),
        ([1, 2, 3, float("inf")], "not finite", True),
        ([1, 2, 1e9, 4], "far larger", True),
        ([-1e12, 2, 1e12, 4], "far larger", True),
        ([1, 2, 241, 4], "far larger", True),
        ([1, 2, -3, 4], "inverted", True),
        ([1, 2, 0, 4], "no area", True),
        ([1, 2, 3, 1e-9], "no area", True),
        ([60, 2, 3, 4], "outside", True),
        ([1, -9, 3, 9], "outside", True),
        ([1, 2, 62, 4], "sticks out", False),
        ([-2.5, 2, 10, 4], "sticks out", False),
    ],
)
def test_a_wrong_box_is_told_and_left_out_or_clipped(tmp_path: Path, written: list[float], problem: str, fatal: bool):
    table = read(tmp_path, document(annotations=[box(8), box(9, written)]))
    assert len(table.problems) == 1
    told = table.problems[0]
    assert (told.where, told.field, told.fatal) == ("annotation 9", "bbox", fatal)
    assert problem in told.problem
    assert told.file == str(tmp_path / "train.json")
    assert table.num_boxes == (1 if fatal else 2)
    if not fatal:
        x1, y1, x2, y2 = table.boxes[1].tolist()
        assert (x1, y1, x2, y2) == (max(0, written[0]), 2, min(60, written[0] + written[2]), 6)


def test_a_box_may_stick_out_by_two_pixels_and_stays_as_it_is(tmp_path: Path):
    table = read(tmp_path, document(annotations=[box(1, (-2, -1, 64, 43))]))
    assert table.boxes.tolist() == [[-2, -1, 62, 42]]
    assert not table.problems


@pytest.mark.parametrize("wrong", [[1, 2, 3], [1, 2, 3, 4, 5], ["1", 2, 3, 4], None, "1 2 3 4", {"x": 1}, []])
def test_a_box_of_wrong_length_or_type_is_told(tmp_path: Path, wrong: Any):
    table = read(tmp_path, document(annotations=[box(8), box(9, wrong)]))
    assert faults(table) == [("annotation 9", "bbox", "the field has the wrong type, length or range")]
    assert table.num_boxes == 1


def test_everything_wrong_is_told_at_once(tmp_path: Path):
    images = [image(), image(2, "../b.png"), image(1, "c.png"), image(4), image("5", 5), image(8, "/etc/passwd"), 17]
    annotations = [box(1, category=8), box(2, image=77), box(2), {"id": 3}, box(4, image=2), "x", box(6, iscrowd=[])]
    categories = [*CATEGORIES, {"id": 7, "name": "hen"}, {"id": 8}, {"id": 9, "name": "cat"}]
    table = read(tmp_path, document(images, annotations, categories))
    leaves, wrong = "the name leaves the folder or is no file's name", "the field has the wrong type, length or range"
    assert faults(table) == [
        ("category 7", "id", "'dog' has this id already"),
        ("category 8", "name", "the field is missing"),
        ("category 9", "name", "another category has this name"),
        ("image 2", "file_name", leaves),
        ("image 1", "id", "another picture has this id"),
        ("image 4", "file_name", "image 1 is the same picture"),
        ("image 5", "id", wrong),
        ("image 5", "file_name", wrong),
        ("image 8", "file_name", leaves),
        ("image number 7", "", "the entry is no object"),
        ("annotation 1", "category_id", "no category has this id"),
        ("annotation 2", "image_id", "no picture has this id"),
        ("annotation 3", "image_id", "the field is missing"),
        ("annotation 3", "category_id", "the field is missing"),
        ("annotation 3", "bbox", "the field is missing"),
        ("annotation number 6", "", "the entry is no object"),
        ("annotation 6", "iscrowd", wrong),
        ("annotation 2", "id", "2 annotations have this id"),
    ]
    assert all(problem.fix for problem in table.problems)
    assert [problem.field for problem in table.problems if not problem.fatal] == ["name", "iscrowd", "id"]
    # Annotation 4 belongs to a picture that was refused: told once, there.
    assert (len(table), table.num_boxes, table.class_names) == (1, 2, ("cat", "dog", "cat (9)", "cow"))


@pytest.mark.parametrize(
    "name", ["..", "a/../../b.png", "", ".", "C:\\b.png", "//host/b.png", "b\x00.png", "\ud800.png", 300 * "b" + ".png"]
)
def test_a_name_that_leaves_the_folder_or_is_none_is_refused(tmp_path: Path, name: str):
    table = read(tmp_path, document([image(name=name)]))
    assert [field for _, field, _ in faults(table)] == ["file_name"]
    assert len(table) == 0


@pytest.mark.parametrize("name", ["sub/a.png", "sub\\a.png", "./sub/a.png", "sub/../sub/a.png"])
def test_a_name_may_have_folders_and_backslashes(tmp_path: Path, name: str):
    assert read(tmp_path, document([image(name=name)])).relative_path(0) == "sub/a.png"


@pytest.mark.parametrize(
    ("content", "where", "problem"),
    [
        (b"", "line 1, column 1", "the file is cut off"),
        (b'{"images": [\n{"id": 1, "file_n', "line 2, column 11", "the file is cut off"),
        (b'{"images": [],\n "annotations": [], categories: []}', "line 2, column 21", "the file is malformed JSON"),
        (b'{"images": [], "annotations": [],\n"\xff": []}', "line 2", "the file is not UTF-8"),
        (b'[{"image_id": 1, "score": 0.5}]', "", "the file holds no COCO labels but another kind of JSON"),
        (b"[" * 100_000, "", "the file cannot be read as JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, content: bytes, where: str, problem: str):
    table = read(tmp_path, content)
    assert len(table) == 0
    assert len(table.problems) == 1
    assert table.problems[0].where == where
    assert table.problems[0].problem.startswith(problem)


def test_a_missing_part_is_told(tmp_path: Path):
    table = read(tmp_path, {"images": [image()], "categories": 3})
    assert faults(table) == [("", "annotations", "the part is missing"), ("", "categories", "the part is not a list")]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path):
    assert len(read(tmp_path, b"\xef\xbb\xbf" + json.dumps(document()).encode())) == 1


def test_ids_beyond_64_bits_are_told(tmp_path: Path):
    table = read(tmp_path, document([image(2**63)], [box(2**70)]))
    assert [(where, field) for where, field, _ in faults(table)] == [
        (f"image {2**63}", "id"),
        (f"annotation {2**70}", "id"),
        ("annotation 1", "image_id"),
    ]


def test_a_size_that_is_not_stated_is_read_from_the_picture(tmp_path: Path):
    save_picture(tmp_path / "a.png", (25, 35))
    table = read(tmp_path, document([{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "gone.png"}]))
    assert table.sizes.tolist() == [[25, 35]]
    assert [(Path(problem.file).name, problem.fatal) for problem in table.problems] == [("gone.png", True)]


@pytest.mark.parametrize(
    ("label_file", "pictures", "split"),
    [
        ("train.json", "", "train"),
        ("train.json", "images", "train"),
        ("val.json", "images/val", "val"),
        ("annotations/instances_train2017.json", "train2017", "train"),
        ("annotations/instances_val2017.json", "images/val2017", "val"),
        ("annotations/instances_test.json", "test", "test"),
        ("train/_annotations.coco.json", "train", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("labels.json", "data", "labels"),
        ("annotations/cells.json", "images", "cells"),
    ],
)
def test_label_files_and_pictures_are_found_where_people_put_them(
    tmp_path: Path, label_file: str, pictures: str, split: str
):
    file = tmp_path / label_file
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document()))
    save_picture(tmp_path / pictures / "a.png", (40, 60))
    assert find_coco(tmp_path) == {split: file}
    table = read_coco(file, tmp_path)
    assert table.path(0) == tmp_path / pictures / "a.png"
    assert table.split == split
    assert find_coco(file) == {split: file}
    assert read_coco(file).path(0).is_file()


def test_of_cocos_own_files_the_instances_are_taken(tmp_path: Path):
    for name in ("captions_val2017", "instances_val2017", "person_keypoints_val2017", "instances_train2017"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{name}.json").write_text("{}")
    assert [(split, file.stem) for split, file in find_coco(tmp_path).items()] == [
        ("train", "instances_train2017"),
        ("val", "instances_val2017"),
    ]


def test_other_json_is_no_label_file(tmp_path: Path):
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "detections.json").write_text('[{"image_id": 1, "categories": 2}]')
    assert find_coco(tmp_path) == {}


def test_classes_that_only_a_later_split_has_are_added(tmp_path: Path):
    splits = {"train": [(1, "cat"), (3, "dog")], "val": [(2, "cow"), (3, "hen"), (1, "cat")]}
    for split, categories in splits.items():
        content = document(categories=[{"id": id, "name": name} for id, name in categories])
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    assert coco_classes([tmp_path / "train.json", tmp_path / "val.json"]) == {"cat": 1, "cow": 2, "dog": 3, "hen": 4}
