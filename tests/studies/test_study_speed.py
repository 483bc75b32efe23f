"""Table 1e and figure 2: arithmetic and time of a network, and the front of AP against time."""

import dataclasses
import io

import pytest
from rich.console import Console
from tiny_study import in_folder, quietly, tiny

from benchmarks.common import Timing
from foveal.config import Config
from foveal.engine.predict import Detector
from foveal.engine.progress import Silent
from studies.command import Plan, main
from studies.fig2_speed import run as fig2
from studies.report import further_table
from studies.results import read_results
from studies.runs import Finished, Outcome
from studies.study import PaperRow, Row, paper_rows
from studies.table1e_depth_scale import speed
from studies.table1e_depth_scale.lines import draw_lines
from studies.table1e_depth_scale.run import STUDY as TABLE_1E

ROWS = ["MobileNetV2, 96 px", "ResNet-18, 128 px"]
NARROW = tiny().base


def config_of(**changes) -> Config:
    return Config().with_changes({**NARROW, **{name.replace("__", "."): value for name, value in changes.items()}})


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_a_convolution_more_in_each_subnet_costs_what_it_costs_by_hand():
    # 64 x 64 pixels have 8^2 + 4^2 + 2^2 = 84 cells on P3..P5. A 3x3 convolution from 8 to 8 channels multiplies and
    # adds 9 x 8 x 8 = 576 times a cell: 2 x 576 x 84 = 96,768 operations, twice for two subnets.
    one, two = (speed.gflop(config_of(model__head_depth=depth), 10, (64, 64)) for depth in (1, 2))
    assert two - one == pytest.approx(193_536 / 1e9)


def test_a_class_more_costs_an_output_for_each_anchor():
    # 9 anchors a cell: 9 more outputs of a 3x3 convolution of 8 channels at 84 cells: 2 x 9 x 8 x 9 x 84.
    ten, eleven = (speed.gflop(config_of(), classes, (64, 64)) for classes in (10, 11))
    assert eleven - ten == pytest.approx(108_864 / 1e9)


def test_twice_the_sides_are_four_times_the_work_and_depth_is_more():
    small = speed.gflop(config_of(), 10, (64, 64))
    assert speed.gflop(config_of(), 10, (128, 128)) == pytest.approx(4 * small)
    assert speed.gflop(config_of(), 10, (64, 128)) == pytest.approx(2 * small)
    assert speed.gflop(config_of(model__backbone="resnet34"), 10, (64, 64)) > small


def test_the_papers_network_at_608_pixels_by_hand():
    cells = [76**2, 38**2, 19**2, 10**2, 5**2]
    subnets = 9 * 256 * sum(cells) * (8 * 256 + 9 * 80 + 9 * 4)
    laterals = 256 * (512 * cells[0] + 1024 * cells[1] + 2048 * cells[2])
    outputs = 9 * 256 * (256 * sum(cells[:3]) + 2048 * cells[3] + 256 * cells[4])
    backbone = 4.09e9 * (608 / 224) ** 2  # torchvision's number for ResNet-50 at 224 pixels
    whole = 2 * (subnets + laterals + outputs + backbone) / 1e9
    assert speed.gflop(Config(), 80, (608, 608)) == pytest.approx(whole, rel=0.005)


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path, shared_runs, data) -> Plan:
    study = in_folder(TABLE_1E, tmp_path / "table1e")
    return Plan(study, tiny(data__max_size=160), data, shared_runs, seeds=1)


def test_the_table_has_time_and_work_of_each_row(plan):
    results = quietly(plan, ROWS)
    assert list(results) == ROWS
    small, large = read_results(plan.study.folder / "result.csv")
    assert (small["row"], large["row"]) == tuple(ROWS)
    assert all(float(line["ms"]) > 0 and line["timed_on"] == "cpu, 1 thread" for line in (small, large))
    [work] = plan.work(ROWS[:1])
    assert float(small["GFLOP"]) == pytest.approx(speed.gflop(work.config, 10, (96, 96)), abs=1e-3)
    assert float(large["GFLOP"]) > 16 / 9 * float(small["GFLOP"])
    assert (plan.study.folder / "figure.png").stat().st_size > 5000


