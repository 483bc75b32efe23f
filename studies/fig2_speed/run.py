"""Figure 2: AP against time, and its front, from the runs of table 1e. Command and what was measured: README.md."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.common import commit, machine
from foveal.engine.progress import Reporter
from studies.command import Plan, by_row, finish_all, further_of
from studies.drawing import BLACK, panels, save
from studies.report import circumstances
from studies.results import figure_file, read_results, write_results
from studies.runs import Finished
from studies.study import Further, Results, Row, paper_rows
from studies.table1e_depth_scale.lines import draw_lines
from studies.table1e_depth_scale.run import STUDY as TABLE_1E

Points = Mapping[str, tuple[float, float]]
"""(ms, AP) by the name of a row."""

STUDY = dataclasses.replace(TABLE_1E, folder=Path(__file__).resolve().parent, title="Figure 2: AP against time")


def paper_points() -> Points:
    return {name: (row.further["ms"], row.ap) for name, row in paper_rows(TABLE_1E.folder).items() if row.ap}


def front(points: Points) -> list[str]:
    """The rows that no other row beats, the fastest first: none is as fast and better, or as good and faster.

    (64, 30.5), (72, 32.5), (81, 31.9) keep the first two: the second is faster than the third, and better.
    """
    order = sorted(points, key=lambda name: (points[name][0], -points[name][1]))
    kept: list[str] = []
    for name in order:
        if not kept or points[name][1] > points[kept[-1]][1]:
            kept.append(name)
    return kept


def run(
    plan: Plan,
    names: Sequence[str] | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    console: Console | None = None,
) -> list[str]:
    """Finishes what table 1e lacks, draws all that has finished, and returns the front."""
    console, study = console or Console(), plan.study
    finish_all(plan, names, device, reporter)
    done = plan.finished(device)
    found = [(one, further_of(plan.study, one)) for one in done]
    ours = our_points(found)
    best = front(ours)
    lines = [_line(name, ours[name], name in best, [pair for pair in found if pair[0].row == name]) for name in ours]
    write_results(study.folder / "result.csv", lines, [row.name for row in study.rows], ("row", "scale", "data"))
    console.print(_table(study.rows, ours))
    file = figure_file(study.folder, plan.scale.label, plan.data.name)
    save(_figure(study.rows, _kept(plan), by_row(done)), file)
    console.print(f"{study.folder / 'result.csv'} and {file.name}", markup=False, highlight=False, soft_wrap=True)
    return best


def _kept(plan: Plan) -> Points:
    """What result.csv has at this scale on these data; times of another machine are not used."""
    here = (plan.scale.label, plan.data.name, machine())
    lines = read_results(plan.study.folder / "result.csv")
    return {
        line["row"]: (float(line["ms"]), float(line["AP"]))
        for line in lines
        if (line["scale"], line["data"], line["machine"]) == here
    }


def our_points(found: Sequence[tuple[Finished, Further]]) -> Points:
    """Means over seeds. A run that diverged counts with its AP of 0; a row where all did has no time and no point."""
    aps: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for run, further in found:
        aps.setdefault(run.row, []).append(run.outcome.ap)
        if "ms" in further:
            times.setdefault(run.row, []).append(float(further["ms"]))
    return {name: (statistics.fmean(ms), statistics.fmean(aps[name])) for name, ms in times.items()}


def _line(
    name: str, point: tuple[float, float], in_front: bool, found: Sequence[tuple[Finished, Further]]
) -> dict[str, object]:
    outcomes = [run.outcome for run, _ in found]
    return {
        "row": name,
        "scale": outcomes[0].scale,
        "data": outcomes[0].data,
        "AP": f"{point[1]:.4g}",
        "ms": f"{point[0]:.4g}",
        "seeds": len(outcomes),
        "front": "yes" if in_front else "no",
        "timed_on": next(further["timed_on"] for _, further in found if "timed_on" in further),
        "config": " ".join(outcome.key for outcome in outcomes),
        "commit": commit(),
        "machine": machine(),  # times of another machine are not used
        "date": max(outcome.date for outcome in outcomes),
    }


def _table(rows: Sequence[Row], ours: Points) -> Table:
    shown = Table(title=f"{STUDY.title}; * is on the front")
    for name in ("row", "AP, paper", "ms, paper", "AP", "ms"):
        shown.add_column(name, justify="left" if name == "row" else "right")
    for row in rows:
        theirs, mine = _cells(row.name, paper_points()), _cells(row.name, ours)
        if any((*theirs, *mine)):
            shown.add_row(row.name, *theirs, *mine)
    return shown


def _cells(name: str, points: Points) -> tuple[str, str]:
    if name not in points:
        return "", ""
    ms, ap = points[name]
    return f"{ap:.1f}{' *' if name in front(points) else ''}", f"{ms:.3g}"


def _figure(rows: Sequence[Row], ours: Points, results: Results) -> Figure:
    figure, [left, right] = panels(2, width=10, height=4)
    for axes, points, title in ((left, paper_points(), "the paper"), (right, ours, "ours, mean over seeds")):
        _mark_front(axes, points)
        draw_lines(axes, rows, points)
        axes.set(title=title, xlabel="ms a picture", ylabel="AP")
    figure.suptitle(f"{STUDY.title}{circumstances(results)}")
    return figure


def _mark_front(axes: Axes, points: Points) -> None:
    """A dashed staircase: the best AP that a time buys."""
    if points:
        x, y = zip(*(points[name] for name in front(points)), strict=True)
        axes.step(x, y, where="post", color=BLACK, linestyle="--", linewidth=1, label="front")
