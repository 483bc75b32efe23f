"""What a study says in the end: the paper's numbers beside ours, a sentence for each comparison, and the figure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from studies.compare import paired_difference, sentence
from studies.drawing import BLUE, ORANGE, panels
from studies.runs import Outcome
from studies.study import Further, PaperRow, Results, Study

NOTHING = PaperRow(None, None, None)


def table(study: Study, results: Results, paper: Mapping[str, PaperRow]) -> Table:
    """Rows in the paper's order; ours are means over seeds, in percent."""
    shown = Table(title=f"{study.title}, AP / AP50 / AP75")
    for name in ("row", "paper", "ours", "seeds", f"against {study.baseline}", "diverged", "last loss"):
        shown.add_column(name, justify="left" if name == "row" else "right")
    for cells in shown_rows(study, results, paper):
        shown.add_row(*cells)
    return shown


def shown_rows(study: Study, results: Results, paper: Mapping[str, PaperRow]) -> list[list[str]]:
    """The cells of each row: name, the paper's, ours, seeds, difference, diverged, mean of the last losses."""
    baseline = _aps(results.get(study.baseline, {}))
    rows = []
    for row in study.rows:
        outcomes = list(results.get(row.name, {}).values())
        difference = (
            paired_difference(_aps(results.get(row.name, {})), baseline) if row.name != study.baseline else None
        )
        rows.append(
            [
                row.name,
                _paper_cell(paper.get(row.name, NOTHING)),
                _our_cell(outcomes),
                str(len(outcomes) or "-"),
                str(difference or ""),
                f"{sum(o.diverged for o in outcomes)} of {len(outcomes)}" if outcomes else "",
                _mean_loss(outcomes),
            ]
        )
    return rows


def further_table(
    study: Study, further: Mapping[str, Sequence[Further]], paper: Mapping[str, PaperRow]
) -> Table | None:
    """The further columns of the rows that have some, means over seeds; None where no row has any."""
    names = dict.fromkeys(name for runs in further.values() for run in runs for name in run)
    if not names:
        return None
    shown = Table(title=study.title)
    shown.add_column("row")
    for name in names:
        in_paper = any(name in row.further for row in paper.values())
        shown.add_column(f"{name}, paper | ours" if in_paper else name, justify="right")
    for row in study.rows:
        runs, theirs = further.get(row.name, ()), paper.get(row.name, NOTHING)
        cells = [_further_cell(name, theirs, runs) for name in names]
        if any(cells):
            shown.add_row(row.name, *cells)
    return shown


def sentences(study: Study, results: Results, paper: Mapping[str, PaperRow]) -> list[str]:
    """One for each row that shares a seed with the baseline, then one for each further pair that shares one."""
    with_baseline = [(row.name, study.baseline) for row in study.rows if row.name != study.baseline]
    said = []
    for name, other in (*with_baseline, *study.pairs):
        difference = paired_difference(_aps(results.get(name, {})), _aps(results.get(other, {})))
        if difference is None:
            continue
        theirs, base = paper.get(name, NOTHING).ap, paper.get(other, NOTHING).ap
        gap = None if theirs is None or base is None else theirs - base
        said.append(sentence(name, other, difference, gap))
    return said


def figure(study: Study, results: Results, paper: Mapping[str, PaperRow]) -> Figure:
    """The paper's AP of each row and ours, a dot for each seed (a cross: diverged), each on an axis of its own."""
    names = [row.name for row in study.rows]
    drawn, [left, right] = panels(2, width=10, height=1.6 + 0.28 * len(names))
    for place, name in enumerate(names):
        ap, outcomes = paper.get(name, NOTHING).ap, results.get(name, {}).values()
        if ap is not None:
            left.barh(place, ap, color=ORANGE, height=0.6)
        if outcomes:
            right.barh(place, statistics.fmean(o.ap for o in outcomes), color=BLUE, alpha=0.45, height=0.6)
        for outcome in outcomes:
            right.plot([outcome.ap], [place], "x" if outcome.diverged else "o", color=BLUE, markersize=4)
    left.set(title="the paper", xlabel="AP")
    right.set(title="ours, a dot for each seed", xlabel="AP")
    for axes in (left, right):
        _as_rows(axes, names)
    right.set_yticklabels([])
    drawn.suptitle(f"{study.title}{circumstances(results)}")
    return drawn


def circumstances(results: Results) -> str:
    """Scale and data of the runs, for a title; empty where there are none."""
    found = [outcome for outcomes in results.values() for outcome in outcomes.values()]
    return f" (ours: {found[0].scale} scale, {found[0].data})" if found else ""


def _as_rows(axes: Axes, names: Sequence[str]) -> None:
    """All names in order from the top, those without a number too."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _aps(outcomes: Mapping[int, Outcome]) -> dict[int, float]:
    return {seed: outcome.ap for seed, outcome in outcomes.items()}


def _mean_loss(outcomes: Sequence[Outcome]) -> str:
    """Of the runs that logged one; result.csv has each."""
    losses = [outcome.loss for outcome in outcomes if outcome.loss is not None]
    return f"{statistics.fmean(losses):.3g}" if losses else ""


def _paper_cell(row: PaperRow) -> str:
    if row.ap is None:
        return row.note or "-"
    return " / ".join("-" if value is None else f"{value:.1f}" for value in (row.ap, row.ap50, row.ap75))


def _our_cell(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "not run"
    columns = ([o.ap for o in outcomes], [o.ap50 for o in outcomes], [o.ap75 for o in outcomes])
    return " / ".join(f"{statistics.fmean(column):.1f}" for column in columns)


def _further_cell(name: str, paper: PaperRow, runs: Sequence[Further]) -> str:
    """The paper's number, if it has one, and the mean of ours; words once."""
    found = [run[name] for run in runs if name in run]
    numbers = [value for value in found if not isinstance(value, str)]
    ours = f"{statistics.fmean(numbers):.3g}" if numbers else ", ".join(dict.fromkeys(map(str, found)))
    return f"{paper.further[name]:g} | {ours or '-'}" if name in paper.further else ours
