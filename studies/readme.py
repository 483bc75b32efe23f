"""The part of a study's README that says what was measured: written from result.csv, so that the two cannot differ."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from foveal.engine.checkpoint import write_text
from studies.locks import alone
from studies.report import sentences, shown_rows
from studies.results import different_code, outcomes_in
from studies.runs import Outcome
from studies.study import PaperRow, Study, paper_rows

BEGIN, END = "<!-- measured: written by the command from result.csv -->", "<!-- end of what was measured -->"


def write_measured(study: Study) -> None:
    """Puts the table of result.csv into README.md, between the marks; a README without marks is left alone."""
    path = study.folder / "README.md"
    with alone(path):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if BEGIN in text and END in text:
            before, rest = text.split(BEGIN, 1)
            after = rest.split(END, 1)[1]
            write_text(path, f"{before}{BEGIN}\n\n{measured(study)}\n{END}{after}")


def measured(study: Study) -> str:
    """Markdown: for each scale and data set a table, a sentence for each comparison, and the circumstances."""
    groups: dict[tuple[str, str], dict[str, dict[int, Outcome]]] = {}
    for row, outcome in outcomes_in(study.folder / "result.csv"):
        groups.setdefault((outcome.scale, outcome.data), {}).setdefault(row, {})[outcome.seed] = outcome
    paper = paper_rows(study.folder)
    return "\n".join(
        _group(_of_scale(study, label.split()[0]), label, data, results, paper)
        for (label, data), results in groups.items()
    )


def _of_scale(study: Study, scale: str) -> Study:
    return replace(study.at(scale), rows=study.chosen(None, scale), paper_baseline=None)


def _group(
    study: Study,
    scale: str,
    data: str,
    results: Mapping[str, Mapping[int, Outcome]],
    paper: Mapping[str, PaperRow],
) -> str:
    outcomes = [outcome for by_seed in results.values() for outcome in by_seed.values()]
    warning = different_code(outcome.code for outcome in outcomes)
    heads = ("row", "paper", "ours", "seeds", f"against {study.baseline}", "diverged", "last loss")
    lines = [
        f"AP / AP50 / AP75 at scale {scale} on {data}, means over seeds:",
        "",
        _line(heads),
        _line(["---", *["---:"] * (len(heads) - 1)]),
        *(_line(cells) for cells in shown_rows(study, results, paper)),
        "",
        *(f"- {said}" for said in sentences(study, results, paper)),
        "",
        *([f"**{warning}**", ""] if warning else []),
        _circumstances(outcomes),
        "",
    ]
    return "\n".join(lines)


def _circumstances(outcomes: Sequence[Outcome]) -> str:
    def all_of(values: Sequence[str]) -> str:
        return ", ".join(sorted(set(values)))

    # Lines that older versions wrote.
    machines = [outcome.machine.replace("(1 cores)", "(1 core)") for outcome in outcomes]
    minutes = statistics.median(outcome.minutes for outcome in outcomes)
    return (
        f"{len(outcomes)} runs of at most {max(outcome.steps for outcome in outcomes)} steps, {minutes:.1f} minutes "
        f"each (median), on {all_of(machines)}; "
        f"commit {all_of([outcome.commit for outcome in outcomes])}; {all_of([outcome.date for outcome in outcomes])}."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
