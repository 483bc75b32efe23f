"""result.csv of a study: a line for each finished run, with what is needed to repeat it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.engine.checkpoint import write_text
from studies.runs import Outcome

COLUMNS = (
    "row seed scale data AP AP50 AP75 diverged loss steps minutes config commit machine date".split()
)  # what every study has; some have more
SAME_RUN = ("row", "seed", "scale", "data")


def line_of(row: str, outcome: Outcome, extra: Mapping[str, float]) -> dict[str, Any]:
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
        **{name: f"{value:.6g}" for name, value in extra.items()},
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
    )


def write_results(path: Path, lines: Sequence[Mapping[str, Any]], rows: Sequence[str]) -> None:
    """Puts `lines` in the place of older ones of the same row, seed, scale and data; at once, never half a file."""
    merged: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for line in [*read_results(path), *lines]:
        merged[tuple(str(line[name]) for name in SAME_RUN)] = line
    kept = [line for line in merged.values() if line["row"] in rows]
    kept.sort(key=lambda line: (line["scale"], line["data"], rows.index(line["row"]), int(line["seed"])))
    columns = [*COLUMNS, *dict.fromkeys(name for line in kept for name in line if name not in COLUMNS)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    write_text(path, text.getvalue())


def read_results(path: Path) -> list[dict[str, str]]:
    """The lines of result.csv; none if nothing has been run."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
