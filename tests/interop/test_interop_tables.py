import pandas
import pyarrow
import pyarrow.parquet
import pytest
from detections_of_all_kinds import NAMES, TWO, assert_same, detections
from hypothesis import given
from hypothesis import strategies as st

from foveal.engine.results import open_table
from foveal.errors import DataError, UsageError
from foveal.interop import from_arrow, from_pandas, to_arrow, to_pandas

COLUMNS = ["path", "x1", "y1", "x2", "y2", "class", "score"]
PICTURES = {"a.png": TWO, "empty.png": TWO[:0]}
both = pytest.mark.parametrize(
    ("to", "back"), [(to_pandas, from_pandas), (to_arrow, from_arrow)], ids=["pandas", "arrow"]
)


def test_a_frame_has_a_row_a_detection_and_one_for_a_picture_without():
    frame = to_pandas(PICTURES)
    assert list(frame.columns) == COLUMNS
    assert frame.iloc[0].tolist() == ["a.png", 100, 30, 300, 90, "dog", 0.75]
    assert frame["path"].tolist() == ["a.png", "a.png", "empty.png"]
    assert frame.iloc[2].isna().tolist() == [False] + [True] * 6
    assert frame.groupby("class")["score"].max().to_dict() == {"cat": 0.5, "dog": 0.75}


def test_an_arrow_table_has_nulls_where_nothing_was_found():
    table = to_arrow(PICTURES)
    assert table.column_names == COLUMNS
    assert table.schema.field("x1").type == pyarrow.float32()
    assert table["class"].to_pylist() == ["dog", "cat", None]
    assert table["score"].to_pylist() == [0.75, 0.5, None]


@both
@given(pictures=st.dictionaries(st.text(min_size=1, max_size=5), detections(NAMES), max_size=4))
def test_there_and_back_is_the_same(to, back, pictures):
    found = back(to(pictures), NAMES)
    assert list(found) == list(pictures)
    for path, one in pictures.items():
        assert_same(found[path], one)


def test_a_table_survives_parquet_and_a_frame_arrow(tmp_path):
    pyarrow.parquet.write_table(to_arrow(PICTURES), tmp_path / "found.parquet")
    assert_same(from_arrow(pyarrow.parquet.read_table(tmp_path / "found.parquet"), NAMES)["a.png"], TWO)
    assert_same(from_arrow(pyarrow.Table.from_pandas(to_pandas(PICTURES)), NAMES)["a.png"], TWO)
    assert_same(from_pandas(to_arrow(PICTURES).to_pandas(), NAMES)["a.png"], TWO)


def test_the_csv_of_predict_is_read_even_where_classes_are_called_by_digits(tmp_path):
    with open_table(tmp_path, "csv", NAMES, (0, 1, 2)) as table:
        table.add("a.png", (300, 400), TWO[:0])
        table.add("b.png", (300, 400), TWO)
    found = from_pandas(pandas.read_csv(tmp_path / "detections.csv"), NAMES)
    assert_same(found["b.png"], TWO)
    assert len(found["a.png"]) == 0
    digits = pandas.DataFrame([["a.png", 0, 0, 4, 4, 0.0, 1], ["b.png", *[None] * 6]], columns=COLUMNS)
    assert from_pandas(digits)["a.png"].names == ["0"]


@both
def test_rows_of_one_picture_may_lie_anywhere_and_labels_need_no_score(to, back):
    table = to(PICTURES)
    if isinstance(table, pandas.DataFrame):
        shuffled, unscored = table.iloc[[1, 2, 0]], table.drop(columns="score")
    else:
        shuffled, unscored = table.take([1, 2, 0]), table.drop_columns("score")
    assert_same(back(shuffled, NAMES)["a.png"], TWO)
    assert back(unscored, NAMES)["a.png"].scores.tolist() == [1, 1]


@both
def test_without_names_the_classes_are_those_that_occur(to, back):
    assert back(to(PICTURES))["empty.png"].class_names == ("cat", "dog")
    assert back(to({})) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop(columns=["x1", "class"]), "no column x1, class"),
        (lambda frame: frame.assign(x1=[1, None, None]), "a.png: box and score of detection 1"),
        (lambda frame: frame.assign(path=["a.png", None, "b.png"]), "row 1 has no path"),
        (lambda frame: frame.assign(**{"class": ["cat", None, None]}), "row 1 has no class"),
        (lambda frame: frame.assign(**{"class": "cow"}), "class 'cow' is none of cat, dog, 0"),
    ],
)
def test_faults_are_told_with_their_place(change, said):
    frame = change(to_pandas(PICTURES))
    with pytest.raises(DataError, match=said):
        from_pandas(frame, NAMES)


@both
@pytest.mark.parametrize("column", ["x1", "score"])
def test_text_in_a_column_of_numbers_is_told(to, back, column):
    frame = to_pandas(PICTURES).astype({column: object})
    frame.loc[1, column] = "left"
    table = frame if to is to_pandas else pyarrow.table({name: frame[name].astype(str) for name in frame.columns})
    with pytest.raises(DataError, match=f"the table: {column} of row 1 is 'left'; give numbers"):
        back(table, NAMES)


@both
def test_a_box_whose_sides_are_the_wrong_way_round_is_told(to, back):
    frame = to_pandas(PICTURES).assign(x2=[90.0, 40.0, None])  # x1 is 100
    table = frame if to is to_pandas else pyarrow.Table.from_pandas(frame)
    with pytest.raises(DataError, match=r"the table: a.png: box of detection 0 is .*x2 < x1"):
        back(table, NAMES)


@pytest.mark.parametrize(("back", "kind"), [(from_arrow, "Arrow table"), (from_pandas, "pandas frame")])
def test_what_is_no_table_is_misuse(back, kind):
    with pytest.raises(UsageError, match=f"int: is no {kind}"):
        back(3)


def test_classes_that_are_whole_numbers_are_names_in_arrow():
    columns = {"path": ["a", "a", "b"], "class": [7, 10, None]}
    sides = {side: [float(n), float(n), None] for n, side in enumerate(("x1", "y1", "x2", "y2"))}
    found = from_arrow(pyarrow.table({**columns, **sides}))
    assert found["a"].class_names == found["b"].class_names == ("10", "7")
    assert sorted(found["a"].names) == ["10", "7"]


def test_columns_that_are_no_plain_numbers_are_told():
    row = {"path": ["a.png"], "x1": [1.0], "y1": [2.0], "x2": [3.0], "y2": [4.0], "class": ["cat"]}
    with pytest.raises(DataError, match=r"score of row 0 is 1000.*; give numbers"):
        from_pandas(pandas.DataFrame({**row, "score": [10**400]}))
    with pytest.raises(DataError, match=r"score is a column of datetime64.*; give numbers"):
        from_pandas(pandas.DataFrame({**row, "score": pandas.to_datetime(["2026-01-01"])}))
    with pytest.raises(DataError, match="x1 is a column of complex128; give numbers"):
        from_pandas(pandas.DataFrame({**row, "x1": [1 + 2j]}))
    doubled = pandas.DataFrame(
        [["a.png", 1, 1, 2, 3, 4, "cat"]], columns=["path", "x1", "x1", "y1", "x2", "y2", "class"]
    )
    with pytest.raises(DataError, match="two columns x1; leave one out"):
        from_pandas(doubled)
