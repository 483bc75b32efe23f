"""How many times as fast as PyTorch are exported files? `python -m benchmarks.export`

    python -m benchmarks.export --run runs/cells --name "light, blood cells"
    python -m benchmarks.export --preset paper --seconds 40
    python -m benchmarks.export --table

One picture at a time, from resized pixels to boxes: PyTorch as it is (eager), PyTorch that keeps freed memory, as the
commands do, ONNX Runtime, OpenVINO in float32, and OpenVINO in 8 bits. A preset has 80 classes and random weights; a
run has its own. Ranges for 8 bits are found on a few scenes of the embedded data set, which is enough for speed and
says nothing about AP. Each engine is a process of its own; they take turns of half a second, so that whatever else the
machine does falls on all of them. What was measured replaces its own lines of results/export.csv, and the table of
docs/export.md is written from them; with --table nothing is measured.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.common import RESULTS, ROOT, read_rows, replace_rows, versions
from foveal.config import preset
from foveal.data.scenes import draw_scene
from foveal.engine.allocator import keep_freed_memory
from foveal.engine.checkpoint import RunInfo, read_run, save_tensors, write_description, write_text
from foveal.engine.predict import load
from foveal.export.benchmarking import Job, opened, peak_bytes, picture_of
from foveal.export.formats import OnnxFile, OpenVinoFile
from foveal.export.quantising import in_8_bits, inputs_of
from foveal.model.retinanet import RetinaNet, build_model
from foveal.runtime.description import Description

BEGIN, END = "<!-- speed: written by python -m benchmarks.export -->", "<!-- end of speed -->"
PAGE = ROOT / "docs" / "export.md"
KEPT = "torch, memory kept"
ENGINES = {
    "torch": "torch",
    KEPT: "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "openvino int8": "openvino",
}
"""What a line calls it, and what runs it."""
CLASSES, SCENES, TURN_S, REST_S = 80, 8, 0.5, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="light", help="network with random weights")
    parser.add_argument("--run", type=Path, help="trained run in place of a preset")
    parser.add_argument("--name", help="what the lines call the network; default: the preset or the run's folder")
    parser.add_argument("--sizes", nargs="+", type=int, default=[320, 608])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size")
    parser.add_argument(
        "--files",
        type=Path,
        help="folder for the files, one below it for each name; what is there already is used again",
    )
    parser.add_argument("--table", action="store_true", help="write the table of docs/export.md and measure nothing")
    chosen = parser.parse_args()
    if not chosen.table:
        measure(chosen)
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), read_rows(RESULTS / "export.csv")))


def measure(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        name = chosen.name or (chosen.run.name if chosen.run else f"{chosen.preset}, random weights")
        folder = (chosen.files or Path(temporary)) / name.replace("/", "_")  # files of one network are no other's
        folder.mkdir(parents=True, exist_ok=True)
        run = chosen.run or random_run(chosen.preset, folder)
        write_files(read_run(run), folder)
        for size in chosen.sizes:
            rows = compared(run, folder, size, chosen.seconds)
            told = {"versions": f"{versions()} {' '.join(version_of(name) for name in ('onnxruntime', 'openvino'))}"}
            replace_rows("export", [{"network": name, **row, **told} for row in rows], ("network", "size", "engine"))


def with_table(page: str, lines: list[dict[str, str]]) -> str:
    """The page with its table as the lines of results/export.csv have it."""
    cases = sorted({(line["network"], int(line["size"]), line["commit"]) for line in lines})
    by_case = {(line["network"], line["size"], line["engine"]): line for line in lines}
    names = ("PyTorch", "memory kept", "ONNX Runtime", "OpenVINO", "OpenVINO, INT8")
    rows = [("network", "pixels", *names, "commit"), ("---",) * 8]
    for network, pixels, at in cases:
        size = str(pixels)
        rows.append((network, size, *(cell(by_case[network, size, engine]) for engine in ENGINES), at))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    where = "; ".join(dict.fromkeys(f"{line['machine']}, {line['versions']}" for line in lines))
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n\nMachine and versions: {where}.\n{END}{rest.split(END)[1]}"


def cell(line: dict[str, str]) -> str:
    ratio = "" if line["engine"] == "torch" else f", {float(line['times_faster']):.2f} x"
    return f"{float(line['median_ms']):.1f}{ratio}"


def version_of(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def random_run(name: str, folder: Path) -> Path:
    """A run of a preset that was never trained."""
    run = folder / "run"
    if not (run / "best.safetensors").exists():
        config = preset(name).with_changes({"model.weights": "none", "model.batch_norm": "evaluating"})
        torch.manual_seed(0)
        network = build_model(config, CLASSES, pretrained=False)
        names = tuple(f"class {k}" for k in range(CLASSES))
        write_description(run, config, names, tuple(range(CLASSES)))
        save_tensors(run / "best.safetensors", network.state_dict())
    return run


def write_files(info: RunInfo, folder: Path) -> None:
    """The run as ONNX, as OpenVINO and as that in 8 bits, for resized pictures of any size, unchecked."""
    onnx, float32, int8 = (folder / name for name in ("onnxruntime.onnx", "openvino.xml", "openvino int8.xml"))
    if int8.exists():
        return
    network = load(info.path, "cpu").model
    assert isinstance(network, RetinaNet)
    told = Description(info.config, info.class_names, info.category_ids, None, resize=False, nms=True, weights="")
    onnx_file = OnnxFile(network, told)
    onnx_file.write(onnx, told.as_metadata())
    file = OpenVinoFile(onnx_file, folder)
    file.write(float32, told.as_metadata())
    scenes = [draw_scene("train", index, info.config.data.size).image for index in range(SCENES)]
    file.model = in_8_bits(file.model, scenes, inputs_of(float32, told))
    file.write(int8, told.as_metadata())


def compared(run: Path, folder: Path, size: int, seconds: float) -> list[dict[str, Any]]:
    """A line for each engine; `times_faster` is the median over the turns of PyTorch's time divided by the engine's."""
    image = picture_of(read_run(run), None)
    files = {
        "torch": run,
        KEPT: run,
        **{name: folder / f"{name}.xml" for name in ENGINES if name.startswith("openvino")},
    }
    files["onnxruntime"] = folder / "onnxruntime.onnx"
    spawn = multiprocessing.get_context("spawn")
    processes = {
        name: ProcessPoolExecutor(1, spawn, initializer=keep_freed_memory if name == KEPT else None) for name in ENGINES
    }
    taken: dict[str, list[list[float]]] = {name: [] for name in ENGINES}
    for name, process in processes.items():
        job = Job(str(files[name]), ENGINES[name], size, 1, 0, image)
        process.submit(start, job).result()
    end = time.perf_counter() + seconds
    while len(taken["torch"]) < 3 or time.perf_counter() < end:
        for name, process in processes.items():
            taken[name].append(process.submit(turn).result())
            time.sleep(REST_S)  # the threads of one have gone to sleep when the next begins
    told = {name: process.submit(finish).result() for name, process in processes.items()}
    for process in processes.values():
        process.shutdown()
    return [row(name, size, taken, told[name]) for name in ENGINES]


def row(name: str, size: int, taken: dict[str, list[list[float]]], told: dict[str, Any]) -> dict[str, Any]:
    every = [1000 * second for one in taken[name] for second in one]
    low, middle, high = statistics.quantiles(every, n=4)
    turns = zip(taken["torch"], taken[name], strict=True)
    ratios = [statistics.median(theirs) / statistics.median(own) for theirs, own in turns]
    return {
        "size": size,
        "engine": name,
        "median_ms": round(middle, 2),
        "quartile_1_ms": round(low, 2),
        "quartile_3_ms": round(high, 2),
        "runs": len(every),
        "times_faster": round(statistics.median(ratios), 2),
        "times_faster_min": round(min(ratios), 2),
        "times_faster_max": round(max(ratios), 2),
        "turns": len(ratios),
        **told,
        "threads": torch.get_num_threads(),
    }


# What an engine's process does: its detector stays open from one turn to the next.
_here: dict[str, Any] = {}


def start(job: Job) -> None:
    """Opens the detector and lets it plan and allocate."""
    before = psutil.Process().memory_info().rss
    detector = opened(job)
    pictures = [detector.prepare(job.image)]
    _here.update(detector=detector, pictures=pictures, before=before)
    for _ in range(2):
        _here["found"] = detector.predict_prepared(pictures, detector.config.inference.score_threshold)


def turn() -> list[float]:
    """Seconds of each call within half a second, of one at least."""
    detector, pictures = _here["detector"], _here["pictures"]
    score, taken = detector.config.inference.score_threshold, []
    while sum(taken) < TURN_S:
        began = time.perf_counter()
        detector.predict_prepared(pictures, score)
        taken.append(time.perf_counter() - began)
    return taken


def finish() -> dict[str, Any]:
    return {
        "shape": " x ".join(str(side) for side in _here["pictures"][0].shape),
        "memory_MB": round((peak_bytes() - _here["before"]) / 2**20),
        "detections": len(_here["found"][0]),
    }


if __name__ == "__main__":
    main()
