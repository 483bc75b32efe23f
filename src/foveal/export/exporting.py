"""From a run to a file that runs without Foveal, held against PyTorch before it is left anywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from foveal.boxes import clip
from foveal.data.arrays import to_array
from foveal.data.detect import read_data, splits_of
from foveal.data.images import target_size
from foveal.data.table import Table
from foveal.detections import Detections
from foveal.engine.checkpoint import RunInfo, Which, read_json, read_run
from foveal.engine.predict import Detector, load
from foveal.engine.run_numbers import threshold_of
from foveal.errors import DataError, ExportError, UsageError
from foveal.export.agreement import Agreement, agreement
from foveal.export.formats import OnnxFile, OpenVinoFile, ProgramFile, ProgramSession, need
from foveal.export.placing import files_of, folder_beside, publish
from foveal.export.quantising import Int8, Quantised, check_installed, format_of, material, quantise
from foveal.hub.addresses import address_of
from foveal.model.retinanet import RetinaNet
from foveal.runtime.description import Description, fingerprint
from foveal.runtime.exported import FILES, ExportedEngine, detector_of, weights_file
from foveal.runtime.publishing import publishable
from foveal.runtime.sessions import Session, open_session
from foveal.wording import counted

Format = Literal["onnx", "openvino", "torch"]
CHECKED_PICTURES = 8
INT8_FILE = "model-int8.xml"
"""Beside the float32 file, which it never replaces."""


@dataclass(frozen=True)
class Exported:
    """A written file. checks: `network`, with pictures resized by us; `pixels`, with pictures resized by the file.

    int8: what quantisation did to AP. The checks are of the file before it.
    """

    path: Path
    checks: dict[str, Agreement]
    description: Description
    int8: Quantised | None = None

    def __str__(self) -> str:
        megabytes = sum(file.stat().st_size for file in files_of(self.path)) / 1e6
        compared = {"network": "against PyTorch", "pixels": "with its own resize"}
        before = "" if self.int8 is None else ", in float32"
        lines = [f"{compared[name]}{before}: {check}" for name, check in self.checks.items()]
        lines += [] if self.int8 is None else [str(self.int8)]
        return "\n".join([*lines, f"{self.path}: written, {megabytes:.1f} MB"])


class _File(Protocol):
    def write(self, path: Path, metadata: dict[str, str]) -> None: ...


def export_run(
    run: str | os.PathLike[str],
    format: Format = "onnx",
    out: str | os.PathLike[str] | None = None,
    *,
    resize: bool = True,
    nms: bool = True,
    pictures: Sequence[Any] = (),
    which: Which = "best",
    int8: Int8 | None = None,
) -> Exported:
    """Writes a run's detector as one file (OpenVINO: two) that agrees with PyTorch's, or raises ExportError.

    out: default model.onnx, model.xml or model.pt2 in the run's folder. resize: pictures of any size are resized and
    padded inside; nms: boxes come out, not the network's outputs; `torch` has the network alone. pictures: what to
    compare on, default eight of the run's data; something must be found in them. int8: the compared OpenVINO file is
    then quantised, default model-int8.xml; ExportError too if that costs too much AP.
    """
    if out is None and (address := address_of(run)) is not None:
        raise UsageError(f"{address}: is on the hub, not in a folder of yours; say where to write with --out FILE")
    info = read_run(run)
    target = _target(info, format, out, int8 is not None)
    for extra in {"onnx": ["onnx"], "openvino": ["onnx", "openvino"], "torch": []}[format]:
        need(extra)
    if int8 is not None:
        check_installed()
    data, found, form = None, None, format_of(info, int8)
    if int8 is not None:  # what it lacks is told at once, not after the export of minutes
        data = int8.data or data_of(info, "data to quantise on", "give it with --data FOLDER")
        found = material(info, int8, data)
    detector = load(info.path, "cpu", which)
    images = [to_array(picture, info.config.data.max_pixels) for picture in pictures or pictures_of(info, data, form)]
    expected = detector(images, min_score=info.config.inference.score_threshold)
    if not any(len(found) for found in expected):
        raise ExportError(
            f"the run finds nothing in the {counted(len(images), 'picture')} to compare on, so nothing could be "
            "compared; give pictures that show its objects with --pictures"
        )
    whole = format != "torch"
    told = Description(
        # Without paths; but how large a picture may be is asked wherever the file is used.
        config=publishable(info.config).with_changes({"data.max_pixels": info.config.data.max_pixels}),
        class_names=info.class_names,
        category_ids=info.category_ids,
        threshold=threshold_of(info, which),
        resize=resize and whole,
        nms=nms and whole,
        weights=fingerprint(weights_file(info.path, which)),
    )
    with folder_beside(target) as folder:
        beside = folder / target.name
        file = _made(format, detector, told, folder)
        file.write(beside, told.as_metadata())
        checks = check(_opened(beside, format, file), images, expected)
        told = replace(told, check={name: one.as_dict() for name, one in checks.items()})
        for name, one in checks.items():
            if not one.passed:
                raise ExportError(f"{target}: not written, since it would not find what PyTorch finds ({name}: {one})")
        quantised = None
        if int8 is not None and found is not None and isinstance(file, OpenVinoFile):
            quantised = quantise(file, beside, info, told, int8, found)
            told = replace(told, int8=quantised.as_dict())
        file.write(beside, told.as_metadata())
        publish(beside, target)
    return Exported(target, checks, told, quantised)


def check(session: Session, images: Sequence[np.ndarray], expected: Sequence[Detections]) -> dict[str, Agreement]:
    """Compares a file with PyTorch's detections, on pictures resized by us, and by the file if it can."""
    told = Description.of_metadata(session.metadata, Path("the exported file"))
    detector, inference = detector_of(session, told), told.config.inference
    limits = inference.score_threshold, inference.max_detections
    found = detector(list(images), min_score=inference.score_threshold)
    checks = {"network": agreement(expected, found, *limits)}
    if told.resize:
        own = [resized_inside(session, told, image) for image in images]
        checks["pixels"] = agreement(expected, own, *limits)
    return checks


