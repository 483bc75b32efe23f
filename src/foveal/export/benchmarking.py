"""How fast a run is on this machine with each engine, and how much memory it takes: `foveal benchmark`.

Every number is of a process of its own, so that no engine profits from another's warmth or pays for its memory. The
files are written for the purpose, unchecked, for pictures of any size, and thrown away.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from foveal.data.arrays import to_array
from foveal.data.scenes import draw_scene
from foveal.engine.allocator import keep_freed_memory
from foveal.engine.checkpoint import RunInfo, read_run
from foveal.engine.predict import Detector, Prepared, load
from foveal.errors import UsageError
from foveal.export.exporting import INT8_FILE, pictures_of
from foveal.export.formats import OnnxFile, OpenVinoFile, need
from foveal.export.quantising import check_installed, in_8_bits, inputs_of, layers
from foveal.model.retinanet import RetinaNet
from foveal.runtime.description import Description, fingerprint
from foveal.runtime.exported import detector_of, weights_file
from foveal.runtime.sessions import EngineName, open_session

Engine = Literal["torch", "openvino-int8"] | EngineName
MIN_RUNS = 5


@dataclass(frozen=True)
class Row:
    """One engine at one size. ms: for one picture, the median of `runs`; ms_spread: first and third quartile.

    shape: (height, width) that the network sees. memory_mb: by how much the process grew at most, from before the
    detector was opened. ratio: how many times as fast as PyTorch, None without it. missing: why nothing was measured.
    """

    engine: str
    size: int
    shape: tuple[int, int] = (0, 0)
    batch_size: int = 1
    ms: float = math.nan
    ms_spread: tuple[float, float] = (math.nan, math.nan)
    images_per_second: float = math.nan
    memory_mb: float = math.nan
    detections: int = 0
    runs: int = 0
    ratio: float | None = None
    missing: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: what was not measured is None."""
        return {name: _number_or_none(value) for name, value in asdict(self).items()}


def _number_or_none(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_number_or_none(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def benchmark(
    run: str | os.PathLike[str],
    engines: Sequence[Engine] = ("torch", "onnxruntime", "openvino"),
    sizes: Sequence[int] = (),
    batch_size: int = 1,
    seconds: float = 5.0,
    picture: str | os.PathLike[str] | None = None,
) -> list[Row]:
    """Times each engine at each size, one after the other, from resized pixels to boxes, on the CPU.

    For `openvino-int8` the network is quantised first. picture: what is looked at, default one of the run's data.
    """
    info = read_run(run)
    sizes = tuple(sizes) or (info.config.data.size,)
    if batch_size < 1 or min(sizes) < 32:
        raise UsageError(f"sizes {sizes}, batch size {batch_size}: give sizes from 32 and at least one picture")
    if not 0 <= seconds < math.inf:
        raise UsageError(f"{seconds:g} seconds: give 0 or more, such as 5")
    image = picture_of(info, picture)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="foveal-benchmark-") as folder:
        absent = {engine: _why_missing(engine) for engine in engines}
        paths = write_files(info, [engine for engine in engines if not absent[engine]], image, Path(folder))
        for size in sizes:
            for engine in engines:
                if absent[engine]:
                    rows.append(Row(engine, size, missing=absent[engine]))
                    continue
                rows.append(_alone(Job(str(paths[engine]), engine, size, batch_size, seconds, image)))
    return [_with_ratio(row, rows) for row in rows]


def as_text(rows: Sequence[Row]) -> str:
    """The rows as a table for people."""
    head = [
        "engine",
        "size",
        "network sees",
        "pictures",
        "ms / picture",
        "quartiles",
        "pictures / s",
        "MB",
        "x PyTorch",
    ]
    lines = [head]
    for row in rows:
        if row.missing:
            lines.append([row.engine, str(row.size), row.missing])
            continue
        low, high = row.ms_spread
        lines.append(
            [
                row.engine,
                str(row.size),
                f"{row.shape[0]} x {row.shape[1]}",
                str(row.batch_size),
                f"{row.ms:.1f}",
                f"{low:.1f} - {high:.1f}",
                f"{row.images_per_second:.2f}",
                f"{row.memory_mb:.0f}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
            ]
        )
    widths = [max(len(line[i]) for line in lines if len(line) == len(head)) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines
    )


@dataclass(frozen=True)
class Job:
    """What one process measures. path: a run's folder for PyTorch, else a file written without resize."""

    path: str
    engine: Engine
    size: int
    batch_size: int
    seconds: float
    image: np.ndarray


def _alone(job: Job) -> Row:
    """Measures in a fresh process; a row that says so where memory does not suffice."""
    try:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=keep_freed_memory) as process:
            return process.submit(measure, job).result()
    except BrokenProcessPool:  # Linux ends the process that takes too much
        why = "its process was ended, as it is where memory does not suffice"
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        why = "not enough memory"
    return Row(job.engine, job.size, missing=f"{why}; give smaller --sizes, or a smaller --batch-size")


