"""Studies from first run to table: trained once, resumed, diverged, reported; all with a tiny net on tiny scenes."""

import csv
import dataclasses
import io
import json
import shutil
import signal

import pytest
from rich.console import Console
from tiny_study import in_folder, quietly, tiny

from foveal.data.scenes import write_scenes
from foveal.engine.progress import Silent
from foveal.errors import Interrupted, TrainingError
from studies.command import Plan, main, missing, run
from studies.drawing import save
from studies.fig7_beta_gamma.run import STUDY as FIGURE_7
from studies.keys import code_key
from studies.prior.run import STUDY as PRIOR
from studies.readme import measured
from studies.report import figure
from studies.results import outcome_of, read_results, write_results
from studies.runs import finish, last_line, read_outcome
from studies.scales import Data
from studies.study import Row, Study, paper_rows
from studies.table1a_alpha.run import STUDY as TABLE_1A
from studies.table1b_gamma.run import STUDY as TABLE_1B
from studies.table1c_anchors.run import STUDY as TABLE_1C
from studies.table1d_ohem.run import STUDY as TABLE_1D
from studies.table3_fl_star.run import STUDY as TABLE_3

GAMMAS = ["gamma 0", "gamma 2"]


@pytest.mark.parametrize(
    ("study", "rows"),
    [
        (TABLE_1A, ["alpha 0.1", "alpha 0.999"]),
        (TABLE_1C, ["scales 1, ratios 1", "scales 4, ratios 3"]),
        (TABLE_1D, ["OHEM 128, NMS 0.7", "OHEM 1:3 512, NMS 0.5", "SSD 1:3"]),
        (TABLE_3, ["FL* gamma 2, beta 1"]),
        (FIGURE_7, ["FL* gamma 1, beta 2"]),
        (PRIOR, ["CE, pi 0.5", "FL, pi 0.001"]),
    ],
    ids=lambda part: part.name if isinstance(part, Study) else "",
)
def test_two_steps_of_a_study_end_in_a_table_a_csv_and_a_figure(study, rows, tmp_path, shared_runs, data):
    study = in_folder(study, tmp_path / study.name)
    results = quietly(Plan(study, tiny(), data, shared_runs, seeds=1), rows)
    assert set(results) >= set(rows)
    lines = read_results(study.folder / "result.csv")
    assert [line["row"] for line in lines] == [row.name for row in study.rows if row.name in results]
    assert all(line["steps"] == "2" and line["diverged"] == "no" and line["commit"] for line in lines)
    assert all(0 <= float(line["AP"]) <= float(line["AP50"]) <= 100 for line in lines)
    assert (study.folder / "figure.png").stat().st_size > 5000


def test_runs_of_other_code_in_the_same_table_are_told(plan):
    quietly(plan, ["gamma 2"])
    file = plan.study.folder / "result.csv"
    lines = read_results(file)
    assert {line["code"] for line in lines} == {code_key()}
    write_results(file, [{**lines[0], "row": "gamma 0", "code": "0ld0ld0"}], ["gamma 0", "gamma 2"])
    console = Console(file=io.StringIO(), width=400)
    run(plan, ["gamma 2"], "cpu", Silent(), console)
    said = console.file.getvalue()
    assert "These runs stem from 2 versions of the code" in said
    assert "0ld0ld0: 1 run" in said


def test_table_and_figure_show_what_result_csv_keeps(plan, tmp_path):
    quietly(plan, ["gamma 2"])
    file = plan.study.folder / "result.csv"
    older = {**read_results(file)[0], "row": "gamma 0", "AP": "12.34", "code": "0ld0ld0"}
    write_results(file, [older], GAMMAS)
    console = Console(file=io.StringIO(), width=400)
    results = run(plan, ["gamma 2"], "cpu", Silent(), console)
    assert list(results) == ["gamma 2"]
    assert "12.3 / " in console.file.getvalue()
    kept = {**results, "gamma 0": {0: outcome_of(older)}}
    expected = save(figure(plan.study, kept, paper_rows(plan.study.folder)), tmp_path / "expected.png")
    assert (plan.study.folder / "figure.png").read_bytes() == expected.read_bytes()


def test_a_run_of_other_data_leaves_the_figure_of_the_scenes_alone(plan):
    quietly(plan, ["gamma 2"])
    folder = plan.study.folder
    of_scenes = {**read_results(folder / "result.csv")[0], "data": "scenes"}
    write_results(folder / "result.csv", [of_scenes], ["gamma 2"])
    drawn = (folder / "figure.png").read_bytes()
    longer = dataclasses.replace(plan, scale=dataclasses.replace(plan.scale, steps=2))
    for other in (plan, longer):
        console = Console(file=io.StringIO(), width=400)
        run(other, ["gamma 2"], "cpu", Silent(), console)
        name = f"figure-{other.scale.label.replace(' ', '-')}-tiny.png"
        assert (folder / name).stat().st_size > 5000
        assert name in console.file.getvalue()
    assert (folder / "figure.png").read_bytes() == drawn


