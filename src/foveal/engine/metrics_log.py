"""metrics.jsonl and TensorBoard: the numbers of a run, line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foveal.config import Config


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

    @property
    def bytes_written(self) -> int:
        return self._file.tell() if self._file else 0

    def add(self, step: int, numbers: dict[str, Any], prefix: str = "train") -> None:
        if self._file:
            self._file.write((json.dumps(numbers) + "\n").encode())
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
