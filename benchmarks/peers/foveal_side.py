"""Foveal's side of each work: its public functions, with the settings that make them torchvision's equals.

`settings["without"]` switches one of a training step's gains off: see `PARTS`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import foveal
import foveal.engine.step
import foveal.matching
import foveal.model.resnet
from benchmarks.common import kernels
from benchmarks.peers import inputs
from benchmarks.peers.worker import Job, Numbers
from foveal.anchors import Anchors
from foveal.config import Config, LossConfig
from foveal.decoding import decode
from foveal.detections import Batch, Objects
from foveal.engine.checkpoint import run_weights
from foveal.engine.predict import Detector
from foveal.engine.step import make_optimiser, train_step
from foveal.importers.importing import import_run
from foveal.losses.total import LossSums, detector_loss, per_level_terms
from foveal.matching import Match, match
from foveal.model.retinanet import Outputs, build_model
from foveal.nms import batched_nms

AS_TORCHVISION: dict[str, Any] = {
    "anchors": {"offset": "corner", "round_sizes": True, "stride": "floor_of_padded"},
    "assignment": {"low_quality": "all", "padding": "background"},
    "loss": {"box": "l1", "normaliser": "image"},
    "inference": {"max_detections": 300},
}
PARTS = ("folding", "channels_last", "fast_loss", "fast_matching")
"""Gains of a training step that a worker can switch off; reused memory is the driver's to switch."""
TERMS = ("classification", "box")


def versions() -> str:
    return f"python {platform.python_version()} torch {torch.__version__} foveal {foveal.__version__} {kernels()}"


def loss(settings: Numbers) -> Job:
    """The class loss of `detector_loss` and its gradient, on levels as channels-last convolutions leave them."""
    height, width, classes = settings["height"], settings["width"], settings["classes"]
    given, config = inputs.loss_inputs(height, width, classes), _config()
    anchors = Anchors.from_config(config)
    levels = _as_the_head_leaves(given.logits, height, width)
    deltas = _as_the_head_leaves(torch.zeros(len(given.logits), 4), height, width)
    boxes = inputs.objects_in(len(given.labels), height, width, spread=3, least=2.5)
    batch = _batch(1, height, width, [Objects.of(boxes, given.labels)])
    matched = Match(given.positive, given.object, given.ignored, 1, len(given.logits))

    def run() -> tuple[Tensor, list[Tensor]]:
        logits = [level.detach().requires_grad_() for level in levels]
        value = detector_loss(logits, deltas, anchors, matched, batch, config.loss).classification.sum()
        value.backward()
        return value.detach(), [level.grad for level in logits if level.grad is not None]

    def answer() -> Numbers:
        value, gradients = run()
        flat = torch.cat([g.permute(0, 2, 3, 1).reshape(-1, classes) for g in gradients])
        return {"value": float(value), "gradient": inputs.digest(flat)}

    return Job(run, answer)


def matching(settings: Numbers) -> Job:
    height, width = settings["height"], settings["width"]
    config = _config()
    anchors = Anchors.from_config(config)
    boxes = inputs.objects_in(settings["objects"], height, width, spread=3, least=2.5)
    batch = _batch(1, height, width, [Objects.of(boxes, torch.zeros(len(boxes)))])

    def run() -> Match:
        return match(anchors, batch, config.assignment)

    def answer() -> Numbers:
        matched = run()
        return inputs.assignment(matched.positive, matched.object, matched.ignored)

    return Job(run, answer)


def decoding(settings: Numbers) -> Job:
    height, width = settings["height"], settings["width"]
    config, sizes = _config(), torch.tensor([[height, width]])
    logits, deltas = inputs.head_outputs(height, width, settings["kind"])
    outputs = Outputs(
        tuple(_as_the_head_leaves(logits, height, width)), tuple(_as_the_head_leaves(deltas, height, width))
    )
    anchors = Anchors.from_config(config)

    @torch.no_grad()
    def run() -> tuple[Tensor, Tensor, Tensor]:
        return decode(outputs, anchors, (height, width), sizes, config.inference, padding_answers=True)[0]

    return Job(run, lambda: inputs.found(*run()))


def nms(settings: Numbers) -> Job:
    boxes, scores, labels = inputs.boxes_to_suppress(settings["boxes"], settings["kind"])

    def run() -> Tensor:
        return batched_nms(boxes, scores, labels, 0.5)

    return Job(run, lambda: {"kept": run().tolist()})


def anchors(settings: Numbers) -> Job:
    """Anchors of a picture size that was seen before: they are cached."""
    run = partial(Anchors.from_config(_config()).boxes, settings["side"], settings["side"])
    return Job(run, lambda: inputs.digest(run()), "cached")


