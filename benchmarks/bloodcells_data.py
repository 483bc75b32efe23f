"""Makes the bloodcells data set from a clone of its public source; README.md says which commit, and the checksums.

    python -m benchmarks.bloodcells_data TXL-PBC_Dataset/TXL_PBC data/bloodcells

The source holds YOLO text. Pictures of 575 x 575 and 360 x 363 are copied, and their labels become COCO files, one a
split. The others are left out: those of 640 x 480 and 416 x 416 come from the BCCD set, some of them twice, with
near-duplicates in two splits; fourteen more have a size of their own.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from foveal.data.images import image_size

SPLITS = ("train", "val", "test")
CLASSES = ("WBC", "RBC", "Platelets")
SIZES = {(575, 575), (360, 363)}
COMMIT = "056d09e45403f4d1321b99cdb2cfcc3eb605edcf"


def convert(source: Path, out: Path) -> None:
    """Writes `out`/<split>.json and copies the pictures to `out`/images/<split>/."""
    for split in SPLITS:
        pictures = [file for file in sorted((source / "images" / split).glob("*.jpg")) if _size(file) in SIZES]
        (out / "images" / split).mkdir(parents=True, exist_ok=True)
        for file in pictures:
            shutil.copyfile(file, out / "images" / split / file.name)
        labels = json.dumps(_labels(split, pictures, source / "labels" / split), separators=(",", ":"))
        (out / f"{split}.json").write_text(labels)
        print(f"{out / split}.json: {len(pictures)} pictures")


def _labels(split: str, pictures: list[Path], folder: Path) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, file in enumerate(pictures, start=1):
        width, height = _size(file)
        images.append({"id": image_id, "file_name": f"{split}/{file.name}", "width": width, "height": height})
        for line in (folder / f"{file.stem}.txt").read_text().splitlines():
            index, *fractions = line.split()
            numbers = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(index) + 1}
            annotations.append({**numbers, **_box([float(f) for f in fractions], width, height), "iscrowd": 0})
    return {
        "info": {"description": "bloodcells", "source": f"github.com/lugan113/TXL-PBC_Dataset @ {COMMIT}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)],
    }


def _box(fractions: list[float], width: int, height: int) -> dict[str, Any]:
    """Centre and sides as fractions to x, y, width, height in pixels, clipped, to a thousandth of a pixel."""
    cx, cy, w, h = fractions  # max keeps an exact 0.0, which 0 would not: the checksums are of bytes
    left, right = max((cx - w / 2) * width, 0), min((cx + w / 2) * width, width)
    top, bottom = max((cy - h / 2) * height, 0), min((cy + h / 2) * height, height)
    bbox = [round(number, 3) for number in (left, top, right - left, bottom - top)]
    return {"bbox": bbox, "area": round(bbox[2] * bbox[3], 3)}


def _size(file: Path) -> tuple[int, int]:
    """(width, height)."""
    height, width = image_size(file)
    return width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder TXL_PBC of the clone")
    parser.add_argument("out", type=Path, help="the folder to write, such as data/bloodcells")
    arguments = parser.parse_args()
    convert(arguments.source, arguments.out)


if __name__ == "__main__":
    main()
