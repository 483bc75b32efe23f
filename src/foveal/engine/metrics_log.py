"""The numbers of a run: their means over some steps, and metrics.jsonl and TensorBoard line by line."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.config import Config
from foveal.engine.checkpoint import Progress
from foveal.engine.progress import Reporter
from foveal.engine.schedule import is_due
from foveal.engine.step import StepResult


class Meter:
    """Means since the last line in metrics.jsonl, and the speed; the sums are part of the run's progress."""

    def __init__(self, config: Config, progress: Progress, device: torch.device):
        self.config, self.progress, self.device = config, progress, device
        self._sums = torch.tensor(progress.window, dtype=torch.float64, device=device)
        self._shown: dict[str, float] = {}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves what went before, such as an evaluation, out of the speed."""
        self._since, self._since_step = time.monotonic(), self.progress.step

    @property
    def window(self) -> tuple[float, ...]:
        return tuple(self._sums.tolist())

    def add(self, result: StepResult, lr: float, reporter: Reporter) -> None:
        """Takes in a step and shows it; off the CPU numbers are read, which waits, only where a line is due."""
        self._sums += _numbers(result)
        self.progress.window_steps += 1
        due = is_due(self.progress.step, self.config.train.log_every, self.progress.total)
        if due or self.device.type == "cpu":
            classification, box, *_ = self._means()
            self._shown = {"img/s": self._images_per_s(), "class loss": classification, "box loss": box, "lr": lr}
        reporter.step(self.progress.step, self.progress.total, self._shown)

    def line(self, lr: float, seconds: float) -> dict[str, Any]:
        """The line of metrics.jsonl for the window that ends here; a new window begins."""
        numbers = training_line(self.config, self._means(), lr, self._images_per_s(), seconds)
        self._sums.zero_()
        self.progress.window_steps = 0
        self.restart_clock()
        return {"step": self.progress.step, **numbers}

    def _means(self) -> list[float]:
        return [total / max(1, self.progress.window_steps) for total in self.window]

    def _images_per_s(self) -> float:
        steps = self.progress.step - self._since_step
        return self.config.train.batch_size * steps / max(1e-9, time.monotonic() - self._since)


def _numbers(result: StepResult) -> Tensor:
    values = (result.classification, result.box, result.positives, result.gradient_norm)
    return torch.stack([value.double() for value in values])


class MetricsLog:
    """metrics.jsonl and TensorBoard; both are cut back to the step that training goes on from."""

    def __init__(self, folder: Path, step: int, writes: bool, tensorboard: bool):
        self.path, self.step, self.writes, self.tensorboard = folder / "metrics.jsonl", step, writes, tensorboard

    def __enter__(self) -> MetricsLog:
        self._file = open(self.path, "ab") if self.writes else None
        self._board = None
        if self.writes and self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=self.step + 1)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()

    def flushed_bytes(self) -> int:
        """Length of metrics.jsonl, all of it on the disk: what a checkpoint may rely on."""
        if not self._file:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def add(self, step: int, numbers: dict[str, Any], prefix: str = "train") -> None:
        # A loss scaler's skipped step has an infinite norm, which JSON cannot hold.
        numbers = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}
        if self._file:
            self._file.write((json.dumps(numbers, allow_nan=False) + "\n").encode())
            self._file.flush()
        if self._board:
            for name, value in numbers.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(f"{prefix}/{name}", value, step)


def training_line(config: Config, means: list[float], lr: float, images_per_s: float, seconds: float) -> dict[str, Any]:
    """A line of metrics.jsonl; `images_per_s` and `time_s` are the only entries that depend on the clock."""
    classification, box, positives, norm = means
    return {
        "loss": classification + config.loss.box_weight * box,
        "loss_classification": classification,
        "loss_box": box,
        "positives": positives,
        "gradient_norm": norm,
        "lr": lr,
        "images_per_s": round(images_per_s, 2),
        "time_s": round(seconds, 2),
    }
