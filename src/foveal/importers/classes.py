"""What the outputs of an imported class head are called: by the file, by a list of names, or by COCO's 80."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal.errors import UsageError, WeightsError
from foveal.names import MAX_CLASS_NAME, is_class_name, printable
from foveal.wording import counted

NO_CLASS = "-"

# COCO's ids and names; the ids leave out 12 26 29 30 45 66 68 69 71 83, and 0.
_COCO = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic light,
11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow,
22 elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase, 34 frisbee,
35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, 41 skateboard, 42 surfboard,
43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl, 52 banana, 53 apple,
54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch,
64 potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard,
77 cell phone, 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock, 86 vase, 87 scissors,
88 teddy bear, 89 hair drier, 90 toothbrush
"""
COCO_CLASSES = {
    int(number): name for number, name in (entry.strip().split(" ", 1) for entry in _COCO.replace("\n", " ").split(","))
}
COCO_SLOTS = 91
"""Outputs of a head that is indexed by COCO's own ids, as torchvision's is, with 0 and the ids that no class has."""


@dataclass(frozen=True)
class Classes:
    """names, ids: of the classes that are kept. outputs: which of the source's outputs each of them is."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    outputs: tuple[int, ...]
    note: str = ""


def classes_of(path: Path, outputs: int, told: Sequence[str], names: Path | None) -> Classes:
    """The classes of a head with this many outputs.

    A list of names counts first, then what the file tells (`told`), then COCO for 80 outputs and for 91, of which 11
    answer for no class. UsageError where none of them fits.
    """
    if names is not None:
        return _listed(names, outputs)
    if told:
        if len(told) != outputs:
            raise WeightsError(
                f"{path}: names {counted(len(told), 'class')} but answers for {outputs}; give the right names with "
                "--names FILE"
            )
        if unfit := [name for name in told if not is_class_name(name)]:
            raise WeightsError(
                f"{path}: calls a class '{printable(unfit[0])}', and a name has 1 to {MAX_CLASS_NAME} characters and "
                "no control characters; give the right names with --names FILE"
            )
        if twice := _twice(told):
            raise WeightsError(f"{path}: names {twice} twice; give the right names with --names FILE")
        return Classes(tuple(told), _ids(told, range(outputs)), tuple(range(outputs)))
    if outputs == COCO_SLOTS:
        note = "91 outputs are COCO's ids; the 11 that no class has were dropped, which changes nothing for the others"
        return Classes(tuple(COCO_CLASSES.values()), tuple(COCO_CLASSES), tuple(COCO_CLASSES), note)
    if outputs == len(COCO_CLASSES):
        note = "80 outputs are taken for COCO's 80 classes in their order; --names FILE names others"
        return Classes(tuple(COCO_CLASSES.values()), tuple(COCO_CLASSES), tuple(range(outputs)), note)
    raise UsageError(
        f"{path}: does not name its {counted(outputs, 'class')}; give --names FILE with a name a line, in the order "
        f"of the outputs, and {NO_CLASS} for an output that is no class"
    )


def _ids(names: Sequence[str], otherwise: Sequence[int]) -> tuple[int, ...]:
    """COCO's ids for exactly COCO's names, as without names, so that results can be compared with its annotations."""
    numbers = {name: number for number, name in COCO_CLASSES.items()}
    return tuple(numbers[name] for name in names) if set(names) == set(numbers) else tuple(otherwise)


def _twice(names: Sequence[str]) -> str:
    """The names that are there more than once; a file's may be of any length and hold any character."""
    return printable(", ".join(name for name, times in Counter(names).items() if times > 1))


def _listed(file: Path, outputs: int) -> Classes:
    """A name a line; `-` where an output is no class, such as a background that was counted."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{file}: cannot be read ({reason}); give a text file with a class name a line") from None
    if len(lines) != outputs or not all(lines):
        raise UsageError(
            f"{file}: has {counted(len(lines), 'line')}, {lines.count('')} of them empty, for "
            f"{counted(outputs, 'output')}; write a name a line, and {NO_CLASS} for an output that is no class"
        )
    if unfit := [number for number, name in enumerate(lines, 1) if not is_class_name(name)]:
        raise UsageError(
            f"{file}: line {unfit[0]} is '{printable(lines[unfit[0] - 1])}', and a name has 1 to {MAX_CLASS_NAME} "
            "characters and no control characters; correct it"
        )
    kept = [output for output, name in enumerate(lines) if name != NO_CLASS]
    found = tuple(lines[output] for output in kept)
    twice = _twice(found)
    if twice or not found:
        raise UsageError(f"{file}: names {twice or 'no class'} {'twice' if twice else 'at all'}; correct it")
    note = f"outputs that are no class were dropped: {outputs - len(kept)}" if len(kept) < outputs else ""
    return Classes(found, _ids(found, kept), tuple(kept), note)
