"""result.csv of a study: a line for each finished run, with what is needed to repeat it."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.engine.checkpoint import write_text
from studies.locks import alone
from studies.runs import Outcome
from studies.study import Further

COLUMNS = (
    "row seed scale data AP AP50 AP75 diverged loss steps minutes config code commit machine date".split()
)  # what every study has; some have more
SAME_RUN = ("row", "seed", "scale", "data")
SHOWN = ("small", "scenes")
"""Scale and data of figure.png, where result.csv has them."""


def line_of(row: str, outcome: Outcome, further: Further) -> dict[str, Any]:
    return {
        "row": row,
        "seed": outcome.seed,
        "scale": outcome.scale,
        "data": outcome.data,
        "AP": outcome.ap,
        "AP50": outcome.ap50,
        "AP75": outcome.ap75,
        "diverged": "yes" if outcome.diverged else "no",
        "loss": "" if outcome.loss is None else f"{outcome.loss:.6g}",
        "steps": outcome.steps,
        "minutes": outcome.minutes,
        "config": outcome.key,
        **{name: value if isinstance(value, str) else f"{value:.6g}" for name, value in further.items()},
        "code": outcome.code,
        "commit": outcome.commit,
        "machine": outcome.machine,
        "date": outcome.date,
    }


def outcome_of(line: Mapping[str, str]) -> Outcome:
    """The outcome that a line of result.csv tells of."""
    return Outcome(
        key=line["config"],
        scale=line["scale"],
        data=line["data"],
        seed=int(line["seed"]),
        ap=float(line["AP"]),
        ap50=float(line["AP50"]),
        ap75=float(line["AP75"]),
        diverged=line["diverged"] == "yes",
        loss=float(line["loss"]) if line["loss"] else None,
        steps=int(line["steps"]),
        minutes=float(line["minutes"]),
        commit=line["commit"],
        machine=line["machine"],
        date=line["date"],
        code=line.get("code") or "",
    )


def outcomes_in(path: Path) -> list[tuple[str, Outcome]]:
    """Row and outcome of each line of result.csv. A line without a code has that of another one of its commit."""
    found = [(line["row"], outcome_of(line)) for line in read_results(path)]
    of_commit = {outcome.commit: outcome.code for _, outcome in found if outcome.code}
    return [
        (row, outcome if outcome.code else replace(outcome, code=of_commit.get(outcome.commit, "")))
        for row, outcome in found
    ]


def different_code(codes: Iterable[str]) -> str:
    """A sentence where the runs of one table, a code each, were not trained by the same; empty where they were."""
    runs = Counter(code or "not recorded" for code in codes)
    if len(runs) < 2:
        return ""
    (first, number), *others = sorted(runs.items())
    told = ", ".join([f"{first}: {number} run{'' if number == 1 else 's'}", *(f"{code}: {n}" for code, n in others)])
    return (
        f"These runs stem from {len(runs)} versions of the code of losses, matching and anchors ({told}); "
        "rows are paired all the same, so a part of a difference may be the code's."
    )


def figure_file(folder: Path, scale: str, data: str) -> Path:
    """Where the figure of a scale and data goes: beside figure.png, where result.csv has the small scale's scenes.

    Those are what README.md shows, and a run of anything else must not take their place.
    """
    shown = {(line["scale"], line["data"]) for line in read_results(folder / "result.csv")}
    if (scale, data) == SHOWN or SHOWN not in shown:
        return folder / "figure.png"
    return folder / f"figure-{re.sub('[^A-Za-z0-9]+', '-', f'{scale} {data}')}.png"


def write_results(
    path: Path, lines: Sequence[Mapping[str, Any]], rows: Sequence[str], same: Sequence[str] = SAME_RUN
) -> None:
    """Puts `lines` in the place of older ones that agree with them in `same`; at once, never half a file.

    Two processes may do so at a time: each adds to what the other wrote. Lines of rows that are not in `rows` go.
    """
    with alone(path):
        merged: dict[tuple[str, ...], Mapping[str, Any]] = {}
        for line in [*read_results(path), *lines]:
            merged[tuple(str(line[name]) for name in same)] = line
        kept = [line for line in merged.values() if line["row"] in rows]
        kept.sort(key=lambda line: (line["scale"], line["data"], rows.index(line["row"]), int(line.get("seed") or 0)))
        text = io.StringIO()
        writer = csv.DictWriter(text, _columns(kept), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_text(path, text.getvalue())


def read_results(path: Path) -> list[dict[str, str]]:
    """The lines of result.csv; none if nothing has been run."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _columns(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """All that some line has: those that studies share in their order, then the others as they come."""
    found = dict.fromkeys(name for line in lines for name in line) or dict.fromkeys(COLUMNS)
    return [*(name for name in COLUMNS if name in found), *(name for name in found if name not in COLUMNS)]