def test_a_time_is_the_median_over_pictures_and_is_kept_until_the_machine_is_another(plan, monkeypatch):
    quietly(plan, ROWS[:1])
    run = next(done for done in plan.finished("cpu") if done.row == ROWS[0])
    (run.folder / "speed-cpu.json").unlink()
    medians = iter([0.001, 0.010, 0.004, 0.002])  # the test split has four pictures: 3 ms
    monkeypatch.setattr(speed, "measure", lambda work, runs: Timing(next(medians), 0, 0, runs))
    assert speed.speed(run)["ms"] == 3.0
    assert speed.speed(run)["ms"] == 3.0
    monkeypatch.setattr(speed, "machine", lambda: "another")
    monkeypatch.setattr(speed, "measure", lambda work, runs: Timing(0.007, 0, 0, runs))
    assert speed.speed(run)["ms"] == 7.0


def test_what_is_timed_is_one_picture_from_pixels_to_all_that_evaluation_counts(plan, monkeypatch):
    quietly(plan, ROWS[:1])
    run = next(done for done in plan.finished("cpu") if done.row == ROWS[0])
    (run.folder / "speed-cpu.json").unlink()
    asked, predict = [], Detector.predict_prepared

    def spied(self, pictures, min_score=None):
        asked.append(([tuple(picture.pixels.shape) for picture in pictures], min_score))
        return predict(self, pictures, min_score)

    monkeypatch.setattr(Detector, "predict_prepared", spied)
    speed.speed(run)
    # Four pictures, each once to warm up and three times for its time; .05 is evaluation's lowest score.
    assert asked == [([(3, 96, 96)], 0.05)] * 4 * (1 + speed.TIMES)


def finished(row: str, seed: int, ap: float, diverged: bool = False) -> Finished:
    outcome = Outcome("key", "small", "tiny", seed, ap, ap, ap, diverged, 1.0, 2, 0.1, "c", "m", "2026-11-24")
    return Finished(row, outcome, Config(), None, None, "test", "cpu")  # type: ignore[arg-type]


def test_a_run_that_diverged_has_no_time():
    assert speed.speed(finished("a", 0, 0.0, diverged=True)) == {}


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_papers_times_stand_beside_ours():
    paper = paper_rows(TABLE_1E.folder)
    assert paper["ResNet-50, 400 px"] == PaperRow(30.5, None, None, "", {"ms": 64.0})
    assert [row.further["ms"] for row in paper.values()] == [64, 72, 98, 121, 153, 81, 90, 122, 154, 198]
    further = {
        "ResNet-50, 400 px": [{"ms": 10.0, "timed_on": "cpu"}, {"ms": 14.0, "timed_on": "cpu"}],
        "ResNet-18, 96 px": [{"ms": 5.0, "timed_on": "cpu"}, {}],
    }
    printed = io.StringIO()
    Console(file=printed, width=80).print(further_table(TABLE_1E, further, paper))
    lines = {line.split("│")[1].strip(): line for line in printed.getvalue().splitlines() if "│" in line}
    assert "ms, paper | ours" in printed.getvalue()
    assert "64 | 12 " in lines["ResNet-50, 400 px"]
    assert " 5 " in lines["ResNet-18, 96 px"]
    assert "|" not in lines["ResNet-18, 96 px"]
    assert lines["ResNet-50, 400 px"].count("cpu") == 1
    assert "198 | -" in lines["ResNet-101, 800 px"]
    assert "MobileNetV2, 96 px" not in lines
    assert further_table(TABLE_1E, {"ResNet-18, 96 px": [{}]}, paper) is None


# -- the front ---------------------------------------------------------------------------------------------------------