def image(settings: Numbers) -> Job:
    """One picture through the detector, with the weights that torchvision's side left."""
    side = settings["side"]
    model, config = _imported(Path(settings["folder"]), side, {})
    detector = Detector(model.eval(), config, [str(k) for k in range(inputs.CLASSES)])
    picture = inputs.pictures(1, side)[0]

    def run() -> foveal.Detections:
        return detector(picture, min_score=0.05)

    def answer() -> Numbers:
        seen = run()
        return inputs.found(seen.boxes, seen.scores, seen.labels)

    return Job(run, answer, "channels last, batch norm folded")


def training(settings: Numbers) -> Job:
    """`train_step` on two pictures, from the same weights; all of ResNet-50 learns but its batch norm."""
    side, count, without = settings["side"], settings["objects"], settings.get("without", "")
    pictures = inputs.pictures(settings["batch"], side)
    labels = torch.arange(count) % inputs.CLASSES
    objects = [
        Objects.of(inputs.objects_in(count, side, side, 2.2, 2.8, seed), labels) for seed in range(len(pictures))
    ]
    batch = Batch.pack(list(pictures), objects)
    restore_all()
    model, config = _imported(Path(settings["folder"]), side, {"model.channels_last": without != "channels_last"})
    switch_off(without)
    model.train()
    anchors, optimiser = Anchors.from_config(config), make_optimiser(model, config.train)

    def run() -> foveal.engine.step.StepResult:
        return train_step(model, optimiser, [batch], anchors, config, lr=1e-6)

    def answer() -> Numbers:
        result = run()
        return {"classification": float(result.classification), "box": float(result.box)}

    return Job(run, answer, f"without {without}" if without else "channels last, batch norm folded")


JOBS: dict[str, Callable[[Numbers], Job]] = {
    "loss": loss,
    "matching": matching,
    "decoding": decoding,
    "nms": nms,
    "anchors": anchors,
    "image": image,
    "training": training,
}


def plain_loss(
    logits: list[Tensor],
    deltas: list[Tensor],
    anchors: Anchors,
    matched: Match,
    batch: Batch,
    config: LossConfig,
    upstream_B: Tensor | None = None,
) -> LossSums:
    """`detector_loss` by its plain path, which goes level by level; its gradient waits for the way back."""
    terms = per_level_terms(logits, deltas, anchors, matched, batch, config)
    summed = {name: torch.stack([sums for _, kind, sums in terms if kind == name]).sum(0) for name in TERMS}
    positives = matched.positives_per_image().float()
    return LossSums(summed["classification"].float(), summed["box"].float(), positives, positives)


def _unfolded(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    return norm(conv(x))


_Places = dict[tuple[Any, str], Any]
_replaced: _Places = {}


def _put(module: Any, name: str, value: Any) -> None:
    _replaced.setdefault((module, name), getattr(module, name))
    setattr(module, name, value)


def switch_off(part: str) -> None:
    """Takes a gain away from the steps of this process; what is a setting, or nothing, is not its business."""
    if part in _PLAINLY:
        _PLAINLY[part]()


def restore_all() -> None:
    """Puts back what an earlier job of this process switched off."""
    for (module, name), value in _replaced.items():
        setattr(module, name, value)
    _replaced.clear()


_PLAINLY: dict[str, Callable[[], None]] = {
    "folding": lambda: _put(foveal.model.resnet, "conv_norm", _unfolded),
    "fast_matching": lambda: _put(foveal.engine.step, "match", foveal.matching.match_plainly),
    "fast_loss": lambda: _put(foveal.engine.step, "detector_loss", plain_loss),
}


def _config(changes: dict[str, Any] | None = None) -> Config:
    return Config().with_changes({**AS_TORCHVISION, **(changes or {})})


def _batch(count: int, height: int, width: int, objects: list[Objects]) -> Batch:
    return Batch.pack([torch.zeros(3, height, width, dtype=torch.uint8)] * count, objects)


def _as_the_head_leaves(rows_NC: Tensor, height: int, width: int) -> list[Tensor]:
    """[N, C] to L of [1, A*C, H, W] on the same memory: the layout of channels-last convolutions."""
    levels = rows_NC.split(inputs.anchor_count(height, width))
    shapes = [(-(-height // stride), -(-width // stride)) for stride in inputs.STRIDES]
    return [level.reshape(1, *shape, -1).permute(0, 3, 1, 2) for level, shape in zip(levels, shapes, strict=True)]


def _imported(folder: Path, side: int, changes: dict[str, Any]) -> tuple[nn.Module, Config]:
    """The network that torchvision's side left, imported by `foveal import`'s own way, once a folder."""
    run, names = folder / "run", folder / "names.txt"
    names.write_text("".join(f"{k}\n" for k in range(inputs.CLASSES)))
    if not run.exists():
        import_run(folder / "detector.pth", run, names=names)
    config = foveal.load_config(run / "config.yaml").with_changes(
        {"data": {"size": side, "max_size": side}, "model.frozen_stages": 0, **changes}
    )
    model = build_model(config, inputs.CLASSES, pretrained=False)
    model.load_state_dict(run_weights(run, "last"))
    return model, config
