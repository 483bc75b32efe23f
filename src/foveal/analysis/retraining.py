"""Training on with the hardest pictures more often: the other half of mining."""

from __future__ import annotations

import os
from pathlib import Path

from foveal.engine.checkpoint import RunInfo, read_run
from foveal.engine.train import train
from foveal.errors import UsageError


def check_sees(run: str | os.PathLike[str], split: str) -> None:
    """UsageError where `split` is not the one that the run is trained on: its pictures cannot be seen more often."""
    info = read_run(run)
    training = info.config.data.train_split
    if split != training:
        raise UsageError(
            f"{split}: {info.path} is not trained on this split, so that its pictures cannot be seen more often; give "
            f"--split {training}, or leave out --retrain"
        )


def retrain(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    hardest: str | os.PathLike[str],
    steps: int = 0,
    device: str = "auto",
) -> RunInfo:
    """A new run in `out`, from `run`'s weights with its settings, that sees the pictures of a file more often.

    hardest: a path a line, as `write_mined` writes them. steps: default a quarter of the run's.
    """
    info = read_run(run)
    settings = {
        "data.oversample": str(Path(hardest)),
        "train.steps": steps or max(1, info.config.train.steps // 4),
        "train.minutes": 0.0,
        "anchors.auto": False,
        "loss.balance": "none",
    }
    return train(data, out, config=info.config, settings=settings, weights=run, device=device)
