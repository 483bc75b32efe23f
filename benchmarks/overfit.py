"""Does the whole path learn? Eight pictures by heart: `python -m benchmarks.overfit DATA --weights FILE`.

Trains on the eight pictures with most classes whose smallest object still has 12 pixels at the training resolution, one
with a crowd region among them, and scores the same eight: many classes, ids with gaps, crowds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.common import write_rows
from foveal.config import preset
from foveal.data.detect import read_data
from foveal.engine.evaluate import evaluate_detections
from foveal.engine.predict import detect_table, load
from foveal.engine.train import train

PICTURES = 8
SIZE, SMALLEST = 320, 12


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path, help="a COCO label file, or a folder with one")
    arguments.add_argument("--weights", required=True, help="MobileNetV2 backbone file")
    arguments.add_argument("--steps", type=int, default=120)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        labels = write_subset(chosen.data, Path(folder))
        config = preset("light").with_changes(
            {
                "model.weights": chosen.weights,
                "anchors.auto": True,
                "data": {"size": SIZE, "max_size": 416, "horizontal_flip": 0.0, "train_split": "train", "workers": 0},
                "train": {
                    "steps": chosen.steps,
                    "batch_size": 4,
                    "lr_batch": 4,
                    "lr": 2e-3,
                    "backbone_lr": 0.2,
                    "ema": 0.9,
                    "warmup": 10,
                    "evaluate_every": chosen.steps,
                    "tensorboard": False,
                },
            }
        )
        began = time.perf_counter()
        run = train(labels.parent, Path(folder) / "run", config=config)
        seconds = time.perf_counter() - began
        table = read_data(labels.parent, split="train")
        found = evaluate_detections(table, detect_table(load(run), table, workers=0))
        classes = len(set(table.labels.tolist()))
        write_rows(
            "overfit",
            [
                {
                    "pictures": len(table),
                    "objects": table.num_boxes,
                    "classes": classes,
                    "crowd_regions": int(table.crowd.sum()),
                    "steps": chosen.steps,
                    "seconds": round(seconds, 1),
                    "AP": round(100 * (found.ap or 0), 1),
                    "AP50": round(100 * (found.ap50 or 0), 1),
                }
            ],
        )


def write_subset(data: Path, folder: Path) -> Path:
    """Those eight pictures as a COCO set of their own, all category ids kept."""
    file = data if data.is_file() else next(data.glob("*.json"))
    labels = json.loads(file.read_text())
    shorter = {image["id"]: min(image["width"], image["height"]) for image in labels["images"]}
    classes: dict[int, set[int]] = {}
    too_small = set()
    for annotation in labels["annotations"]:
        image = annotation["image_id"]
        classes.setdefault(image, set()).add(annotation["category_id"])
        if min(annotation["bbox"][2:]) * SIZE / shorter[image] < SMALLEST:
            too_small.add(image)
    crowded = {a["image_id"] for a in labels["annotations"] if a.get("iscrowd")}
    ranked = sorted(classes.keys() - too_small, key=lambda i: (-len(classes[i]), i))
    chosen = [i for i in ranked if i in crowded][:1]
    chosen += [i for i in ranked if i not in chosen][: PICTURES - len(chosen)]
    small = {
        "images": [i for i in labels["images"] if i["id"] in chosen],
        "annotations": [a for a in labels["annotations"] if a["image_id"] in chosen],
        "categories": labels["categories"],
    }
    target = folder / "data"
    target.mkdir()
    (target / "images").symlink_to((file.parent / "images").resolve(), target_is_directory=True)
    (target / "train.json").write_text(json.dumps(small))
    return target / "train.json"


if __name__ == "__main__":
    main()
