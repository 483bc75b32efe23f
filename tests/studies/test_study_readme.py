"""The measured part of a study's README is what result.csv says, today and in the repository."""

import dataclasses
import importlib
import shutil
from pathlib import Path

import pytest

from studies.readme import BEGIN, END, measured, write_measured
from studies.results import line_of, outcome_of, read_results, write_results
from studies.runs import Outcome
from studies.table1b_gamma.run import STUDY as TABLE_1B
from studies.table1e_depth_scale.run import STUDY as TABLE_1E

ROOT = Path(__file__).resolve().parents[2]
MODULES = [importlib.import_module(f"studies.{path.parent.name}.run") for path in sorted(ROOT.glob("studies/*/run.py"))]
STUDIES = [module.STUDY for module in MODULES if hasattr(module, "STUDY")]

OUTCOME = Outcome(
    key="0123456789ab",
    scale="small",
    data="scenes",
    seed=0,
    ap=30.0,
    ap50=50.0,
    ap75=31.5,
    diverged=False,
    loss=0.25,
    steps=900,
    minutes=3.9,
    commit="abc1234",
    machine="a machine (2 cores)",
    date="2026-01-01",
    code="1234567",
)


@pytest.fixture
def study(tmp_path):
    shutil.copy(TABLE_1B.folder / "paper.csv", tmp_path)
    return dataclasses.replace(TABLE_1B, folder=tmp_path)


def record(study, aps, **other):
    """result.csv with these APs by row and seed."""
    lines = [
        line_of(row, dataclasses.replace(OUTCOME, seed=seed, ap=ap, **other), {})
        for row, found in aps.items()
        for seed, ap in enumerate(found)
    ]
    write_results(study.folder / "result.csv", lines, [row.name for row in study.rows])


@pytest.mark.parametrize("outcome", [OUTCOME, dataclasses.replace(OUTCOME, diverged=True, loss=None, ap=0.0)])
def test_a_line_gives_back_its_outcome(tmp_path, outcome):
    write_results(tmp_path / "result.csv", [line_of("gamma 2", outcome, {})], ["gamma 2"])
    [line] = read_results(tmp_path / "result.csv")
    assert outcome_of(line) == outcome


def test_the_table_has_means_and_paired_differences(study):
    record(study, {"gamma 0": [30.0, 31.0, 32.0], "gamma 2": [31.0, 33.0, 35.0]})
    text = measured(study)
    # Differences 1, 2, 3: 2 with 4.303 x 1 / sqrt 3 on either side.
    assert "| gamma 2 | 34.0 / 52.5 / 36.5 | 33.0 / 50.0 / 31.5 | 3 | +2.0 ± 2.5 | 0 of 3 | 0.25 |" in text
    assert "| gamma 5 | 32.2 / 49.6 / 34.8 | not run | - |  |  |  |" in text
    assert "- gamma 2 against gamma 0: +2.0 ± 2.5 AP (3 seeds); +2.9 in the paper: noise" in text
    assert "6 runs of at most 900 steps, 3.9 minutes each (median), on a machine (2 cores); commit abc1234" in text


def test_further_pairs_are_compared_as_the_baseline_is(study):
    study = dataclasses.replace(study, pairs=(("gamma 5", "gamma 2"), ("gamma 1", "gamma 2")))
    record(study, {"gamma 0": [30.0], "gamma 2": [31.0, 33.0, 35.0], "gamma 5": [30.0, 31.0, 32.0]})
    text = measured(study)
    # Differences -1, -2, -3; the paper has 32.2 and 34.0. gamma 1 was not run.
    assert "- gamma 5 against gamma 2: -2.0 ± 2.5 AP (3 seeds); -1.8 in the paper: noise" in text
    assert "gamma 1 against gamma 2" not in text


def test_runs_of_two_versions_of_the_code_are_told_once(study):
    record(study, {"gamma 0": [30.0, 31.0]})
    assert "version" not in measured(study)
    record(study, {"gamma 2": [31.0, 33.0, 35.0]}, code="7654321", commit="abc1235")
    [warning] = [line for line in measured(study).splitlines() if "versions" in line]
    assert warning == (
        "**These runs stem from 2 versions of the code of losses, matching and anchors (1234567: 2 runs, 7654321: 3); "
        "rows are paired all the same, so a part of a difference may be the code's.**"
    )
    # A line of before there was a code has that of its commit, if another line tells it.
    file = study.folder / "result.csv"
    lines = [{**line, "code": ""} if line["row"] == "gamma 2" else line for line in read_results(file)]
    write_results(file, [{**lines[0], "seed": "9", "code": ""}], [row.name for row in study.rows])
    assert "(1234567: 3 runs, 7654321: 3)" in measured(study)
    write_results(file, [{**lines[0], "seed": "8", "code": "", "commit": "0"}], [row.name for row in study.rows])
    assert "3 versions" in measured(study)
    assert "not recorded: 1" in measured(study)


def test_the_machine_of_old_lines_has_one_core(study):
    record(study, {"gamma 0": [30.0]}, machine="a machine (1 cores)")
    assert "on a machine (1 core);" in measured(study)


@pytest.mark.parametrize("figure", sorted(ROOT.glob("studies/*/figure.png")), ids=lambda path: path.parent.name)
def test_each_figure_is_shown_in_its_readme(figure):
    assert "](figure.png)" in (figure.parent / "README.md").read_text(encoding="utf-8")


def test_only_the_text_between_the_marks_is_replaced(study):
    readme = study.folder / "README.md"
    readme.write_text(f"# Table\n\nours\n\n{BEGIN}\nold\n{END}\n\n## Learnt\n\nmuch\n")
    record(study, {"gamma 0": [30.0]})
    write_measured(study)
    text = readme.read_text()
    assert text.startswith(f"# Table\n\nours\n\n{BEGIN}\n\nAP / AP50")
    assert text.endswith(f"{END}\n\n## Learnt\n\nmuch\n")
    assert "old" not in text
    write_measured(study)
    assert readme.read_text() == text


def test_a_readme_without_marks_or_a_folder_without_readme_is_left_alone(study):
    record(study, {"gamma 0": [30.0]})
    write_measured(study)
    readme = study.folder / "README.md"
    assert not readme.exists()
    readme.write_text("mine")
    write_measured(study)
    assert readme.read_text() == "mine"


@pytest.mark.parametrize("study", STUDIES, ids=[study.name for study in STUDIES])
def test_each_readme_says_what_its_result_csv_says(study):
    text = (study.folder / "README.md").read_text(encoding="utf-8")
    lines = read_results(study.folder / "result.csv")
    if lines and "diverged" not in lines[0]:
        pytest.skip("its result.csv has no runs but what was measured of them")
    if lines:
        assert f"{BEGIN}\n\n{measured(study)}\n{END}" in text
    else:
        assert "Not run yet" in text


def test_a_study_with_other_rows_at_each_scale_has_a_table_of_either(tmp_path):
    shutil.copy(TABLE_1E.folder / "paper.csv", tmp_path)
    study = dataclasses.replace(TABLE_1E, folder=tmp_path)
    record(study, {"MobileNetV2, 128 px": [31.0], "MobileNetV2, 160 px": [30.0]})
    record(study, {"ResNet-50, 600 px": [34.0], "ResNet-50, 800 px": [36.0]}, scale="paper", data="COCO")
    text = measured(study)
    assert "against MobileNetV2, 160 px: +1.0 AP" in text
    assert "against ResNet-50, 600 px: +2.0 AP" in text
