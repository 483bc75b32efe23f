"""Figure 4 from a trained run: shares by hand, curves, and the files that are written."""

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_study import quietly, tiny

from foveal.analysis.logit_counts import LogitCounts
from foveal.analysis.loss_distribution import GAMMAS, distribution_of
from foveal.engine.progress import Silent
from foveal.errors import TrainingError, UsageError
from foveal.losses import Focal
from foveal.matching import BACKGROUND
from studies.command import Plan, main
from studies.fig4_cdf import run as fig4
from studies.keys import code_key
from studies.results import read_results, write_results


def of_background(logits: list[float]):
    """The distribution of background elements alone, one class."""
    counts = LogitCounts(1, 1)
    counts.add([torch.tensor(logits).view(1, 1, 1, -1)], torch.full((1, len(logits)), BACKGROUND))
    losses = {f"gamma {gamma:g}": Focal(0.25, gamma) for gamma in GAMMAS}
    return distribution_of(counts, losses, levels=[3], class_names=["a"])


def test_the_share_of_the_hardest_tenth_by_hand():
    # One element of ten has p .5 and costs ln 2 .5^gamma, nine have p = sigmoid(-4) and cost ln(1 + e^-4) p^gamma.
    one = fig4.Measured(None, of_background([0.0] + [-4.0] * 9))
    easy, p = math.log1p(math.exp(-4)), 1 / (1 + math.exp(4))
    for gamma in GAMMAS:
        hard = math.log(2) * 0.5**gamma
        assert one.shares("background", f"gamma {gamma:g}")[1] == pytest.approx(
            100 * hard / (hard + 9 * easy * p**gamma), rel=1e-4
        )
    assert one.shares("background", "gamma 0")[1] == pytest.approx(80.9, abs=0.1)
    assert one.shares("background", "gamma 2")[1] > 99
    assert one.shares("positives", "gamma 0") == [None, None, None]


def test_points_are_the_mean_of_the_runs_curves_and_a_side_without_loss_has_none():
    even, uneven = of_background([-2.0] * 10), of_background([0.0] + [-4.0] * 9)
    columns = fig4.points([even, uneven])
    assert list(columns) == ["fraction", *(f"background, gamma {gamma:g}" for gamma in GAMMAS)]
    place = columns["fraction"].index(0.5)
    # Half of equal elements hold half; of the others the easiest half holds 5 of the nine easy ones' loss.
    easy = math.log1p(math.exp(-4))
    expected = (0.5 + 5 * easy / (math.log(2) + 9 * easy)) / 2
    assert columns["background, gamma 0"][place] == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def plan(plan, tmp_path) -> Plan:
    """The figure's own folder instead of table 1b's, with its words of the paper."""
    folder = tmp_path / "fig4"
    folder.mkdir()
    (folder / "paper.csv").write_bytes((fig4.STUDY.folder / "paper.csv").read_bytes())
    return dataclasses.replace(plan, study=dataclasses.replace(fig4.STUDY, folder=folder))


def measured(plan, names=fig4.USUAL, said=None):
    return fig4.run(plan, names, "cpu", Silent(), Console(file=said or io.StringIO(), width=200))


def test_two_seeds_end_in_a_table_two_files_and_a_figure(plan):
    said = io.StringIO()
    found = measured(plan, said=said)
    assert [(one.run.row, one.run.outcome.seed) for one in found] == [("gamma 2", 0), ("gamma 2", 1)]
    lines = read_results(plan.study.folder / "result.csv")
    assert len(lines) == 2 * 2 * 4
    gammas = ("0", "0.5", "1", "2")
    assert [(line["side"], line["gamma"]) for line in lines[:8]] == [(s, x) for s in fig4.SIDES for x in gammas]
    for line in lines:
        assert 0 < float(line["hardest 1 %"]) <= float(line["hardest 10 %"]) <= float(line["hardest 20 %"]) <= 100
    assert "about half in the hardest 20 %" in said.getvalue()
    assert (plan.study.folder / "figure.png").stat().st_size > 5000
    with (plan.study.folder / "points.csv").open(newline="") as file:
        columns = {
            name: [float(row[name]) for row in rows] for rows in [list(csv.DictReader(file))] for name in rows[0]
        }
    assert len(columns) == 9
    assert len(set(columns["fraction"])) == len(columns["fraction"])
    for name, values in columns.items():
        assert (values[0], values[-1]) == (pytest.approx(0, abs=1e-5), 1)
        assert (np.diff(values) >= 0).all(), name


