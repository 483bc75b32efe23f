"""Which source a checkpoint is of, and the run that it becomes.

RUN/config.yaml classes.json last.safetensors   as of any run
RUN/import.json                                  source, file, checksum, and what was folded or stays different
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

import foveal
from foveal.config import Config
from foveal.engine.checkpoint import RunInfo, read_run, save_tensors, write_description
from foveal.errors import CheckpointError, ConfigError, UsageError, WeightsError
from foveal.hub.strangers import beyond_limits
from foveal.importers import deepforest, detectron2, fizyr, mmdetection, torchvision, yhenon
from foveal.importers.classes import Classes, classes_of
from foveal.importers.converted import ANCHORS, Converted, check_finite, complete, network_of, outputs_of
from foveal.importers.folding import keep_classes
from foveal.importers.weight_files import WeightFile, checksum, read_weight_file
from foveal.names import printable
from foveal.wording import counted

log = logging.getLogger("foveal")


@dataclass(frozen=True)
class Source:
    """A project whose checkpoints are read. recognises: whether the names of a file's tensors are its own."""

    recognises: Callable[[WeightFile], bool]
    convert: Callable[[WeightFile], Converted]


SOURCES = {
    "torchvision": Source(torchvision.recognises, torchvision.convert),
    "detectron2": Source(detectron2.recognises, detectron2.convert),
    "mmdetection": Source(mmdetection.recognises, mmdetection.convert),
    "yhenon": Source(yhenon.recognises, yhenon.convert),
    "deepforest": Source(deepforest.recognises, deepforest.convert),
    "fizyr": Source(fizyr.recognises, fizyr.convert),
}


def import_run(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    source: str = "auto",
    names: str | os.PathLike[str] | None = None,
) -> RunInfo:
    """Makes a run in the new folder `out` of another project's checkpoint; no code of the file is run.

    source: one of `SOURCES`, or auto, which goes by the names of the tensors. names: a text file with a class name a
    line, in the order of the outputs, `-` for an output that is no class. What was folded into the weights, and what
    stays different, is logged and kept in the run's import.json.
    """
    if address := re.match(r"([A-Za-z]\w+):/+", os.fspath(file)):  # of which a Path has one slash left
        rest = os.fspath(file)[address.end() :]
        raise UsageError(
            f"{address[1]}://{'/' if address[1] == 'file' else ''}{printable(rest, 200)}: is an address, and nothing "
            "is fetched; download the file and give its path"
        )
    path, folder = Path(file), Path(out)
    if source != "auto" and source not in SOURCES:
        raise UsageError(f"no source is called {source!r}: use auto or one of {', '.join(SOURCES)}")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder}: is there already; choose another --out")
    found = read_weight_file(path)
    name = _source_of(found) if source == "auto" else source
    converted = SOURCES[name].convert(found)
    outputs = outputs_of(path, converted.tensors)
    config = _config(path, network_of(path, converted.tensors, converted.caffe), converted.settings)
    classes = classes_of(path, outputs, converted.class_names, None if names is None else Path(names))
    tensors = complete(path, config, converted.tensors, outputs)
    converted.fold(tensors)
    keep_classes(tensors, ANCHORS, classes.outputs)
    check_finite(path, tensors)
    notes = [note for note in (*converted.notes, classes.note) if note]
    about = {"source": name, "file": path.name, "sha256": checksum(path), "foveal": foveal.__version__, "notes": notes}
    _write(folder, config, classes, tensors, about)
    for note in notes:
        log.info("%s", note)
    return read_run(folder)


def _source_of(file: WeightFile) -> str:
    # From the last: DeepForest's files have torchvision's names, and something more.
    name = next((name for name, source in reversed(SOURCES.items()) if source.recognises(file)), None)
    if name is None:
        some = printable(", ".join(list(file.tensors)[:2]), 200)
        raise WeightsError(
            f"{file.path}: its {counted(len(file.tensors), 'tensor')} ({some}, ...) are named as in no RetinaNet of "
            f"{', '.join(SOURCES)}; only those can be imported"
        )
    return name


def _config(path: Path, network: Mapping[str, Any], settings: Mapping[str, Any]) -> Config:
    try:
        # The whole network's weights are the run's; none are wanted for the backbone alone.
        start = {"model.weights": "none"}
        config = Config().with_changes(
            {**start, **{f"model.{name}": value for name, value in network.items()}, **settings}
        )
    except ConfigError as error:
        raise WeightsError(f"{path}: is a network that cannot be set up here ({error}); check what it is of") from None
    if beyond := beyond_limits(config):
        raise WeightsError(
            f"{path}: {beyond}; if you trust the file, put a smaller value into the config that it holds"
        )
    return config


def _write(
    folder: Path, config: Config, classes: Classes, tensors: dict[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Writes the run beside its place and renames it, so that there is a whole run or none."""
    folder = folder.resolve()  # `.` has no name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as own:
            beside = Path(own) / folder.name
            write_description(beside, config, classes.names, classes.ids, **{"import": dict(about)})
            save_tensors(beside / "last.safetensors", tensors)
            if not folder.exists():
                os.replace(beside, folder)
                return
            # An empty folder is filled, since a shell may stand in it; without config.yaml, the last, it is no run.
            for part in sorted(beside.iterdir(), key=lambda part: part.name == "config.yaml"):
                os.replace(part, folder / part.name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({printable(' '.join(str(error).split()), 200)}); check the path, its "
            "permissions and the free space"
        ) from None
