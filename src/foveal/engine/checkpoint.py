"""What a run keeps on disk, and how it survives being killed at any moment.

    RUN/config.yaml classes.json environment.json data.json   written once, at the start
    RUN/backbone/config.json preprocessor_config.json         of a `hf:` backbone, so that the run needs no network
    RUN/metrics.jsonl                                         a line every few steps; cut back on resume
    RUN/checkpoints/step-00000200/                            model, optimiser and averaged weights, state.json
    RUN/checkpoints/last, RUN/checkpoints/best                text files naming one of those folders
    RUN/last.safetensors, RUN/best.safetensors                weights to use: averaged ones where the run averages
    RUN/result.json                                           written at the end: best step, AP, recommended threshold

Every file is written beside its place, flushed and renamed; a checkpoint folder counts only once a pointer names it.
Nothing here is a pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from foveal.config import Config, load_config
from foveal.errors import CheckpointError, UsageError, WeightsError
from foveal.hub.fetching import local_run
from foveal.model.weights import read_tensors

Which = Literal["last", "best"]
BACKBONE = "backbone"


@dataclass(frozen=True)
class RunInfo:
    """A run's folder and what it knows about itself."""

    path: Path
    config: Config
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    threshold: float | None
    """Recommended on the validation split at the end of training; None until then."""

    @property
    def backbone_folder(self) -> Path:
        """Where the run describes a backbone that its config only names (`hf:`)."""
        return self.path / BACKBONE

    def __fspath__(self) -> str:
        return str(self.path)


@dataclass
class Progress:
    """Where a run stands: all of it is in every checkpoint."""

    step: int = 0
    total: int = 0
    evaluations: int = 10
    """Over the whole run; a time budget may afford fewer."""
    best_ap: float | None = None
    best_step: int = 0
    threshold: float | None = None
    without_better: int = 0
    stopped_early: bool = False
    metrics_bytes: int = 0
    seconds: float = 0.0
    window: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Sums of class loss, box loss, positives and gradient norm since the last line in metrics.jsonl."""
    window_steps: int = 0

    @property
    def finished(self) -> bool:
        return bool(self.total) and (self.step >= self.total or self.stopped_early)

    def note_evaluation(self, ap: float | None, threshold: float | None, patience: int) -> bool:
        """Takes in a validation AP; True if these weights are the best so far.

        While nothing has been found yet (AP 0, or none to compute) the newest weights are the best, and patience waits.
        """
        better = not self.best_ap or (ap or 0.0) > self.best_ap
        if better:
            self.best_ap, self.best_step, self.threshold = ap, self.step, threshold
        self.without_better = 0 if better else self.without_better + 1
        self.stopped_early = 0 < patience <= self.without_better and self.step < self.total
        return better


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint: everything that training needs to go on."""

    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def read_run(path: str | os.PathLike[str]) -> RunInfo:
    """Reads the description of a run in a folder, or on the hub (`hf://owner/name`); UsageError if it is no run.

    `path` of the result is the folder, which for a run of the hub lies in its cache.
    """
    folder = local_run(path)
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; give the run's folder")
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such run folder; check the path, or train with --out {folder}")
    if not (folder / "config.yaml").exists() or not (folder / "classes.json").exists():
        raise UsageError(f"{folder}: is not a run: it has no config.yaml and classes.json, which `foveal train` writes")
    classes = read_json(folder / "classes.json")
    result = read_json(folder / "result.json") if (folder / "result.json").exists() else {}
    try:
        names = tuple(str(c["name"]) for c in classes)
        ids = tuple(int(c["id"]) for c in classes)
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{folder / 'classes.json'}: is not a list of {{id, name}}; restore it") from None
    if not isinstance(result, dict):
        raise CheckpointError(f"{folder / 'result.json'}: is not an object of names and numbers; restore it")
    return RunInfo(folder, load_config(folder / "config.yaml"), names, ids, result.get("threshold"))


def run_weights(path: str | os.PathLike[str], which: Which = "best") -> dict[str, Tensor]:
    """The weights of a run by their names: `best`, or `last` where the run has no best yet."""
    for name in (which, "last"):
        file = Path(path) / f"{name}.safetensors"
        if file.exists():
            return _own_tensors(file)
    raise CheckpointError(f"{path}: has no weights yet (no best.safetensors or last.safetensors); train it first")


