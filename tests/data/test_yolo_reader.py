"""YOLO: data.yaml in its many forms, labels beside or parallel to pictures, and every bad line told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_files import faults, read_back, save_picture

from foveal.data.detect import read_data, splits_of
from foveal.data.table import Table
from foveal.data.yolo import find_yolo, label_names, read_yolo
from foveal.errors import DataError

YAML = "train: images/train\nnames: [cat, dog]\n"
LINE = "1 0.5 0.5 0.5 0.25\n"
"""The middle: half as wide, a quarter as high."""
MIDDLE = ((15, 15, 45, 25), "dog", False)


def lay(folder: Path, text: str = YAML, labels: str | bytes = LINE, split: str = "train", stem: str = "a") -> Path:
    """data.yaml, images/<split>/<stem>.png of 60 x 40 and its labels."""
    folder.mkdir(exist_ok=True)
    (folder / "data.yaml").write_text(text)
    save_picture(folder / f"images/{split}/{stem}.png", (40, 60))
    file = folder / f"labels/{split}/{stem}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(labels.encode() if isinstance(labels, str) else labels)
    return folder / "data.yaml"


def read(folder: Path, labels: str | bytes) -> Table:
    return read_yolo(lay(folder, labels=labels))


def test_fractions_become_pixels_of_the_picture(tmp_path: Path):
    table = read(tmp_path, LINE)
    assert read_back(table) == [("a.png", (40, 60), [MIDDLE])]
    assert (table.class_names, table.split, table.format, table.problems) == (("cat", "dog"), "train", "yolo", ())


def test_a_picture_without_a_label_file_or_with_an_empty_one_has_no_objects(tmp_path: Path):
    file = lay(tmp_path, labels="\n")
    save_picture(tmp_path / "images/train/b.png", (40, 60))
    table = read_yolo(file)
    assert [objects for _, _, objects in read_back(table)] == [[], []]
    assert not table.problems


def test_an_outline_is_taken_as_the_box_around_it(tmp_path: Path):
    table = read(tmp_path, "1 0.25 0.5 0.5 0.375 0.75 0.5 0.5 0.625\n")
    assert read_back(table) == [("a.png", (40, 60), [MIDDLE])]


def test_every_bad_line_is_told_with_its_number(tmp_path: Path):
    lines = [
        LINE.strip(),
        "2 .5 .5 .5 .5",
        "-1 .5 .5 .5 .5",
        "0.5 .5 .5 .5 .5",
        "nan .5 .5 .5 .5",
        "0 .5 .5 .5",
        "0 .5 .5 .5 .5 .9",
        "cat .5 .5 .5 .5",
        "0 nan .5 .5 .5",
        "0 30 20 30 10",
        "0 .5 .5 -.1 .5",
        "0 .5 .5 0 .5",
        "0 .9 .5 .5 .5",
        "0 1.0005 .5 1.0005 .5",
    ]
    table = read(tmp_path, "\n".join(lines))
    index, count = "no class has this index; there are 0 to 1", "the line has {} numbers instead of 5"
    assert [(where, field, problem.split(" (")[0]) for where, field, problem in faults(table)] == [
        ("line 2", "class", index),
        ("line 3", "class", index),
        ("line 4", "class", index),
        ("line 5", "class", index),
        ("line 6", "", count.format(4)),
        ("line 7", "", count.format(6)),
        ("line 8", "", "the line holds something that is no number"),
        ("line 10", "box", "a fraction of the picture is outside 0 .. 1"),
        ("line 9", "box", "the box is not finite"),
        ("line 11", "box", "the box is inverted: it ends before it starts"),
        ("line 12", "box", "the box has no area"),
        ("line 13", "box", "the box sticks out of its picture by more than 2 px and was clipped"),
        ("line 14", "box", "the box sticks out of its picture by more than 2 px and was clipped"),
    ]
    assert {told.file for told in table.problems} == {str(tmp_path / "labels/train/a.txt")}
    assert table.num_boxes == 3


@pytest.mark.parametrize("content", [b"\xff\xfe1\x00 \x00", b"\x00", b"1 0.5 0.5 \xff 0.25"])
def test_bytes_that_are_no_numbers_are_told(tmp_path: Path, content: bytes):
    table = read(tmp_path, content)
    assert faults(table) == [("line 1", "", "the line holds something that is no number")]


def test_names_may_be_a_mapping_with_gaps(tmp_path: Path):
    file = lay(tmp_path, "train: images/train\nnames:\n  7: dog\n  2: 10\n", "7 .5 .5 .5 .25\n2 .5 .5 1 1\n")
    table = read_yolo(file)
    assert (table.class_names, table.category_ids) == (("10", "dog"), (2, 7))
    assert table.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "where", "field"),
    [
        ("train: images/train\n", "", "names"),
        ("train: images/train\nnames: cat\n", "", "names"),
        ("train: images/train\nnames: []\n", "", "names"),
        ("train: images/train\nnames: [no, yes]\n", "", "names[0]"),
        ("train: images/train\nnames: {a: b}\n", "", "names"),
        ("train: [images/train\nnames: [a]", "line 2, column 6", ""),
        ("\x00", "", ""),
        ("- a", "", ""),
        ("", "", ""),
        ("a: !!timestamp x", "", ""),
        ("names: [a]\n" + "[" * 5000, "", ""),
    ],
)
def test_a_damaged_description_is_refused_with_its_place(tmp_path: Path, text: str, where: str, field: str):
    file = lay(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_yolo(file)
    assert [(told.file, told.field) for told in caught.value.problems] == [(str(file), field)]
    assert caught.value.problems[0].where.startswith(where)
    assert str(caught.value) == str(caught.value.problems[0])


def test_doubtful_names_are_told_and_told_apart(tmp_path: Path):
    table = read_yolo(lay(tmp_path, "train: images/train\nnc: 3\nnames: [cat, cat]\n"))
    assert table.class_names == ("cat", "cat (1)")
    assert [(told.field, told.fatal) for told in table.problems] == [("names[1]", False), ("nc", False)]


@pytest.mark.parametrize(
    "text",
    [
        "train: images/train\nval: images/val\n",
        "train: images/train/\nvalid: ./images/val\n",
        "train: ../images/train\nval: ../images/val\n",
        "path: .\ntrain: [images/train]\nval: [images/val]\n",
        "path: /datasets/of/another/machine\ntrain: images/train\nval: images/val\n",
        "path: ../datasets/cells\ntrain: train.txt\nval: images/val\ntest:\n",
        "train: lists/train.txt\nval: images/val\n",
        "path: images\ntrain: train\nval: val\n",
        "",
    ],
)
def test_splits_may_be_folders_or_lists_said_in_many_ways(tmp_path: Path, text: str):
    lay(tmp_path, text + "names: [cat, dog]", split="val", stem="b")
    file = lay(tmp_path, text + "names: [cat, dog]")
    (tmp_path / "lists").mkdir()
    (tmp_path / "train.txt").write_text("./images/train/a.png\n\n")
    (tmp_path / "lists/train.txt").write_text("images\\train\\a.png\n")
    assert find_yolo(tmp_path) == find_yolo(file) == {"train": file, "val": file}
    assert read_back(read_yolo(file, "train")) == [("a.png", (40, 60), [MIDDLE])]
    assert read_back(read_yolo(file, "val")) == [("b.png", (40, 60), [MIDDLE])]


@pytest.mark.parametrize("entries", ["train: ../train/images\nval: ../valid/images", "train: train\nval: valid", ""])
def test_roboflows_layout_is_found(tmp_path: Path, entries: str):
    (tmp_path / "data.yaml").write_text(f"{entries}\nnc: 2\nnames: ['cat', 'dog']\n")
    for split in ("train", "valid"):
        save_picture(tmp_path / split / "images/a.png", (40, 60))
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/a.txt").write_text(LINE)
    assert splits_of(tmp_path) == ["train", "val"]
    assert read_back(read_data(tmp_path, "val")) == [("a.png", (40, 60), [MIDDLE])]


def test_labels_may_lie_beside_pictures_with_classes_txt(tmp_path: Path):
    save_picture(tmp_path / "a.png", (40, 60))
    (tmp_path / "a.txt").write_text(LINE)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert splits_of(tmp_path) == ["all"]
    assert read_back(read_data(tmp_path, "train")) == [("a.png", (40, 60), [MIDDLE])]


def test_a_split_that_is_not_there_is_told(tmp_path: Path):
    file = lay(tmp_path, "train: images/train\nval: images/gone\ntest: ../../etc\nnames: [cat, dog]\n")
    assert list(find_yolo(tmp_path)) == ["train"]
    assert [(field, problem) for _, field, problem in faults(read_yolo(file))] == [
        ("val", "there is no such folder or list"),
        ("test", "the name leaves the folder"),
    ]
    with pytest.raises(DataError, match="there is no such folder or list"):
        read_yolo(lay(tmp_path / "other", "train: nowhere\nnames: [cat]\n", split="odd"))


def test_a_split_without_any_label_file_is_told(tmp_path: Path):
    file = lay(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "label")
    table = read_yolo(file)
    assert [(told.field, told.problem) for told in table.problems] == [
        ("train", "of the 1 picture of train none has a label file")
    ]
    assert str(tmp_path / "labels/train/a.txt") in table.problems[0].fix


def test_names_in_a_list_that_leave_the_folder_are_refused(tmp_path: Path):
    file = lay(tmp_path, "train: train.txt\nnames: [cat, dog]\n")
    (tmp_path / "train.txt").write_text("images/train/a.png\n../secret.png\n/etc/passwd\nimages/train/gone.png\n")
    table = read_yolo(file)
    assert [(Path(told.file).name, told.where) for told in table.problems] == [
        ("train.txt", "line 2"),
        ("train.txt", "line 3"),
        ("gone.png", ""),
    ]
    assert len(table) == 1


def test_labels_without_a_picture_are_told(tmp_path: Path):
    file = lay(tmp_path)
    (tmp_path / "labels/train/stray.txt").write_text(LINE)
    (tmp_path / "labels/train/classes.txt").write_text("cat\ndog\n")
    assert [(Path(told.file).name, told.problem) for told in read_yolo(file).problems] == [
        ("stray.txt", "the labels belong to no picture of this split")
    ]


@pytest.mark.parametrize(
    ("picture", "places"),
    [
        ("images/train/a.jpg", ["labels/train/a.txt", "images/train/a.txt"]),
        ("train/images/a.b.jpg", ["train/labels/a.b.txt", "train/images/a.b.txt"]),
        ("images/images/a.jpg", ["images/labels/a.txt", "images/images/a.txt"]),
        ("my_images/a.jpg", ["my_images/a.txt"]),
    ],
)
def test_the_last_images_folder_becomes_labels(picture: str, places: list[str]):
    assert list(label_names(picture)) == places
