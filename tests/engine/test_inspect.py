"""Inspecting a small data set with every fault that pictures can have, and sound ones without any."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.boxes import iou
from foveal.config import preset
from foveal.data.detect import read_data
from foveal.data.scenes import write_scenes
from foveal.engine import inspection_text
from foveal.engine.contents import contents, imbalance
from foveal.engine.inspect import draw_samples, inspect
from foveal.errors import UsageError

CONFIG = preset("light").with_changes({"data.size": 128, "data.max_size": 128})


def write_coco(
    folder: Path, split: str, pictures: list, boxes: list, names: tuple[str, ...] = ("cell", "dust")
) -> None:
    """pictures: (name, width, height); boxes: (picture's index, class index, [x, y, w, h], iscrowd)."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    labels = {
        "images": [
            {"id": 100 + i, "file_name": name, "width": w, "height": h} for i, (name, w, h) in enumerate(pictures)
        ],
        "annotations": [
            {"id": i, "image_id": 100 + picture, "category_id": 7 + 2 * label, "bbox": box, "iscrowd": crowd}
            for i, (picture, label, box, crowd) in enumerate(boxes, 1)
        ],
        "categories": [{"id": 7 + 2 * k, "name": name} for k, name in enumerate(names)],
    }
    (folder / f"{split}.json").write_text(json.dumps(labels))


def picture(path: Path, width: int = 128, height: int = 128, seed: int = 0, **options: object) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """train: a picture with a cell on an anchor, a speck of dust and a crowd, and one without objects; val: a cell."""
    cell, dust, crowd = [28, 28, 32, 32], [40, 40, 8, 8], [60, 60, 50, 50]
    boxes = [(0, 0, cell, 0), (0, 1, dust, 0), (0, 0, crowd, 1)]
    write_coco(tmp_path, "train", [("a.png", 128, 128), ("b.png", 128, 128)], boxes)
    write_coco(tmp_path, "val", [("c.png", 256, 256)], [(0, 0, [100, 100, 120, 120], 0)])
    for index, (name, side) in enumerate([("a", 128), ("b", 128), ("c", 256)]):
        picture(tmp_path / "images" / f"{name}.png", side, side, seed=index)
    return tmp_path


def test_everything_is_counted_by_split_class_and_size(small: Path):
    found = inspect(small, CONFIG).as_dict()
    assert found["images"]["total"] == 3
    assert found["images"]["without_objects"] == 1
    assert found["images"]["per_split"]["val"] == {
        "total": 1, "without_objects": 0, "width": (256, 256, 256), "height": (256, 256, 256)
    }  # fmt: skip
    assert found["boxes"]["total"] == 3
    assert found["boxes"]["ignored"] == 1
    assert found["boxes"]["per_size"] == {"small": 1, "medium": 1, "large": 1}
    assert found["boxes"]["per_size_at_training"] == {"small": 1, "medium": 2, "large": 0}
    assert found["boxes"]["per_split"]["train"]["total"] == 2
    assert found["classes"]["cell"]["total"] == 2
    assert found["classes"]["cell"]["images"] == 2
    assert found["classes"]["cell"]["ignored"] == 1
    assert found["classes"]["cell"]["per_split"] == {"train": 1, "val": 1}
    assert found["classes"]["dust"]["per_split"] == {"train": 1, "val": 0}
    assert found["problems"] == []


def test_coverage_is_that_of_the_training_split_with_the_share_of_every_split(small: Path):
    found = inspect(small, CONFIG).as_dict()["coverage"]
    assert found["split"] == "train"
    assert found["all"]["objects"] == 2
    assert found["per_class"]["cell"]["at_positive_iou"] == 1
    assert found["per_class"]["dust"]["only_best"] == 1
    assert found["per_split"] == {"train": 0.5, "val": 1.0}
    assert any(advice["flags"] == "--anchors.auto" for advice in found["advice"])


def test_one_split_can_be_inspected_alone(small: Path):
    found = inspect(small, CONFIG, split="val")
    assert list(found.as_dict()["images"]["per_split"]) == ["val"]
    assert found.coverage.split == "val"


