"""Training a run from first step to last, through any number of interruptions."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.nn.parallel import DistributedDataParallel

import foveal
from foveal.anchors import Anchors
from foveal.config import Config, differences
from foveal.config import preset as preset_config
from foveal.data.loader import TrainBatches
from foveal.data.table import Table
from foveal.detections import Batch
from foveal.engine import checkpoint
from foveal.engine.anchor_fit import coverage_summary, fit_anchors
from foveal.engine.diagnosis import explain_non_finite
from foveal.engine.ema import AveragedModel
from foveal.engine.evaluate import Evaluation, evaluate_detections
from foveal.engine.interruption import stop_on_signals
from foveal.engine.memory import check_memory
from foveal.engine.metrics_log import MetricsLog, training_line
from foveal.engine.predict import Detector, detect_table
from foveal.engine.progress import ConsoleReporter, Reporter, Silent
from foveal.engine.schedule import base_lr, is_due, lr_at
from foveal.engine.step import StepResult, make_optimiser, train_step
from foveal.engine.usable import training_table, validation_table
from foveal.errors import CheckpointError, Interrupted, UsageError
from foveal.losses.total import detector_loss
from foveal.matching import match
from foveal.model.retinanet import build_model
from foveal.model.weights import copy_matching

TIMED_STEPS = 6
# These change how fast a run goes or what it shows, never what it learns.
MAY_DIFFER_ON_RESUME = {"data.workers", "data.max_pixels", "train.tensorboard"}
# Fitted or measured at the start of the first leg, so that a resumed run asks the stored config for them.
FITTED = {"anchors.sizes", "anchors.scales", "anchors.ratios"}


@dataclass
class Progress:
    """Where a run stands: all of it is in every checkpoint."""

    step: int = 0
    total: int = 0
    best_ap: float = -1.0
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
        return self.step >= self.total or self.stopped_early


def train(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    preset: str = "light",
    config: Config | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> checkpoint.RunInfo:
    """Trains on `data` (folder or label file) into the run folder `out` and returns the run.

    config: used instead of the preset. settings: changes to either, {"train.steps": 1000}.
    weights: a run to start from; its class head is replaced where the classes differ. resume: go on from the last
    checkpoint of `out`, or start if there is none. Raises FovealError with what to do; Interrupted after Ctrl-C.
    """
    config = (config or preset_config(preset)).with_changes(settings or {})
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=2))
    if reporter is None:
        reporter = ConsoleReporter()
    if not state.is_main_process:
        reporter = Silent()
    trainer = Trainer(Path(data), Path(out), config, reporter, resume, weights, state.device)
    live = reporter.live() if isinstance(reporter, ConsoleReporter) else nullcontext()
    with live, stop_on_signals() as asked_to_stop:
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
        snapshot = self._snapshot_to_resume(resume)
        self.table = training_table(data, config, reporter)
        self.val = validation_table(data, config, self.table, reporter)
        self.config = self._settled_config(config, snapshot)
        self.anchors = Anchors.from_config(self.config)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            self.model = build_model(self.config, len(self.table.class_names), pretrained=snapshot is None)
        if weights is not None and snapshot is None:
            self._start_from(weights)
        self.model.to(device).train()
        self.optimiser = make_optimiser(self.model, self.config.train)
        self.average = AveragedModel(self.model, self.config.train.ema) if self.config.train.ema else None
        self.scaler = torch.amp.GradScaler(device.type) if self.config.train.precision == "fp16" else None
        self.network: torch.nn.Module = self.model
        if self.world > 1:
            self.network = DistributedDataParallel(self.model, device_ids=[device] if device.type == "cuda" else None)
        self.progress = Progress()
        if snapshot is not None:
            self._restore(snapshot)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, asked_to_stop: list[int]) -> checkpoint.RunInfo:
        if self.progress.total and self.progress.finished:
            self.reporter.say(f"{self.folder}: this run is finished ({self.progress.step} steps); nothing to do")
            return self._finish()
        batches = TrainBatches(self.table, self.config, self.progress.step, self.rank, self.world)
        if not self.progress.total:
            self._introduce(batches)
            self.progress.total = self._plan_steps(batches)
        if self.rank == 0:
            checkpoint.cut_metrics(self.folder, self.progress.metrics_bytes)
        config, progress = self.config.train, self.progress
        evaluate_every = config.evaluate_every or -(-progress.total // 10)
        checkpoint_every = config.checkpoint_every or evaluate_every
        leg_begun_at, seconds_before = self.begun_at, progress.seconds
        window = torch.tensor(progress.window, dtype=torch.float64, device=self.device)
        shown: dict[str, float] = {}
        logged_at, logged_step = time.monotonic(), progress.step

        with MetricsLog(self.folder, progress.step, self.rank == 0, config.tensorboard) as log:
            for micro_batches in batches:
                moved = [batch.to(self.device) for batch in micro_batches]
                lr = lr_at(progress.step, progress.total, config)
                result = train_step(self.network, self.optimiser, moved, self.anchors, self.config, lr, self.scaler)
                self._check_finite(result, moved)
                progress.step += 1
                if self.average:
                    self.average.update(progress.step)
                window += _numbers(result)
                progress.window_steps += 1
                now = time.monotonic()
                progress.seconds = seconds_before + now - leg_begun_at
                images_per_s = config.batch_size * (progress.step - logged_step) / max(1e-9, now - logged_at)
                logs = is_due(progress.step, config.log_every, progress.total)
                if logs or self.device.type == "cpu":  # elsewhere reading the sums waits for the device
                    means = (window / progress.window_steps).tolist()
                    shown = {"img/s": images_per_s, "class loss": means[0], "box loss": means[1], "lr": lr}
                self.reporter.step(progress.step, progress.total, shown)
                if logs:
                    line = training_line(self.config, means, lr, images_per_s, progress.seconds)
                    log.add(progress.step, {"step": progress.step, **line})
                    window.zero_()
                    progress.window_steps = 0
                    logged_at, logged_step = now, progress.step

                best = False
                if is_due(progress.step, evaluate_every, progress.total):
                    best = self._evaluate(log)
                    logged_at, logged_step = time.monotonic(), progress.step
                stop = self._agree_to_stop(bool(asked_to_stop))
                if best or stop or progress.finished or is_due(progress.step, checkpoint_every, progress.total):
                    progress.window, progress.metrics_bytes = tuple(window.tolist()), log.bytes_written
                    self._save(best or not self.val)
                if progress.finished:
                    return self._finish()
                if stop:
                    raise Interrupted(
                        f"stopped and saved at step {progress.step} of {progress.total}; "
                        f"go on with the same command and --resume (the run is {self.folder})"
                    )
        raise AssertionError("the stream of batches is endless")

    def _evaluate(self, log: MetricsLog) -> bool:
        """Evaluates on the validation split; True if this is the best AP so far."""
        if self.val is None:
            return False
        progress = self.progress
        ap: float = 0.0
        threshold: float | None = None
        if self.rank == 0:
            evaluation = self._detect_and_score(self.val)
            ap, threshold = evaluation.ap or 0.0, evaluation.recommended_threshold
            numbers = {key: value for key, value in evaluation.as_dict().items() if isinstance(value, int | float)}
            log.add(progress.step, {"step": progress.step, **numbers}, prefix="val")
            self.reporter.say(
                f"step {progress.step}: AP {100 * ap:.1f}  AP50 {100 * (evaluation.ap50 or 0.0):.1f} on "
                f"{self.config.data.val_split}"
            )
        if self.world > 1:
            shared: list[Any] = [ap, threshold]
            dist.broadcast_object_list(shared, src=0)
            ap, threshold = shared
        better = ap > progress.best_ap
        progress.without_better = 0 if better else progress.without_better + 1
        if better:
            progress.best_ap, progress.best_step, progress.threshold = ap, progress.step, threshold
        patience = self.config.train.patience
        if patience and progress.without_better >= patience and progress.step < progress.total:
            progress.stopped_early = True
            self.reporter.say(f"stopped early: no better AP in {patience} evaluations")
        return better

    def _detect_and_score(self, table: Table) -> Evaluation:
        model = self.average.model if self.average else self.model
        detector = Detector(model, self.config, table.class_names, category_ids=table.category_ids)
        was_training = self.model.training
        found = detect_table(
            detector,
            table,
            batch_size=self.config.train.batch_size,
            workers=self.config.data.workers,
            progress=lambda done, total: self.reporter.counted("evaluating", done, total),
        )
        self.model.train(was_training)
        return evaluate_detections(table, found)

    def _check_finite(self, result: StepResult, batches: list[Batch]) -> None:
        if not bool(result.finite):
            raise explain_non_finite(
                self.model, self.anchors, self.config, batches, self.table, self.progress.step, self.folder
            )

    def _agree_to_stop(self, mine: bool) -> bool:
        """Every process stops at the same step; asked only now and then, since the answer takes a collective."""
        if self.world == 1:
            return mine
        if self.progress.step % self.config.train.log_every:
            return False
        flag = torch.tensor(float(mine), device=self.device)
        dist.all_reduce(flag)
        return bool(flag)

    # -- beginning and end ------------------------------------------------------------------------------------------

    def _snapshot_to_resume(self, resume: bool) -> checkpoint.Snapshot | None:
        snapshot = checkpoint.read_checkpoint(self.folder)
        if snapshot is not None and not resume:
            raise UsageError(
                f"{self.folder}: already holds a run at step {snapshot.state['step']}; "
                "add --resume to go on with it, or choose another --out"
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is a file; choose another --out")
        return snapshot

    def _settled_config(self, config: Config, snapshot: checkpoint.Snapshot | None) -> Config:
        """The config this run really has: fitted anchors filled in, and on resume held against the stored one."""
        if snapshot is None:
            if config.anchors.auto:
                config = config.with_changes({"anchors": fit_anchors(self.table, config).model_dump()})
            return config
        stored = checkpoint.read_run(self.folder)
        ignored = MAY_DIFFER_ON_RESUME | (FITTED if config.anchors.auto else set())
        for name, old, new in differences(stored.config, config):
            if name not in ignored:
                raise CheckpointError(
                    f"{self.folder}: {name} is {new!r} now but was {old!r} when this run began; "
                    "resume with the same settings, or start another run with --out and --weights"
                )
        fingerprint = checkpoint.read_json(self.folder / "data.json")["fingerprint"]
        if fingerprint != self.table.fingerprint():
            raise CheckpointError(
                f"{self.folder}: the training labels changed since this run began (fingerprint "
                f"{self.table.fingerprint()}, was {fingerprint}); restore them, or start another run"
            )
        return stored.config.with_changes({name: _value(config, name) for name in MAY_DIFFER_ON_RESUME})

    def _start_from(self, weights: str | os.PathLike[str]) -> None:
        """Takes over the weights of another run; where the classes differ its class predictions mean nothing here."""
        run = checkpoint.read_run(weights)
        tensors = checkpoint.run_weights(run.path)
        if run.class_names != self.table.class_names:
            tensors = {name: t for name, t in tensors.items() if not name.startswith("class_head.predict.")}
        fresh = copy_matching(self.model, tensors)
        self.reporter.say(f"starting from {run.path}, which knows {', '.join(run.class_names)}")
        if fresh:
            self.reporter.say(f"replaced, not taken over: {', '.join(fresh)}")

    def _introduce(self, batches: TrainBatches) -> None:
        """Says what is about to be trained on, checks memory, and writes the run's description."""
        table, config = self.table, self.config
        self.reporter.say(
            f"{len(table)} pictures, {table.num_boxes} boxes, {len(table.class_names)} classes: "
            f"{', '.join(table.class_names[:12])}{' ...' if len(table.class_names) > 12 else ''}"
        )
        self.reporter.say(coverage_summary(table, config))
        train = config.train
        self.reporter.say(
            f"learning rate {base_lr(train):.3g} for {train.batch_size} pictures a step "
            f"({train.lr:g} is meant for {train.lr_batch or train.batch_size}); device {self.device}"
        )
        images = math.ceil(train.batch_size / (self.world * train.accumulate))
        shape = max(batches.shapes, key=math.prod)
        needed = check_memory(self.model, config, images, shape, lambda: self._try_step(images, shape))
        self.reporter.say(f"largest step: {images} pictures of {shape[0]} x {shape[1]}, about {needed / 2**30:.1f} GiB")
        if self.rank == 0:
            checkpoint.write_description(
                self.folder,
                config,
                table.class_names,
                table.category_ids,
                environment=_environment(self.device, self.world),
                data={
                    "root": str(Path(table.root).resolve()),
                    "format": table.format,
                    "split": table.split,
                    "images": len(table),
                    "boxes": table.num_boxes,
                    "fingerprint": table.fingerprint(),
                },
            )

    def _plan_steps(self, batches: TrainBatches) -> int:
        """The run's steps: as configured, or what fits into `minutes` by timing a few steps that change nothing."""
        train = self.config.train
        if not train.minutes:
            return train.steps
        times: list[float] = []
        began = time.monotonic()
        for micro_batches in batches:
            for batch in micro_batches:
                self._forward_backward(batch.to(self.device))
            times.append(time.monotonic() - began)
            began = time.monotonic()
            if len(times) == TIMED_STEPS:
                break
        self.model.zero_grad(set_to_none=True)
        per_step = sorted(times[1:])[len(times) // 2]
        evaluating = 0.0
        if self.val is not None:
            began = time.monotonic()
            some = self.val.select(range(min(len(self.val), 2 * train.batch_size)))
            self._detect_and_score(some)
            evaluating = (time.monotonic() - began) * len(self.val) / len(some)
        spent = time.monotonic() - self.begun_at
        left = train.minutes * 60 - spent
        if train.evaluate_every:
            per_step += evaluating / train.evaluate_every
        else:
            left -= 10 * evaluating
        steps = max(1, int(left / (1.03 * per_step)))
        if self.world > 1:
            shared = [steps]
            dist.broadcast_object_list(shared, src=0)
            steps = shared[0]
        self.reporter.say(f"{train.minutes:g} minutes are {steps} steps at {per_step:.2f} s each")
        return steps

    def _try_step(self, images: int, shape: tuple[int, int]) -> None:
        blank = Batch.pack([torch.zeros(3, *shape, dtype=torch.uint8)] * images, [self.table.objects(0)] * images)
        self._forward_backward(blank.to(self.device))

    def _forward_backward(self, batch: Batch) -> None:
        matched = match(self.anchors, batch, self.config.assignment)
        outputs = self.model(batch.images)
        sums = detector_loss(outputs.logits, outputs.deltas, self.anchors, matched, batch, self.config.loss)
        (sums.classification.sum() + sums.box.sum()).backward()

    def _save(self, best: bool) -> None:
        if self.rank != 0:
            return
        tensors = {"model": dict(self.model.state_dict()), "optimiser": checkpoint.optimiser_tensors(self.optimiser)}
        if self.average:
            tensors["ema"] = dict(self.average.model.state_dict())
        state: dict[str, Any] = asdict(self.progress)
        if self.scaler:
            state["scaler"] = self.scaler.state_dict()
        checkpoint.write_checkpoint(self.folder, checkpoint.Snapshot(state, tensors), best)

    def _restore(self, snapshot: checkpoint.Snapshot) -> None:
        state = dict(snapshot.state)
        if self.scaler and "scaler" in state:
            self.scaler.load_state_dict(state.pop("scaler"))
        self.progress = Progress(**{**state, "window": tuple(state["window"])})
        self.model.load_state_dict(snapshot.tensors["model"])
        if self.average:
            self.average.model.load_state_dict(snapshot.tensors["ema"])
        checkpoint.restore_optimiser(self.optimiser, snapshot.tensors.get("optimiser", {}))
        if self.rank == 0:
            checkpoint.publish_weights(self.folder)
        self.reporter.say(f"going on from step {self.progress.step} of {self.progress.total}")

    def _finish(self) -> checkpoint.RunInfo:
        progress = self.progress
        if self.rank == 0:
            checkpoint.write_json(
                self.folder / "result.json",
                {
                    "steps": progress.step,
                    "best_step": progress.best_step or progress.step,
                    "AP": progress.best_ap if self.val is not None else None,
                    "threshold": progress.threshold,
                    "minutes": round(progress.seconds / 60, 2),
                },
            )
        return checkpoint.read_run(self.folder) if self.rank == 0 else self._info()

    def _info(self) -> checkpoint.RunInfo:
        table = self.table
        return checkpoint.RunInfo(
            self.folder, self.config, table.class_names, table.category_ids, self.progress.threshold
        )


def _numbers(result: StepResult) -> torch.Tensor:
    values = (result.classification, result.box, result.positives, result.gradient_norm)
    return torch.stack([value.double() for value in values])


def _environment(device: torch.device, world: int) -> dict[str, Any]:
    return {
        "foveal": foveal.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world,
    }


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
