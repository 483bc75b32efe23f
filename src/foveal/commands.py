"""The commands as dataclasses: fields are flags, docstrings their help, `run` calls the library, gives the code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from foveal.config import Config, preset
from foveal.errors import UsageError
from foveal.wording import counted

Preset = Literal["light", "paper"]
Settings = Annotated[Config, arg(name="")]
# Where nothing is given, the help's own words say what happens.
GivenPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
EngineChoice = Literal["auto", "torch", "onnxruntime", "openvino"]


@dataclass
class Demo:
    """Write the embedded data set, train a small detector on it from scratch, evaluate it and draw what it finds."""

    out: Path = Path("runs/demo")
    """Folder of the run; the data set goes into its `data` folder."""
    minutes: float = 4.5
    """Time for training."""
    seed: int = 0
    """Everything random follows from it."""

    def run(self) -> int:
        from foveal.engine.demo import demo

        print(demo(self.out, minutes=self.minutes, seed=self.seed))
        return 0


@dataclass
class Inspect:
    """Tell what is in a data set, what is wrong with it, and whether the anchors reach its objects.

    Exit code 0 without problems, 1 with, 2 if there is no data.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of pictures and labels (COCO, VOC, YOLO, CSV), or a label file."""
    split: Annotated[str | None, arg(metavar="STR", help_behavior_hint="")] = None
    """Only this split; default: all."""
    json: bool = False
    """Print one JSON object instead of tables."""
    draw: int = 0
    """Write this many pictures of the labels with their matched anchors."""
    out: Path = Path("inspected")
    """Folder for those pictures."""
    preset: Preset = "light"
    """Recipe whose size and anchors are looked at."""
    config: GivenPath = None
    """YAML file of settings."""
    settings: Settings = field(default_factory=lambda: preset("light"))

    def run(self) -> int:
        from foveal.engine.inspect import draw_samples, inspect

        with _bar("checking pictures") as progress:
            found = inspect(self.data, self.settings, split=self.split, progress=progress)
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False) if self.json else found.table())
        if self.draw:
            folder = draw_samples(self.data, self.settings, self.draw, self.out, split=self.split)
            print(f"pictures of the labels with their matched anchors: {folder}", file=sys.stderr)
        return 1 if found.problems else 0


@dataclass
class Train:
    """Train a detector. Settings come from the preset, then --config FILE, then flags."""

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of pictures and labels (COCO, VOC, YOLO, CSV), or a label file."""
    out: Path
    """Folder of the run."""
    preset: Preset = "light"
    """Recipe to start from: light for CPUs and small sets, paper for the paper's."""
    config: GivenPath = None
    """YAML file of settings that change the preset; config.yaml of a run is one."""
    resume: bool = False
    """Go on from the last checkpoint in --out, with its settings, or start if there is none."""
    weights: GivenPath = None
    """A run to start from; its class head is replaced where the classes differ."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""
    settings: Settings = field(default_factory=lambda: preset("light"))

    def run(self) -> int:
        from foveal.engine.train import train

        run = train(
            self.data,
            self.out,
            config=self.settings,
            weights=self.weights,
            resume=self.resume,
            device=self.device,
        )
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"{run.path}: trained; next: foveal evaluate {run.path} {self.data}")
        return 0


@dataclass
class Evaluate:
    """Score a run on a data set, or a file of detections against a file of annotations.

    foveal evaluate RUN DATA --split test

    foveal evaluate --results DETECTIONS.json --annotations GT.json
    """

    run_folder: Annotated[Positional[Path | None], arg(metavar="RUN", help_behavior_hint="")] = None
    """A run: folder of `foveal train` or `foveal import`, hf://OWNER/NAME, or a file of `foveal export`."""
    data: Annotated[Positional[Path | None], arg(metavar="DATA", help_behavior_hint="")] = None
    """Folder of pictures and labels, or a label file."""
    split: str = "test"
    """Split to score."""
    json: bool = False
    """Print one JSON object instead of tables."""
    metric: Literal["coco", "voc07", "voc12"] = "coco"
    """COCO's 12 numbers, or VOC's AP with 11 points (2007) or every point (2012)."""
    plus_one: bool = False
    """Count boxes in whole pixels, width = x2 - x1 + 1, as VOC's own code does (voc metrics only)."""
    results: GivenPath = None
    """COCO results JSON to score instead of a run."""
    annotations: GivenPath = None
    """COCO annotations JSON that --results is scored against."""
    checkpoint: Annotated[Literal["best", "last"] | None, arg(metavar="{best,last}", help_behavior_hint="")] = None
    """Which weights of the run; default: best. An exported file has its own."""
    format: Annotated[Literal["auto", "coco", "voc", "yolo", "csv"], arg(name="data.format")] = "auto"
    """Label format of DATA; `auto` looks at the folder."""
    skip_bad: bool = False
    """Leave out pictures that cannot be read, and say how many, instead of stopping."""
    engine: EngineChoice = "auto"
    """What runs the network: PyTorch for a run, or the file that `foveal export` made of it; auto goes by RUN."""
    device: str = "auto"
    """auto takes a GPU if there is one; or cpu, cuda, cuda:1. Other engines than PyTorch run on the CPU alone."""

    def run(self) -> int:
        from foveal.engine.evaluate import evaluate_detector, evaluate_files
        from foveal.engine.scoring import check_metric
        from foveal.runtime.exported import open_detector

        if (self.results is None) != (self.annotations is None):
            raise UsageError("--results and --annotations go together: give both files")
        if self.results is not None and self.annotations is not None:
            found = evaluate_files(self.results, self.annotations, metric=self.metric, plus_one=self.plus_one)
        elif self.run_folder is None or self.data is None:
            raise UsageError("give RUN and DATA, or --results and --annotations; see foveal evaluate --help")
        else:
            check_metric(self.metric, self.plus_one)
            info, detector = open_detector(self.run_folder, self.engine, self.checkpoint, self.device)
            with _bar("evaluating") as progress:
                found = evaluate_detector(
                    info,
                    detector,
                    self.data,
                    split=self.split,
                    metric=self.metric,
                    plus_one=self.plus_one,
                    format=self.format,
                    skip_bad=self.skip_bad,
                    progress=progress,
                )
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False) if self.json else str(found))
        return 0


