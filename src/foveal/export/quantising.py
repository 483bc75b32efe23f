"""A file of OpenVINO in whole numbers of 8 bits, and how much AP that costs: post-training quantisation by nncf.

Only the network is quantised; pixels and boxes around it stay as they are. Where too much AP is lost, the layers that
are known to suffer most go back to float32, a step of `LADDER` at a time, until little enough is lost.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foveal.data.detect import read_data
from foveal.data.table import Table
from foveal.detections import Batch, Objects
from foveal.engine.checkpoint import RunInfo
from foveal.engine.class_names import match_classes
from foveal.engine.evaluate import evaluate_detector
from foveal.engine.usable import usable
from foveal.errors import ExportError, UsageError
from foveal.export.formats import OpenVinoFile, need
from foveal.runtime.description import Description
from foveal.runtime.exported import ExportedEngine, detector_of
from foveal.runtime.sessions import open_session
from foveal.wording import counted

if TYPE_CHECKING:
    import openvino

LADDER = ("", "the predicting convolutions", "the first convolution", "the grouped convolutions", "both subnets")
"""What goes back to float32, each step with those before it: first what costs least time."""
NETWORK = "network/"
"""How the names of the network's layers begin, as `assembly.assemble` embeds it."""


@dataclass(frozen=True)
class Int8:
    """How to quantise. pictures: of the training split, without augmentation, drawn by `seed`, to find ranges on.

    data: default the run's. split: where AP is measured, default the run's validation split. max_drop: of AP, in
    points of 100.
    """

    data: Path | None = None
    split: str | None = None
    pictures: int = 300
    max_drop: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pictures < 1 or not 0 <= self.max_drop < math.inf:
            raise UsageError(
                f"{self.pictures} pictures to find ranges on, a drop of {self.max_drop:g} AP at most: give one or more "
                "pictures, and a drop of 0 or more"
            )


@dataclass(frozen=True)
class Attempt:
    """A step of the ladder: which layers were float32, and AP then, 0 .. 100."""

    float32: tuple[str, ...]
    AP: float

    def __str__(self) -> str:
        kept = f", {', '.join(self.float32)} in float32" if self.float32 else ""
        return f"AP {self.AP:.1f}{kept}"


@dataclass(frozen=True)
class Quantised:
    """What became of AP (0 .. 100) on `split`; the last of `attempts` is the file. notes: what was skipped."""

    split: str
    pictures: int
    seed: int
    max_drop: float
    AP_before: float
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...] = ()

    @property
    def drop(self) -> float:
        return self.AP_before - self.attempts[-1].AP

    @property
    def passed(self) -> bool:
        return self.drop <= self.max_drop

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "AP_after": self.attempts[-1].AP}

    def __str__(self) -> str:
        tried = "; ".join(str(attempt) for attempt in self.attempts)
        notes = "".join(f" ({note})" for note in self.notes)
        return (
            f"INT8 with {counted(self.pictures, 'picture')}: on {self.split} AP {self.AP_before:.1f} before, "
            f"after: {tried}{notes}"
        )


@dataclass(frozen=True)
class Material:
    """Where AP is measured, paths of training pictures that ranges are found on, and what of both was skipped."""

    measured: Table
    calibration: list[str]
    notes: tuple[str, ...]


def material(info: RunInfo, settings: Int8, data: Path) -> Material:
    """What the settings mean in a data set; UsageError or DataError where it does not have it.

    Faulty labels and pictures that do not open are left out, as `foveal evaluate` leaves them out.
    """
    config, skipped = info.config.with_changes({"data.skip_bad": True}), list[str]()

    def read(split: str) -> Table:
        return usable(read_data(data, split, format_of(info, settings)), config, skipped.append)

    measured = read(settings.split or config.data.val_split)
    _check_objects(info, measured, data)
    calibration = _sample(read(config.data.train_split), data, settings)
    return Material(measured, calibration, tuple(dict.fromkeys(skipped)))


def format_of(info: RunInfo, settings: Int8 | None) -> str:
    """Of the labels: the run's own where they are those it was trained on, found anew in another folder."""
    return info.config.data.format if settings is None or settings.data is None else "auto"