def write_description(folder: Path, config: Config, class_names: Any, category_ids: Any, **files: Any) -> None:
    """Writes config.yaml and classes.json, and each of `files` as NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)]
    for name, value in files.items():
        write_json(folder / f"{name}.json", value)
    write_json(folder / "classes.json", classes)
    write_text(folder / "config.yaml", config.to_yaml())


def write_checkpoint(folder: Path, snapshot: Snapshot, best: bool) -> None:
    """Adds a checkpoint, points `last` (and `best`) at it and drops those that nothing points at."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    name = f"step-{snapshot.state['step']:08d}"
    beside = checkpoints / f".{name}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for part, tensors in snapshot.tensors.items():
        save_tensors(beside / f"{part}.safetensors", tensors)
    write_json(beside / "state.json", snapshot.state)
    _flush_folder(beside)
    shutil.rmtree(checkpoints / name, ignore_errors=True)
    os.rename(beside, checkpoints / name)
    _flush_folder(checkpoints)
    # `best` first: whoever dies in between goes on from the older `last` and writes this folder once more.
    if best:
        write_text(checkpoints / "best", name)
    write_text(checkpoints / "last", name)
    publish_weights(folder)
    keep = {pointed_at(folder, "last"), pointed_at(folder, "best")}
    for old in checkpoints.iterdir():
        if old.is_dir() and old.name not in keep:
            shutil.rmtree(old, ignore_errors=True)


def pointed_at(folder: Path, which: Which) -> str | None:
    """The name of the checkpoint folder that `last` or `best` points at."""
    pointer = folder / "checkpoints" / which
    if not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8").strip()
    return name if (folder / "checkpoints" / name / "state.json").exists() else None


def publish_weights(folder: Path) -> None:
    """Makes last.safetensors and best.safetensors those of the checkpoints pointed at; mends a torn stop too."""
    whiches: tuple[Which, ...] = ("last", "best")
    for which in whiches:
        name = pointed_at(folder, which)
        if name is None:
            continue
        checkpoint = folder / "checkpoints" / name
        averaged = checkpoint / "ema.safetensors"
        source = averaged if averaged.exists() else checkpoint / "model.safetensors"
        beside = folder / f".{which}.safetensors.part"
        beside.unlink(missing_ok=True)
        try:
            os.link(source, beside)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, beside)
        target = folder / f"{which}.safetensors"
        os.replace(beside, target)
        beside.unlink(missing_ok=True)  # rename does nothing between two links of one file


def read_checkpoint(folder: Path) -> Snapshot | None:
    """The last whole checkpoint of a run; None if there is none."""
    name = pointed_at(folder, "last")
    if name is None:
        return None
    checkpoint = folder / "checkpoints" / name
    tensors = {file.stem: _own_tensors(file) for file in sorted(checkpoint.glob("*.safetensors"))}
    return Snapshot(read_json(checkpoint / "state.json"), tensors)


def cut_metrics(folder: Path, length: int) -> None:
    """Cuts metrics.jsonl back to what had been written when the checkpoint was."""
    path = folder / "metrics.jsonl"
    if path.exists() and path.stat().st_size > length:
        os.truncate(path, length)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); restore it or train again") from None


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes beside, flushes, renames: the file is the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a safetensors file through a flushed neighbour; equal tensors give equal bytes."""
    beside = path.with_name(f".{path.name}.part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}, beside)
    with open(beside, "rb+") as file:
        os.fsync(file.fileno())
    os.chmod(beside, 0o644)  # safetensors lets only the owner read
    os.replace(beside, path)


def _own_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except WeightsError as error:
        raise CheckpointError(f"{str(error).rpartition('; ')[0]}; restore it, or train again") from None


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: INDEX.NAME, the index counting parameters in group order."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimiser_tensors`; hyper-parameters stay as the config has them.

    Moments get their parameter's memory layout back: torch's fused optimisers walk through parameter, gradient and
    moments as raw memory, and silently mix up elements where the layouts differ.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
