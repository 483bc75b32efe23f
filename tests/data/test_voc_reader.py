"""Pascal VOC: pixel convention, layouts, and everything that can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_files import Picture, faults, read_back, save_picture, voc_xml, write_voc

from foveal.data.voc import find_voc, read_voc

XML = """<annotation>
  <filename>{filename}</filename>
  <size><width>60</width><height>40</height><depth>3</depth></size>
  {objects}
</annotation>
"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
  <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def xml(*objects: str, filename: str = "a.png") -> str:
    return XML.format(filename=filename, objects="\n".join(objects))


def item(*box: object, name: str = "cat", difficult: object = 0) -> str:
    return OBJECT.format(*box, name=name, difficult=difficult)


def loose(folder: Path, content: str | bytes, stem: str = "a") -> Path:
    save_picture(folder / f"{stem}.png", (40, 60))
    file = folder / f"{stem}.xml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_pixels_counted_from_one_become_half_open_boxes(tmp_path: Path):
    # The first ten columns and the first five rows: 1 .. 10 and 1 .. 5, both included.
    table = read_voc(loose(tmp_path, xml(item(1, 1, 10, 5), item(51.5, 31, 60, 40, name="dog", difficult=1))))
    assert read_back(table) == [("a.png", (40, 60), [((0, 0, 10, 5), "cat", False), ((50.5, 30, 60, 40), "dog", True)])]
    assert table.class_names == ("cat", "dog")
    assert not table.problems


def test_parts_of_objects_are_no_objects(tmp_path: Path):
    assert read_voc(loose(tmp_path, xml(item(1, 1, 10, 5)))).class_names == ("cat",)


def test_boxes_counted_from_zero_are_tolerated(tmp_path: Path):
    table = read_voc(loose(tmp_path, xml(item(0, 0, 59, 39))))
    assert table.boxes.tolist() == [[-1, -1, 59, 39]]
    assert not table.problems


@pytest.mark.parametrize(
    ("box", "field", "problem"),
    [
        ((5, 1, 5, 9), "bndbox", "the box has no area"),
        ((9, 1, 5, 9), "bndbox", "the box is inverted"),
        (("nan", 1, 5, 9), "bndbox", "the box is not finite"),
        ((61, 1, 70, 9), "bndbox", "the box lies outside"),
        ((1, 1, 70, 9), "bndbox", "the box sticks out"),
        (("x", 1, 5, 9), "bndbox/xmin", "the field is not a number"),
        ((1, 1, 5, ""), "bndbox/ymax", "the field is missing"),
    ],
)
def test_a_wrong_box_is_told_with_its_object(tmp_path: Path, box: tuple, field: str, problem: str):
    table = read_voc(loose(tmp_path, xml(item(1, 1, 10, 5), item(*box))))
    assert [(told.where, told.field) for told in table.problems] == [("object 2", field)]
    assert table.problems[0].problem.startswith(problem)
    assert table.problems[0].file == str(tmp_path / "a.xml")
    assert table.num_boxes == (2 if "sticks" in problem else 1)


def test_everything_wrong_in_one_file_is_told(tmp_path: Path):
    objects = [item(1, 1, 5, 5, name=" "), item(1, 1, 5, 5, difficult="yes"), "<object><name>cat</name></object>"]
    content = xml(*objects).replace("<width>60", "<width>wide")
    table = read_voc(loose(tmp_path, content))
    assert faults(table) == [
        ("", "size/width", "the field is not a whole number; the picture's own size was taken"),
        ("object 1", "name", "the object has no class"),
        ("object 2", "difficult", "the field is neither 0 nor 1; 0 was taken"),
        *(("object 3", f"bndbox/{corner}", "the field is missing") for corner in ("xmin", "ymin", "xmax", "ymax")),
    ]
    assert table.sizes.tolist() == [[40, 60]]
    assert table.num_boxes == 1


@pytest.mark.parametrize(
    ("content", "where", "problem"),
    [
        (b"", "line 1, column 1", "the file is malformed or cut-off XML"),
        (xml(item(1, 1, 5, 5)).encode()[:130], "line 4, column", "the file is malformed or cut-off XML"),
        (b"<annotation><a></annotation>", "line 1, column 18", "the file is malformed or cut-off XML"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "", "the file is"),
        (b"<annotation>\xff</annotation>", "line 1, column 13", "the file is malformed or cut-off XML"),
    ],
)
def test_a_damaged_file_is_one_problem_and_its_picture_left_out(
    tmp_path: Path, content: bytes, where: str, problem: str
):
    loose(tmp_path, xml(item(1, 1, 5, 5)), "b")
    table = read_voc(loose(tmp_path, content))
    assert [Path(told.file).name for told in table.problems] == ["a.xml"]
    assert table.problems[0].where.startswith(where)
    assert table.problems[0].problem.startswith(problem)
    assert [name for name, _, _ in read_back(table)] == ["b.png"]


