"""What mining found, as files: ranked tables, a list for training, and a sheet of the most doubtful labels.

    labels.csv      doubtful labels, most suspicious first       objects.csv      objects by their loss
    background.csv  background regions by their loss             pictures.csv     pictures by their loss
    hardest.txt     the hardest pictures, a path a line: for --data.oversample
    sheet.png       the most doubtful labels, each in its surroundings, with its rank in labels.csv

Boxes are in the pictures' own pixels. Every file is written beside its place and renamed.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from foveal.analysis.folders import made
from foveal.analysis.hard_examples import Box, DoubtfulLabel, Mined
from foveal.analysis.label_errors import KINDS
from foveal.data.images import read_image
from foveal.drawing import contact_sheet
from foveal.engine.checkpoint import write_text
from foveal.errors import FovealError, UsageError
from foveal.wording import counted

SHEET_COLUMNS, SHEET_CELL = 6, 320
SURROUNDINGS = 1.5
"""Sides of the box that are shown around it."""
LEAST_SHOWN = 48
"""Pixels of the picture that are shown at least."""
CAPTION = 40
LABELLED, FOUND = (255, 196, 0), (0, 170, 255)
"""Colours of what the label says and of what the network says."""

BOX = ("x1", "y1", "x2", "y2")


def write_mined(mined: Mined, out: str | os.PathLike[str], top: int = 100, sheet: int = 36) -> Path:
    """Writes all files into the folder `out`, which is made where it is missing, and returns it.

    top: pictures in hardest.txt. sheet: labels on the sheet. The tables hold everything.
    """
    if min(top, sheet) < 0:
        raise UsageError(f"top {top}, sheet {sheet}: give 0 or more of each")
    folder = made(out)
    _write_csv(
        folder / "labels.csv",
        ("suspicion", "kind", "picture", *BOX, "object", "labelled", "predicted", "score", "iou", "loss"),
        (_label_row(one) for one in mined.labels),
    )
    _write_csv(
        folder / "objects.csv",
        ("loss", "picture", *BOX, "class", "anchors"),
        ((_number(o.loss), o.picture, *_corners(o.box), o.label, o.anchors) for o in mined.objects),
    )
    _write_csv(
        folder / "background.csv",
        ("loss", "picture", *BOX, "predicted", "score"),
        ((_number(b.loss), b.picture, *_corners(b.box), b.predicted, _number(b.score)) for b in mined.background),
    )
    _write_csv(
        folder / "pictures.csv",
        ("loss", "picture", "objects", "suspicion"),
        ((_number(p.loss), p.picture, p.objects, _number(p.suspicion)) for p in mined.pictures),
    )
    write_text(folder / "hardest.txt", "".join(f"{p.picture}\n" for p in mined.pictures[:top]))
    (folder / "sheet.png").unlink(missing_ok=True)  # of an earlier look
    if sheet and mined.labels:
        _save_sheet(mined, mined.labels[:sheet], folder / "sheet.png")
    return folder


def summary(mined: Mined, at_least: float = 0.5) -> dict[str, Any]:
    """What there is, for --json: counts, doubtful labels from a suspicion of `at_least`, the hardest pictures."""
    doubtful = Counter(one.suspect.kind for one in mined.labels if one.suspect.suspicion >= at_least)
    return {
        "pictures": len(mined.pictures),
        "objects": len(mined.objects),
        "without_anchor": sum(one.anchors == 0 for one in mined.objects),
        "never_found": list(mined.never_found),
        "suspicion_from": at_least,
        "doubtful": {kind: doubtful[kind] for kind in KINDS},
        "most_doubtful": [
            {
                "suspicion": round(one.suspect.suspicion, 4),
                "kind": one.suspect.kind,
                "picture": one.picture,
                "box": [round(corner, 2) for corner in one.suspect.box],
                "labelled": one.labelled,
                "predicted": one.predicted,
            }
            for one in mined.labels[:20]
        ],
        "hardest_pictures": [{"picture": one.picture, "loss": round(one.loss, 4)} for one in mined.pictures[:20]],
    }


def as_text(mined: Mined, at_least: float = 0.5, shown: int = 10) -> str:
    """The same for a person: counts, and the most doubtful labels line by line."""
    told = summary(mined, at_least)
    lines = [
        f"{counted(told['pictures'], 'picture')}, {counted(told['objects'], 'object')}, "
        f"{told['without_anchor']:,} of them without an anchor",
        "",
    ]
    if mined.never_found:
        lines += [
            f"WARNING: never found in this split: {', '.join(mined.never_found)}",
            "  the run does not know them, so their labels are doubted whatever they are: train longer first",
            "",
        ]
    lines += [
        f"labels to look at (suspicion {at_least:g} or more):",
        *(f"  {kind:<24}{count:>6}" for kind, count in told["doubtful"].items()),
    ]
    if mined.labels:
        lines += ["", "most doubtful:"]
        lines += [f"  {_said(one)}" for one in mined.labels[:shown]]
    if mined.pictures:
        lines += ["", "hardest pictures, by loss:"]
        lines += [f"  {one.loss:8.3f}  {one.picture}" for one in mined.pictures[:shown]]
    return "\n".join(lines)


def _said(one: DoubtfulLabel) -> str:
    names = {
        "missing label": f"{one.predicted} is not labelled",
        "label without object": f"{one.labelled}: nothing is found",
        "wrong class": f"{one.labelled} looks like {one.predicted}",
        "loose box": f"{one.labelled}: found elsewhere, IoU {one.suspect.iou:.2f}",
    }[one.suspect.kind]
    corners = " ".join(f"{corner:.0f}" for corner in one.suspect.box)
    return f"{one.suspect.suspicion:.2f}  {names:<40}  {one.picture}  ({corners})"


def _label_row(one: DoubtfulLabel) -> tuple[Any, ...]:
    suspect = one.suspect
    return (
        _number(suspect.suspicion),
        suspect.kind,
        one.picture,
        *_corners(suspect.box),
        suspect.object if suspect.object >= 0 else "",
        one.labelled,
        one.predicted,
        _number(suspect.score),
        _number(suspect.iou),
        _number(one.loss),
    )


def _number(value: float) -> str:
    """Six digits; empty for NaN, which says that there is none."""
    return "" if math.isnan(value) else f"{value:.6g}"


def _corners(box: Box) -> tuple[str, ...]:
    return tuple(f"{corner:.2f}" for corner in box)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("rank", *columns))
    writer.writerows((rank, *row) for rank, row in enumerate(rows, start=1))
    write_text(path, text.getvalue())


def _save_sheet(mined: Mined, labels: Sequence[DoubtfulLabel], path: Path) -> None:
    tiles = [tile for rank, one in enumerate(labels, start=1) if (tile := _tile(mined, one, rank)) is not None]
    if not tiles:
        return
    part = path.with_name(path.name + ".part")
    contact_sheet(tiles, SHEET_COLUMNS, SHEET_CELL).save(part, format="PNG")
    os.replace(part, path)


def _tile(mined: Mined, one: DoubtfulLabel, rank: int) -> Image.Image | None:
    """A doubtful label in its surroundings, square, under its rank and a caption; None if its picture is gone."""
    try:
        pixels = read_image(mined.table.path(one.row))
    except FovealError:
        return None
    x1, y1, x2, y2 = _window(one, pixels.shape[1], pixels.shape[0])
    side = SHEET_CELL - CAPTION
    scale = side / max(x2 - x1, y2 - y1)
    crop = Image.fromarray(pixels[y1:y2, x1:x2])
    crop = crop.resize(
        (max(1, round(crop.width * scale)), max(1, round(crop.height * scale))), Image.Resampling.BICUBIC
    )
    tile = Image.new("RGB", (SHEET_CELL, SHEET_CELL), (24, 24, 24))
    tile.paste(crop, (0, CAPTION))
    canvas = ImageDraw.Draw(tile)
    suspect = one.suspect
    if suspect.found is not None:
        canvas.rectangle(_placed(suspect.found, (x1, y1), scale), outline=FOUND, width=3)
    if suspect.object >= 0:
        canvas.rectangle(_placed(suspect.box, (x1, y1), scale), outline=LABELLED, width=3)
    font = ImageFont.load_default(14)
    said = {
        "missing label": "no label",
        "label without object": f"labelled {one.labelled}, nothing found",
        "wrong class": f"labelled {one.labelled}",
        "loose box": f"labelled {one.labelled}, IoU {suspect.iou:.2f}",
    }[suspect.kind]
    canvas.text((4, 2), f"#{rank}  {suspect.suspicion:.2f}  {said}", fill=LABELLED, font=font)
    if suspect.found is not None:
        canvas.text((4, 20), f"found {one.predicted} {suspect.score:.2f}", fill=FOUND, font=font)
    return tile


def _window(one: DoubtfulLabel, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the picture that shows both boxes and what is around them."""
    boxes = [one.suspect.box, *([one.suspect.found] if one.suspect.found is not None else [])]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    half = max((1 + SURROUNDINGS) * max(right - left, bottom - top), LEAST_SHOWN) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    x1, y1 = max(0, math.floor(x - half)), max(0, math.floor(y - half))
    return x1, y1, min(width, max(x1 + 1, math.ceil(x + half))), min(height, max(y1 + 1, math.ceil(y + half)))


def _placed(box: Box, corner: tuple[int, int], scale: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    x, y = corner
    return (x1 - x) * scale, (y1 - y) * scale + CAPTION, (x2 - x) * scale, (y2 - y) * scale + CAPTION