@dataclass
class Predict:
    """Find objects in pictures, folders, globs, videos, or paths from standard input (-).

    Writes a table of all detections, and with --draw the pictures with their boxes, into --out. One unreadable
    picture is reported and passed over; the exit code is then 1.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run: folder of `foveal train` or `foveal import`, hf://OWNER/NAME, or a file of `foveal export`."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="INPUTS", help_behavior_hint="(required)")]
    """Pictures, folders, globs, videos, or - for a list of paths on standard input."""
    out: Path
    """Folder for the table and the drawn pictures."""
    format: Literal["coco", "csv", "jsonl", "labelstudio"] = "jsonl"
    """Format of the table; labelstudio: tasks with predictions, for people to correct."""
    draw: bool = False
    """Write every picture with its boxes."""
    min_score: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Keep detections from this score; default: the run's recommended threshold, else .5."""
    tile: int = 0
    """Cut large pictures into tiles of this side; 0 shrinks them whole."""
    overlap: float = 0.2
    """Share of a tile that neighbours have in common."""
    batch_size: int = 8
    """Pictures at a time."""
    max_pixels: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Pass over pictures with more pixels; default: the run's data.max_pixels."""
    engine: EngineChoice = "auto"
    """What runs the network: PyTorch for a run, or the file that `foveal export` made of it; auto goes by RUN."""
    device: str = "auto"
    """auto takes a GPU if there is one; or cpu, cuda, cuda:1. Other engines than PyTorch run on the CPU alone."""

    def run(self) -> int:
        from foveal.engine.files import predict_files
        from foveal.runtime.exported import open_detector

        _, detector = open_detector(self.run_folder, self.engine, device=self.device)
        with _bar("predicting") as progress:
            summary = predict_files(
                detector,
                self.inputs,
                self.out,
                format=self.format,
                draw=self.draw,
                min_score=self.min_score,
                tile=self.tile,
                overlap=self.overlap,
                batch_size=self.batch_size,
                max_pixels=self.max_pixels,
                progress=progress,
                tile_progress=lambda done, total: progress(done, total, "tiles"),
            )
        print(summary)
        return 1 if summary.failed else 0