def test_lines_say_what_code_their_run_was_trained_by_and_two_versions_are_told(plan):
    measured(plan)
    file = plan.study.folder / "result.csv"
    lines = read_results(file)
    assert {line["code"] for line in lines} == {code_key()}
    # A third seed, of a version before; and one of other data, which is another figure.
    older = [line | {"seed": "2", "code": "7654321"} for line in lines if line["seed"] == "0"]
    elsewhere = [line | {"data": "others", "code": "0000000"} for line in lines]
    write_results(file, [*older, *elsewhere], ["gamma 0", "gamma 2"], fig4.SAME)
    said = io.StringIO()
    measured(plan, said=said)
    runs = sorted([(code_key(), 2), ("7654321", 1)])
    told = f"{runs[0][0]}: {runs[0][1]} run{'s' * (runs[0][1] > 1)}, {runs[1][0]}: {runs[1][1]}"
    assert "These runs stem from 2 versions of the code of losses, matching and anchors" in said.getvalue()
    assert f"({told})" in " ".join(said.getvalue().split())


def test_every_line_that_is_committed_has_the_code_of_its_run():
    lines, table = read_results(fig4.STUDY.folder / "result.csv"), read_results(fig4.TABLE_1B.folder / "result.csv")
    of_run = {line["config"]: line["code"] for line in table}
    assert lines
    assert all(line["code"] == of_run[line["config"]] for line in lines)


def test_more_gamma_puts_more_of_the_loss_into_the_hardest(plan):
    # (1 - p_t)^gamma weighs an element the more the harder it is.
    for one in measured(plan):
        for side in fig4.SIDES:
            held = np.array([one.shares(side, loss) for loss in fig4.LOSSES])
            assert (np.diff(held, axis=0) >= -1e-9).all()


def test_it_uses_table_1bs_runs_and_writes_nothing_of_its_own_twice(plan, tmp_path, data, shared_runs, monkeypatch):
    from tiny_study import in_folder

    from studies.table1b_gamma.run import STUDY as TABLE_1B

    table = Plan(in_folder(TABLE_1B, tmp_path / "table1b"), tiny(), data, shared_runs, seeds=2)
    quietly(table, ["gamma 0", "gamma 2"])
    written = (table.study.folder / "result.csv").read_bytes()
    monkeypatch.setattr("studies.runs.train", lambda *a, **k: pytest.fail("trained again"))
    found = measured(plan)
    # Gamma 0 was not asked for, but it is there.
    assert [one.run.row for one in found] == ["gamma 0", "gamma 2"] * 2
    assert len(read_results(plan.study.folder / "result.csv")) == 4 * 8
    measured(plan)
    assert len(read_results(plan.study.folder / "result.csv")) == 4 * 8
    assert (table.study.folder / "result.csv").read_bytes() == written


def test_a_run_that_diverged_has_no_distribution(plan, tmp_path, monkeypatch):
    plan = dataclasses.replace(plan, scale=tiny(train__lr=1e30), runs=tmp_path / "runs", seeds=1)
    monkeypatch.setattr(fig4, "measure", lambda *_: pytest.fail("measured for nothing"))
    with pytest.raises(TrainingError, match="no run of gamma 2"):
        measured(plan)


def test_rows_without_the_one_that_is_drawn_are_refused_before_anything_is_trained(plan, tmp_path, monkeypatch):
    plan = dataclasses.replace(plan, runs=tmp_path / "runs", seeds=1)
    monkeypatch.setattr(fig4, "finish_all", lambda *_: pytest.fail("trained for nothing"))
    with pytest.raises(UsageError, match=r"drawn of gamma 2.* none has finished; give --rows 'gamma 2' 'gamma 0'"):
        measured(plan, ["gamma 0"])


def test_the_papers_words_and_its_number():
    words = fig4.paper_words(fig4.STUDY.folder)
    assert {side for side, _ in words} == set(fig4.SIDES)
    assert {loss for _, loss in words} <= set(fig4.LOSSES)
    with (fig4.STUDY.folder / "paper.csv").open(newline="") as file:
        assert [line["hardest 20 %"] for line in csv.DictReader(file)] == ["50", "", ""]


def test_the_command_wants_gamma_2_only_unless_told_otherwise(tmp_path, capsys):
    about = ["--dry-run", "--seeds", "2", "--runs", str(tmp_path)]
    assert main(fig4.STUDY, about, act=fig4.run, usual=fig4.USUAL) == 0
    assert "2 of 2 runs are missing" in capsys.readouterr().out
    assert main(fig4.STUDY, [*about, "--rows", "gamma 0", "gamma 2"], act=fig4.run, usual=fig4.USUAL) == 0
    assert "4 of 4 runs are missing" in capsys.readouterr().out