def test_a_run_is_trained_once_for_all_tables(plan, tmp_path, shared_runs, data, monkeypatch):
    first = quietly(plan, GAMMAS)
    assert {name: list(seeds) for name, seeds in first.items()} == {"gamma 0": [0, 1], "gamma 2": [0, 1]}

    def never(*arguments, **named):
        raise AssertionError("trained again")

    monkeypatch.setattr("studies.runs.train", never)
    assert quietly(plan, GAMMAS) == first
    table_3 = Plan(in_folder(TABLE_3, tmp_path / "table3"), tiny(), data, shared_runs, seeds=2)
    other = quietly(table_3, ["CE", "FL"])
    assert [other["CE"], other["FL"]] == [first["gamma 0"], first["gamma 2"]]
    with pytest.raises(AssertionError, match="trained again"):
        quietly(dataclasses.replace(plan, seeds=3), ["gamma 2"])


def test_the_report_has_the_papers_column_ours_and_a_sentence_for_each_comparison(plan):
    said = io.StringIO()
    run(plan, GAMMAS, "cpu", Silent(), Console(file=said, width=200))
    text = said.getvalue()
    assert "34.0 / 52.5 / 36.5" in text
    assert "not run" in text
    assert "gamma 2 against gamma 0: " in text
    assert "(2 seeds); +2.9 in the paper: " in text


