"""How long does reading a million boxes take in each format, and what do they cost in memory, here and in workers?

    python -m benchmarks.reading [PICTURES]

PICTURES pictures (default 100,000) with ten boxes each are written to a temporary folder in all four formats; YOLO and
CSV state no sizes, so reading them opens every picture. Each format is read in processes of its own. Memory is what
stays: resident bytes after collection, less those before reading, a box. A worker walks over all objects; what it then
holds alone (`private`) is what it costs again.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import json
import multiprocessing
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from benchmarks.common import ROOT, write_rows
from foveal.data.detect import read_data
from foveal.data.table import Table

BOXES_EACH, CLASSES, RUNS = 10, 80, 3
WIDTH, HEIGHT = 640, 480


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="?", type=int, default=100_000)
    pictures = parser.parse_args().pictures
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for format, root, label_bytes in write_all(Path(folder), pictures):
            runs = [read_apart(root) for _ in range(RUNS)]
            typical = {name: round(median(run[name] for run in runs), 3) for name in runs[0]}
            spread = {"min_s": min(run["seconds"] for run in runs), "max_s": max(run["seconds"] for run in runs)}
            sizes = {"pictures": pictures, "boxes": pictures * BOXES_EACH, "label_mb": round(label_bytes / 1e6, 1)}
            rows.append({"format": format, **sizes, **typical, **{k: round(v, 3) for k, v in spread.items()}})
    write_rows("reading", rows)


def read_apart(root: Path) -> dict[str, float]:
    """What `measured` says of the data set at `root`, in a fresh process."""
    command = [sys.executable, "-c", "import benchmarks.reading as r, sys; r.measured(sys.argv[1])", str(root)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return json.loads(answer.splitlines()[-1])


def measured(root: str) -> None:
    """Prints one JSON object: seconds on the clock and of the processor, bytes a box of the parent and of workers."""
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    before, peak_before = memory("Rss"), peak_bytes()
    began, cpu_began = time.perf_counter(), time.process_time()
    table = read_data(root)
    times = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_began}
    peak = peak_bytes() - peak_before
    row = {**times, "parent_bytes_box": (memory("Rss") - before) / table.num_boxes, "peak_mb": peak / 1e6}
    for start in ("fork", "spawn"):
        row[f"{start}_private_bytes_box"] = in_worker(table, start) / table.num_boxes
    print(json.dumps(row))


def in_worker(table: Table, start: Any) -> int:
    """Private bytes that a worker gains by taking the table and walking over all its objects."""
    context = multiprocessing.get_context(start)
    here, there = context.Pipe()
    worker = context.Process(target=walk, args=(there, table if start == "fork" else None))
    worker.start()
    if start == "spawn":
        here.recv()
        here.send(table)
    gained: int = here.recv()
    worker.join()
    return gained


def walk(connection: Connection, table: Table | None) -> None:
    """A worker's life; `table` is None where it is sent."""
    before = memory("Private_Clean", "Private_Dirty")
    if table is None:
        connection.send("ready")
        table = connection.recv()
    assert sum(float(table.objects(row).boxes.sum()) for row in range(len(table))) > 0
    connection.send(memory("Private_Clean", "Private_Dirty") - before)


def memory(*kinds: str) -> int:
    """Resident bytes of these kinds (Linux's names) after collection."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    return 1024 * sum(int(line[1]) for line in lines if line[0].rstrip(":") in kinds)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_all(folder: Path, pictures: int) -> Iterator[tuple[str, Path, int]]:
    """Writes the same boxes in each format: (format, folder, bytes of its label files)."""
    boxes = random_boxes(pictures)
    images = folder / "images"
    images.mkdir()
    picture = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT)).save(picture, "PNG")
    for row in range(pictures):
        (images / f"{row:06d}.png").write_bytes(picture.getvalue())
    for format, write in (("coco", write_coco), ("voc", write_voc), ("yolo", write_yolo), ("csv", write_csv)):
        root = folder / format
        root.mkdir()
        (root / "images").symlink_to(images)
        write(root, boxes)
        yield format, root, sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


Boxes = list[list[tuple[int, int, int, int, int]]]
"""By picture: (class, x, y, width, height) in pixels."""


def random_boxes(pictures: int) -> Boxes:
    draw = random.Random(0)
    corners = [(draw.randrange(CLASSES), draw.randrange(WIDTH - 9), draw.randrange(HEIGHT - 9)) for _ in range(100_000)]
    pool = [(k, x, y, draw.randint(2, WIDTH - x), draw.randint(2, HEIGHT - y)) for k, x, y in corners]
    return [draw.choices(pool, k=BOXES_EACH) for _ in range(pictures)]


def write_coco(root: Path, boxes: Boxes) -> None:
    """As COCO's own files are: an area and an outline with every box."""
    entry = '{{"segmentation":[[{x}.5,{y}.5,{x}.5,{y}.5]],"area":{a}.5,"iscrowd":0,"image_id":{i},'
    entry += '"bbox":[{x}.25,{y}.25,{w}.5,{h}.5],"category_id":{k},"id":{n}}}'
    with (root / "train.json").open("w") as file:
        images = [{"id": i, "file_name": f"{i:06d}.png", "width": WIDTH, "height": HEIGHT} for i in range(len(boxes))]
        categories = [{"id": k, "name": f"class {k}"} for k in range(CLASSES)]
        file.write(f'{{"images":{json.dumps(images)},"categories":{json.dumps(categories)},"annotations":[')
        for i, some in enumerate(boxes):
            written = (
                entry.format(x=x, y=y, w=w, h=h, a=w * h, i=i, k=k, n=i * BOXES_EACH + n)
                for n, (k, x, y, w, h) in enumerate(some)
            )
            file.write(("," if i else "") + ",".join(written))
        file.write("]}")


def write_voc(root: Path, boxes: Boxes) -> None:
    (root / "Annotations").mkdir()
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>1</depth></size>"
    for i, some in enumerate(boxes):
        objects = "".join(
            f"<object><name>class {k}</name><pose>Unspecified</pose><difficult>0</difficult><bndbox>"
            f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for k, x, y, w, h in some
        )
        text = f"<annotation><filename>{i:06d}.png</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{i:06d}.xml").write_text(text)


def write_yolo(root: Path, boxes: Boxes) -> None:
    (root / "labels").mkdir()
    (root / "data.yaml").write_text(f"train: images\nnames: {json.dumps([f'class {k}' for k in range(CLASSES)])}\n")
    for i, some in enumerate(boxes):
        lines = (
            f"{k} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} {w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
            for k, x, y, w, h in some
        )
        (root / "labels" / f"{i:06d}.txt").write_text("".join(lines))


def write_csv(root: Path, boxes: Boxes) -> None:
    with (root / "train.csv").open("w") as file:
        for i, some in enumerate(boxes):
            file.writelines(f"{i:06d}.png,{x}.25,{y}.25,{x + w},{y + h},class {k}\n" for k, x, y, w, h in some)


if __name__ == "__main__":
    main()
