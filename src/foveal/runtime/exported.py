"""An exported file as a detector: prepared pictures in, the same detections as PyTorch's out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.config import Config, flat_settings
from foveal.data.images import padded_shape
from foveal.decoding import Found, decode
from foveal.detections import Batch
from foveal.engine.checkpoint import RunInfo, Which, read_run
from foveal.engine.predict import Detector, load, pick_device
from foveal.errors import CheckpointError, UsageError, WeightsError
from foveal.hub.addresses import address_of
from foveal.model.retinanet import Outputs
from foveal.names import printable
from foveal.runtime.description import Description, fingerprint
from foveal.runtime.publishing import name_of
from foveal.runtime.sessions import EngineName, Session, open_session
from foveal.wording import counted

FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
"""Where `foveal export` puts a file of each format in the run's folder."""
ENGINES = ("auto", "torch", "onnxruntime", "openvino")
_FOR_TRAINING = {
    "model.weights", "model.batch_norm", "model.frozen_stages", "model.head_init", "model.prior", "model.channels_last",
    "anchors.auto",
}  # fmt: skip


@dataclass(frozen=True)
class ExportedEngine:
    """Runs an exported file of any of the four kinds, with and without `resize` and `nms`.

    WeightsError, here or when it looks at pictures, where the file is not what its metadata promises.
    """

    session: Session
    description: Description

    def __post_init__(self) -> None:
        told = self.description
        inputs = ["images", *(["sizes"] if told.nms and not told.resize else [])]
        raw = [f"{what}_P{level}" for what in ("logits", "deltas") for level in told.config.model.level_numbers]
        outputs = ["boxes", "scores", "labels"] if told.nms else raw
        for verb, found, wanted in (
            ("takes", self.session.inputs, inputs), ("gives", self.session.outputs, outputs)
        ):  # fmt: skip
            if set(found) != set(wanted):
                raise self._otherwise(f"{verb} {_sorted(found)}, and its metadata promises {_sorted(wanted)}")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def find(self, batch: Batch, min_score: float) -> list[Found]:
        """As `Engine.find`; a file with NMS inside knows no scores below its own threshold."""
        lowest = self.description.config.inference.score_threshold
        if self.description.nms and min_score < lowest:
            raise UsageError(
                f"min_score {min_score:g}: this file keeps scores from {lowest:g}; ask for that or more, or export the "
                "run again with --no-nms"
            )
        found: list[Found | None] = [None] * len(batch)
        for rows, images_BHWC, sizes_B2 in self.groups(batch):
            for row, one in zip(rows, self.find_in(images_BHWC, sizes_B2, min_score), strict=True):
                found[row] = one
        return [one for one in found if one is not None]

    def groups(self, batch: Batch) -> Iterator[tuple[list[int], np.ndarray, Tensor]]:
        """(rows, pictures, sizes): all at once, or pictures of one size each, without padding, where it pads itself.

        They have the network's size already, which its resize leaves as they are.
        """
        images = batch.images.permute(0, 2, 3, 1)
        if not self.description.resize:
            yield list(range(len(batch))), np.ascontiguousarray(images.numpy()), batch.sizes
            return
        rows_of: dict[tuple[int, int], list[int]] = {}
        for row, (height, width) in enumerate(batch.sizes.tolist()):
            rows_of.setdefault((height, width), []).append(row)
        for (height, width), rows in rows_of.items():
            yield rows, np.ascontiguousarray(images[rows, :height, :width].numpy()), batch.sizes[rows]

    def find_in(self, images_BHWC: np.ndarray, sizes_B2: Tensor, min_score: float) -> list[Found]:
        """Detections of pictures [B, H, W, 3] as the file takes them; `sizes` as it sees them after its own resize."""
        outputs = self.session(self.inputs(images_BHWC, sizes_B2))
        if self.description.nms:
            labels = outputs["labels"]
            places = len(images_BHWC), *labels.shape[1:2]
            self._check_shapes(outputs, {"labels": places, "scores": places, "boxes": (*places, 4)})
            classes = len(self.description.class_names)
            if labels.size and labels.max() >= classes:
                raise self._otherwise(
                    f"finds class {labels.max()}, and its metadata names {counted(classes, 'class')}, from 0"
                )
            return listed(outputs, min_score)
        return self._decoded(outputs, sizes_B2, images_BHWC.shape[1:3], min_score)

    def inputs(self, images_BHWC: np.ndarray, sizes_B2: Tensor) -> dict[str, np.ndarray]:
        """What the file is called with, by name."""
        inputs = {"images": images_BHWC}
        if self.description.nms and not self.description.resize:
            inputs["sizes"] = sizes_B2.numpy()
        return inputs

    def _decoded(
        self, outputs: dict[str, np.ndarray], sizes_B2: Tensor, shape: tuple[int, ...], min_score: float
    ) -> list[Found]:
        config = self.description.config
        levels = config.model.level_numbers
        height, width = shape
        if self.description.resize:  # the file pads by itself, to the shape that follows from the size
            height, width = padded_shape((int(sizes_B2[0, 0]), int(sizes_B2[0, 1])), config.data.pad_multiple)
        anchors = Anchors.from_config(config)
        cells = dict(zip(levels, anchors.feature_shapes(height, width), strict=True))
        channels = {"logits": anchors.per_cell * len(self.description.class_names), "deltas": anchors.per_cell * 4}
        batch = len(sizes_B2)
        self._check_shapes(
            outputs, {f"{what}_P{n}": (batch, channels[what], *cells[n]) for what in channels for n in levels}
        )
        raw = Outputs(
            *(tuple(torch.from_numpy(outputs[f"{what}_P{n}"]) for n in levels) for what in ("logits", "deltas"))
        )
        padding_answers = config.assignment.padding == "background"
        return decode(raw, anchors, (height, width), sizes_B2, config.inference, min_score, padding_answers)

    def _check_shapes(self, outputs: dict[str, np.ndarray], wanted: dict[str, tuple[int, ...]]) -> None:
        for name, shape in wanted.items():
            if outputs[name].shape != shape:
                found, promised = (" x ".join(map(str, one)) for one in (outputs[name].shape, shape))
                raise self._otherwise(f"{name} has the shape {found} and its metadata promises {promised}")

    def _otherwise(self, what: str) -> WeightsError:
        return WeightsError(f"{self.session.path}: {what}; export the run again")


