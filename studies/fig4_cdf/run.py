"""Figure 4: who holds the loss of a trained network, from the runs of table 1b. Command and findings: README.md."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from foveal.analysis.loss_distribution import GAMMAS, LossDistribution, loss_distribution
from foveal.analysis.loss_shares import FRACTIONS, HARDEST
from foveal.engine.progress import ConsoleReporter, Reporter
from foveal.errors import TrainingError, UsageError
from studies.command import Plan, by_row, finish_all
from studies.drawing import COLOURS, panels, save, write_points
from studies.report import circumstances
from studies.results import different_code, read_results, write_results
from studies.runs import Finished
from studies.study import Study
from studies.table1b_gamma.run import STUDY as TABLE_1B

SIDES = ("positives", "background")
LOSSES = tuple(f"gamma {gamma:g}" for gamma in GAMMAS)
SHARES = tuple(f"hardest {100 * fraction:g} %" for fraction in HARDEST)
# Six digits do not tell larger parts from the whole.
DRAWN = (FRACTIONS <= 1 - 1e-5) | (FRACTIONS == 1)

STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Figure 4: who holds the loss",
    rows=TABLE_1B.chosen(["gamma 0", "gamma 2"]),
    baseline="gamma 2",
)
SAME = ("row", "seed", "scale", "data", "side", "gamma")
"""Two lines of result.csv that agree in these are of one run, side and loss."""
USUAL = ("gamma 2",)
"""The paper's model. The run with cross entropy is measured too where table 1b has finished it, or with --rows."""


@dataclass(frozen=True)
class Measured:
    """A run and who holds its class loss on the split that counts, under the focal loss at each gamma."""

    run: Finished
    found: LossDistribution

    def shares(self, side: str, loss: str) -> list[float | None]:
        """What the hardest 1 %, 10 %, 20 % hold of the side's loss, in percent."""
        held = self.found.overall[loss][side].hardest
        return [None if (share := held[fraction].loss) is None else 100 * share for fraction in HARDEST]


def run(
    plan: Plan,
    names: Sequence[str] | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    console: Console | None = None,
) -> list[Measured]:
    """Finishes what table 1b lacks, measures all of these rows that have finished, prints, writes and draws."""
    console, reporter, folder = console or Console(), reporter or ConsoleReporter(), plan.study.folder
    baseline = plan.study.baseline
    if names is not None and baseline not in names and not _of(baseline, plan.finished(device)):
        rows = " ".join(f"'{name}'" for name in (baseline, *names))
        raise UsageError(f"the figure is drawn of {baseline}, of which none has finished; give --rows {rows}")
    finish_all(plan, names, device, reporter)
    usable = [done for done in plan.finished(device) if not done.outcome.diverged]
    if not _of(baseline, usable):
        raise TrainingError(f"no run of {baseline} has finished without diverging: nothing to draw")
    measured = [measure(done, reporter) for done in usable]
    drawn = [one for one in measured if one.run.row == baseline]
    lines = [line for one in measured for line in _lines(one)]
    write_results(folder / "result.csv", lines, [row.name for row in plan.study.rows], SAME)
    write_points(folder / "points.csv", points([one.found for one in drawn]))
    save(_figure(drawn), folder / "figure.png")
    console.print(_table(measured, folder))
    if said := different_code(_codes(plan)):
        console.print(said, markup=False, highlight=False)
    console.print(f"{folder / 'result.csv'}, points.csv and figure.png", markup=False, highlight=False, soft_wrap=True)
    return measured


def _codes(plan: Plan) -> list[str]:
    """Those of the runs that result.csv has of this scale and these data, once each."""
    wanted = (plan.scale.label, plan.data.name)
    lines = [line for line in read_results(plan.study.folder / "result.csv") if (line["scale"], line["data"]) == wanted]
    return list({(line["row"], line["seed"]): line["code"] for line in lines}.values())


