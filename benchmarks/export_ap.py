"""What 8 bits cost in AP on blood cells: `python -m benchmarks.export_ap DATA --run RUN`

    python -m benchmarks.export_ap data/bloodcells --run runs/cells --name "light, blood cells"
    python -m benchmarks.export_ap data/bloodcells --weights mobilenet_v2-b0353104.pth
    python -m benchmarks.export_ap --table

A run is written as OpenVINO's files by `foveal export`, in float32 and, ranges found on training pictures, in 8 bits;
then both are scored on val and on test. Layers go back to float32 where more than 1 AP is lost on val, so test is the
split on which nothing was chosen. Without --run the recipe of `benchmarks.bloodcells` is trained first. What was
measured replaces its own lines of results/export_ap.csv, and the table of docs/export.md is written from them; with
--table nothing is measured.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bloodcells import RECIPE, foveal
from benchmarks.common import RESULTS, ROOT, read_rows, replace_rows, versions
from benchmarks.export import version_of
from foveal.engine.checkpoint import RunInfo, read_run, write_text
from foveal.engine.evaluate import evaluate_detector
from foveal.export.exporting import Exported, export_run, pictures_of
from foveal.export.placing import files_of
from foveal.export.quantising import Int8
from foveal.runtime.exported import open_detector

BEGIN, END = "<!-- AP: written by python -m benchmarks.export_ap -->", "<!-- end of AP -->"
PAGE = ROOT / "docs" / "export.md"
SPLITS = ("val", "test")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the blood cells")
    parser.add_argument("--run", type=Path, help="trained run; without, one is trained")
    parser.add_argument("--name", help="what the lines call the network; default: the run's folder")
    parser.add_argument("--weights", type=Path, help="MobileNetV2 backbone file, to train with")
    parser.add_argument("--steps", type=int, default=0, help="of that training; 0 means the preset's")
    parser.add_argument("--calibration", type=int, default=300, help="training pictures that ranges are found on")
    parser.add_argument("--table", action="store_true", help="write the table of docs/export.md and measure nothing")
    chosen = parser.parse_args(words)
    if not chosen.table:
        if chosen.data is None or (chosen.run is None and chosen.weights is None):
            parser.error("give DATA, and --run or --weights")
        run = chosen.run or trained(chosen)
        rows = measured(read_run(run), chosen.data, chosen.calibration)
        told = {"versions": " ".join([versions(), *map(version_of, ("openvino", "nncf"))])}
        name = chosen.name or run.name
        replace_rows("export_ap", [{"network": name, **row, **told} for row in rows], ("network", "split", "precision"))
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), read_rows(RESULTS / "export_ap.csv")))


def trained(chosen: argparse.Namespace) -> Path:
    """The recipe's run, seed 0, which goes on where it was broken off."""
    run = ROOT / "runs" / f"export_ap-{chosen.steps or 'preset'}"
    steps = ["--train.steps", str(chosen.steps)] if chosen.steps else []
    weights = ["--model.weights", str(chosen.weights.resolve())]
    foveal("train", str(chosen.data), "--out", str(run), "--resume", *weights, *RECIPE, *steps)
    return run


def measured(info: RunInfo, data: Path, calibration: int) -> list[dict[str, Any]]:
    """A line for each split and precision, AP from 0 to 100."""
    pictures = pictures_of(info, data, "auto")
    with tempfile.TemporaryDirectory() as folder:
        float32, int8 = (
            export_run(info.path, "openvino", Path(folder) / f"{name}.xml", pictures=pictures, int8=settings)
            for name, settings in (("float32", None), ("int8", Int8(data, pictures=calibration)))
        )
        print(float32, int8, sep="\n", flush=True)
        return [line(written, data, split) for split in SPLITS for written in (float32, int8)]


def line(written: Exported, data: Path, split: str) -> dict[str, Any]:
    told = evaluate_detector(*open_detector(written.path), data, split).as_dict()
    size = sum(file.stat().st_size for file in files_of(written.path))
    quantised = written.int8
    return {
        "size": written.description.config.data.size,
        "split": split,
        "pictures": told["images"],
        "precision": "float32" if quantised is None else "int8",
        **{name: round(100 * told[name], 1) for name in ("AP", "AP50", "AP75")},
        "file_MB": round(size / 1e6, 1),
        "calibration": "" if quantised is None else quantised.pictures,
        "float32_layers": "" if quantised is None else ", ".join(quantised.attempts[-1].float32) or "none",
    }


def with_table(page: str, lines: list[dict[str, str]]) -> str:
    """The page with its table as the lines of results/export_ap.csv have it."""
    by_case = {(line["network"], line["split"], line["precision"]): line for line in lines}
    cases = dict.fromkeys((line["network"], line["split"]) for line in lines)
    head = ("network", "pixels", "split", "pictures", "float32", "INT8", "left in float32", "MB", "commit")
    rows = [head, ("---",) * len(head)]
    for network, split in cases:
        float32, int8 = (by_case[network, split, precision] for precision in ("float32", "int8"))
        kept, sizes = int8["float32_layers"], f"{float32['file_MB']}, {int8['file_MB']}"
        rows.append(
            (network, int8["size"], split, int8["pictures"], float32["AP"], int8["AP"], kept, sizes, int8["commit"])
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    where = "; ".join(dict.fromkeys(f"{line['machine']}, {line['versions']}" for line in lines))
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n\nMachine and versions: {where}.\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    main()
