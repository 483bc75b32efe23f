"""Does it help to see the hardest pictures more often? `foveal mine --retrain` against training on as long without it.

    python -m benchmarks.hardest DATA --weights mobilenet_v2-b0353104.pth --seeds 3
    python -m benchmarks.hardest --table

Three rows a seed, `light`, all scored on the test split with the last weights:

    first                   trained for --steps steps
    trained on              the same run, trained on for as many steps
    trained on, hardest     the same, with the 100 hardest training pictures three times as often

A row that is in its folder is not run again, and the first training goes on where it stopped. Rows go into
results/hardest.csv and the table of docs/mining.md as they are done; --table writes that table alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bootstrapping import RECIPE
from benchmarks.common import RESULTS, ROOT, circumstances, read_rows, replace_rows
from foveal.analysis.bootstrapping import train_on
from foveal.analysis.hard_examples import mine
from foveal.analysis.mined_files import write_mined
from foveal.analysis.retraining import retrain
from foveal.config import preset
from foveal.engine.checkpoint import write_text
from foveal.engine.evaluate import evaluate
from foveal.engine.train import train
from studies.compare import paired_difference

ROWS = ("first", "trained on", "trained on, hardest")
KEY = ("row", "seed", "first_steps")
HARDEST = 100
"""Pictures that are seen three times as often, which is `data.oversample_times`."""
BEGIN, END = "<!-- hardest: written by python -m benchmarks.hardest -->", "<!-- end of hardest -->"
PAGE = ROOT / "docs" / "mining.md"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("data/bloodcells"), help="default data/bloodcells")
    parser.add_argument("--weights", default="imagenet", help="MobileNetV2 backbone file; default: fetched")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--steps", type=int, default=300, help="of one training; the later rows have two")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "hardest")
    parser.add_argument("--table", action="store_true", help="write the table of docs/mining.md and train nothing")
    chosen = parser.parse_args(arguments)
    for seed in range(0 if chosen.table else chosen.seeds):
        for row in ROWS:
            replace_rows("hardest", [measure(row, seed, chosen)], KEY, quietly=True)
            write_table()
    write_table()


def measure(row: str, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores one row, unless that was done; its numbers lie in the run's folder."""
    folder = chosen.runs / f"seed-{seed}-{chosen.steps}-steps"
    first, run = folder / "first", folder / row.replace(", ", "-").replace(" ", "-")
    done = run / "row.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    if row == "first":
        settings = RECIPE | {"train.steps": chosen.steps, "seed": seed, "model.weights": chosen.weights}
        train(chosen.data, run, config=preset("light"), settings=settings, resume=True)
    else:
        shutil.rmtree(run, ignore_errors=True)  # half a run from before
        if row == "trained on":
            train_on(first, chosen.data, run)
        else:
            mined = write_mined(mine(first, chosen.data), folder / "mined", HARDEST, sheet=0)
            retrain(first, chosen.data, run, mined / "hardest.txt", chosen.steps)
    found = evaluate(run, chosen.data, "test", which="last").numbers
    steps = [json.loads((one / "result.json").read_text(encoding="utf-8"))["steps"] for one in {first, run}]
    numbers = {"row": row, "seed": seed, "first_steps": chosen.steps, "steps": sum(steps)}
    numbers |= {name: round(100 * (found[name] or 0), 1) for name in ("AP", "AP50", "AP75")}
    done.write_text(json.dumps(numbers | circumstances()), encoding="utf-8")
    print(numbers, flush=True)
    return numbers | circumstances()


def write_table() -> None:
    file = RESULTS / "hardest.csv"
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), read_rows(file) if file.exists() else []))


def with_table(page: str, lines: list[dict[str, str]]) -> str:
    """The page with its table as the lines of results/hardest.csv have it."""
    lengths = sorted({int(line["first_steps"]) for line in lines})
    tables = [_table([line for line in lines if int(line["first_steps"]) == one]) for one in lengths]
    before, rest = page.split(BEGIN)
    return "\n\n".join([before + BEGIN, *(tables or ["Not run yet."]), END + rest.split(END)[1]])


def _table(lines: list[dict[str, str]]) -> str:
    """AP of each seed, means of AP and AP50, and what oversampling is worth, paired over seeds."""
    seeds = sorted({int(line["seed"]) for line in lines})
    found = {name: _by_row(lines, name) for name in ("AP", "AP50")}
    rows = [
        ("training", "steps", *(f"seed {seed}" for seed in seeds), "AP", "AP50"),
        ("---",) + ("---:",) * (len(seeds) + 3),
    ]
    for row in found["AP"]:
        steps = next(line["steps"] for line in lines if line["row"] == row)
        aps = [f"{found['AP'][row][seed]:.1f}" if seed in found["AP"][row] else "" for seed in seeds]
        rows.append((row, steps, *aps, *(f"{statistics.fmean(found[name][row].values()):.1f}" for name in found)))
    told = []
    for name, by_row in found.items():
        difference = paired_difference(by_row.get(ROWS[2], {}), by_row.get(ROWS[1], {}))
        told += [f"{difference} {name}"] if difference else []
    where = "; ".join(dict.fromkeys(f"commit {line['commit']}, {line['machine']}" for line in lines))
    against = f"The hardest three times as often, against training on without it: {', '.join(told)}. " if told else ""
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", f"{against}{where[0].upper()}{where[1:]}."])


def _by_row(lines: list[dict[str, str]], name: str) -> dict[str, dict[int, float]]:
    """Numbers by row, in the order of ROWS, and by seed."""
    found = {row: {int(line["seed"]): float(line[name]) for line in lines if line["row"] == row} for row in ROWS}
    return {row: by_seed for row, by_seed in found.items() if by_seed}


if __name__ == "__main__":
    main()
