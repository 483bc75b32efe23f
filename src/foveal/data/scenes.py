"""The embedded data set: real handwritten digits on real photographs, any number of pictures of any size from one seed.

The digits are scikit-learn's 1,797 scans of 8 x 8 pixels (from UCI's Optical Recognition of Handwritten Digits), the
photographs its two samples, a pagoda and a dahlia. Both are divided before anything is drawn: a scan belongs to the
split that its own hash names, a strip of a photograph to the split that STRIPS names, so no test picture shows a stroke
or a background pixel that training has seen. Digits stand at many sizes and may overlap a little; around them lie
strokes, blobs, scraps of the photographs and scribbles cut from scrambled scans, which are no digits; every tenth
picture has none.

Every picture is drawn from (seed, split, index) alone: the first 100 pictures of a set of 1000 are the set of 100.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from foveal.data.painting import Box, blob, covered, ink, sticker, stroke, write_ink
from foveal.errors import UsageError

DifficultyName = Literal["easy", "medium", "hard"]

SPLITS = ("train", "val", "test")
DRAWING_VERSION = 1  # raised whenever the same seed gives other pictures

# Columns (first, last + 1) of each photograph that a split may show; all are 427 rows high and 640 columns wide.
STRIPS: dict[str, dict[str, tuple[int, int]]] = {
    "china.jpg": {"train": (0, 384), "test": (384, 512), "val": (512, 640)},
    "flower.jpg": {"train": (0, 352), "val": (352, 480), "test": (480, 640)},
}
EMPTY_SHARE = 0.1
PLACING_TRIALS = 30
SMALLEST_CROP = 90


@dataclass(frozen=True)
class Difficulty:
    """What makes a scene hard. Lengths are pixels, luminance 0 .. 255, opacities and chances 0 .. 1."""

    digits: int
    """Most digits in a picture."""
    sides: tuple[float, float]
    """Range of a digit's height, log-uniform; never more than 45 % of the picture."""
    overlap: float
    """Largest share of the smaller of two digits' boxes that the other may cover."""
    turn: float
    """Largest rotation in degrees, either way."""
    contrast: float
    """Least difference in luminance between ink and what is behind it."""
    opacity: float
    """Least opacity of ink."""
    sticker: float
    """Chance that a digit or scribble stands on a paper sticker."""
    distractors: int
    """Most distractors in a picture."""
    over: float
    """Chance that a stroke crosses the digits rather than lying under them; other distractors never hide any."""
    noise: float
    """Standard deviation of sensor noise."""


DIFFICULTIES: dict[str, Difficulty] = {
    "easy": Difficulty(5, (22, 80), 0.10, 10, 110, 0.95, 0.35, 3, 0.0, 2.0),
    "medium": Difficulty(7, (18, 70), 0.25, 18, 70, 0.80, 0.20, 6, 0.15, 5.0),
    "hard": Difficulty(9, (14, 56), 0.40, 28, 30, 0.65, 0.10, 9, 0.3, 9.0),
}


@dataclass(frozen=True)
class Digit:
    """A drawn digit: its value 0 .. 9, the tight box of its ink (xyxy pixels, half-open), its scan's number."""

    value: int
    box: Box
    scan: int


@dataclass(frozen=True)
class Scene:
    """A picture [H, W, 3] uint8 RGB, its digits, and where its background was cut: (photograph, (x1, y1, x2, y2))."""

    image: np.ndarray
    digits: tuple[Digit, ...]
    photo: str
    crop: Box


