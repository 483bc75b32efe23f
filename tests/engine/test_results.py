import csv
import json

import pytest
import torch

from foveal.detections import Detections
from foveal.engine.results import open_table
from foveal.errors import FovealError, UsageError
from foveal.interop.label_studio import from_label_studio

NAMES = ("cat", 'dog, "big"')
IDS = (3, 90)
TWO = Detections(
    torch.tensor([[1.0, 2, 31.5, 42], [0, 0, 10, 10]]), torch.tensor([0.9, 0.25]), torch.tensor([1, 0]), NAMES
)


def write(out, format, *pictures):
    with open_table(out, format, NAMES, IDS) as table:
        for name, found in pictures:
            if found is None:
                table.fail(name, f"{name}: is damaged")
            else:
                table.add(name, (48, 64), found)
    return table.path


def test_coco_results_are_what_evaluators_read(tmp_path):
    path = write(tmp_path, "coco", ("a.png", TWO), ("empty.png", TWO[:0]), ("bad.png", None), ("b.png", TWO[:1]))
    assert path.name == "detections.json"
    assert json.loads(path.read_text()) == [
        {"image_id": 1, "category_id": 90, "bbox": [1.0, 2.0, 30.5, 40.0], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [0.0, 0.0, 10.0, 10.0], "score": 0.25},
        {"image_id": 3, "category_id": 90, "bbox": [1.0, 2.0, 30.5, 40.0], "score": 0.9},
    ]


def test_images_json_says_which_picture_an_id_is(tmp_path):
    write(tmp_path, "coco", ("a.png", TWO), ("empty.png", TWO[:0]), ("bad.png", None), ("b.png", TWO[:1]))
    sidecar = json.loads((tmp_path / "images.json").read_text())
    assert [(image["id"], image["file_name"]) for image in sidecar["images"]] == [
        (1, "a.png"),
        (2, "empty.png"),
        (3, "b.png"),
    ]
    assert sidecar["images"][0] == {"id": 1, "file_name": "a.png", "width": 64, "height": 48}
    assert sidecar["categories"] == [{"id": 3, "name": "cat"}, {"id": 90, "name": 'dog, "big"'}]


def test_csv_has_a_row_a_box_and_one_for_a_picture_without(tmp_path):
    path = write(tmp_path, "csv", ("a, b.png", TWO), ("empty.png", TWO[:0]), ("bad.png", None))
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "x1", "y1", "x2", "y2", "class", "score"],
        ["a, b.png", "1.0", "2.0", "31.5", "42.0", 'dog, "big"', "0.9"],
        ["a, b.png", "0.0", "0.0", "10.0", "10.0", "cat", "0.25"],
        ["empty.png", "", "", "", "", "", ""],
    ]


def test_json_lines_have_one_object_a_picture_and_tell_of_failures(tmp_path):
    path = write(tmp_path, "jsonl", ("a.png", TWO[:1]), ("empty.png", TWO[:0]), ("bad.png", None))
    first, second, third = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {
        "image": "a.png",
        "width": 64,
        "height": 48,
        "detections": [{"box": [1.0, 2.0, 31.5, 42.0], "score": 0.9, "class": 'dog, "big"', "category_id": 90}],
    }
    assert second["detections"] == []
    assert third == {"image": "bad.png", "error": "bad.png: is damaged"}


def test_label_studio_gets_a_task_a_picture(tmp_path):
    path = write(tmp_path, "labelstudio", ("a b.png", TWO), ("empty.png", TWO[:0]), ("bad.png", None))
    first, empty = json.loads(path.read_text())
    assert first["data"] == {"image": "/data/local-files/?d=a%20b.png"}
    assert empty["predictions"][0]["result"] == []
    found = from_label_studio(path, NAMES, side="predictions")
    assert list(found) == ["a b.png", "empty.png"]
    torch.testing.assert_close(found["a b.png"].boxes, TWO.boxes)
    assert found["a b.png"].names == TWO.names


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("coco", "detections.json"),
        ("csv", "detections.csv"),
        ("jsonl", "detections.jsonl"),
        ("labelstudio", "labelstudio.json"),
    ],
)
def test_a_table_without_pictures_is_a_table(tmp_path, format, name):
    path = write(tmp_path, format)
    assert path == tmp_path / name
    if format in ("coco", "labelstudio"):
        assert json.loads(path.read_text()) == []
    if format == "coco":
        assert json.loads((tmp_path / "images.json").read_text())["images"] == []


@pytest.mark.parametrize("format", ["coco", "csv", "jsonl", "labelstudio"])
def test_until_it_is_complete_the_last_table_stays(tmp_path, format):
    path = write(tmp_path, format, ("old.png", TWO))
    before = path.read_bytes()
    with open_table(tmp_path, format, NAMES, IDS) as table:
        table.add("new.png", (48, 64), TWO[:1])
        assert path.read_bytes() == before
    assert path.read_bytes() != before
    assert not list(tmp_path.glob("*.part"))


def test_after_a_stop_what_was_found_is_in_the_part_file(tmp_path):
    def stopped() -> None:
        with open_table(tmp_path, "coco", NAMES, IDS) as table:
            table.add("a.png", (48, 64), TWO)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not (tmp_path / "detections.json").exists()
    assert len(json.loads((tmp_path / "detections.json.part").read_text())) == 2


def test_results_are_on_disk_as_they_come(tmp_path):
    with open_table(tmp_path, "jsonl", NAMES, IDS) as table:
        table.add("a.png", (48, 64), TWO)
        assert len((tmp_path / "detections.jsonl.part").read_text().splitlines()) == 1


@pytest.mark.parametrize("format", ["coco", "csv", "jsonl"])
def test_file_names_of_any_bytes_and_any_script_are_written(tmp_path, format):
    path = write(tmp_path, format, ("혈액-\udcff.png", TWO))
    assert "혈액-".encode() in (path if format != "coco" else tmp_path / "images.json").read_bytes()


def test_a_file_in_the_place_of_the_folder_is_misuse(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="out: cannot be made a folder"):
        open_table(tmp_path / "out", "csv", NAMES, IDS)


def test_a_table_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "detections.csv.part").mkdir()
    with pytest.raises(FovealError, match=r"detections\.csv: cannot be written"):
        open_table(tmp_path, "csv", NAMES, IDS)


def test_an_unknown_format_is_misuse(tmp_path):
    with pytest.raises(UsageError, match="no table format 'xml': use coco, csv, jsonl or labelstudio"):
        open_table(tmp_path, "xml", NAMES, IDS)