def test_everything_is_one_json_object_with_the_promised_keys(small: Path):
    found = json.loads(json.dumps(inspect(small, CONFIG).as_dict()))
    assert {"images", "boxes", "classes", "coverage", "imbalance", "notes", "problems"} == set(found)


def test_fitted_anchors_are_what_is_inspected_with_auto(small: Path):
    found = inspect(small, CONFIG.with_changes({"anchors.auto": True}))
    assert found.coverage.all.at_positive_iou == 1
    assert "no anchor reaches" not in found.table()


def test_anchors_are_counted_by_what_the_loss_makes_of_them(small: Path):
    """Against the plain count over all anchors of the picture with objects; the other has background only."""
    table = read_data(small, "train")
    config = CONFIG.with_changes({"assignment.low_quality": "none", "assignment.crowd_overlap": 1.0})
    from foveal.anchors import Anchors, centred_inside

    anchors_N4 = Anchors.from_config(config).boxes(128, 128)
    inside_N = centred_inside(anchors_N4, (128, 128))
    best_N = iou(table.boxes[~table.crowd], anchors_N4).amax(0) * inside_N
    found = imbalance(table, config)
    assert found.pictures == 2
    assert found.anchors == len(anchors_N4)
    assert found.positive == int((best_N >= 0.5).sum()) / 2
    assert found.on_padding == int((~inside_N).sum())
    assert found.positive + found.ignored + found.background + found.on_padding == found.anchors
    assert found.positives_per_object == {"cell": 2 * found.positive, "dust": 0}


def test_only_some_pictures_of_a_large_split_are_matched(tmp_path: Path):
    table = read_data(write_scenes(tmp_path / "set", {"train": 6}, size=64), "train")
    assert imbalance(table, CONFIG, limit=4).pictures == 4
    assert imbalance(table.select(np.zeros(0, dtype=int)), CONFIG).pictures == 0


def test_a_split_without_pictures_has_no_sides(small: Path):
    nothing = contents(read_data(small, "train").select(np.zeros(0, dtype=int)), CONFIG)
    assert (nothing.pictures, nothing.width, nothing.everything.objects) == (0, (), 0)


def test_every_fault_of_pictures_is_told_at_once(small: Path):
    names = ["missing", "empty", "cut", "turned", "other size"]
    faulty = [(f"{name}.jpg", 64, 48) for name in names]
    write_coco(small, "test", [*faulty, ("large.png", 300, 200)], [])
    images = small / "images"
    (images / "empty.jpg").write_bytes(b"")
    picture(images / "cut.jpg", 64, 48)
    whole = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(images / "turned.jpg", 64, 48, exif=exif)
    picture(images / "other size.jpg", 80, 48, seed=5)
    picture(images / "large.png", 300, 200)
    config = CONFIG.with_changes({"data.max_pixels": 256 * 256 - 1})
    problems = {Path(problem.file).stem: problem for problem in inspect(small, config).problems}
    assert set(problems) == {*names, "c"}
    assert problems["turned"].field == "size"
    assert "48 x 64" in problems["turned"].problem
    assert "EXIF" in problems["turned"].problem
    assert "80 x 48" in problems["other size"].problem
    assert problems["missing"].where == "test, image 100"
    assert all(problem.fix for problem in problems.values())


def test_the_limit_on_pixels_is_the_settings_where_sizes_come_from_headers(tmp_path: Path):
    Image.new("1", (11_000, 10_000)).save(tmp_path / "large.png")
    (tmp_path / "train.csv").write_text("large.png,1,1,4000,4000,cell\n")
    (refused,) = inspect(tmp_path, CONFIG).problems
    assert refused.problem.endswith("more than data.max_pixels 100000000")
    assert refused.fatal
    found = inspect(tmp_path, CONFIG.with_changes({"data.max_pixels": 110_000_000}), check_pictures=False)
    assert found.problems == ()
    assert found.as_dict()["boxes"]["total"] == 1


def test_label_problems_and_picture_problems_are_listed_together(small: Path):
    write_coco(small, "val", [("gone.png", 128, 128)], [(0, 0, [10, 10, 0, 5], 0)])
    found = inspect(small, CONFIG).problems
    assert [problem.field for problem in found] == ["bbox", ""]
    text = inspect(small, CONFIG).table()
    assert "2 problems" in text
    assert "the box has no area" in text
    assert str(small / "images" / "gone.png") in text


