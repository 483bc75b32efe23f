"""What a run that is pushed, or a file that is exported, tells: settings without paths, numbers of its own weights."""

from __future__ import annotations

import json
from pathlib import Path, PureWindowsPath

from foveal.config import Config
from foveal.engine.checkpoint import RunInfo, Which, read_json
from foveal.model.weights import is_imagenet_file

# Of a line of metrics.jsonl that an evaluation wrote.
NUMBERS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "recommended_threshold",
    "recommended_f1", "images", "objects",
)  # fmt: skip


def publishable(config: Config) -> Config:
    """The config without paths: of a file of weights and of a backbone's folder the name stays, of a list nothing.

    What depends on the machine goes back to its default.
    """
    weights, backbone = config.model.weights, config.model.backbone
    if weights not in ("imagenet", "none"):
        name = name_of(weights)
        weights = "imagenet" if is_imagenet_file(name, backbone) else name
    path = backbone.removeprefix("hf:")
    if path != backbone and _is_path(path):
        backbone = f"hf:{name_of(path)}"
    default = Config().data
    return config.with_changes(
        {
            "model.weights": weights,
            "model.backbone": backbone,
            "data.oversample": "",
            "data.workers": default.workers,
            "data.max_pixels": default.max_pixels,
        }
    )


def evaluation_at(folder: Path, step: int | None) -> dict[str, float]:
    """The numbers of the evaluation after `step` on the validation split; empty if there was none."""
    path = folder / "metrics.jsonl"
    for line in reversed(path.read_text(encoding="utf-8").splitlines() if path.exists() else []):
        try:
            found = json.loads(line)
        except ValueError:  # torn by a stop
            continue
        if found.get("step") == step and "AP" in found:
            return {name: found[name] for name in NUMBERS if isinstance(found.get(name), int | float)}
    return {}


def threshold_of(run: RunInfo, which: Which) -> float | None:
    """The score to show from with these weights: the run's own is the best step's, and of no other."""
    result = read_json(run.path / "result.json") if (run.path / "result.json").exists() else {}
    steps, best_step = result.get("steps"), result.get("best_step")
    if steps == best_step or (which == "best" and (run.path / "best.safetensors").exists()):
        return run.threshold
    return evaluation_at(run.path, steps).get("recommended_threshold")


def name_of(path: str) -> str:
    """The last part of a path of any system."""
    return PureWindowsPath(path).name  # knows both kinds of slashes


def _is_path(name: str) -> bool:
    """Whether a backbone's name is a folder's; a model of the hub is called name or owner/name."""
    return (
        name.count("/") > 1
        or "\\" in name
        or name.startswith(("/", ".", "~"))
        or name.endswith("/")
        or Path(name).is_dir()
    )
