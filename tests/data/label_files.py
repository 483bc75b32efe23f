"""One small data set written in each of the four formats, and a way to compare what comes back."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import yaml
from PIL import Image

from foveal.data.table import Table

FORMATS = ("coco", "voc", "yolo", "csv")


@dataclass
class Picture:
    """Its file name, (height, width), and objects as (xyxy, class name, crowd)."""

    name: str
    size: tuple[int, int] = (40, 60)
    objects: list[tuple[tuple[float, float, float, float], str, bool]] = field(default_factory=list)


Splits = dict[str, list[Picture]]


def write(format: str, root: Path, splits: Splits, class_names: list[str]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "csv": write_csv}[format](root, splits, class_names)


def save_picture(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size[1], size[0]), sum(path.name.encode()) % 256).save(path)


def write_coco(root: Path, splits: Splits, class_names: list[str]) -> None:
    """train.json beside images/; ids start at 7 and have gaps."""
    for split, pictures in splits.items():
        document = coco_document(pictures, class_names)
        (root / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")
        for picture in pictures:
            save_picture(root / "images" / split / picture.name, picture.size)


def coco_document(pictures: list[Picture], class_names: list[str]) -> dict:
    ids = {name: 7 + 3 * index for index, name in enumerate(class_names)}
    annotations = [
        {"image_id": row, "category_id": ids[name], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(crowd)}
        for row, picture in enumerate(pictures)
        for (x1, y1, x2, y2), name, crowd in picture.objects
    ]
    return {
        "images": [
            {"id": row, "file_name": p.name, "height": p.size[0], "width": p.size[1]} for row, p in enumerate(pictures)
        ],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations)],
        "categories": [{"id": id, "name": name} for name, id in ids.items()],
    }


def write_voc(root: Path, splits: Splits, class_names: list[str]) -> None:
    """JPEGImages, Annotations, ImageSets/Main."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, pictures in splits.items():
        stems = [Path(picture.name).stem for picture in pictures]
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
        for picture, stem in zip(pictures, stems, strict=True):
            (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(picture), encoding="utf-8")
            save_picture(root / "JPEGImages" / picture.name, picture.size)


def voc_xml(picture: Picture) -> str:
    objects = "".join(
        f"<object><name>{escape(name)}</name><difficult>{int(crowd)}</difficult><bndbox>"
        f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>\n"
        for (x1, y1, x2, y2), name, crowd in picture.objects
    )
    height, width = picture.size
    size = f"<size><width>{width}</width><height>{height}</height><depth>1</depth></size>"
    return f"<annotation>\n<filename>{picture.name}</filename>\n{size}\n{objects}</annotation>\n"


def write_yolo(root: Path, splits: Splits, class_names: list[str]) -> None:
    """data.yaml, images/<split>, labels/<split>; without objects the first picture has an empty file, others none."""
    places = {split: f"images/{split}" for split in splits}
    (root / "data.yaml").write_text(yaml.safe_dump({**places, "names": class_names}), encoding="utf-8")
    for split, pictures in splits.items():
        for number, picture in enumerate(pictures):
            save_picture(root / "images" / split / picture.name, picture.size)
            if picture.objects or number == 0:  # a split without any label file is taken for a mistake
                file = root / "labels" / split / Path(picture.name).with_suffix(".txt").name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("".join(yolo_line(box, name, picture, class_names) for box, name, _ in picture.objects))


def yolo_line(box: tuple[float, ...], name: str, picture: Picture, class_names: list[str]) -> str:
    (x1, y1, x2, y2), (height, width) = box, picture.size
    numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join(map(str, (class_names.index(name), *numbers))) + "\n"


def write_csv(root: Path, splits: Splits, class_names: list[str]) -> None:
    """train.csv beside images/, no header; a picture without objects is a row without a box."""
    for split, pictures in splits.items():
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            for picture in pictures:
                save_picture(root / "images" / split / picture.name, picture.size)
                rows.writerows([picture.name, *box, name] for box, name, _ in picture.objects)
                if not picture.objects:
                    rows.writerow([picture.name, "", "", "", "", ""])


def read_back(table: Table) -> list[tuple]:
    """(file name, size, [(box, class name, crowd)]) of every picture."""
    found = []
    for row in range(len(table)):
        objects = table.objects(row)
        names = [table.class_names[label] for label in objects.labels.tolist()]
        content = list(zip(map(tuple, objects.boxes.tolist()), names, objects.crowd.tolist(), strict=True))
        found.append((table.path(row).name, tuple(table.sizes[row].tolist()), content))
    return found


def faults(table: Table) -> list[tuple[str, str, str]]:
    """(where, field, problem's beginning) of every problem."""
    return [(problem.where, problem.field, problem.problem) for problem in table.problems]