def _of(row: str, runs: Sequence[Finished]) -> list[Finished]:
    return [one for one in runs if one.row == row]


def measure(done: Finished, reporter: Reporter) -> Measured:
    reporter.say(f"{STUDY.name}: the losses of {done.row}, seed {done.outcome.seed}")
    return Measured(done, loss_distribution(done.folder, done.data, done.split, which="last", device=done.device))


def points(found: Sequence[LossDistribution]) -> dict[str, list[float]]:
    """The curves, each the mean over runs: which share of a side's loss its easiest part holds, for each part."""
    columns = {"fraction": FRACTIONS[DRAWN].tolist()}
    for side in SIDES:
        for loss in LOSSES:
            curves = [curve for one in found if (curve := one.curves[loss][side].loss) is not None]
            if curves:
                columns[f"{side}, {loss}"] = np.mean(curves, axis=0)[DRAWN].tolist()
    return columns


def _lines(one: Measured) -> list[dict[str, object]]:
    outcome = one.run.outcome
    return [
        {
            "row": one.run.row,
            "seed": outcome.seed,
            "scale": outcome.scale,
            "data": outcome.data,
            "side": side,
            "gamma": loss.removeprefix("gamma "),
            "elements": one.found.elements(side),
            **{name: _percent(share, 2) for name, share in zip(SHARES, one.shares(side, loss), strict=True)},
            "config": outcome.key,
            "code": outcome.code,
            "commit": outcome.commit,
            "machine": outcome.machine,
            "date": outcome.date,
        }
        for side in SIDES
        for loss in LOSSES
    ]


def _table(measured: Sequence[Measured], folder: Path) -> Table:
    """Means over seeds, with what the paper says of each line."""
    paper = paper_words(folder)
    shown = Table(title=f"{STUDY.title}: percent of a side's own loss")
    for name in ("trained with", "side", "loss", *SHARES, "paper"):
        shown.add_column(name, justify="right" if name in SHARES else "left")
    for row in STUDY.rows:
        mine = [one for one in measured if one.run.row == row.name]
        for side in SIDES if mine else ():
            for loss in LOSSES:
                columns = zip(*(one.shares(side, loss) for one in mine), strict=True)
                said = paper.get((side, loss), "") if row.name == STUDY.baseline else ""
                shown.add_row(row.name, side, loss, *(_percent(_mean(column), 1) for column in columns), said)
    return shown


def paper_words(folder: Path) -> dict[tuple[str, str], str]:
    """What the paper says of (side, loss)."""
    with (folder / "paper.csv").open(newline="", encoding="utf-8") as file:
        return {(line["side"], f"gamma {line['gamma']}"): line["note"] for line in csv.DictReader(file)}


def _figure(drawn: Sequence[Measured]) -> Figure:
    """The paper's two panels: thin lines are single runs, thick ones their mean."""
    figure, axes_of_sides = panels(2, width=10, height=4)
    means = points([one.found for one in drawn])
    for axes, side in zip(axes_of_sides, SIDES, strict=True):
        for loss, colour in zip(LOSSES, COLOURS, strict=False):
            for one in drawn:
                alone = points([one.found])
                if f"{side}, {loss}" in alone:
                    axes.plot(alone["fraction"], alone[f"{side}, {loss}"], color=colour, linewidth=0.6, alpha=0.6)
            if f"{side}, {loss}" in means:
                label = loss.replace("gamma", "$\\gamma$ =")
                axes.plot(means["fraction"], means[f"{side}, {loss}"], color=colour, linewidth=2, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1), title=side, xlabel=f"share of {side}, easiest first")
        axes.set_ylabel("share of their loss")
    if axes_of_sides[0].lines:
        axes_of_sides[0].legend(frameon=False, loc="upper left")
    figure.suptitle(f"{STUDY.title}{circumstances(by_row([one.run for one in drawn]))}")
    return figure


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def _percent(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