def test_an_xml_bomb_is_refused(tmp_path: Path):
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">{entities}]><annotation>&a9;</annotation>'
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'
    for content in (bomb, outside, bomb.encode("utf-16"), f"<!-- -->\n{outside}"):
        table = read_voc(loose(tmp_path, content))
        assert len(table) == 0
        assert [told.problem[:37] for told in table.problems] == ["the file defines a document type or e"]


def test_lists_make_splits_and_classes_are_those_of_all(tmp_path: Path):
    cat, dog = (Picture(f"{n}.png", objects=[((0, 0, 5, 5), n, False)]) for n in ("cat", "dog"))
    write_voc(tmp_path, {"train": [dog], "val": [cat], "trainval": [dog, cat]}, [])
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("dog -1\n")
    assert list(find_voc(tmp_path)) == ["train", "val", "trainval"]
    table = read_voc(tmp_path, "train")
    assert (table.class_names, table.labels.tolist()) == (("cat", "dog"), [1])
    assert table.relative_path(0) == "JPEGImages/dog.png"
    assert find_voc(tmp_path / "Annotations") == find_voc(tmp_path)


def test_what_is_wrong_with_another_splits_list_is_not_told_here(tmp_path: Path):
    """VOC's own archives list test pictures whose labels they do not hold; that must not keep anyone from training."""
    write_voc(tmp_path, {"train": [Picture("a.png", objects=[((1, 1, 9, 9), "cat", False)])]}, [])
    (tmp_path / "ImageSets/Main/test.txt").write_text("held-back\n")
    assert not read_voc(tmp_path, "train").problems
    assert len(read_voc(tmp_path, "test").problems) == 1


def test_a_list_with_wrong_lines_is_told(tmp_path: Path):
    write_voc(tmp_path, {"train": [Picture("a.png"), Picture("b.png")]}, [])
    (tmp_path / "ImageSets/Main/train.txt").write_text("a 1\n\n../x\nc\na\nb\n")
    table = read_voc(tmp_path, "train")
    told = [(problem.where, problem.value) for problem in table.problems]
    assert told == [("line 3", "../x"), ("line 4", "c"), ("line 5", "a")]
    assert len(table) == 2


@pytest.mark.parametrize(
    ("annotations", "pictures", "split"),
    [
        ("Annotations", "JPEGImages", "all"),
        ("annotations", "images", "all"),
        ("Annotations", "images/nested", "all"),
        (".", ".", "all"),
        ("train", "train", "train"),
        ("valid", "valid", "val"),
        ("test/Annotations", "test/JPEGImages", "test"),
    ],
)
def test_files_are_found_where_people_put_them(tmp_path: Path, annotations: str, pictures: str, split: str):
    (tmp_path / annotations).mkdir(parents=True, exist_ok=True)
    (tmp_path / annotations / "a.xml").write_text(voc_xml(Picture("a.png")))
    save_picture(tmp_path / pictures / "a.png", (40, 60))
    assert list(find_voc(tmp_path)) == [split]
    table = read_voc(tmp_path, split)
    assert table.path(0) == tmp_path / pictures / "a.png"
    assert (table.split, table.problems) == (split, ())


def test_a_missing_picture_is_looked_for_among_the_others(tmp_path: Path):
    write_voc(tmp_path, {"train": [Picture("a.png"), Picture("gone.png")]}, [])
    (tmp_path / "JPEGImages/gone.png").unlink()
    table = read_voc(tmp_path, "train")
    assert [table.relative_path(row) for row in range(2)] == ["JPEGImages/a.png", "JPEGImages/gone.png"]


def test_the_picture_of_the_same_stem_comes_before_the_stated_name(tmp_path: Path):
    loose(tmp_path, xml(filename="b.png"))
    loose(tmp_path, xml(filename="../../secret.png"), "b")
    table = read_voc(tmp_path)
    assert [name for name, _, _ in read_back(table)] == ["a.png", "b.png"]
    assert [(told.field, told.fatal) for told in table.problems] == [("filename", False)]


def test_without_a_picture_of_its_stem_the_stated_name_counts(tmp_path: Path):
    save_picture(tmp_path / "real.png", (40, 60))
    for stem, stated in (("1", "real.png"), ("2", "real.jpg"), ("3", "gone.png"), ("4", "../x.png"), ("5", "")):
        (tmp_path / f"{stem}.xml").write_text(xml(filename=stated))
    table = read_voc(tmp_path)
    # gone.png stays in the table: inspecting the pictures tells that it is missing.
    assert [name for name, _, _ in read_back(table)] == ["real.png", "gone.png"]
    assert [(Path(told.file).name, told.problem) for told in table.problems] == [
        ("2.xml", "another file labels the same picture"),
        ("4.xml", "the name leaves the folder or is no file's name"),
        ("5.xml", "no picture is called 5"),
    ]
