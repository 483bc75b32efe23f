"""Does `foveal mine` find wrong labels? A known share of the training labels is corrupted, then looked for.

    python -m benchmarks.label_errors DATA --weights mobilenet_v2-b0353104.pth

A third of the corrupted labels each is dropped, moved by 40 to 70 % of the box's sides, or given another class. A
detector is trained on the corrupted split (its validation split is left as it is), the same split is mined, and the
most suspicious labels are compared with what was done. Precision is at the number of corruptions: with 550 of 11,000
labels corrupted, the share of right ones among the first 550; each corruption counts once. Chance is the corrupted
share. Labels that were wrong before count as mistakes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT, write_rows
from foveal.analysis.hard_examples import DoubtfulLabel, mine
from foveal.boxes import iou

SHOWN_BY = {
    "dropped": ("missing label",),
    "moved": ("loose box", "label without object"),
    "relabelled": ("wrong class",),
}


@dataclass(frozen=True)
class Corruption:
    """kind: dropped, moved or relabelled. index: the label's place in its picture, -1 if dropped. box: xyxy before."""

    kind: str
    picture: str
    index: int
    box: tuple[float, float, float, float]


def corrupt(labels: dict[str, Any], share: float, seed: int) -> tuple[dict[str, Any], list[Corruption]]:
    """COCO labels with `share` of the annotations corrupted, and what was done; the same for the same seed."""
    draw = random.Random(seed)
    name_of = {image["id"]: image["file_name"] for image in labels["images"]}
    size_of = {image["id"]: (image["width"], image["height"]) for image in labels["images"]}
    classes = [category["id"] for category in labels["categories"]]
    wanted = draw.sample(range(len(labels["annotations"])), round(share * len(labels["annotations"])))
    kind_of = {index: tuple(SHOWN_BY)[order % 3] for order, index in enumerate(wanted)}
    seen: dict[int, int] = {}
    kept, done = [], []
    for index, annotation in enumerate(labels["annotations"]):
        image, kind = annotation["image_id"], kind_of.get(index)
        x, y, w, h = annotation["bbox"]
        place = seen.setdefault(image, 0)
        if kind is not None:
            done.append(Corruption(kind, name_of[image], -1 if kind == "dropped" else place, (x, y, x + w, y + h)))
        if kind == "dropped":
            continue
        if kind == "relabelled":
            others = [one for one in classes if one != annotation["category_id"]]
            annotation = annotation | {"category_id": draw.choice(others)}
        if kind == "moved":
            annotation = annotation | {"bbox": _moved((x, y, w, h), size_of[image], draw)}
        seen[image] += 1
        kept.append(annotation)
    return labels | {"annotations": kept}, done


def _moved(box: tuple[float, float, float, float], size: tuple[int, int], draw: random.Random) -> list[float]:
    """A box of the same sides, inside the picture, moved along both axes; into the picture where there is no room."""
    x, y, w, h = box
    moved = []
    for start, side, limit in ((x, w, size[0]), (y, h, size[1])):
        shift = draw.uniform(0.4, 0.7) * side * draw.choice((-1, 1))
        if not 0 <= start + shift <= limit - side:
            shift = -shift
        moved.append(min(max(0.0, start + shift), limit - side))
    return [*moved, w, h]


def found_by(finding: DoubtfulLabel, corruptions: dict[str, list[Corruption]]) -> Corruption | None:
    """The corruption that a finding points at."""
    name = finding.picture.removeprefix("images/")
    for one in corruptions.get(name, []):
        if one.index >= 0 and one.index == finding.suspect.object:
            return one
        if finding.suspect.object < 0 and one.kind != "relabelled":
            overlap = iou(torch.tensor([one.box]), torch.tensor([finding.suspect.box]))
            if float(overlap) >= 0.5:
                return one
    return None


def precision(findings: list[DoubtfulLabel], corruptions: list[Corruption]) -> float:
    """The share of the first len(corruptions) findings that point at a corruption not pointed at before."""
    by_picture: dict[str, list[Corruption]] = {}
    for one in corruptions:
        by_picture.setdefault(one.picture, []).append(one)
    hits = {found_by(finding, by_picture) for finding in findings[: len(corruptions)]} - {None}
    return len(hits) / max(1, len(corruptions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train.json, val.json and images/")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 backbone file")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="0 means the preset's")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "label-errors")
    chosen = parser.parse_args()
    data = chosen.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "images").exists():
        (data / "images").symlink_to((chosen.data / "images").resolve(), target_is_directory=True)
    corrupted, done = corrupt(json.loads((chosen.data / "train.json").read_text()), chosen.share, chosen.seed)
    (data / "train.json").write_text(json.dumps(corrupted))
    (data / "val.json").write_text((chosen.data / "val.json").read_text())
    run = chosen.out / "run"
    steps = ["--train.steps", str(chosen.steps)] if chosen.steps else []
    flags = ["--model.weights", str(chosen.weights.resolve()), "--anchors.auto", "--data.quarter-turns", *steps]
    command = [sys.executable, "-m", "foveal.cli", "train", str(data), "--out", str(run), "--resume", *flags]
    subprocess.run([*command, "--seed", str(chosen.seed)], check=True)
    findings = mine(run, data).labels
    labels = len(json.loads((chosen.data / "train.json").read_text())["annotations"])
    rows = [_row("all", findings, done, labels)]
    for kind, shown_by in SHOWN_BY.items():
        of_kind = [one for one in findings if one.suspect.kind in shown_by]
        rows.append(_row(kind, of_kind, [one for one in done if one.kind == kind], labels))
    write_rows("label_errors", rows)


def _row(what: str, findings: list[DoubtfulLabel], corruptions: list[Corruption], labels: int) -> dict[str, Any]:
    return {
        "corruption": what,
        "shown_by": " or ".join(SHOWN_BY.get(what, ("any kind",))),
        "labels": labels,
        "corrupted": len(corruptions),
        "precision_at_corrupted": round(precision(findings, corruptions), 3),
        "chance": round(len(corruptions) / labels, 3),
    }


if __name__ == "__main__":
    main()
