"""The READMEs' table of speed is what benchmarks/results say, and numbers are rounded as said."""

from __future__ import annotations

import csv
import shutil

import pytest

from benchmarks import common
from benchmarks.common import RESULTS, ROOT, read_rows, replace_rows
from benchmarks.readme import HEADS, KOREAN, ROWS, rounded, table, with_table


@pytest.mark.parametrize("readme", HEADS)
def test_the_readme_says_what_the_results_say(readme):
    assert with_table(readme) == (ROOT / readme).read_text(encoding="utf-8"), "run `python -m benchmarks.readme`"


def test_a_changed_result_changes_the_table(tmp_path):
    for path in RESULTS.glob("*.csv"):
        shutil.copy(path, tmp_path)
    assert table("README.md", tmp_path) == table("README.md")
    rows = read_rows(tmp_path / "evaluation.csv")
    with (tmp_path / "evaluation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"median_s": "2", "peak_MB": "50"} for row in rows)
    assert "| pycocotools | 2,000 | 2,000 | 1.0 | 50.0 | 50.0 |" in table("README.md", tmp_path)


def test_what_was_not_measured_has_no_row(tmp_path):
    assert len(table("README.md", tmp_path).splitlines()) == 2
    shutil.copy(RESULTS / "evaluation.csv", tmp_path)
    assert len(table("README.md", tmp_path).splitlines()) == 3


def test_plain_and_fast_lines_of_one_case_are_a_row(tmp_path):
    (tmp_path / "matching.csv").write_text(
        "policy,objects,path,median_ms,peak_MB,machine,commit\n"
        "authors,100,plain,400,100,Abacus (1 cores),aaa\n"
        "authors,100,fast,1.6,.5,Abacus (1 cores),bbb\n"
    )
    assert table("README.ko.md", tmp_path).splitlines()[-1] == (
        "| 매칭, 객체 100개 | 단순한 경로 | 400 | 1.60 | 250 | 100 | 0.5 | `python -m benchmarks.matching` | bbb "
        "| Abacus, 1 cores |"
    )


def test_every_row_has_its_korean_name():
    assert {row.what for row in ROWS} <= set(KOREAN)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1234.4, "1,234"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.45678, "0.457"),
        (0.0, "0"),
        (0.00001, "0.00"),
    ],
)
def test_numbers_have_three_digits_that_matter(value, expected):
    assert rounded(value) == expected


def test_lines_of_other_works_stay_with_their_circumstances(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    replace_rows("mine", [{"work": "a", "ms": 1}, {"work": "b", "ms": 2, "versions": "torch 1"}], ["work"])
    (tmp_path / "mine.csv").write_text((tmp_path / "mine.csv").read_text().replace(common.commit(), "older"))
    replace_rows("mine", [{"work": "b", "ms": 3, "MB": 5}], ["work"])
    first, second = read_rows(tmp_path / "mine.csv")
    assert (first["work"], first["ms"], first["MB"], first["commit"]) == ("a", "1", "", "older")
    assert (second["work"], second["ms"], second["MB"], second["commit"]) == ("b", "3", "5", common.commit())
    assert second["versions"] == common.versions()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]
