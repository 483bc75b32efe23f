"""Do labels from a detector help? A tenth of the blood cells labelled, and the rest labelled by what that taught.

    python -m benchmarks.bootstrapping DATA --weights mobilenet_v2-b0353104.pth --seeds 0 1 2

Five rows a seed, all scored on the whole test split with the last weights:

    10 %                        trained on a tenth of the training pictures
    10 %, trained on            the same run, trained on as long again on the same pictures
    10 % and 90 % bootstrapped  the same run, trained on as long again with the other pictures labelled by it
    100 %                       trained once on all labels
    100 %, trained on           and as long again

The validation split, which gives the thresholds, is a tenth too: whoever labels a tenth has no more. Rows that were run
before are not run again; all go into results/bootstrapping.csv.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, commit, write_rows
from foveal.analysis.bootstrapping import bootstrap, train_on
from foveal.config import preset
from foveal.engine.evaluate import evaluate
from foveal.engine.train import train

ROWS = ("10 %", "10 %, trained on", "10 % and 90 % bootstrapped", "100 %", "100 %, trained on")
RECIPE = {"anchors.auto": True, "data.quarter_turns": True, "train.tensorboard": False}


def part(labels: dict[str, Any], share: float, seed: int) -> tuple[dict[str, Any], list[str]]:
    """COCO labels of `share` of the pictures, drawn with `seed`, and the file names of the other pictures."""
    pictures = labels["images"]
    drawn = set(random.Random(seed).sample(range(len(pictures)), round(share * len(pictures))))
    kept = [image for place, image in enumerate(pictures) if place in drawn]
    ids = {image["id"] for image in kept}
    annotations = [one for one in labels["annotations"] if one["image_id"] in ids]
    others = [image["file_name"] for place, image in enumerate(pictures) if place not in drawn]
    return labels | {"images": kept, "annotations": annotations}, others


@dataclass(frozen=True)
class Seed:
    """What one seed needs: the whole data, the labelled part, the pictures without labels, where its runs lie."""

    number: int
    data: Path
    part: Path
    unlabelled: list[Path]
    runs: Path

    @classmethod
    def prepare(cls, data: Path, share: float, number: int, out: Path) -> Seed:
        labelled, unlabelled = out / f"part-{number}", []
        labelled.mkdir(parents=True, exist_ok=True)
        if not (labelled / "images").exists():
            (labelled / "images").symlink_to((data / "images").resolve(), target_is_directory=True)
        for split in ("train", "val", "test"):
            labels = json.loads((data / f"{split}.json").read_text(encoding="utf-8"))
            if split != "test":
                labels, others = part(labels, share, number)
                unlabelled += [data / "images" / name for name in others] if split == "train" else []
            (labelled / f"{split}.json").write_text(json.dumps(labels), encoding="utf-8")
        return cls(number, data, labelled, unlabelled, out)

    def run_of(self, row: str) -> Path:
        return self.runs / f"{row} {self.number}".replace(" ", "-").replace(",", "").replace("%", "percent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train.json, val.json, test.json and images/")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 backbone file")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="of one training; half of the rows have two")
    parser.add_argument("--share", type=float, default=0.1, help="of train and val that has labels")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bootstrapping")
    chosen = parser.parse_args()
    for number in chosen.seeds:
        seed = Seed.prepare(chosen.data, chosen.share, number, chosen.out)
        for row in ROWS:
            measure(seed, row, chosen)
    done = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(chosen.out.glob("*/row.json"))]
    done.sort(key=lambda row: (row["seed"], ROWS.index(row["row"])))
    write_rows("bootstrapping", done)


def measure(seed: Seed, row: str, chosen: argparse.Namespace) -> None:
    """Trains and scores one row, unless that was done; the numbers go into the run's folder."""
    run, first = seed.run_of(row), seed.run_of("100 %" if row.startswith("100") else "10 %")
    if (run / "row.json").exists():
        return
    added: dict[str, Any] = {}
    if run == first:
        settings = RECIPE | {"train.steps": chosen.steps, "seed": seed.number, "model.weights": str(chosen.weights)}
        on = seed.data if row.startswith("100") else seed.part
        train(on, run, config=preset("light"), settings=settings, resume=True)
    else:
        shutil.rmtree(run, ignore_errors=True)  # half a run from before
        on = seed.data if row.startswith("100") else seed.part
        if "bootstrapped" in row:
            on = seed.runs / f"bootstrapped-{seed.number}"
            shutil.rmtree(on, ignore_errors=True)
            made = bootstrap(first, seed.unlabelled, on)
            added = {"labels": made.labelled_boxes, "added": made.added_boxes, "to_ignore": made.doubtful_boxes}
        train_on(first, on, run)
    found = evaluate(run, seed.data, "test", which="last").numbers
    numbers = {"row": row, "seed": seed.number, "steps": chosen.steps * (1 if run == first else 2)}
    numbers |= {name: round(100 * (found[name] or 0), 1) for name in ("AP", "AP50", "AP75")}
    numbers |= {"labels": "", "added": "", "to_ignore": ""} | added | {"trained_at": commit()}
    (run / "row.json").write_text(json.dumps(numbers), encoding="utf-8")
    print(numbers, flush=True)


if __name__ == "__main__":
    main()