def listed(outputs: dict[str, np.ndarray], min_score: float) -> list[Found]:
    """The detections of each picture out of arrays whose last places are empty (label -1)."""
    found = []
    for boxes, scores, labels in zip(outputs["boxes"], outputs["scores"], outputs["labels"], strict=True):
        there = (labels >= 0) & (scores >= min_score)
        boxes_D4, labels_D = torch.from_numpy(boxes[there]), torch.from_numpy(labels[there].astype(np.int64))
        found.append((boxes_D4, torch.from_numpy(scores[there]), labels_D))
    return found


def open_detector(
    path: str | os.PathLike[str],
    engine: Literal["auto", "torch"] | EngineName = "auto",
    which: Which | None = None,
    device: str | torch.device = "auto",
) -> tuple[RunInfo, Detector]:
    """A run's or an exported file's description and its detector.

    path: a run folder, one on the hub, or a file of `foveal export`. engine: `auto` is PyTorch for a folder, ONNX
    Runtime for .onnx, OpenVINO for .xml. Given a folder and another engine than PyTorch, the file that `foveal export`
    left there is opened, the newest that the engine reads; UsageError if it was made of other weights than `which`,
    default the best, now are, or with other settings or classes. A file alone has its own, and takes no `which`.
    device: as `load` takes it; the other engines run on the CPU, and UsageError is raised for another device.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r}: give one of {', '.join(ENGINES)}")
    if engine not in ("auto", "torch") and (address := address_of(path)) is not None:
        raise UsageError(
            f"{address}: a run on the hub has no exported file; write one with foveal export "
            f"{address} --out FILE, and give that file"
        )
    file = Path(path)
    suffix = "" if file.is_dir() else file.suffix
    if suffix in (".onnx", ".xml") and not file.exists():
        raise UsageError(f"{file}: there is no such file; check the path, or make it with foveal export")
    if suffix == ".pt2" and file.exists():
        raise UsageError(f"{file}: is a program for torch.export.load; give the run's folder, or a .onnx or .xml file")
    if suffix in (".onnx", ".xml") and which is not None:
        raise UsageError(
            f"{file}: has the weights that it was exported with; leave --checkpoint out, or export the run again with "
            f"--checkpoint {which}"
        )
    if engine == "auto":
        engine = "onnxruntime" if suffix == ".onnx" else "openvino" if suffix == ".xml" else "torch"
    if engine != "torch" and str(device) not in ("auto", "cpu"):
        raise UsageError(
            f"device {device!s}: {engine} runs on the CPU alone; leave --device out, or use --engine torch with a run"
        )
    if engine == "torch":
        if suffix in (".onnx", ".xml"):
            raise UsageError(
                f"{file}: PyTorch does not run {suffix} files; leave --engine out, or give the run's folder"
            )
        chosen = pick_device(device)
        info = read_run(path)
        return info, load(info.path, chosen, which or "best")
    run = file if file.is_dir() else None
    if run is not None:
        file = _file_of_run(run, engine)
    session = open_session(file, engine)
    told = Description.of_metadata(session.metadata, file)
    if run is not None:
        _check_age(read_run(run), file, told, which or "best")
    info = RunInfo(file, told.config, told.class_names, told.category_ids, told.threshold)
    return info, detector_of(session, told)


def detector_of(session: Session, told: Description) -> Detector:
    return Detector(ExportedEngine(session, told), told.config, told.class_names, told.threshold, told.category_ids)


def weights_file(run: Path, which: Which) -> Path:
    """The weights that `load` takes; CheckpointError where there are none."""
    for name in (which, "last"):
        if (file := run / f"{name}.safetensors").exists():
            return file
    raise CheckpointError(f"{run}: has no weights yet; train it first")


def _file_of_run(run: Path, engine: EngineName) -> Path:
    names = [FILES["onnx"]] if engine == "onnxruntime" else [FILES["openvino"], FILES["onnx"]]
    there = [run / name for name in names if (run / name).is_file()]
    if there:
        return max(there, key=lambda file: file.stat().st_mtime_ns)
    format = "onnx" if engine == "onnxruntime" else "openvino"
    raise UsageError(
        f"{run}: has no {' or '.join(names)} for {engine}; make it with foveal export {run} --format {format}"
    )


def _check_age(run: RunInfo, file: Path, told: Description, which: Which) -> None:
    """UsageError unless the file has the run's weights, classes and settings as they are now."""
    weights = weights_file(run.path, which)
    if told.weights != fingerprint(weights):
        raise UsageError(f"{file}: was not exported from {weights.name} as it is now; export the run again")
    old, new = _what_counts(told.config), _what_counts(run.config)
    compared: list[tuple[str, str, Any, Any]] = [
        ("class names", "classes.json", told.class_names, run.class_names),
        ("category ids", "classes.json", told.category_ids, run.category_ids),
        *((name, "config.yaml", value, new[name]) for name, value in old.items()),
    ]
    for name, source, before, now in compared:
        if before != now:
            raise UsageError(
                f"{file}: was exported with {name} {_shown(before)}, and {source} now says {_shown(now)}; "
                "export the run again"
            )


def _what_counts(config: Config) -> dict[str, Any]:
    """The settings by which the same weights find other things, by name."""
    names = ("data.size", "data.max_size", "data.pad_multiple", "data.max_pixels", "assignment.padding")
    found = {
        name: value
        for name, value in flat_settings(config).items()
        if name in names or (name.startswith(("model.", "anchors.", "inference.")) and name not in _FOR_TRAINING)
    }
    # Of a backbone's folder a file has the last name alone.
    return {**found, "model.backbone": name_of(config.model.backbone.removeprefix("hf:"))}


def _sorted(names: Iterable[str]) -> str:
    return printable(", ".join(sorted(names)), 200)


def _shown(value: Any) -> str:
    return printable(", ".join(map(str, value)) if isinstance(value, tuple) else value) or "none"