def test_pictures_are_left_alone_when_not_asked_for(small: Path):
    (small / "images" / "a.png").write_bytes(b"not a picture")
    assert inspect(small, CONFIG, check_pictures=False).problems == ()
    assert len(inspect(small, CONFIG).problems) == 1


def test_a_picture_in_two_splits_is_told_whether_it_is_the_same_file_or_a_copy(small: Path):
    (small / "images" / "copy.png").write_bytes((small / "images" / "a.png").read_bytes())
    write_coco(small, "val", [("b.png", 128, 128), ("copy.png", 128, 128)], [])
    by_name, copied = inspect(small, CONFIG).problems
    assert by_name.file.endswith("b.png")
    assert by_name.problem == "split 'train' has the same picture"
    assert copied.file.endswith("copy.png")
    assert copied.problem.endswith("a.png")
    assert not copied.fatal
    assert [problem.file for problem in inspect(small, CONFIG, check_pictures=False).problems] == [by_name.file]


def test_copies_within_a_split_are_no_problem(small: Path):
    (small / "images" / "b.png").write_bytes((small / "images" / "a.png").read_bytes())
    assert inspect(small, CONFIG).problems == ()


def test_progress_counts_every_picture(small: Path):
    calls: list[tuple[int, int]] = []
    inspect(small, CONFIG, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_no_data_is_misuse(tmp_path: Path):
    with pytest.raises(UsageError):
        inspect(tmp_path, CONFIG)
    with pytest.raises(UsageError):
        inspect(tmp_path / "nowhere", CONFIG)


def test_a_damaged_label_file_is_a_problem_and_not_a_crash(small: Path):
    (small / "val.json").write_text('{"images": [')
    found = inspect(small, CONFIG)
    assert [Path(problem.file).name for problem in found.problems] == ["val.json"]
    assert found.as_dict()["images"]["per_split"]["val"]["total"] == 0
    assert "val" in found.table()


@pytest.mark.parametrize("text", ["train: [images/train", "train: images/train\n", "train: images/gone\nnames: [a]\n"])
def test_a_damaged_description_is_a_problem_and_not_a_crash(tmp_path: Path, text: str):
    (tmp_path / "data.yaml").write_text(text)
    found = inspect(tmp_path, CONFIG)
    assert [Path(problem.file).name for problem in found.problems] == ["data.yaml"]
    assert json.loads(json.dumps(found.as_dict()))["images"]["total"] == 0
    assert "data.yaml" in found.table()


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_its_width_and_names_everything(small: Path, width: int):
    text = inspect(small, CONFIG).table(width)
    pasted = [line for line in text.splitlines() if line.startswith("  --")]
    assert max(len(line) for line in text.splitlines() if line not in pasted and str(small) not in line) <= width
    for part in ("cell", "dust", "train", "val", "without objects", "background", "--anchors.auto", "No problems."):
        assert part in text
    assert "no anchor reaches most objects of dust (0 % of 1)" in text


def test_many_classes_are_cut_to_those_that_matter(small: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspection_text, "SHOWN_CLASSES", 1)
    text = inspect(small, CONFIG).table()
    assert "... 1 more (--json)" in text
    assert "dust       " in text.split("Anchors at")[1]
    assert "dust" not in text.split("Anchors at")[0]


def test_problems_of_one_cause_are_told_by_five_examples(tmp_path: Path):
    boxes = [(0, 0, [10 + i, 10, 0, 5], 0) for i in range(6)]
    write_coco(tmp_path, "train", [(f"{i}.png", 128, 128) for i in range(8)], boxes)
    found = inspect(tmp_path, CONFIG)
    text = found.table()
    assert "14 problems\n" in text
    lines = text[text.index("14 problems") :].splitlines()
    assert [line for line in lines if "more like" in line] == [
        "... and 1 more like the last; --json lists all of them",
        "... and 3 more like the last; --json lists all of them",
    ]
    assert sum("the box has no area" in line for line in lines) == 5
    assert sum("cannot be read (No such file or directory)" in line for line in lines) == 5
    assert sum(str(tmp_path) in line for line in lines) == 10
    assert len(found.as_dict()["problems"]) == 14


def test_problems_of_one_cause_stand_together(tmp_path: Path):
    boxes = [(0, 0, [1, 1, 0, 5], 0), (0, 0, [9, 9, -5, 5], 0)]
    for split in ("train", "val"):
        write_coco(tmp_path, split, [(f"{split}.png", 128, 128)], boxes)
    text = inspect(tmp_path, CONFIG, check_pictures=False).table()
    told = [line.split("(")[0].strip() for line in text[text.index("4 problems") :].splitlines() if "the box" in line]
    inverted = "the box is inverted: it ends before it starts"
    assert told == ["the box has no area", "the box has no area", inverted, inverted]
    assert "more like" not in text


def test_a_long_list_of_causes_says_how_many_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    boxes = [(0, 0, [10, 10, 0, 5], 0), (0, 0, [10, 10, 10, -5], 0)]
    write_coco(tmp_path, "train", [(f"{i}.png", 128, 128) for i in range(3)], boxes)
    monkeypatch.setattr(inspection_text, "SHOWN_CAUSES", 2)
    text = inspect(tmp_path, CONFIG).table()
    assert "5 problems\n" in text
    assert text.endswith("... and 3 more of other causes; --json lists all of them")


def test_pictures_without_any_object_are_inspected(tmp_path: Path):
    write_coco(tmp_path, "train", [("a.png", 128, 128)], [])
    picture(tmp_path / "images" / "a.png")
    found = inspect(tmp_path, CONFIG)
    assert found.as_dict()["images"]["without_objects"] == 1
    assert found.advice == ()
    assert "every anchor is background" in found.table()


def test_a_set_without_any_class_has_a_problem(tmp_path: Path):
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("a.png,,,,,\n")
    found = inspect(tmp_path, CONFIG)
    (told,) = found.problems
    assert (told.file, told.problem, told.fatal) == (str(tmp_path), "no class: the labels name none", True)
    assert "Positive anchors an object" not in found.table()


def test_names_that_may_be_one_class_are_noted_and_are_no_problem(small: Path):
    (small / "val.json").unlink()
    boxes = [(0, 0, [28, 28, 32, 32], 0), (0, 0, [60, 60, 50, 50], 0), (0, 1, [40, 40, 8, 8], 0)]
    write_coco(small, "train", [("a.png", 128, 128)], boxes, ("dust", "Dust"))
    found = inspect(small, CONFIG)
    assert found.problems == ()
    (note,) = found.as_dict()["notes"]
    assert note == "'Dust' (1) and 'dust' (2) may be one class"
    assert note in found.table()


def test_drawn_pictures_show_labels_and_matched_anchors(small: Path):
    folder = draw_samples(small, CONFIG, 5, small / "drawn")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["sheet.png", "train-000000-a.png", "train-000001-b.png"]
    with Image.open(folder / names[1]) as drawn, Image.open(folder / names[2]) as empty:
        assert drawn.size == empty.size == (640, 640)
        white = np.asarray(drawn.convert("RGB")).min(2) == 255
    # The cell lies exactly on an anchor; other positive ones lie around it, none in the far corner.
    assert white[100:340, 100:340].sum() > 200
    assert not white[:60, 500:].any()


def test_an_unreadable_picture_is_warned_of_and_the_others_are_drawn(small: Path, caplog: pytest.LogCaptureFixture):
    (small / "images" / "a.png").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING, "foveal"):
        folder = draw_samples(small, CONFIG, 2, small / "drawn")
    assert "a.png" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == ["sheet.png", "train-000001-b.png"]


def test_anchors_of_another_split_are_drawn_as_fitted_to_the_training_split(small: Path):
    config = CONFIG.with_changes({"anchors.auto": True})
    assert (draw_samples(small, config, 1, small / "drawn", split="val") / "val-000000-c.png").exists()


def test_drawing_nothing_is_misuse(small: Path):
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_samples(small, CONFIG, 0, small / "drawn")


def test_bloodcells_have_no_problems(bloodcells: Path):
    found = inspect(bloodcells, preset("light"), split="test")
    assert found.problems == ()
    assert found.as_dict()["boxes"]["total"] == 1574
    assert found.as_dict()["boxes"]["per_size"] == {"small": 59, "medium": 930, "large": 585}