def _is_out_of_memory(error: Exception) -> bool:
    """Each library says it in its own words."""
    told = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in told for words in ("can't allocate memory", "bad_alloc", "bad allocation", "failed to allocate memory")
    )


def measure(job: Job) -> Row:
    """Times one engine at one size, here."""
    before = psutil.Process().memory_info().rss
    detector = opened(job)
    prepared = detector.prepare(job.image)
    pictures = [prepared] * job.batch_size
    score = detector.config.inference.score_threshold
    found = detector.predict_prepared(pictures, score)  # the first run also plans and allocates
    taken = _times(detector, pictures, score, job.seconds)
    ms = [1000 * second / job.batch_size for second in taken]
    quartiles = statistics.quantiles(ms, n=4)
    return Row(
        engine=job.engine,
        size=job.size,
        shape=prepared.shape,
        batch_size=job.batch_size,
        ms=statistics.median(ms),
        ms_spread=(quartiles[0], quartiles[2]),
        images_per_second=1000 / statistics.median(ms),
        memory_mb=(peak_bytes() - before) / 2**20,
        detections=len(found[0]),
        runs=len(ms),
    )


def opened(job: Job) -> Detector:
    """The run's detector with pictures of another size than its own."""
    changes = {"data.size": job.size, "data.max_size": 0}
    if job.engine == "torch":
        detector = load(job.path, "cpu")
        return Detector(detector.model, detector.config.with_changes(changes), detector.class_names)
    session = open_session(Path(job.path), "openvino" if job.engine == "openvino-int8" else job.engine)
    told = Description.of_metadata(session.metadata, Path(job.path))
    return detector_of(session, replace(told, config=told.config.with_changes(changes)))


def _times(detector: Detector, pictures: list[Prepared], score: float, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < MIN_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        detector.predict_prepared(pictures, score)
        taken.append(time.perf_counter() - start)
    return taken


def write_files(info: RunInfo, engines: Sequence[Engine], image: np.ndarray, folder: Path) -> dict[Engine, Path]:
    """What each engine opens: the run's folder for PyTorch, else a file that is written to `folder` if one is needed.

    image: [H, W, 3], the picture that is timed and, for 8 bits, that ranges are found on: enough for speed.
    """
    files = dict.fromkeys(engines, folder / "model.onnx") | {"torch": info.path}
    if all(engine == "torch" for engine in engines):
        return files
    network = load(info.path, "cpu").model
    assert isinstance(network, RetinaNet)
    told = Description(
        info.config, info.class_names, info.category_ids, info.threshold, resize=False, nms=True, weights=""
    )
    onnx_file = OnnxFile(network, told)
    onnx_file.write(folder / "model.onnx", told.as_metadata())
    if "openvino-int8" in engines:
        float32, files["openvino-int8"] = folder / "float32.xml", folder / "int8.xml"
        file = OpenVinoFile(onnx_file, folder)
        file.write(float32, told.as_metadata())
        kept = tuple(name for step in _steps_of_own_file(info) for name in layers(file.model, step))
        file.model = in_8_bits(file.model, [image], inputs_of(float32, told), kept)
        file.write(files["openvino-int8"], told.as_metadata())
    return files


def _steps_of_own_file(info: RunInfo) -> Sequence[str]:
    """Which layers `foveal export --int8` left in float32 for these weights, as steps of its ladder."""
    file = info.path / INT8_FILE
    if not file.is_file():
        return ()
    told = Description.of_metadata(open_session(file, "openvino").metadata, file)
    of_these_weights = told.weights == fingerprint(weights_file(info.path, "best"))
    return told.int8["attempts"][-1]["float32"] if told.int8 and of_these_weights else ()


def picture_of(info: RunInfo, picture: str | os.PathLike[str] | None) -> np.ndarray:
    """The picture of a path, else one of the run's data, else an embedded one."""
    if picture is not None:
        return to_array(picture, info.config.data.max_pixels)
    try:
        return to_array(pictures_of(info)[0], info.config.data.max_pixels)
    except UsageError:
        return draw_scene("test", 0, 640).image


def _why_missing(engine: Engine) -> str:
    if engine == "torch":
        return ""
    try:
        need("onnx")
        if engine != "onnxruntime":
            need("openvino")
        if engine == "openvino-int8":
            check_installed()
    except UsageError as error:
        return str(error)
    return ""


def _with_ratio(row: Row, rows: Sequence[Row]) -> Row:
    torch_ms = [other.ms for other in rows if other.engine == "torch" and other.size == row.size and not other.missing]
    return replace(row, ratio=torch_ms[0] / row.ms) if torch_ms and not row.missing else row


def peak_bytes() -> int:
    """The most memory that this process has held; where the system does not tell, what it holds now."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return int(psutil.Process().memory_info().rss)
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
