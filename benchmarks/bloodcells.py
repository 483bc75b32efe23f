"""What `light` reaches on blood cells, and which part of the recipe brings how much.

    python -m benchmarks.bloodcells DATA --weights mobilenet_v2-b0353104.pth --seeds 0 1 2
    python -m benchmarks.bloodcells DATA --weights mobilenet_v2-b0353104.pth --rows all --steps 500 --split val

A row is the recipe with one thing changed, trained by `foveal train` in a process of its own and scored by `foveal
evaluate`. Minutes are the whole training command, from start to end. Rows that were run before are not run again; all
go into results/bloodcells.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, commit, write_rows

RECIPE = ["--anchors.auto", "--data.quarter-turns"]
ROWS: dict[str, list[str]] = {
    "recipe": RECIPE,
    "no quarter turns": ["--anchors.auto"],
    "anchors from 16, not fitted": ["--data.quarter-turns", "--anchors.sizes", "16", "32", "64", "128", "256"],
    "heads at 1e-3": [*RECIPE, "--train.lr", "1e-3"],
    "one rate of 1e-3 for all": [*RECIPE, "--train.backbone-lr", "1", "--train.lr", "1e-3"],
    "SGD at .01 for all": [
        *RECIPE,
        *("--train.optimiser", "sgd", "--train.lr", "0.01", "--train.backbone-lr", "1", "--train.weight-decay", "1e-4"),
    ],
    "no averaged weights": [*RECIPE, "--train.ema", "0"],
    "no group norm in the heads": [*RECIPE, "--model.head-norm", "none"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 backbone file")
    parser.add_argument("--rows", nargs="+", default=["recipe"], help=f"all, or some of: {'; '.join(ROWS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=0, help="0 means the preset's")
    parser.add_argument("--split", default="test", help="what is scored")
    parser.add_argument("--untimed", action="store_true", help="leave minutes empty: the machine does other work")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bloodcells")
    chosen = parser.parse_args()
    for row in ROWS if chosen.rows == ["all"] else chosen.rows:
        for seed in chosen.seeds:
            measure(row, seed, chosen)
    done = [json.loads(file.read_text()) for file in sorted(chosen.out.glob("*/row.json"))]
    write_rows("bloodcells", done)


def measure(row: str, seed: int, chosen: argparse.Namespace) -> None:
    """Trains and scores one row, unless that was done; the numbers go into the run's folder."""
    name = f"{row} {chosen.steps or 'preset'} {seed} {chosen.split}".replace(" ", "-").replace(",", "").replace("'", "")
    run, result = chosen.out / name, chosen.out / name / "row.json"
    if result.exists():
        return
    steps = ["--train.steps", str(chosen.steps)] if chosen.steps else []
    flags = ["--model.weights", str(chosen.weights.resolve()), *ROWS[row], *steps, "--seed", str(seed)]
    began = time.perf_counter()
    foveal("train", str(chosen.data), "--out", str(run), "--resume", *flags)
    minutes = (time.perf_counter() - began) / 60
    told = json.loads(foveal("evaluate", str(run), str(chosen.data), "--split", chosen.split, "--json"))
    numbers: dict[str, Any] = {"row": row, "split": chosen.split, "seed": seed}
    trained = json.loads((run / "result.json").read_text())
    numbers["steps"] = trained["steps"]
    numbers |= {key: round(100 * told[key], 1) for key in ("AP", "AP50", "AP75")}
    timed = "" if chosen.untimed else round(max(minutes, trained["minutes"]), 1)
    numbers |= {"minutes": timed, "trained_at": commit()}
    result.write_text(json.dumps(numbers))
    print(numbers, flush=True)


def foveal(*words: str) -> str:
    """Standard output of one command; what it says to people goes to the terminal."""
    command = [sys.executable, "-m", "foveal.cli", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
