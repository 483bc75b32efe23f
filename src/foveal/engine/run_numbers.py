"""What the files of a run tell of its weights: the numbers of a step, and the score to show detections from."""

from __future__ import annotations

import json
from pathlib import Path

from foveal.engine.checkpoint import RunInfo, Which, read_json

# Of a line of metrics.jsonl that an evaluation wrote.
NUMBERS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "recommended_threshold",
    "recommended_f1", "images", "objects",
)  # fmt: skip


def evaluation_at(folder: Path, step: int | None) -> dict[str, float]:
    """The numbers of the evaluation after `step` on the validation split; empty if there was none."""
    path = folder / "metrics.jsonl"
    for line in reversed(path.read_text(encoding="utf-8").splitlines() if path.exists() else []):
        try:
            found = json.loads(line)
        except ValueError:  # torn by a stop
            continue
        if isinstance(found, dict) and found.get("step") == step and "AP" in found:
            return {name: found[name] for name in NUMBERS if isinstance(found.get(name), int | float)}
    return {}


def threshold_of(run: RunInfo, which: Which) -> float | None:
    """The score to show from with these weights: the run's own is the best step's, and of no other.

    Where the run names no best step, it has weights of one step only. None where no threshold is recorded.
    """
    result = read_json(run.path / "result.json") if (run.path / "result.json").exists() else {}
    steps, best_step = result.get("steps"), result.get("best_step")
    if best_step in (None, steps) or (which == "best" and (run.path / "best.safetensors").exists()):
        return run.threshold
    return evaluation_at(run.path, steps).get("recommended_threshold")
