"""What a run is before its first step: may this folder be used, with which settings, from which weights."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import foveal
from foveal.config import Config, differences, flat_settings
from foveal.data.table import Table
from foveal.engine import checkpoint
from foveal.engine.anchor_fit import fit_anchors
from foveal.engine.progress import Reporter
from foveal.errors import CheckpointError, ConfigError, UsageError
from foveal.losses.classification import inverse_frequency_alpha
from foveal.model.retinanet import RetinaNet
from foveal.model.weights import copy_matching
from foveal.wording import counted

# These change how fast a run goes, what it needs or what it shows, never what it learns (torch.compile: to rounding).
MAY_DIFFER_ON_RESUME = (
    "data.workers", "data.max_pixels", "train.tensorboard", "train.recompute_backbone", "train.compile",
)  # fmt: skip
# Fitted at the start of the first leg, so that a resumed run takes them from the stored config.
FITTED = ("anchors.sizes", "anchors.scales", "anchors.ratios")
BALANCED = ("loss.class_alpha",)
# A run's weights fit only a network of these settings; how it is trained is free.
FREE_IN_A_NEW_RUN = ("frozen_stages", "channels_last")


def snapshot_to_resume(folder: Path, resume: bool) -> checkpoint.Snapshot | None:
    """The checkpoint to go on from, None to start; UsageError where starting would overwrite something."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; choose another --out")
    snapshot = checkpoint.read_checkpoint(folder)
    if snapshot is not None and not resume:
        raise UsageError(
            f"{folder}: already holds a run at step {snapshot.state['step']}; "
            "add --resume to go on with it, or choose another --out"
        )
    left = [name for name in ("best.safetensors", "last.safetensors", "result.json") if (folder / name).exists()]
    if snapshot is None and left:
        raise UsageError(
            f"{folder}: holds {', '.join(left)} of a run whose checkpoints are gone, so it cannot go on; "
            f"choose another --out (with --weights {folder} to start from its weights), or remove the folder"
        )
    return snapshot


def settled_config(
    config: Config, folder: Path, resumed: bool, table: Table, val: Table | None, reporter: Reporter
) -> Config:
    """The config this run really has: what is fitted filled in; on resume held against what the run began with."""
    classes = len(table.class_names)
    if not resumed:
        if config.anchors.auto:
            config = config.with_changes({"anchors": fit_anchors(table, config).model_dump()})
        if config.loss.balance == "inverse_frequency":
            counts = torch.bincount(table.labels[~table.crowd].long(), minlength=classes).tolist()
            fitted = tuple(round(alpha, 4) for alpha in inverse_frequency_alpha(counts, config.loss.alpha))
            if config.loss.class_alpha not in ((), fitted):
                reporter.say(
                    f"loss.class_alpha {_numbers(config.loss.class_alpha)} is not used: loss.balance inverse_frequency "
                    f"fits {_numbers(fitted)}; set loss.balance to none to keep the former"
                )
            config = config.with_changes({"loss.class_alpha": fitted})
        if config.loss.class_alpha and len(config.loss.class_alpha) != classes:
            raise ConfigError(
                f"loss.class_alpha has {counted(len(config.loss.class_alpha), 'number')} for "
                f"{counted(classes, 'class')}: give one for each of {', '.join(table.class_names)}, in this order"
            )
        return config
    stored = checkpoint.read_run(folder)
    ignored = {*MAY_DIFFER_ON_RESUME, *(FITTED if config.anchors.auto else ())}
    if config.loss.balance != "none":
        ignored.update(BALANCED)
    changed = [one for one in differences(stored.config, config) if one[0] not in ignored]
    if changed:
        told = ", ".join(f"{name} {new!r} (was {old!r})" for name, old, new in changed)
        raise CheckpointError(
            f"{folder}: this run began with other settings: {told}; leave them out, then --resume takes those of the "
            "run, or start another run with --out and --weights"
        )
    began_with = checkpoint.read_json(folder / "data.json")
    for split, now in fingerprints(table, val).items():
        if began_with.get("fingerprints", {}).get(split) != now:
            raise CheckpointError(
                f"{folder}: the labels of split {split!r} changed since this run began (see fingerprints in "
                "data.json); restore them, or start another run with --out and --weights"
            )
    now_settings = flat_settings(config)
    return stored.config.with_changes({name: now_settings[name] for name in MAY_DIFFER_ON_RESUME})


def _numbers(alphas: tuple[float, ...]) -> str:
    return " ".join(f"{alpha:g}" for alpha in alphas)


def fingerprints(table: Table, val: Table | None) -> dict[str, str]:
    """A hash of the labels of each split that a run looks at."""
    return {split.split: split.fingerprint() for split in (table, val) if split is not None}


def with_architecture_of(run: checkpoint.RunInfo, config: Config, reporter: Reporter) -> Config:
    """`config` with the network and, unless they are to be fitted, the anchors that the run's weights belong to."""
    network = run.config.model.model_dump(exclude=set(FREE_IN_A_NEW_RUN))
    changes: dict[str, Any] = {"model": network}
    if not config.anchors.auto:
        changes["anchors"] = run.config.anchors.model_dump()
    changed = config.with_changes(changes)
    if taken := differences(config, changed):
        told = ", ".join(f"{name} {new}" for name, _, new in taken)
        reporter.say(f"taken from {run.path}, whose weights need them: {told}")
    return changed


def start_from(run: checkpoint.RunInfo, model: RetinaNet, class_names: tuple[str, ...], reporter: Reporter) -> None:
    """Copies a run's weights; where the classes differ its class predictions mean nothing here and are replaced."""
    tensors = checkpoint.run_weights(run.path)
    if run.class_names != class_names:
        tensors = {name: t for name, t in tensors.items() if not name.startswith("class_head.predict.")}
    fresh = copy_matching(model, tensors)
    reporter.say(f"starting from {run.path}, which knows {', '.join(run.class_names)}")
    if fresh:
        reporter.say(f"replaced, not taken over: {', '.join(fresh)}")


def write_run(
    folder: Path,
    config: Config,
    table: Table,
    val: Table | None,
    device: torch.device,
    world: int,
    backbone: Mapping[str, Any],
) -> None:
    """The files that say what a run is: settings, classes, data, environment, and a `hf:` backbone's description."""
    environment = {
        "foveal": foveal.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world,
    }
    data = {
        "root": os.path.abspath(table.root),
        "format": table.format,
        "split": table.split,
        "images": len(table),
        "boxes": table.num_boxes,
        "fingerprint": table.fingerprint(),
        "fingerprints": fingerprints(table, val),
    }
    files = {"environment": environment, "data": data}
    files |= {f"{checkpoint.BACKBONE}/{name}": value for name, value in backbone.items()}
    checkpoint.write_description(folder, config, table.class_names, table.category_ids, **files)