def write_scenes(
    folder: str | Path,
    counts: Mapping[str, int],
    size: int = 192,
    seed: int = 0,
    difficulty: DifficultyName = "easy",
    picture_format: Literal["jpg", "png"] = "jpg",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `counts` pictures of each split, `size` pixels square, with COCO labels, and returns the folder.

    Makes train.json, val.json, test.json, images/ and scenes.json (these settings). A folder that holds exactly this
    set is left as it is; one with other scenes is replaced; any other folder with something in it is refused.
    `progress(done, total)` is called after every picture. The set appears at once when all of it is written.
    """
    folder = Path(folder)
    settings = _settings(counts, size, seed, difficulty, picture_format)
    if _holds(folder, settings):
        return folder
    _refuse_foreign(folder)
    beside = folder.with_name(f".{folder.name}.writing-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        (beside / "images").mkdir(parents=True)
        done, total = 0, sum(settings["counts"].values())
        for split, count in settings["counts"].items():
            labels = _empty_labels(split, settings)
            for index in range(count):
                scene = draw_scene(split, index, size, seed, difficulty)
                name = f"{split}-{index:05d}.{picture_format}"
                _write_picture(beside / "images" / name, scene.image)
                _add_labels(labels, name, scene)
                done += 1
                if progress:
                    progress(done, total)
            (beside / f"{split}.json").write_text(json.dumps(labels), encoding="utf-8")
        (beside / "scenes.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def draw_scene(
    split: str, index: int, size: int = 192, seed: int = 0, difficulty: DifficultyName | Difficulty = "easy"
) -> Scene:
    """The picture that `index` of `split` is under `seed`; the same to the last bit whenever it is drawn."""
    level = difficulty if isinstance(difficulty, Difficulty) else DIFFICULTIES[difficulty]
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    background, photo, crop = _background(rng, split, size)
    canvas = background.astype(np.float32)
    strokes_over = 0
    for _ in range(rng.integers(level.distractors + 1)):
        kind = ("stroke", "blob", "scrap", "scribble")[rng.integers(4)]
        if kind == "stroke" and rng.random() < level.over:
            strokes_over += 1
        elif kind == "stroke":
            stroke(canvas, rng)
        elif kind == "blob":
            blob(canvas, rng)
        elif kind == "scrap":
            _scrap(canvas, rng, split)
        else:
            _scribble(canvas, rng, split, level)
    digits = _draw_digits(canvas, rng, split, level)
    for _ in range(strokes_over):
        stroke(canvas, rng)
    canvas += rng.normal(0, level.noise, canvas.shape).astype(np.float32)
    return Scene(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), tuple(digits), photo, crop)


@functools.cache
def scans(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scans of a split: ink [S, 8, 8] float32 in 0 .. 1, values [S], and their numbers [S] in the whole set.

    About three fifths are train's, a fifth each val's and test's; equal scans are always in one split.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    fifths = [hashlib.sha256(scan.astype(np.uint8).tobytes()).digest()[0] % 5 for scan in data.images]
    mine = [number for number, fifth in enumerate(fifths) if SPLITS[max(0, fifth - 2)] == split]
    return (data.images[mine] / 16).astype(np.float32), data.target[mine], np.array(mine)


@functools.cache
def _strips(split: str) -> tuple[tuple[str, int, np.ndarray], ...]:
    """(photograph, first column, [H, W, 3] uint8) of the strips that a split may show."""
    from sklearn.datasets import load_sample_images

    data = load_sample_images()
    photos = {Path(path).name: image for path, image in zip(data.filenames, data.images, strict=True)}
    columns = {name: STRIPS[name][split] for name in sorted(STRIPS)}
    return tuple((name, first, photos[name][:, first:last]) for name, (first, last) in columns.items())


def _background(rng: np.random.Generator, split: str, size: int) -> tuple[np.ndarray, str, Box]:
    strips = _strips(split)
    name, first, strip = strips[rng.integers(len(strips))]
    side = int(rng.integers(SMALLEST_CROP, min(strip.shape[:2]) + 1))
    y, x = (int(rng.integers(extent - side + 1)) for extent in strip.shape[:2])
    cut = strip[y : y + side, x : x + side]
    image = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    gain, shift = rng.uniform(0.75, 1.15), rng.uniform(-15, 25)
    return np.clip(image * gain + shift, 0, 255), name, (first + x, y, first + x + side, y + side)


def _draw_digits(canvas: np.ndarray, rng: np.random.Generator, split: str, level: Difficulty) -> list[Digit]:
    """Places digits, lays their stickers, then writes their ink, so that no sticker hides a digit."""
    ink_S, values_S, numbers_S = scans(split)
    wanted = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, level.digits + 1))
    digits: list[Digit] = []
    alphas: list[np.ndarray] = []
    for _ in range(wanted):
        which = int(rng.integers(len(ink_S)))
        alpha = ink(ink_S[which], _side(rng, canvas, level), rng, level.turn)
        box = _free_place(rng, canvas, alpha, [digit.box for digit in digits], level.overlap)
        if box is not None:
            digits.append(Digit(int(values_S[which]), box, int(numbers_S[which])))
            alphas.append(alpha)
    for digit in digits:
        if rng.random() < level.sticker:
            sticker(canvas, digit.box, rng, keep_off=[other.box for other in digits if other is not digit])
    for digit, alpha in zip(digits, alphas, strict=True):
        write_ink(canvas, alpha, digit.box, rng, level.contrast, level.opacity)
    return digits


def _side(rng: np.random.Generator, canvas: np.ndarray, level: Difficulty) -> float:
    smallest, largest = level.sides
    largest = max(smallest, min(largest, 0.45 * canvas.shape[0]))
    return float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))


def _free_place(
    rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, taken: list[Box], overlap: float
) -> Box | None:
    """A box where `alpha` fits into the picture and covers no taken box by more than `overlap`, if one is found."""
    height, width = alpha.shape
    rows, columns = canvas.shape[0] - height, canvas.shape[1] - width
    if rows < 0 or columns < 0:
        return None
    for _ in range(PLACING_TRIALS):
        y, x = int(rng.integers(rows + 1)), int(rng.integers(columns + 1))
        place = (x, y, x + width, y + height)
        if all(covered(place, box) <= overlap for box in taken):
            return place
    return None


def _scrap(canvas: np.ndarray, rng: np.random.Generator, split: str) -> None:
    """A blurred piece of the same split's photographs."""
    size = canvas.shape[0]
    height, width = (int(extent) for extent in rng.uniform(0.1, 0.3, 2) * size)
    strips = _strips(split)
    strip = strips[rng.integers(len(strips))][2]
    side = min(SMALLEST_CROP, *strip.shape[:2])
    y, x = (int(rng.integers(extent - side + 1)) for extent in strip.shape[:2])
    scrap = cv2.resize(strip[y : y + side, x : x + side], (width, height), interpolation=cv2.INTER_AREA)
    scrap = cv2.GaussianBlur(scrap, (0, 0), rng.uniform(0.5, 2.0))
    y, x = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    canvas[y : y + height, x : x + width] = scrap


def _scribble(canvas: np.ndarray, rng: np.random.Generator, split: str, level: Difficulty) -> None:
    """Ink that is no digit: a scan whose quarters are each turned about themselves, so that strokes break."""
    ink_S, _, _ = scans(split)
    scan = ink_S[rng.integers(len(ink_S))].copy()
    for y in (0, 4):
        for x in (0, 4):
            scan[y : y + 4, x : x + 4] = np.rot90(scan[y : y + 4, x : x + 4], int(rng.integers(1, 4)))
    alpha = ink(scan, _side(rng, canvas, level), rng, level.turn)
    box = _free_place(rng, canvas, alpha, [], 0)
    if box is None:
        return
    if rng.random() < level.sticker:
        sticker(canvas, box, rng)
    write_ink(canvas, alpha, box, rng, level.contrast, level.opacity)


def _settings(counts: Mapping[str, int], size: int, seed: int, difficulty: str, picture_format: str) -> dict[str, Any]:
    unknown = sorted(set(counts) - set(SPLITS))
    if unknown or any(count < 0 for count in counts.values()):
        raise UsageError(f"counts {dict(counts)}: give a number of pictures, 0 or more, for {', '.join(SPLITS)}")
    if difficulty not in DIFFICULTIES:
        raise UsageError(f"no difficulty is called {difficulty!r}: use one of {', '.join(DIFFICULTIES)}")
    if size < 64:
        raise UsageError(f"size {size}: scenes need at least 64 pixels a side")
    if seed < 0:
        raise UsageError(f"seed {seed}: give a whole number of 0 or more")
    if picture_format not in ("jpg", "png"):
        raise UsageError(f"picture_format {picture_format!r}: use jpg or png")
    ordered = {split: int(counts[split]) for split in SPLITS if split in counts}
    named = {"size": size, "seed": seed, "difficulty": difficulty, "picture_format": picture_format}
    return {"version": DRAWING_VERSION, "counts": ordered, **named}


def _holds(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds exactly this set: its settings, every label file and every picture."""
    try:
        if json.loads((folder / "scenes.json").read_text(encoding="utf-8")) != settings:
            return False
        pictures = os.listdir(folder / "images")
    except (OSError, ValueError):
        return False
    complete = len(pictures) == sum(settings["counts"].values())
    return complete and all((folder / f"{split}.json").is_file() for split in settings["counts"])


def _refuse_foreign(folder: Path) -> None:
    """Stops before anything that is not a set of scenes would be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the scenes")
    found = set(os.listdir(folder))
    foreign = sorted(found - {"scenes.json", "images", *(f"{split}.json" for split in SPLITS)})
    if foreign or (found and "scenes.json" not in found):
        raise UsageError(
            f"{folder} holds something else than scenes ({', '.join(foreign or sorted(found))}); name another folder"
        )


def _write_picture(path: Path, image: np.ndarray) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    encoded = cv2.imencode(path.suffix, image[:, :, ::-1], options)[1]
    path.write_bytes(encoded.tobytes())


def _empty_labels(split: str, settings: dict[str, Any]) -> dict[str, Any]:
    about = "Handwritten digits (UCI, by scikit-learn) on scikit-learn's sample photographs, drawn by Foveal"
    return {
        "info": {"description": about, "split": split, **settings},
        "categories": [{"id": value + 1, "name": str(value)} for value in range(10)],
        "images": [],
        "annotations": [],
    }


def _add_labels(labels: dict[str, Any], name: str, scene: Scene) -> None:
    """Appends a picture and its digits; `scan`, `photo` and `crop` tell where each came from."""
    height, width = scene.image.shape[:2]
    image_id = len(labels["images"]) + 1
    labels["images"].append(
        {
            "id": image_id, "file_name": name, "width": width, "height": height,
            "photo": scene.photo, "crop": list(scene.crop),
        }
    )  # fmt: skip
    for digit in scene.digits:
        x1, y1, x2, y2 = digit.box
        bbox = [x1, y1, x2 - x1, y2 - y1]
        labels["annotations"].append(
            {
                "id": len(labels["annotations"]) + 1, "image_id": image_id, "category_id": digit.value + 1,
                "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0, "scan": digit.scan,
            }
        )  # fmt: skip