class StopsAt(Silent):
    """Asks training to stop after a step, as Ctrl-C does."""

    def __init__(self, step: int):
        self.at = step

    def step(self, step, total, numbers):
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_row_goes_on_and_ends_as_if_it_had_not_been(plan, tmp_path):
    scale = tiny(train__steps=4, train__evaluate_every=4)
    plan = dataclasses.replace(plan, scale=scale, runs=tmp_path / "runs", seeds=1)
    [work] = plan.work(["gamma 2"])
    with pytest.raises(Interrupted):
        run(plan, ["gamma 2"], "cpu", StopsAt(2))
    assert read_outcome(work.folder) is None
    assert ", begun" in missing(plan, ["gamma 2"])
    resumed = quietly(plan, ["gamma 2"])["gamma 2"][0]
    lines = [json.loads(line) for line in (work.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    unbroken = finish(work.config, scale, plan.data, tmp_path / "unbroken", "cpu", Silent())
    assert (resumed.ap, resumed.ap50, resumed.loss) == (unbroken.ap, unbroken.ap50, unbroken.loss)


def test_a_diverged_row_is_a_result_and_is_not_tried_again(plan, tmp_path, monkeypatch):
    plan = dataclasses.replace(plan, scale=tiny(train__lr=1e30), runs=tmp_path / "runs", seeds=1)
    outcome = quietly(plan, ["gamma 2"])["gamma 2"][0]
    assert outcome.diverged
    assert (outcome.ap, outcome.ap50, outcome.ap75) == (0, 0, 0)
    assert outcome.steps == 2
    assert outcome.loss is not None  # that of step 1, which was finite
    [line] = read_results(plan.study.folder / "result.csv")
    assert (line["diverged"], line["AP"]) == ("yes", "0.0")
    monkeypatch.setattr("studies.runs.train", lambda *a, **k: pytest.fail("trained again"))
    assert quietly(plan, ["gamma 2"])["gamma 2"][0] == outcome


def test_too_little_memory_is_no_result(plan, tmp_path, monkeypatch):
    def no_memory(*arguments, **named):
        raise TrainingError("this step needs more memory")

    monkeypatch.setattr("studies.runs.train", no_memory)
    plan = dataclasses.replace(plan, runs=tmp_path / "runs", seeds=1)
    with pytest.raises(TrainingError, match="more memory"):
        quietly(plan, ["gamma 2"])
    assert not list(plan.runs.glob("*/outcome.json"))


def test_a_dry_run_lists_what_is_missing_and_its_hours(plan, tmp_path):
    empty = dataclasses.replace(plan, runs=tmp_path / "runs")
    text = missing(empty, GAMMAS)
    assert "4 of 4 runs are missing at scale small on tiny" in text
    assert "gamma 2, seed 1: " in text
    assert "about 0.2 hours: 3.0 minutes a run, a guess" in text
    assert not empty.runs.exists()
    quietly(dataclasses.replace(empty, seeds=1), ["gamma 0"])
    text = missing(empty, GAMMAS)
    assert "3 of 4" in text
    assert "gamma 0, seed 0" not in text
    assert "median of 1 that finished" in text
    one = dataclasses.replace(empty, seeds=1)
    assert missing(one, ["gamma 0"]).endswith("0 of 1 runs are missing at scale small on tiny")


def test_the_command_says_what_it_would_do_and_what_is_wrong(tmp_path, capsys):
    assert main(TABLE_1B, ["--dry-run", "--seeds", "1", "--runs", str(tmp_path)]) == 0
    assert "7 of 7 runs are missing at scale small on scenes" in capsys.readouterr().out
    assert main(TABLE_1B, ["--scale", "paper", "--runs", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(TABLE_1B, ["--rows", "gamma 9", "--dry-run", "--runs", str(tmp_path)]) == 2
    with pytest.raises(SystemExit):
        main(TABLE_1B, ["--seeds", "0"])


def test_the_first_loss_is_that_of_the_first_step_and_near_its_closed_form(tmp_path, shared_runs, data):
    study = in_folder(PRIOR, tmp_path / "prior")
    plan = Plan(study, tiny(), data, shared_runs, seeds=1)
    quietly(plan, ["FL, pi 0.01", "CE, pi 0.01"])
    for line in read_results(study.folder / "result.csv"):
        [work] = plan.work([line["row"]])
        with (work.folder / "metrics.jsonl").open() as file:
            trained = json.loads(file.readline())["loss_classification"]
        assert float(line["first_loss"]) == pytest.approx(trained, rel=1e-4)
        assert float(line["closed_form"]) == pytest.approx(trained, rel=0.02)


def test_lines_replace_those_of_the_same_run_and_leave_the_others(tmp_path):
    file = tmp_path / "result.csv"
    line = {"row": "a", "seed": 0, "scale": "small", "data": "scenes", "AP": 1.0}
    write_results(file, [line, {**line, "scale": "paper"}, {**line, "row": "b"}], ["b", "a"])
    write_results(file, [{**line, "AP": 2.0}, {**line, "seed": 1, "first_loss": "3"}], ["b", "a"])
    with file.open(newline="") as opened:
        found = [(x["row"], x["seed"], x["scale"], x["AP"], x["first_loss"]) for x in csv.DictReader(opened)]
    assert found == [
        ("a", "0", "paper", "1.0", ""),
        ("b", "0", "small", "1.0", ""),
        ("a", "0", "small", "2.0", ""),
        ("a", "1", "small", "1.0", "3"),
    ]
    write_results(file, [], ["b"])
    assert [x["row"] for x in read_results(file)] == ["b"]


def test_a_bar_stands_at_its_row_where_others_have_no_number(plan, data):
    outcome = quietly(plan, ["gamma 0"])["gamma 0"][0]
    study = dataclasses.replace(TABLE_1D, draw=None)
    outcomes = {"SSD 1:3": {0: dataclasses.replace(outcome, ap=7.0)}, "FL": {0: dataclasses.replace(outcome, ap=9.0)}}
    left, right = figure(study, outcomes, paper_rows(study.folder)).axes
    names = [row.name for row in study.rows]
    assert [label.get_text() for label in left.get_yticklabels()] == names
    bars = {names[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in left.patches}
    assert (bars["OHEM 128, NMS 0.5"], bars["FL"], "SSD 1:3" in bars) == (32.8, 36.0, False)
    assert {names[round(bar.get_y() + 0.3)]: bar.get_width() for bar in right.patches} == {"SSD 1:3": 7.0, "FL": 9.0}


def test_a_run_that_logged_nothing_has_no_last_line(tmp_path):
    assert last_line(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 1, "AP": 0.1}\n')
    assert last_line(tmp_path)["loss"] == 2.0


def test_rows_come_in_the_studys_order_one_seed_after_the_other(plan):
    assert [(w.row.name, w.seed) for w in plan.work(["gamma 2", "gamma 0"])] == [
        ("gamma 0", 0),
        ("gamma 2", 0),
        ("gamma 0", 1),
        ("gamma 2", 1),
    ]
    assert Row("x", {}).changes == {}


def test_runs_of_another_length_are_other_runs_and_other_lines(plan, tmp_path):
    plan = dataclasses.replace(plan, runs=tmp_path / "runs", seeds=1)
    quietly(plan, ["gamma 2"])
    quietly(dataclasses.replace(plan, scale=plan.scale.with_steps(3)), ["gamma 2"])
    lines = read_results(plan.study.folder / "result.csv")
    assert [(line["scale"], line["steps"]) for line in lines] == [("small", "2"), ("small 3 steps", "3")]
    assert lines[0]["config"] != lines[1]["config"]
    text = measured(plan.study)
    assert "at scale small on tiny" in text
    assert "at scale small 3 steps on tiny" in text


def test_two_folders_of_one_name_are_two_data_sets(plan, tmp_path):
    names = []
    for place, seed in (("a", 1), ("b", 2)):
        folder = tmp_path / place / "cells"
        write_scenes(folder, {"train": 2, "test": 2}, size=64, seed=seed)
        of_folder = dataclasses.replace(plan, data=Data("cells", folder))
        names.append(of_folder.told_apart().data.name)
    assert names[0] != names[1]
    assert all(name.startswith("cells ") for name in names)
    shutil.copytree(tmp_path / "a", tmp_path / "c")  # the same labels elsewhere are the same data
    assert dataclasses.replace(plan, data=Data("cells", tmp_path / "c" / "cells")).told_apart().data.name == names[0]
    assert plan.told_apart() is plan  # the embedded scenes