@dataclass
class Losses:
    """Tell who holds the class loss of a run: the few hard anchors or the many easy ones, at several gammas.

    The paper's figure 4 for any run and data set; docs/analysis.md explains what it says.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run: folder of `foveal train` or `foveal import`, or hf://OWNER/NAME."""
    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of pictures and labels, or a label file."""
    split: str = "val"
    """Split to look at."""
    gammas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Focal losses to compare, beside the run's own loss."""
    out: GivenPath = None
    """Folder for losses.json, cdf.csv and cdf.png; default: none is written."""
    json: bool = False
    """Print one JSON object instead of tables."""
    batch_size: int = 8
    """Pictures at a time."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of the run."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""

    def run(self) -> int:
        from foveal.analysis.folders import made_before_the_work
        from foveal.analysis.loss_distribution import loss_distribution
        from foveal.analysis.loss_figures import write_files

        with (
            nullcontext() if self.out is None else made_before_the_work(self.out),
            _bar("measuring losses") as progress,
        ):
            found = loss_distribution(
                self.run_folder,
                self.data,
                split=self.split,
                gammas=self.gammas,
                which=self.checkpoint,
                device=self.device,
                batch_size=self.batch_size,
                progress=progress,
            )
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False) if self.json else found.table())
        if self.out is not None:
            folder = write_files(found, self.out)
            print(f"losses.json, cdf.csv and cdf.png: {folder}", file=sys.stderr)
        return 0


@dataclass
class Mine:
    """Rank what a run finds hard, and tell labels that are probably wrong from objects that are merely hard.

    Writes ranked tables of doubtful labels, objects, background regions and pictures, and a sheet of the most doubtful
    labels, into --out. With --retrain it then trains on, with the hardest pictures more often.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run: folder of `foveal train` or `foveal import`, or hf://OWNER/NAME."""
    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of pictures and labels, or a label file."""
    out: Path = Path("mined")
    """Folder for the tables and the sheet."""
    split: str = "train"
    """Split to look at."""
    top: int = 100
    """Pictures that count as the hardest."""
    sheet: int = 36
    """Doubtful labels on the sheet; 0 draws none."""
    json: bool = False
    """Print one JSON object instead of text."""
    retrain: GivenPath = None
    """Folder of a new run that starts from RUN and sees the hardest pictures more often."""
    steps: int = 0
    """Steps of that run; 0 means a quarter of RUN's."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""

    def run(self) -> int:
        from foveal.analysis.folders import check_new_run, made_before_the_work
        from foveal.analysis.hard_examples import mine
        from foveal.analysis.mined_files import as_text, summary, write_mined
        from foveal.analysis.retraining import check_sees, retrain

        for flag, number in (("--top", self.top), ("--sheet", self.sheet), ("--steps", self.steps)):
            if number < 0:
                raise UsageError(f"{flag} {number}: give 0 or more")
        if self.retrain is not None:
            if self.top == 0:
                raise UsageError("--top 0 leaves no picture for --retrain; give 1 or more")
            check_new_run(self.retrain)
            check_sees(self.run_folder, self.split)
        with made_before_the_work(self.out), _bar("mining") as progress:
            mined = mine(self.run_folder, self.data, self.split, device=self.device, progress=progress)
        folder = write_mined(mined, self.out, self.top, self.sheet)
        print(json.dumps(summary(mined), indent=1, ensure_ascii=False) if self.json else as_text(mined))
        print(f"tables and sheet: {folder}", file=sys.stderr)
        if self.retrain is not None:
            hardest = folder / "hardest.txt"
            trained = retrain(self.run_folder, self.data, self.retrain, hardest, self.steps, self.device)
            print(f"{trained.path}: trained; next: foveal evaluate {trained.path} {self.data}", file=sys.stderr)
        return 0