def test_the_papers_front_by_hand():
    # ResNet-101 at 400 (81 ms, 31.9) loses to ResNet-50 at 500 (72, 32.5), ResNet-50 at 600 (98, 34.3) to ResNet-101 at
    # 500 (90, 34.4), ResNet-50 at 800 (153, 35.7) to ResNet-101 at 600 (122, 36.0).
    front = fig2.front(fig2.paper_points())
    assert front == [
        "ResNet-50, 400 px",
        "ResNet-50, 500 px",
        "ResNet-101, 500 px",
        "ResNet-50, 700 px",
        "ResNet-101, 600 px",
        "ResNet-101, 700 px",
        "ResNet-101, 800 px",
    ]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({}, []),
        ({"a": (5.0, 0.0)}, ["a"]),
        ({"slow": (9.0, 30.0), "fast": (1.0, 30.0)}, ["fast"]),
        ({"bad": (5.0, 10.0), "good": (5.0, 20.0)}, ["good"]),
        ({"slow": (9.0, 31.0), "fast": (1.0, 30.0)}, ["fast", "slow"]),
        ({"slow": (9.0, 29.0), "fast": (1.0, 30.0)}, ["fast"]),
    ],
)
def test_fronts(points, expected):
    assert fig2.front(points) == expected


def test_points_are_means_over_seeds_and_a_diverged_run_counts_as_0():
    found = [
        (finished("a", 0, 30.0), {"ms": 10.0, "timed_on": "cpu"}),
        (finished("a", 1, 40.0), {"ms": 14.0, "timed_on": "cpu"}),
        (finished("b", 0, 30.0), {"ms": 20.0}),
        (finished("b", 1, 0.0, diverged=True), {}),
        (finished("c", 0, 0.0, diverged=True), {}),
    ]
    assert fig2.our_points(found) == {"a": (12.0, 35.0), "b": (20.0, 15.0)}


def test_a_line_runs_from_the_smallest_picture_to_the_largest():
    [axes] = fig2.panels(1)[1]
    rows = [Row(f"{size}", {"model.backbone": "resnet18", "data.size": size}) for size in (160, 96, 128)]
    draw_lines(axes, rows, {"160": (9.0, 50.0), "96": (10.0, 30.0)})
    [line] = axes.lines
    assert [list(line.get_xdata()), list(line.get_ydata())] == [[10.0, 9.0], [30.0, 50.0]]
    assert line.get_label() == "ResNet-18"


def test_figure_2_draws_the_runs_of_table_1e_and_trains_none_of_them_again(plan, tmp_path, monkeypatch):
    aps = {name: seeds[0].ap for name, seeds in quietly(plan, ROWS).items()}
    monkeypatch.setattr("studies.runs.train", lambda *a, **k: pytest.fail("trained again"))
    study = in_folder(dataclasses.replace(fig2.STUDY, folder=TABLE_1E.folder), tmp_path / "fig2")
    said = io.StringIO()
    front = fig2.run(dataclasses.replace(plan, study=study), ROWS, "cpu", Silent(), Console(file=said, width=200))
    lines = {line["row"]: line for line in read_results(study.folder / "result.csv")}
    assert {name: float(line["AP"]) for name, line in lines.items()} == pytest.approx(aps, abs=0.05)
    assert front == [name for name in ROWS if lines[name]["front"] == "yes"] != []
    assert all(line["timed_on"] and line["machine"] and line["commit"] for line in lines.values())
    assert "37.8 *" in said.getvalue()
    assert (study.folder / "figure.png").stat().st_size > 5000


def test_figure_2_is_a_command_of_table_1es_rows(tmp_path, capsys):
    assert main(fig2.STUDY, ["--dry-run", "--seeds", "1", "--runs", str(tmp_path)], act=fig2.run) == 0
    assert "Figure 2: AP against time: 9 of 9 runs are missing" in capsys.readouterr().out
