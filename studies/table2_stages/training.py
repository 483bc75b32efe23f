"""Training two stages from first step to last, through any number of interruptions.

A plain loop beside `foveal.engine.train`, made of its parts: batches, optimiser, schedule, checkpoints, metrics.jsonl.
It leaves out what no study has: several processes, averaged weights, mixed precision, validation, a time budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from foveal.anchors import Anchors
from foveal.config import Config
from foveal.data.loader import TrainBatches, dead_workers_explained
from foveal.detections import Batch
from foveal.engine import checkpoint
from foveal.engine.allocator import keep_freed_memory
from foveal.engine.checkpoint import Progress, Snapshot
from foveal.engine.interruption import stop_on_signals
from foveal.engine.memory import out_of_memory_explained
from foveal.engine.metrics_log import Meter, MetricsLog
from foveal.engine.predict import pick_device
from foveal.engine.preparation import settled_config, snapshot_to_resume, write_run
from foveal.engine.progress import ConsoleReporter, Reporter
from foveal.engine.schedule import is_due, lr_at
from foveal.engine.step import StepResult, make_optimiser
from foveal.engine.usable import training_table
from foveal.errors import Interrupted, TrainingError
from studies.table2_stages.faster_rcnn import FasterRCNN
from studies.table2_stages.settings import Settings
from studies.table2_stages.two_stage_loss import two_stage_loss


def train(
    data: Path,
    folder: Path,
    config: Config,
    settings: Settings,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> None:
    """Trains into the run folder, from its last checkpoint where it has one; nothing is left to do for a finished run.

    Raises Interrupted after Ctrl-C, with everything saved. A loss or gradient that is not finite raises TrainingError
    and leaves the batch as non-finite-step-N.safetensors.
    """
    assert (config.train.precision, config.train.ema, config.train.patience) == ("fp32", 0, 0), "no study has these"
    keep_freed_memory()
    reporter = reporter or ConsoleReporter()
    live = reporter.live() if isinstance(reporter, ConsoleReporter) else nullcontext()
    with stop_on_signals() as asked_to_stop:
        trainer = Trainer(data, folder, config, settings, pick_device(device), reporter)
        with live, out_of_memory_explained(config), dead_workers_explained(config.data.workers):
            trainer.run(asked_to_stop)


class Trainer:
    """A run in the making: data, model, optimiser, and how far they are."""

    def __init__(
        self, data: Path, folder: Path, config: Config, settings: Settings, device: torch.device, reporter: Reporter
    ):
        self.begun_at = time.monotonic()
        self.folder, self.settings, self.device, self.reporter = folder, settings, device, reporter
        snapshot = snapshot_to_resume(folder, resume=True)
        self.table = training_table(data, config, reporter)
        self.config = settled_config(config, folder, snapshot is not None, self.table, None, reporter)
        self.anchors = Anchors.from_config(self.config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.model = FasterRCNN(self.config, len(self.table.class_names), settings.width, snapshot is None)
        self.model.to(device).train()
        self.optimiser = make_optimiser(self.model, self.config.train)
        self.progress = Progress(total=self.config.train.steps)
        if snapshot is None:
            write_run(
                folder, self.config, self.table, None, device, world=1, backbone=self.model.backbone.description()
            )
            checkpoint.write_json(folder / "settings.json", asdict(settings))
        else:
            self._restore(snapshot)
        self.seconds_before = self.progress.seconds

    def run(self, asked_to_stop: list[int]) -> None:
        """Trains until the last step, or until a signal is in `asked_to_stop`: then saves and raises Interrupted."""
        progress = self.progress
        if not progress.finished:
            checkpoint.cut_metrics(self.folder, progress.metrics_bytes)
            with MetricsLog(self.folder, progress.step, True, self.config.train.tensorboard) as log:
                self._loop(log, asked_to_stop)
        if not progress.finished:
            raise Interrupted(
                f"stopped and saved at step {progress.step} of {progress.total}; go on with the same command (the run "
                f"is {self.folder})"
            )
        minutes = round(progress.seconds / 60, 2)
        checkpoint.write_json(self.folder / "result.json", {"steps": progress.step, "minutes": minutes})

    def _loop(self, log: MetricsLog, asked_to_stop: list[int]) -> None:
        train, progress = self.config.train, self.progress
        checkpoint_every = train.checkpoint_every or progress.total
        meter = Meter(self.config, progress, self.device)
        for micro_batches in TrainBatches(self.table, self.config, progress.step):
            lr = lr_at(progress.step, progress.total, train)
            result = self._step([batch.to(self.device) for batch in micro_batches], lr)
            progress.step += 1
            meter.add(result, lr, self.reporter)
            if is_due(progress.step, train.log_every, progress.total):
                log.add(progress.step, meter.line(lr, self._seconds()))
            stop = bool(asked_to_stop)
            if stop or is_due(progress.step, checkpoint_every, progress.total):
                progress.window, progress.metrics_bytes = meter.window, log.flushed_bytes()
                self._save()
            if stop or progress.finished:
                return

    def _step(self, micro_batches: Sequence[Batch], lr: float) -> StepResult:
        """One optimiser step; weights are as before where it raises."""
        config, images = self.config, sum(len(batch) for batch in micro_batches)
        # What is picked follows from seed and step alone, so that a resumed run picks the same.
        rng = np.random.default_rng((config.seed, self.progress.step))
        totals = torch.zeros(3, device=self.device)
        for batch in micro_batches:
            sums = two_stage_loss(self.model, batch, self.anchors, config, self.settings, rng)
            ((sums.classification + config.loss.box_weight * sums.box) / images).backward()
            totals += torch.stack([sums.classification.detach(), sums.box.detach(), sums.positives.float()])
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.train.clip or math.inf)
        # Reads numbers, which a GPU has to be waited for.
        if not bool(totals.isfinite().all() & norm.isfinite()):
            raise self._not_finite(micro_batches)
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["lr_factor"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return StepResult(
            classification=totals[0] / images,
            box=totals[1] / images,
            positives=totals[2],
            gradient_norm=norm.detach(),
            stop=torch.tensor(False),
            finite=torch.tensor(True),
        )

    def _not_finite(self, batches: Sequence[Batch]) -> TrainingError:
        step = self.progress.step + 1
        file = self.folder / f"non-finite-step-{step}.safetensors"
        fields = list(Batch.__dataclass_fields__)
        checkpoint.save_tensors(
            file, {f"{i}.{name}": getattr(b, name) for i, b in enumerate(batches) for name in fields}
        )
        return TrainingError(f"step {step}: the loss or its gradient is not finite; the batch is saved as {file}")

    def _save(self) -> None:
        self.progress.seconds = self._seconds()
        tensors = {"model": dict(self.model.state_dict()), "optimiser": checkpoint.optimiser_tensors(self.optimiser)}
        checkpoint.write_checkpoint(self.folder, Snapshot(asdict(self.progress), tensors), best=False)

    def _restore(self, snapshot: Snapshot) -> None:
        self.progress = Progress(**{**snapshot.state, "window": tuple(snapshot.state["window"])})
        self.model.load_state_dict(snapshot.tensors["model"])
        checkpoint.restore_optimiser(self.optimiser, snapshot.tensors["optimiser"])
        checkpoint.publish_weights(self.folder)
        self.reporter.say(f"going on from step {self.progress.step} of {self.progress.total}")

    def _seconds(self) -> float:
        """Seconds that all legs of this run have taken up to now."""
        return self.seconds_before + time.monotonic() - self.begun_at