@dataclass
class Bootstrap:
    """Label more pictures with a run: what it is sure of becomes labels, what it doubts becomes regions to ignore.

    Writes the labelled data and the new pictures as one data set, whose training split holds both. With --retrain it
    trains on it, from RUN's weights.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run: folder of `foveal train` or `foveal import`, or hf://OWNER/NAME."""
    unlabelled: Annotated[Positional[tuple[str, ...]], arg(metavar="UNLABELLED", help_behavior_hint="(required)")]
    """Pictures without labels: files, folders, globs."""
    into: Path
    """Folder of the new data set."""
    data: GivenPath = None
    """The labelled data; default: what RUN was trained on."""
    doubtful: float = 0.5
    """Detections from this share of their class's threshold are ignored rather than taken as background; 1: none."""
    retrain: GivenPath = None
    """Folder of a new run on the new data set."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""

    def run(self) -> int:
        from foveal.analysis.bootstrapping import as_command, bootstrap, train_on
        from foveal.analysis.folders import check_new_run

        if self.retrain is not None:
            check_new_run(self.retrain)
        with _bar("looking at pictures") as progress:
            done = bootstrap(
                self.run_folder,
                self.unlabelled,
                self.into,
                self.data,
                doubtful=self.doubtful,
                device=self.device,
                progress=progress,
            )
        print(done)
        if self.retrain is not None:
            trained = train_on(self.run_folder, self.into, self.retrain, self.device)
            print(f"{trained.path}: trained; next: foveal evaluate {trained.path} {self.into}")
        else:
            print(f"{self.into}: written; next: {as_command(self.run_folder, self.into)}")
        return 0


@dataclass
class Import:
    """Turn another project's RetinaNet checkpoint into a run, to evaluate, predict with and train on.

    No code of the file is run. docs/import.md tells what is read of which project, and what stays different.
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """Checkpoint: .pth, .pt, .ckpt, .pkl, .safetensors or .h5."""
    out: Path
    """Folder of the run."""
    source: Annotated[
        Literal["auto", "torchvision", "detectron2", "mmdetection", "yhenon", "deepforest", "fizyr"], arg(name="from")
    ] = "auto"
    """Project that the file is of; `auto` goes by the names of its tensors."""
    names: GivenPath = None
    """Text file with a class name a line, in the order of the outputs; - for an output that is no class."""

    def run(self) -> int:
        from foveal.importers.importing import import_run

        run = import_run(self.file, self.out, self.source, self.names)
        made = f"{run.config.model.backbone}, {counted(len(run.class_names), 'class')}"
        print(f"{run.path}: {made}; next: foveal predict {run.path} PICTURES")
        return 0


@dataclass
class Push:
    """Put a run onto the Hugging Face hub, with a card made from it; `foveal predict hf://OWNER/NAME` uses it.

    Weights, settings, classes and numbers travel; pictures, paths and logs stay. docs/hub.md tells more.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder of `foveal train` or `foveal import`."""
    repository: Annotated[Positional[str], arg(metavar="OWNER/NAME")]
    """Model repository on the hub; it is made where it is missing."""
    license: str = "unknown"
    """Licence of the weights as the hub calls it, such as apache-2.0 or cc-by-4.0."""
    private: bool = False
    """Make the repository private."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of the run."""

    def run(self) -> int:
        from foveal.hub.pushing import push

        address = push(
            self.run_folder, self.repository, license=self.license, private=self.private, which=self.checkpoint
        )
        if self.license == "unknown":
            print("its card says that the licence is unknown; --license NAME says which it is", file=sys.stderr)
        print(f"{address}: pushed; next: foveal predict {address} PICTURES --out found")
        return 0