def quantise(
    file: OpenVinoFile, beside: Path, info: RunInfo, told: Description, settings: Int8, found: Material
) -> Quantised:
    """Puts an INT8 model into `file`, which has been written to `beside` as float32; `beside` is overwritten.

    ExportError if more AP is lost than `settings.max_drop`, whatever stays float32.
    """
    measured, calibration = found.measured, found.calibration
    before = _ap(beside, info, measured)
    float32 = file.model
    kept: tuple[str, ...] = ()
    attempts: list[Attempt] = []
    for step in LADDER:
        names = layers(float32, step)
        if step and not names:
            continue
        kept = (*kept, *names)
        steps = (*attempts[-1].float32, step) if step else ()
        file.model = in_8_bits(float32, calibration, inputs_of(beside, told), kept)
        file.write(beside, told.as_metadata())
        attempts.append(Attempt(steps, _ap(beside, info, measured)))
        result = Quantised(
            measured.split, len(calibration), settings.seed, settings.max_drop, before, tuple(attempts), found.notes
        )
        if result.passed:
            return result
    best = max(attempts, key=lambda attempt: attempt.AP)
    raise ExportError(
        f"not written: INT8 loses {before - best.AP:.1f} AP or more, {settings.max_drop:g} are allowed ({result}); "
        "allow more with --max-drop, give more pictures with --calibration, or leave --int8 out"
    )


def inputs_of(file: Path, told: Description) -> Callable[[Any], dict[str, np.ndarray]]:
    """From a picture, as `Detector.prepare` takes it, to what the file takes."""
    session = open_session(file, "openvino")
    engine, detector = ExportedEngine(session, told), detector_of(session, told)

    def inputs(image: Any) -> dict[str, np.ndarray]:
        picture = detector.prepare(image)
        batch = Batch.pack([picture.pixels], [Objects.empty()], shape=picture.shape)
        _, images, sizes = next(engine.groups(batch))
        return engine.inputs(images, sizes)

    return inputs


def in_8_bits(
    model: openvino.Model,
    pictures: Sequence[Any],
    inputs: Callable[[Any], dict[str, np.ndarray]],
    float32: tuple[str, ...] = (),
) -> openvino.Model:
    """An INT8 copy of `OpenVinoFile.model`, its ranges found on `inputs` of each picture.

    float32: names of layers that stay as they are, beside all outside the network.
    """
    with _quiet():
        import nncf

        outside = nncf.IgnoredScope(names=list(float32), patterns=[f"^(?!{NETWORK}).*"], validate=False)
        found_on = nncf.Dataset(pictures, inputs)
        return nncf.quantize(model, found_on, subset_size=len(pictures), ignored_scope=outside)


def check_installed() -> None:
    """UsageError with the install line unless nncf is there."""
    with _quiet():
        pass


def _check_objects(info: RunInfo, table: Table, data: Path) -> None:
    """UsageError unless AP can be measured: an object, no crowd, of a class that the run knows."""
    run_label_of = match_classes(info.class_names, table.class_names).run_label_of
    known = torch.tensor(run_label_of, dtype=torch.int64)[table.labels.long()] >= 0
    if not (known & ~table.crowd).any():
        raise UsageError(
            f"{data}: no object in split {table.split!r} to measure AP on (crowds do not count); "
            "name another with --split"
        )


def _sample(table: Table, data: Path, settings: Int8) -> list[str]:
    """Paths of training pictures."""
    if not len(table):
        raise UsageError(f"{data}: no picture in split {table.split!r} to find ranges on; give others with --data")
    rows = np.random.default_rng(settings.seed).permutation(len(table))[: settings.pictures]
    return [str(table.path(row)) for row in rows.tolist()]


def _ap(file: Path, info: RunInfo, table: Table) -> float:
    session = open_session(file, "openvino")
    detector = detector_of(session, Description.of_metadata(session.metadata, file))
    ap = evaluate_detector(info, detector, table, table.split).numbers["AP"]
    assert ap is not None  # `_check_objects` has seen to it
    return 100 * ap


def layers(model: openvino.Model, step: str) -> tuple[str, ...]:
    """The names of the convolutions that a step of the ladder means."""
    kinds = ("Convolution", "GroupConvolution")
    inside = (layer for layer in model.get_ordered_ops() if layer.get_friendly_name().startswith(NETWORK))
    convolutions = [layer for layer in inside if layer.get_type_name() in kinds]
    if step == "the predicting convolutions":
        meant = [layer for layer in convolutions if "_head.predict." in _weight(layer)]
    elif step == "the first convolution":
        meant = convolutions[:1]
    elif step == "the grouped convolutions":
        meant = [layer for layer in convolutions if layer.get_type_name() == "GroupConvolution"]
    elif step == "both subnets":
        meant = [layer for layer in convolutions if "_head." in _weight(layer)]
    else:
        meant = []
    return tuple(layer.get_friendly_name() for layer in meant)


def _weight(layer: Any) -> str:
    """The name of a convolution's weight: the parameter's, unless a batch norm was folded into it."""
    return str(layer.input_value(1).get_node().get_friendly_name())


@contextmanager
def _quiet() -> Iterator[None]:
    """nncf without its list of every layer, its progress on stderr, and without sending anything to its makers."""
    os.environ.setdefault("NNCF_CI", "1")  # before its first import: the one switch that it has
    logger = logging.getLogger("nncf")
    level = logger.level
    with redirect_stdout(sys.stderr):
        need("int8")  # its import sets its logger up
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
