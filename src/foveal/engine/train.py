"""Training a run from first step to last, through any number of interruptions."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.nn.parallel import DistributedDataParallel

from foveal.anchors import Anchors
from foveal.config import Config, starting_config
from foveal.data.loader import TrainBatches, dead_workers_explained
from foveal.data.table import Table
from foveal.detections import Batch
from foveal.engine import checkpoint
from foveal.engine.allocator import keep_freed_memory
from foveal.engine.anchor_fit import coverage_summary
from foveal.engine.budget import FEW_STEPS, plan_within
from foveal.engine.checkpoint import Progress
from foveal.engine.class_names import in_order_of
from foveal.engine.compilation import compile_failure_explained, compiled
from foveal.engine.diagnosis import explain_non_finite
from foveal.engine.ema import AveragedModel
from foveal.engine.evaluate import Evaluation, evaluate_detections
from foveal.engine.interruption import stop_on_signals
from foveal.engine.memory import check_memory, out_of_memory_explained, statistics_kept
from foveal.engine.metrics_log import Meter, MetricsLog
from foveal.engine.predict import Detector, detect_table
from foveal.engine.preparation import (
    settled_config,
    snapshot_to_resume,
    start_from,
    with_architecture_of,
    write_run,
)
from foveal.engine.progress import ConsoleReporter, Reporter, Silent
from foveal.engine.schedule import base_lr, is_due, lr_at
from foveal.engine.step import StepResult, autocast, make_optimiser, train_step
from foveal.engine.usable import training_table, validation_table
from foveal.errors import CheckpointError, Interrupted, UsageError
from foveal.losses.total import detector_loss
from foveal.matching import match
from foveal.model.retinanet import build_model
from foveal.wording import counted


def train(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    preset: str | None = None,
    config: Config | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> checkpoint.RunInfo:
    """Trains on `data` (folder or label file) into the run folder `out` and returns the run.

    preset: light (the default) or paper. config: used instead of the preset. settings: changes to either,
    {"train.steps": 1000}. device: auto or cpu.
    weights: a run to start from, which brings its network and anchors; its class predictions are replaced where the
    classes differ. resume: go on from the last checkpoint of `out`, or start if there is none; without preset and
    config the settings are the run's own. Raises FovealError with what to do; Interrupted after Ctrl-C.
    """
    if device not in ("auto", "cpu"):
        raise UsageError(f"device {device!r}: use auto, which takes a GPU if there is one, or cpu")
    config = (config or starting_config(preset, Path(out) if resume else None)).with_changes(settings or {})
    keep_freed_memory()
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=2))
    if reporter is None:
        reporter = ConsoleReporter()
    if not state.is_main_process:
        reporter = Silent()
    live = reporter.live() if isinstance(reporter, ConsoleReporter) else nullcontext()
    where = torch.device("cpu") if device == "cpu" else state.device
    with stop_on_signals() as asked_to_stop:
        trainer = Trainer(Path(data), Path(out), config, reporter, resume, weights, where)
        explained = (out_of_memory_explained(config), compile_failure_explained())
        with live, explained[0], explained[1], dead_workers_explained(config.data.workers):
            return trainer.run(asked_to_stop)


class Trainer:
    """A run in the making: data, model, optimiser, average and how far they are."""

    def __init__(
        self,
        data: Path,
        folder: Path,
        config: Config,
        reporter: Reporter,
        resume: bool,
        weights: str | os.PathLike[str] | None,
        device: torch.device,
    ):
        self.begun_at = time.monotonic()
        self.folder, self.reporter, self.device = folder, reporter, device
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        snapshot = snapshot_to_resume(folder, resume)
        source = checkpoint.read_run(weights) if weights is not None else None
        self.starts_from_a_run = source is not None
        if source is not None:
            config = with_architecture_of(source, config, reporter)
        self.table = training_table(data, config, reporter)
        self.val = validation_table(data, config, self.table, reporter)
        known = checkpoint.read_run(folder) if snapshot is not None else source
        if known is not None:  # so that the class predictions keep their meaning
            self.table = in_order_of(self.table, known.class_names)
            self.val = None if self.val is None else in_order_of(self.val, known.class_names)
        self.config = settled_config(config, folder, snapshot is not None, self.table, self.val, reporter)
        self.anchors = Anchors.from_config(self.config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            # The network of a run that is gone on with, or started from, is described there.
            begun = folder if snapshot is not None else source.path if source is not None else None
            kept_in = None if begun is None else begun / checkpoint.BACKBONE
            self.model = build_model(self.config, len(self.table.class_names), begun is None, kept_in)
        if source is not None and snapshot is None:
            start_from(source, self.model, self.table.class_names, reporter)
        self.model.to(device).train()
        self.optimiser = make_optimiser(self.model, self.config.train)
        self.average = AveragedModel(self.model, self.config.train.ema) if self.config.train.ema else None
        self.scaler = torch.amp.GradScaler(device.type) if self.config.train.precision == "fp16" else None
        self.compiled = compiled(self.model, self.config.train)
        self.network = self.compiled
        if self.world > 1:
            ids = [device] if device.type == "cuda" else None
            self.network = DistributedDataParallel(self.compiled, device_ids=ids)
        self.progress = Progress()
        if snapshot is not None:
            self._restore(snapshot)
        self.seconds_before = self.progress.seconds

    def run(self, asked_to_stop: list[int]) -> checkpoint.RunInfo:
        """Trains until the last step, or until a signal is in `asked_to_stop`: then saves and raises Interrupted."""
        if self.progress.finished:
            self.reporter.say(
                f"{self.folder}: this run is finished ({counted(self.progress.step, 'step')}); nothing to do"
            )
            return self._finish()
        batches = TrainBatches(self.table, self.config, self.progress.step, self.rank, self.world)
        if not self.progress.total:
            self._introduce(batches)
            self._plan(batches)
        if self.rank == 0:
            checkpoint.cut_metrics(self.folder, self.progress.metrics_bytes)
        with MetricsLog(self.folder, self.progress.step, self.rank == 0, self.config.train.tensorboard) as log:
            self._loop(batches, log, asked_to_stop)
        if not self.progress.finished:
            raise Interrupted(
                f"stopped and saved at step {self.progress.step} of {self.progress.total}; "
                f"go on with the same command and --resume (the run is {self.folder})"
            )
        return self._finish()

    def _loop(self, batches: TrainBatches, log: MetricsLog, asked_to_stop: list[int]) -> None:
        config, progress = self.config.train, self.progress
        evaluate_every = config.evaluate_every or -(-progress.total // progress.evaluations)
        checkpoint_every = config.checkpoint_every or evaluate_every
        meter = Meter(self.config, progress, self.device)
        for micro_batches in batches:
            moved = [batch.to(self.device) for batch in micro_batches]
            lr = lr_at(progress.step, progress.total, config)
            asked = bool(asked_to_stop)
            result = train_step(self.network, self.optimiser, moved, self.anchors, self.config, lr, self.scaler, asked)
            self._check_finite(result, moved)
            progress.step += 1
            if self.average:
                self.average.update(progress.step)
            meter.add(result, lr, self.reporter)
            if is_due(progress.step, config.log_every, progress.total):
                log.add(progress.step, meter.line(lr, self._seconds()))
            best = False
            if is_due(progress.step, evaluate_every, progress.total):
                best = self._evaluate(log)
                meter.restart_clock()
            # Alone, a process need not wait for the next step to tell the others.
            stop = bool(result.stop) or (self.world == 1 and bool(asked_to_stop))
            if best or stop or progress.finished or is_due(progress.step, checkpoint_every, progress.total):
                progress.window, progress.metrics_bytes = meter.window, log.flushed_bytes()
                self._save(best or self.val is None)
            if stop or progress.finished:
                return

    def _evaluate(self, log: MetricsLog) -> bool:
        """Evaluates on the validation split; True if these weights are the best so far."""
        if self.val is None:
            return False
        progress = self.progress
        found: list[float | None] = [None, None]
        if self.rank == 0:
            evaluation = self._detect_and_score(self.val)
            found = [evaluation.ap, evaluation.recommended_threshold]
            numbers = {key: value for key, value in evaluation.as_dict().items() if isinstance(value, int | float)}
            log.add(progress.step, {"step": progress.step, **numbers}, prefix="val")
            self.reporter.say(
                f"step {progress.step}: AP {_percent(evaluation.ap)}  AP50 {_percent(evaluation.ap50)} on "
                f"{self.config.data.val_split}"
            )
        if self.world > 1:
            dist.broadcast_object_list(found, src=0)
        patience = self.config.train.patience
        better = progress.note_evaluation(found[0], found[1], patience)
        if progress.stopped_early:
            self.reporter.say(f"stopped early: no better AP in {counted(patience, 'evaluation')}")
        return better

    def _detect_and_score(self, table: Table) -> Evaluation:
        model = self.average.model if self.average else self.model
        detector = Detector(model, self.config, table.class_names, category_ids=table.category_ids)
        found = detect_table(
            detector,
            table,
            batch_size=self._micro_batch,
            workers=self.config.data.workers,
            progress=lambda done, total: self.reporter.counted("evaluating", done, total),
        )
        return evaluate_detections(table, found)

    def _check_finite(self, result: StepResult, batches: list[Batch]) -> None:
        # On a GPU this waits for the step to be done; what that costs has not been measured.
        if not bool(result.finite):
            raise explain_non_finite(
                self.model, self.anchors, self.config, batches, self.table, self.progress.step + 1, self.folder
            )

    def _introduce(self, batches: TrainBatches) -> None:
        """Says what is about to be trained on, checks memory, and writes the run's description."""
        table, train = self.table, self.config.train
        if self.rank == 0:
            backbone = self.model.backbone.description()
            write_run(self.folder, self.config, table, self.val, self.device, self.world, backbone)
        shown = f"{', '.join(table.class_names[:12])}{' ...' if len(table.class_names) > 12 else ''}"
        sizes = (len(table), "picture"), (table.num_boxes, "box"), (len(table.class_names), "class")
        self.reporter.say(f"{', '.join(counted(number, thing) for number, thing in sizes)}: {shown}")
        self.reporter.say(coverage_summary(table, self.config))
        self.reporter.say(
            f"learning rate {base_lr(train):.3g} for {counted(train.batch_size, 'picture')} a step "
            f"({train.lr:g} is meant for {train.lr_batch or train.batch_size}); device {self.device}"
        )
        if self.config.model.weights == "none" and train.backbone_lr < 1 and not self.starts_from_a_run:
            self.reporter.say(
                f"the backbone starts from nothing, yet learns at {train.backbone_lr:g} of the rate, which is meant "
                "for pretrained ones; set train.backbone_lr to 1"
            )
        images, shape = self._micro_batch, max(batches.shapes, key=math.prod)
        blank = Batch.pack([torch.zeros(3, *shape, dtype=torch.uint8)] * images, [table.objects(0)] * images)
        needed = check_memory(self.model, self.config, images, shape, lambda: self._try_step(blank))
        self.reporter.say(
            f"largest step: {counted(images, 'picture')} of {shape[0]} x {shape[1]}, about {needed / 2**30:.1f} GiB"
        )

    def _plan(self, batches: TrainBatches) -> None:
        """Fixes the run's steps: as configured, or what fits into the time budget, and the evaluations with them."""
        train = self.config.train
        if not train.minutes:
            self.progress.total = train.steps
            return
        with statistics_kept(self.model):
            spent_s = time.monotonic() - self.begun_at
            plan = plan_within(train, spent_s, batches, self._try_step, self._detect_and_score, self.val)
        if self.world > 1:
            shared = [plan]
            dist.broadcast_object_list(shared, src=0)
            plan = shared[0]
        self.progress.total, self.progress.evaluations = plan.steps, plan.evaluations
        self.reporter.say(f"{train.minutes:g} minutes are {plan}")
        if plan.steps < FEW_STEPS:
            self.reporter.say(f"WARNING: {counted(plan.steps, 'step')} teach little; give more time with --minutes")

    def _try_step(self, batch: Batch) -> None:
        """Forward and backward without an optimiser step: the caller keeps statistics and drops the gradients."""
        batch = batch.to(self.device)
        matched = match(self.anchors, batch, self.config.assignment)
        with autocast(self.device, self.config.train):
            outputs = self.compiled(batch.images)
        sums = detector_loss(outputs.logits, outputs.deltas, self.anchors, matched, batch, self.config.loss)
        (sums.classification.sum() + sums.box.sum()).backward()

    def _save(self, best: bool) -> None:
        if self.rank != 0:
            return
        self.progress.seconds = self._seconds()
        tensors = {"model": dict(self.model.state_dict()), "optimiser": checkpoint.optimiser_tensors(self.optimiser)}
        if self.average:
            tensors["ema"] = dict(self.average.model.state_dict())
        state: dict[str, Any] = asdict(self.progress)
        if self.scaler:
            state["scaler"] = self.scaler.state_dict()
        checkpoint.write_checkpoint(self.folder, checkpoint.Snapshot(state, tensors), best)

    def _restore(self, snapshot: checkpoint.Snapshot) -> None:
        state = dict(snapshot.state)
        scaler = state.pop("scaler", None)
        try:
            self.progress = Progress(**{**state, "window": tuple(state["window"])})
            self.model.load_state_dict(snapshot.tensors["model"])
            if self.average:
                self.average.model.load_state_dict(snapshot.tensors["ema"])
            checkpoint.restore_optimiser(self.optimiser, snapshot.tensors.get("optimiser", {}))
        except (KeyError, TypeError, RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"{self.folder / 'checkpoints'}: the last checkpoint is not whole ({error}); restore the folder, or "
                f"start another run with --weights {self.folder}"
            ) from None
        if self.scaler and scaler:
            self.scaler.load_state_dict(scaler)
        if self.rank == 0:
            checkpoint.publish_weights(self.folder)
        self.reporter.say(f"going on from step {self.progress.step} of {self.progress.total}")

    def _finish(self) -> checkpoint.RunInfo:
        progress, table = self.progress, self.table
        if self.rank == 0:
            result = {
                "steps": progress.step,
                "best_step": progress.best_step or progress.step,
                "AP": progress.best_ap,
                "threshold": progress.threshold,
                "minutes": round(progress.seconds / 60, 2),
            }
            checkpoint.write_json(self.folder / "result.json", result)
        return checkpoint.RunInfo(self.folder, self.config, table.class_names, table.category_ids, progress.threshold)

    def _seconds(self) -> float:
        """Seconds that all legs of this run have taken up to now."""
        return self.seconds_before + time.monotonic() - self.begun_at

    @property
    def _micro_batch(self) -> int:
        return math.ceil(self.config.train.batch_size / (self.world * self.config.train.accumulate))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