@dataclass
class Export:
    """Write a run as a file that runs without Foveal: from the pixels of a picture to boxes.

    The file is compared with PyTorch on real pictures, and is not left there if it finds anything else (exit code 1).
    Use it with `foveal predict FILE`, or on its own: examples/onnx_alone.py does so in thirty lines. It needs
    pip install 'foveal[onnx]', or 'foveal[openvino]'; docs/export.md tells what goes in and comes out.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder of `foveal train` or `foveal import`."""
    format: Literal["onnx", "openvino", "torch"] = "onnx"
    """ONNX, for ONNX Runtime and most others; OpenVINO, for Intel's; torch.export's program of the network alone."""
    out: GivenPath = None
    """File to write; default: model.onnx, model.xml or model.pt2 in RUN."""
    resize: bool = True
    """The file takes pictures of any size and resizes them as training did; without, the caller does it."""
    nms: bool = True
    """The file gives boxes, scores and labels; without, what the network's last layers give for every anchor."""
    pictures: Annotated[tuple[Path, ...], arg(help_behavior_hint="")] = ()
    """Pictures to compare on; default: eight of the data that RUN was trained on."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of the run."""
    int8: bool = False
    """Quantise the OpenVINO file to 8 bits (default: model-int8.xml) and measure AP before and after. It needs
    pip install 'foveal[int8]'."""
    data: GivenPath = None
    """For --int8: labelled data, with a training split to find ranges on; default: what RUN was trained on."""
    split: Annotated[str | None, arg(metavar="STR", help_behavior_hint="")] = None
    """For --int8: split to measure AP on; default: RUN's validation split."""
    calibration: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """For --int8: how many pictures of the training split to find ranges on; default: 300."""
    max_drop: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """For --int8: AP that may be lost, in points of 100; where more is, no file is left (exit code 1); default: 1."""

    def run(self) -> int:
        from foveal.export.exporting import export_run
        from foveal.export.quantising import Int8

        wanted = {"data": self.data, "split": self.split, "pictures": self.calibration, "max_drop": self.max_drop}
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        if given and not self.int8:
            raise UsageError(
                "--data, --split, --calibration and --max-drop are for a file in 8 bits; add --int8, or leave them out"
            )
        exported = export_run(
            self.run_folder,
            self.format,
            self.out,
            resize=self.resize,
            nms=self.nms,
            pictures=self.pictures,
            which=self.checkpoint,
            int8=Int8(**given) if self.int8 else None,
        )
        print(exported)
        if self.format != "torch":
            print(f"next: foveal predict {exported.path} PICTURES --out found", file=sys.stderr)
        return 0


@dataclass
class Benchmark:
    """Measure a run on this machine: milliseconds for a picture, pictures per second, and memory, for each engine.

    Each engine runs alone in a process of its own, on the CPU, from resized pixels to boxes.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder of `foveal train` or `foveal import`."""
    engines: tuple[Literal["torch", "onnxruntime", "openvino", "openvino-int8"], ...] = (
        "torch",
        "onnxruntime",
        "openvino",
    )
    """What to measure; openvino-int8 is quantised to 8 bits first. Engines that are not installed are left out, and it
    is said."""
    sizes: Annotated[tuple[int, ...], arg(help_behavior_hint="")] = ()
    """Shorter sides of the picture in pixels; default: the run's data.size."""
    batch_size: int = 1
    """Pictures at a time."""
    seconds: float = 5.0
    """Time for each row of the table."""
    picture: GivenPath = None
    """Picture to look at; default: one of the data that RUN was trained on, else an embedded one."""
    json: bool = False
    """Print one JSON list instead of a table."""

    def run(self) -> int:
        from foveal.export.benchmarking import as_text, benchmark

        rows = benchmark(self.run_folder, self.engines, self.sizes, self.batch_size, self.seconds, self.picture)
        told = [row.as_dict() for row in rows]
        print(json.dumps(told, indent=1, allow_nan=False) if self.json else as_text(rows))
        return 0 if any(not row.missing for row in rows) else 1


COMMANDS: dict[str, type] = {
    "demo": Demo,
    "inspect": Inspect,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "losses": Losses,
    "mine": Mine,
    "bootstrap": Bootstrap,
    "import": Import,
    "push": Push,
    "export": Export,
    "benchmark": Benchmark,
}


@contextmanager
def _bar(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar for the duration of a block; the block calls what it gets with (done, total), or of what else."""
    from foveal.engine.progress import ConsoleReporter

    with ConsoleReporter().live() as reporter:
        yield lambda done, total, what=what: reporter.counted(what, done, total)
