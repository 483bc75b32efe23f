"""Which format a folder has, which splits, and what is the same whatever the format."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_files import FORMATS, Picture, coco_document, read_back, write

from foveal.data.detect import find_data, read_data, splits_of
from foveal.errors import DataError, FovealError, UsageError

NAMES = ["cat", "big dog", "달팽이", 'a "b", <c>']
TWO_SPLITS = {
    "train": [
        Picture("a.png", (40, 60), [((0, 0, 10, 20), "cat", False), ((5.5, 6, 30, 40), "big dog", False)]),
        Picture("b.png", (30, 20)),
    ],
    "val": [Picture("c.png", (40, 60), [((1, 2, 3, 4), "big dog", False)])],
}


@st.composite
def pictures(draw: st.DrawFn, prefix: str) -> list[Picture]:
    found = []
    for index in range(draw(st.integers(1, 4))):
        height, width = draw(st.integers(4, 40)), draw(st.integers(4, 40))
        objects = []
        for _ in range(draw(st.integers(0, 4))):
            # Quarters of a pixel are exact in float32 whatever the format does to them; VOC takes a pixel for none.
            x1, y1 = draw(st.integers(0, 4 * width - 8)) / 4, draw(st.integers(0, 4 * height - 8)) / 4
            x2 = draw(st.integers(int(4 * x1) + 5, 4 * width)) / 4
            y2 = draw(st.integers(int(4 * y1) + 5, 4 * height)) / 4
            objects.append(((x1, y1, x2, y2), draw(st.sampled_from(NAMES)), draw(st.booleans())))
        found.append(Picture(f"{prefix}{index}.png", (height, width), objects))
    return found


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=15, deadline=None)
@given(train=pictures("t"), val=pictures("v"))
def test_a_set_reads_back_as_it_was_written(format: str, train: list[Picture], val: list[Picture]):
    knows_crowds = format in ("coco", "voc")
    with tempfile.TemporaryDirectory() as folder:
        write(format, Path(folder), {"train": train, "val": val}, NAMES)
        assert find_data(folder).format == format
        assert splits_of(folder) == ["train", "val"]
        tables = {split: read_data(folder, split) for split in ("train", "val")}
        assert tables["train"].class_names == tables["val"].class_names
        for split, written in (("train", train), ("val", val)):
            assert not tables[split].problems
            assert all(tables[split].path(row).is_file() for row in range(len(tables[split])))
            expected = [
                (p.name, p.size, [(box, name, crowd and knows_crowds) for box, name, crowd in p.objects])
                for p in written
            ]
            found = read_back(tables[split])
            assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
            for (_, _, objects), (_, _, wanted) in zip(found, expected, strict=True):
                assert [o[1:] for o in objects] == [o[1:] for o in wanted]
                assert [o[0] for o in objects] == [pytest.approx(o[0], abs=1e-4) for o in wanted]


@pytest.mark.parametrize("format", FORMATS)
def test_a_class_has_the_same_label_in_every_split(format: str, tmp_path: Path):
    write(format, tmp_path, TWO_SPLITS, ["cat", "big dog"])
    train, val = read_data(tmp_path, "train"), read_data(tmp_path, "val")
    assert train.class_names == val.class_names
    assert sorted(val.class_names) == ["big dog", "cat"]
    assert val.labels.tolist() == [val.class_names.index("big dog")]


@pytest.mark.parametrize("format", FORMATS)
def test_a_picture_without_objects_is_data(format: str, tmp_path: Path):
    write(format, tmp_path, TWO_SPLITS, ["cat", "big dog"])
    assert [len(table) for table in (read_data(tmp_path).objects(0), read_data(tmp_path).objects(1))] == [2, 0]


def test_a_split_answers_to_other_words_for_it(tmp_path: Path):
    write("coco", tmp_path, TWO_SPLITS, ["cat", "big dog"])
    assert read_data(tmp_path, "valid").split == "val"
    assert read_data(tmp_path).split == "train"
    with pytest.raises(UsageError, match="no split 'test'; it has train, val"):
        read_data(tmp_path, "test")
    with pytest.raises(UsageError, match="no split 'all'; it has train, val"):
        read_data(tmp_path, "all")


def test_a_set_that_is_not_divided_is_all_or_train(tmp_path: Path):
    write("coco", tmp_path, {"cells": TWO_SPLITS["train"]}, ["cat", "big dog"])
    assert splits_of(tmp_path) == ["cells"]
    assert {read_data(tmp_path, split).split for split in (None, "cells", "all", "train")} == {"cells"}
    with pytest.raises(UsageError, match="no split 'val'"):
        read_data(tmp_path, "val")


def test_a_lone_test_split_is_not_for_training(tmp_path: Path):
    write("coco", tmp_path, {"test": TWO_SPLITS["train"]}, ["cat", "big dog"])
    assert splits_of(tmp_path) == ["test"]
    with pytest.raises(UsageError, match="no split 'train'; it has test"):
        read_data(tmp_path, "train")


def test_a_call_without_data_says_what_is_looked_for(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file or folder"):
        read_data(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"holds no labels .* train\.json"):
        read_data(tmp_path)
    with pytest.raises(UsageError, match="no label format is called 'coko': use auto, coco, voc, yolo, csv"):
        read_data(tmp_path, format="coko")
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(UsageError, match="holds no labels"):
        read_data(tmp_path / "notes.txt")


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_of_data_sets_is_refused_by_their_names(format: str, tmp_path: Path):
    write("csv", tmp_path / "set1", {"train": TWO_SPLITS["train"]}, ["cat", "big dog"])
    write(format, tmp_path / "set2", {"train": TWO_SPLITS["train"]}, ["cat", "big dog"])
    with pytest.raises(UsageError, match="set1 and set2 look like data sets; give one of them"):
        read_data(tmp_path)
    assert len(read_data(tmp_path / "set1")) == len(read_data(tmp_path / "set2")) == 2


def test_of_many_data_sets_some_are_named(tmp_path: Path):
    for name in "abcde":
        write("coco", tmp_path / name, TWO_SPLITS, ["cat", "big dog"])
    with pytest.raises(UsageError, match="a, b, c and 2 more look like data sets"):
        read_data(tmp_path)


def test_a_data_set_is_read_whatever_else_lies_in_folders_below_it(tmp_path: Path):
    write("csv", tmp_path, TWO_SPLITS, ["cat", "big dog"])
    write("csv", tmp_path / "copy1", TWO_SPLITS, ["cat", "big dog"])
    write("csv", tmp_path / "copy2", TWO_SPLITS, ["cat", "big dog"])
    assert len(read_data(tmp_path)) == 2


@pytest.mark.parametrize("format", ["coco", "csv"])
@pytest.mark.parametrize("folders", [("train", "val"), ("annotations", "more"), ("train2017", "val2017")])
def test_folders_of_splits_and_of_annotations_are_one_data_set(format: str, folders: tuple[str, str], tmp_path: Path):
    for folder, split in zip(folders, TWO_SPLITS, strict=True):
        write(format, tmp_path / folder, {split: TWO_SPLITS[split]}, ["cat", "big dog"])
    assert splits_of(tmp_path) == ["train", "val"]


def test_of_two_formats_in_one_folder_the_named_one_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write("yolo", tmp_path, TWO_SPLITS, ["cat", "big dog"])
    write("coco", tmp_path, TWO_SPLITS, ["cat", "big dog"])
    assert read_data(tmp_path).format == "coco"
    assert "it holds labels as yolo too" in caplog.text
    assert read_data(tmp_path, format="yolo").format == "yolo"


def test_another_format_is_read_where_data_yaml_is_damaged(tmp_path: Path):
    write("coco", tmp_path, TWO_SPLITS, ["cat", "big dog"])
    (tmp_path / "data.yaml").write_text("names: [")
    assert read_data(tmp_path).format == "coco"
    with pytest.raises(DataError, match="malformed"):
        read_data(tmp_path, format="yolo")


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_never_raise_anything_but_our_errors(format: str, tmp_path: Path):
    splits = {split: [Picture(p.name, p.size, p.objects * 2) for p in TWO_SPLITS[split]] for split in TWO_SPLITS}
    write(format, tmp_path / "sound", splits, ["cat", "big dog"])
    draw = random.Random(format)
    suffixes = {".json", ".xml", ".txt", ".yaml", ".csv"}
    files = sorted(p for p in (tmp_path / "sound").rglob("*") if p.suffix in suffixes)
    for attempt in range(60):
        file = draw.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole[: draw.randrange(len(whole) + 1)] if attempt % 2 else whole)
        for _ in range(0 if attempt % 4 == 1 else draw.randrange(1, 8)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.choice(b"\x00\xff\x80\"'{}[],:-<>&!9eE\n \\./")
        file.write_bytes(damaged)
        with contextlib.suppress(FovealError):
            for split in splits_of(tmp_path / "sound"):
                table = read_data(tmp_path / "sound", split)
                assert all(0 <= label < len(table.class_names) for label in table.labels.tolist())
                assert all(str(problem) for problem in table.problems)
        file.write_bytes(whole)


def _first_box(table, answers) -> None:
    answers.put(table.objects(0).boxes.tolist())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_worker_sees_the_table(start: str, tmp_path: Path):
    write("coco", tmp_path, TWO_SPLITS, ["cat", "big dog"])
    context = multiprocessing.get_context(start)
    answers = context.Queue()
    worker = context.Process(target=_first_box, args=(read_data(tmp_path), answers))
    worker.start()
    assert answers.get(timeout=300) == [[0, 0, 10, 20], [5.5, 6, 30, 40]]
    worker.join()


def test_names_decide_where_splits_number_classes_differently(tmp_path: Path):
    train = coco_document(TWO_SPLITS["train"], ["cat", "big dog"])
    val = coco_document(TWO_SPLITS["val"], ["big dog", "cat"])
    for split, document in (("train", train), ("val", val)):
        (tmp_path / f"{split}.json").write_text(json.dumps(document))
    table = read_data(tmp_path, "val")
    assert (table.class_names, table.category_ids) == (("cat", "big dog"), (7, 10))
    assert table.labels.tolist() == [1]
    assert [(told.where, told.fatal) for told in table.problems] == [("category 7", False), ("category 10", False)]


def test_the_shared_sets_are_found(bloodcells: Path, coco_small: Path, raccoon: Path):
    assert splits_of(bloodcells) == ["train", "val", "test"]
    tables = [read_data(bloodcells, split) for split in splits_of(bloodcells)]
    assert [(len(table), table.num_boxes) for table in tables] == [(690, 11013), (198, 3190), (98, 1574)]
    assert tables[0].class_names == ("WBC", "RBC", "Platelets")
    assert splits_of(coco_small) == ["permissive"]
    small = read_data(coco_small, "all")
    assert (len(small), small.num_boxes, int(small.crowd.sum()), len(small.class_names)) == (92, 967, 13, 80)
    assert small.category_ids[:13] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14)
    assert splits_of(raccoon) == splits_of(raccoon / "all.json") == ["all"]
    for table in [*tables, small, read_data(raccoon)]:
        assert not table.problems
        assert all(table.path(row).is_file() for row in range(len(table)))
