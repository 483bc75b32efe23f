"""The embedded data set: what is drawn, what is labelled, and that nothing crosses from one split to another."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from foveal.data.scenes import DIFFICULTIES, SPLITS, STRIPS, draw_scene, scans, write_scenes
from foveal.errors import UsageError

COUNTS = {"train": 3, "val": 2, "test": 2}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "set", COUNTS, size=96)


def test_a_scan_belongs_to_one_split_and_all_scans_belong_to_some():
    numbers = np.concatenate([scans(split)[2] for split in SPLITS])
    assert len(numbers) == 1797
    assert len(np.unique(numbers)) == 1797


def test_equal_scans_are_never_in_two_splits():
    held = [{scan.tobytes() for scan in scans(split)[0]} for split in SPLITS]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]


def test_every_split_has_every_digit_and_train_has_most():
    values = [np.bincount(scans(split)[1], minlength=10) for split in SPLITS]
    assert min(counts.min() for counts in values) >= 20
    assert values[0].sum() > 2 * values[1].sum()


@pytest.mark.parametrize("photo", STRIPS)
def test_strips_of_a_photograph_do_not_overlap(photo: str):
    columns = sorted(STRIPS[photo].values())
    assert columns[0][0] == 0
    assert columns[-1][1] == 640
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(columns))


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_shows_only_scans_and_columns_of_its_split(split: str):
    allowed = set(scans(split)[2].tolist())
    for index in range(20):
        scene = draw_scene(split, index, 64, seed=3)
        first, last = STRIPS[scene.photo][split]
        assert first <= scene.crop[0] < scene.crop[2] <= last
        assert 0 <= scene.crop[1] < scene.crop[3] <= 427
        assert {digit.scan for digit in scene.digits} <= allowed


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_boxes_are_inside_the_picture_and_overlap_no_more_than_the_difficulty_says(difficulty: str):
    level = DIFFICULTIES[difficulty]
    for index in range(15):
        digits = draw_scene("train", index, 128, 1, level).digits
        assert len(digits) <= level.digits
        for i, a in enumerate(digits):
            x1, y1, x2, y2 = a.box
            assert 0 <= x1 < x2 <= 128
            assert 0 <= y1 < y2 <= 128
            for b in digits[:i]:
                w = min(x2, b.box[2]) - max(x1, b.box[0])
                h = min(y2, b.box[3]) - max(y1, b.box[1])
                smaller = min((x2 - x1) * (y2 - y1), (b.box[2] - b.box[0]) * (b.box[3] - b.box[1]))
                assert max(w, 0) * max(h, 0) <= level.overlap * smaller


def test_a_box_is_tight_on_its_ink():
    """With nothing else drawn, the pixels that differ from the same scene without ink fill the box to its edges."""
    bare = replace(DIFFICULTIES["easy"], digits=1, sticker=0, distractors=0, noise=0, opacity=1)
    ghost = replace(bare, opacity=0)
    seen = 0
    for index in range(12):
        with_ink = draw_scene("train", index, 128, 0, bare)
        if not with_ink.digits:
            continue
        x1, y1, x2, y2 = with_ink.digits[0].box
        without = draw_scene("train", index, 128, 0, replace(ghost, contrast=0))
        assert without.digits == with_ink.digits
        changed = (with_ink.image != without.image).any(2)
        outside = changed.copy()
        outside[y1:y2, x1:x2] = False
        assert not outside.any()
        inside = changed[y1:y2, x1:x2]
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
        seen += 1
    assert seen >= 8


def test_some_pictures_are_empty_and_most_are_not():
    counts = np.array([len(draw_scene("val", index, 64).digits) for index in range(120)])
    assert 4 <= (counts == 0).sum() <= 25
    assert counts.max() >= 3


def test_easy_ink_differs_from_what_is_behind_it():
    plain = replace(DIFFICULTIES["easy"], distractors=0, noise=0)
    weights = np.array([0.299, 0.587, 0.114])
    for index in range(10):
        for digit in draw_scene("train", index, 128, 5, plain).digits:
            x1, y1, x2, y2 = digit.box
            scene = draw_scene("train", index, 128, 5, plain).image[y1:y2, x1:x2]
            assert np.ptp(scene @ weights) >= 80


def test_a_scene_depends_on_seed_split_and_index_only():
    first = draw_scene("train", 7, 96, 1)
    draw_scene("val", 2, 64, 9, "hard")
    again = draw_scene("train", 7, 96, 1)
    assert np.array_equal(first.image, again.image)
    assert first.digits == again.digits
    for other in (draw_scene("train", 8, 96, 1), draw_scene("val", 7, 96, 1), draw_scene("train", 7, 96, 2)):
        assert not np.array_equal(first.image, other.image)


def test_a_smaller_set_is_the_beginning_of_a_larger_one(written: Path, tmp_path: Path):
    small = write_scenes(tmp_path / "small", {"train": 1}, size=96)
    name = "images/train-00000.jpg"
    assert (small / name).read_bytes() == (written / name).read_bytes()


def test_the_same_seed_writes_the_same_bytes(written: Path, tmp_path: Path):
    assert tree(write_scenes(tmp_path / "again", COUNTS, size=96)) == tree(written)


def test_labels_are_coco_and_every_picture_is_there(written: Path):
    for split, count in COUNTS.items():
        labels = json.loads((written / f"{split}.json").read_text())
        assert [category["name"] for category in labels["categories"]] == list("0123456789")
        assert len(labels["images"]) == count
        ids = {image["id"] for image in labels["images"]}
        for image in labels["images"]:
            picture = cv2.imread(str(written / "images" / image["file_name"]))
            assert picture.shape == (image["height"], image["width"], 3) == (96, 96, 3)
        for row in labels["annotations"]:
            assert row["image_id"] in ids
            assert row["area"] == row["bbox"][2] * row["bbox"][3] > 0
            assert row["category_id"] - 1 in range(10)


def test_png_holds_the_drawn_pixels_exactly(tmp_path: Path):
    folder = write_scenes(tmp_path / "png", {"val": 1}, size=64, picture_format="png")
    picture = cv2.imread(str(folder / "images/val-00000.png"))[:, :, ::-1]
    assert np.array_equal(picture, draw_scene("val", 0, 64).image)


def test_progress_counts_every_picture_and_a_complete_set_is_not_written_again(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    for _ in range(2):
        write_scenes(tmp_path / "set", COUNTS, size=64, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 7) for done in range(1, 8)]


def test_other_settings_replace_the_set_and_a_missing_picture_is_drawn_again(tmp_path: Path):
    folder = write_scenes(tmp_path / "set", {"train": 2}, size=64)
    before = tree(folder)
    (folder / "images/train-00001.jpg").unlink()
    assert tree(write_scenes(folder, {"train": 2}, size=64)) == before
    write_scenes(folder, {"train": 1}, size=64)
    assert sorted(tree(folder)) == ["images/train-00000.jpg", "scenes.json", "train.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"something else than scenes \(notes.txt\); name another folder"):
        write_scenes(tmp_path, {"train": 1}, size=64)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "set", {"train": 2}, size=64, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"counts": {"dev": 1}}, "train, val, test"),
        ({"counts": {"train": -1}}, "0 or more"),
        ({"counts": {"train": 1}, "difficulty": "silly"}, "easy, medium, hard"),
        ({"counts": {"train": 1}, "size": 8}, "at least 64"),
        ({"counts": {"train": 1}, "seed": -1}, "0 or more"),
        ({"counts": {"train": 1}, "picture_format": "gif"}, "jpg or png"),
    ],
)
def test_impossible_settings_are_refused_with_what_is_possible(tmp_path: Path, settings: dict, message: str):
    with pytest.raises(UsageError, match=message):
        write_scenes(tmp_path / "set", **settings)
