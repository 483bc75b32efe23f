"""CSV: headers or none, pictures without objects, and every bad row told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_files import faults, read_back, save_picture

from foveal.data.csv import find_csv, read_csv
from foveal.data.table import Table


def read(folder: Path, text: str | bytes, pictures: tuple[str, ...] = ("a.png", "b.png")) -> Table:
    for name in pictures:
        save_picture(folder / name, (40, 60))
    file = folder / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_csv(file)


ONE = [("a.png", (40, 60), [((1.5, 2, 30, 40), "cat", False)])]


def test_rows_of_a_picture_may_be_scattered(tmp_path: Path):
    table = read(tmp_path, "a.png,1.5,2,30,40,cat\nb.png,1,2,3,4,dog\na.png,5,6,7,8,ant\n")
    assert read_back(table) == [
        ("a.png", (40, 60), [((1.5, 2, 30, 40), "cat", False), ((5, 6, 7, 8), "ant", False)]),
        ("b.png", (40, 60), [((1, 2, 3, 4), "dog", False)]),
    ]
    assert table.class_names == ("ant", "cat", "dog")
    assert (table.split, table.format, table.problems) == ("labels", "csv", ())


@pytest.mark.parametrize(
    "text",
    [
        "path,x1,y1,x2,y2,class\na.png,1.5,2,30,40,cat\n",
        "image_path,xmin,ymin,xmax,ymax,label\na.png,1.5,2,30,40,cat\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,60,40,cat,1.5,2,30,40\n",
        "Image Name,X-Min,Y-Min,X-Max,Y-Max,cls\na.png,1.5,2,30,40,cat\n",
        "a.png;1.5;2;30;40;cat\n",
        "a.png\t1.5\t2\t30\t40\tcat",
        '\ufeff"a.png", 1.5, 2.0, 3e1, 40, cat\r\n\r\n',
        ".\\a.png,1.5,2,30,40,cat,,\n\n,,,,,\n",
    ],
)
def test_one_box_in_many_hands(tmp_path: Path, text: str):
    table = read(tmp_path, text)
    assert read_back(table) == ONE
    assert not [told for told in table.problems if "leaves" not in told.problem]


@pytest.mark.parametrize(
    ("header", "missing", "unknown"),
    [
        ("filename,x,y,width,height,label", "x1, y1, x2, y2", "x, y, width, height"),
        ("filename;x;y;w;h;label", "x1, y1, x2, y2", "x, y, w, h"),
        ("image_id,xmin,ymin,width,height,label", "x2, y2", "width, height"),
        ("image,x_center,y_center,width,height,class", "x1, y1, x2, y2", "x_center, y_center, width, height"),
        ("filename,ymin,xmin,ymax,xmax,thing", "class", "thing"),
        ("filename,x0,y0,x1,y1,label", "x2, y2", "x0, y0"),
        (
            "Bild,links,oben,rechts,unten,Klasse",
            "path, x1, y1, x2, y2, class",
            "Bild, links, oben, rechts, unten, Klasse",
        ),
        ("filename,label,split,x,y,width,height", "x1, y1, x2, y2", "split, x, y, width, height"),
        ("filename,label", "x1, y1, x2, y2", ""),
    ],
)
def test_a_header_in_other_words_is_refused_by_its_words(tmp_path: Path, header: str, missing: str, unknown: str):
    cells = ",".join(["a.png", "1.5", "2", "30", "40", "cat", "7"][: len(header.replace(";", ",").split(","))])
    table = read(tmp_path, f"{header}\n{cells}\n{cells}\n")
    (told,) = table.problems
    assert (told.where, told.field, told.value, told.fatal) == ("line 1", "header", header.replace(";", ","), True)
    words = f"; the words {unknown} are unknown" if len(unknown.split()) > 1 else f"; the word {unknown} is unknown"
    assert told.problem == f"the header names no column {missing}" + (words if unknown else "")
    assert "path,x1,y1,x2,y2,class" in told.fix
    assert (len(table), table.num_boxes, table.class_names) == (0, 0, ())


def test_columns_are_taken_by_their_words_and_not_by_their_places(tmp_path: Path):
    assert read_back(read(tmp_path, "filename,ymin,xmin,ymax,xmax,cls\na.png,2,1.5,40,30,cat\n")) == ONE


@pytest.mark.parametrize("row", ["b.png,,,,,", "b.png", "b.png,", "b.png, , ,,,"])
def test_a_row_without_a_box_is_a_picture_without_objects(tmp_path: Path, row: str):
    table = read(tmp_path, f"a.png,1.5,2,30,40,cat\n{row}\n")
    assert read_back(table) == [*ONE, ("b.png", (40, 60), [])]
    assert not table.problems


def test_every_bad_row_is_told_with_its_line(tmp_path: Path):
    rows = [
        "a.png,1,2,30,40,cat",
        "a.png,1,2,x,40,cat",
        "a.png,1,2,,40,cat",
        "a.png,,,,,cat",
        "a.png,1,2,30,40,",
        "a.png,1,2,30,40",
        "a.png,1,2,30,40,cat,7",
        "a.png,nan,2,30,40,cat",
        "a.png,30,2,30,40,cat",
        "a.png,30,2,1,40,cat",
        "a.png,100,2,130,40,cat",
        "a.png,1,2,1e12,40,cat",
        "a.png,1,2,70,40,cat",
        "../a.png,1,2,30,40,cat",
        "/etc/passwd,1,2,30,40,cat",
    ]
    table = read(tmp_path, "\n".join(rows) + "\n")
    found = sorted((int(where.split()[1]), field, problem[:20]) for where, field, problem in faults(table))
    missing = "the field is missing"
    assert found == [
        (2, "x2", "the field is not a n"),
        (3, "x2", missing),
        *((4, corner, missing) for corner in ("x1", "x2", "y1", "y2")),
        (5, "class", "the box has no class"),
        (6, "", "the row has 5 cells "),
        (7, "", "the row has 7 cells "),
        (8, "x1,y1,x2,y2", "the box is not finit"),
        (9, "x1,y1,x2,y2", "the box has no area "),
        (10, "x1,y1,x2,y2", "the box is inverted:"),
        (11, "x1,y1,x2,y2", "the box lies outside"),
        (12, "x1,y1,x2,y2", "the box is far large"),
        (13, "x1,y1,x2,y2", "the box sticks out o"),
        (14, "path", "the name leaves the "),
        (15, "path", "the name leaves the "),
    ]
    assert [told.where for told in table.problems if not told.fatal] == ["line 13"]
    assert table.boxes.tolist() == [[1, 2, 30, 40], [1, 2, 60, 40]]


def test_bytes_that_are_not_utf8_are_told_where_they_stand(tmp_path: Path):
    table = read(tmp_path, b"a.png,1.5,2,30,40,cat\na.png,1,2,3,4,\xff\n\xe9.png,1,2,3,4,cat\n")
    assert read_back(table) == ONE
    assert faults(table) == [
        ("line 2", "class", "the class is not UTF-8"),
        ("line 3", "path", "the name leaves the folder or is no file's name"),
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "path,x1,y1,x2,y2,class\n"])
def test_a_file_without_rows_is_told(tmp_path: Path, text: str):
    assert faults(read(tmp_path, text)) == [("", "", "the file has no rows")]


def test_a_missing_picture_is_told_once_and_its_faulty_boxes_are_told_too(tmp_path: Path):
    table = read(tmp_path, "a.png,1.5,2,30,40,cat\ngone.png,1,2,3,4,cat\ngone.png,3,2,1,4,cat\n")
    assert read_back(table) == ONE
    told = [(Path(problem.file).name, problem.where, problem.problem) for problem in table.problems]
    assert told == [
        ("gone.png", "", "the picture cannot be read (No such file or directory)"),
        ("labels.csv", "line 3", "the box is inverted: it ends before it starts (gone.png, size unknown)"),
    ]


def test_an_empty_picture_is_told_in_a_sentence(tmp_path: Path):
    (tmp_path / "void.png").touch()
    (told,) = read(tmp_path, "a.png,1.5,2,30,40,cat\nvoid.png,1,2,3,4,cat\n").problems
    assert (Path(told.file).name, told.problem) == ("void.png", "the picture is empty")


def test_an_absolute_path_inside_the_folder_is_taken(tmp_path: Path):
    assert read_back(read(tmp_path, f"{tmp_path}/a.png,1.5,2,30,40,cat\n")) == ONE


def test_a_huge_cell_is_told(tmp_path: Path):
    table = read(tmp_path, f"a.png,1.5,2,30,40,cat\na.png,1,2,3,4,{'x' * 200_000}\na.png,1,2,3,4,cat\n")
    assert [where for where, _, _ in faults(table)] == ["line 2"]
    assert table.num_boxes == 2


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train.csv", "train"),
        ("annotations.csv", "annotations"),
        ("annotations/val.csv", "val"),
        ("test/_annotations.csv", "test"),
    ],
)
def test_files_are_found_where_people_put_them(tmp_path: Path, file: str, split: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("a.png,1,2,3,4,cat\n")
    (tmp_path / "classes.csv").write_text("cat,0\n")
    assert find_csv(tmp_path) == {split: tmp_path / file}


def test_boxes_under_a_header_that_is_not_understood_are_found_so_that_it_can_be_told(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("filename,x,y,width,height,label\na.png,1,2,3,4,cat\n")
    assert find_csv(tmp_path) == {"labels": tmp_path / "labels.csv"}


def test_other_tables_are_no_labels(tmp_path: Path):
    (tmp_path / "results.csv").write_text("epoch,loss,AP\n1,0.5,0.2\n")
    (tmp_path / "classes.csv").write_text("cat,0\n")
    assert find_csv(tmp_path) == {}