def resized_inside(session: Session, told: Description, image: np.ndarray) -> Detections:
    """What a file with `resize` finds in a picture [H, W, 3] as it is, in the picture's pixels."""
    engine, height, width = ExportedEngine(session, told), image.shape[0], image.shape[1]
    data = told.config.data
    size = (height, width) if told.nms else target_size((height, width), data.size, data.longest)
    sizes = torch.tensor([size], dtype=torch.int64)
    boxes, scores, labels = engine.find_in(image[None], sizes, told.config.inference.score_threshold)[0]
    y, x = height / size[0], width / size[1]
    boxes = clip(boxes * torch.tensor([x, y, x, y]), (height, width))
    return Detections(boxes, scores, labels, told.class_names)


def data_of(info: RunInfo, wanted: str, ask: str) -> Path:
    """The folder of the data that a run was trained on; UsageError, with what to do instead, if it is not there."""
    file = info.path / "data.json"
    root = Path(str(read_json(file).get("root", ""))) if file.exists() else None
    if root is None or not root.exists():
        where = f"its data is not at {root} any more" if root else "it does not say what it was trained on"
        raise UsageError(f"{info.path}: no {wanted}, since {where}; {ask}")
    return root


def pictures_of(info: RunInfo, data_folder: Path | None = None, format: str | None = None) -> list[str]:
    """Up to eight pictures of the run's data or other, from all over its validation split if it has one."""
    ask = "give some of your own with --pictures"
    root = data_folder or data_of(info, "pictures to compare on", ask)
    data = info.config.data
    form = format or data.format
    for split in (data.val_split, data.train_split):
        try:
            table = read_data(root, split if split in splits_of(root, form) else None, form)
        except (DataError, UsageError):
            continue
        if len(table):
            return _spread(table)
    raise UsageError(f"{info.path}: no pictures to compare on, since there are none in {root}; {ask}")


def _spread(table: Table) -> list[str]:
    rows = np.linspace(0, len(table) - 1, min(CHECKED_PICTURES, len(table))).round().astype(int)
    return [str(table.path(row)) for row in rows.tolist()]


def _target(info: RunInfo, format: Format, out: str | os.PathLike[str] | None, int8: bool) -> Path:
    if format not in FILES:
        raise UsageError(f"format {format!r}: give one of {', '.join(FILES)}")
    if int8 and format != "openvino":
        raise UsageError(f"--int8 makes a file of format openvino, not {format}; add --format openvino")
    target = info.path / (INT8_FILE if int8 else FILES[format]) if out is None else Path(out)
    suffix = Path(FILES[format]).suffix
    if target.suffix != suffix or target.is_dir():
        raise UsageError(f"{target}: a file of format {format} ends in {suffix}; give such a path")
    return target


def _made(format: Format, detector: Detector, told: Description, folder: Path) -> _File:
    assert isinstance(detector.model, RetinaNet)
    if format == "torch":
        return ProgramFile(detector.model, told)
    file = OnnxFile(detector.model, told)
    return file if format == "onnx" else OpenVinoFile(file, folder)


def _opened(path: Path, format: Format, file: _File) -> Session:
    if isinstance(file, ProgramFile):
        return ProgramSession(path, file.names)
    return open_session(path, "onnxruntime" if format == "onnx" else "openvino")
