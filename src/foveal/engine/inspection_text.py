"""An inspection as text for a terminal: tables of what there is, then what is wrong and what to add to a command."""

from __future__ import annotations

import io
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid

from foveal.engine.contents import ClassContents, total
from foveal.engine.coverage import SIZES, Reach, percent, warning
from foveal.wording import counted

if TYPE_CHECKING:
    from foveal.data.table import Problem
    from foveal.engine.inspect import Inspection

SHOWN_CLASSES = 40
SHOWN_NOTES = 5
SHOWN_CAUSES = 20
SHOWN_EXAMPLES = 5


def as_text(found: Inspection, width: int) -> str:
    """Sections one below the other; lines of at most `width` characters, but for flags that are to be pasted."""
    pictures = sum(part.pictures for part in found.contents)
    objects = sum(part.everything.objects for part in found.contents)
    head = (
        f"{found.data} ({found.format}): {counted(pictures, 'picture')}, {counted(objects, 'object')} of "
        f"{counted(len(found.class_names), 'class')}, "
        f"{counted(len(found.problems), 'problem') if found.problems else 'no problems'}"
    )
    sections = [
        textwrap.fill(head, width),
        _rendered(_split_grid(found), width),
        _rendered(_class_grid(found), width),
        _notes(found.notes, width),
        _anchors(found, width),
        _imbalance(found, width),
        _problems(found.problems, width),
    ]
    return "\n\n".join(section for section in sections if section)


def _split_grid(found: Inspection) -> Grid:
    parts = found.contents
    grid = _grid(["", *(part.split for part in parts)])
    size = found.config.data.size
    grid.add_row("pictures", *(f"{part.pictures}" for part in parts))
    grid.add_row("  without objects", *(f"{part.without_objects}" for part in parts))
    grid.add_row("  width, height (median)", *(_median(part.width, part.height) for part in parts))
    grid.add_row("objects", *(f"{part.everything.objects}" for part in parts))
    grid.add_row("  small / medium / large", *(_sizes(part.everything.per_size) for part in parts))
    grid.add_row(f"  the same at {size} px", *(_sizes(part.everything.per_size_at_training) for part in parts))
    grid.add_row("regions to ignore", *(f"{part.everything.ignored}" for part in parts))
    return grid


def _class_grid(found: Inspection) -> Grid:
    splits = [part.split for part in found.contents]
    size = found.config.data.size
    grid = _grid(["class", "objects", *splits, "pictures", "small / medium / large", f"at {size} px"])
    rows: dict[str, tuple[ClassContents, list[int]]] = {}
    for name in found.class_names:
        parts = [part.per_class.get(name) for part in found.contents]
        rows[name] = (total([part for part in parts if part]), [part.objects if part else 0 for part in parts])
    for name in _most(found.class_names, key=lambda name: rows[name][0].objects):
        counts, per_split = rows[name]
        sizes = (_sizes(counts.per_size), _sizes(counts.per_size_at_training))
        grid.add_row(name, f"{counts.objects}", *(f"{n}" for n in per_split), f"{counts.pictures}", *sizes)
    _rest(grid, len(found.class_names))
    return grid


def _notes(notes: Sequence[str], width: int) -> str:
    more = [f"... {len(notes) - SHOWN_NOTES} more (--json)"] if len(notes) > SHOWN_NOTES else []
    return "\n".join(textwrap.fill(note, width) for note in [*notes[:SHOWN_NOTES], *more])


def _anchors(found: Inspection, width: int) -> str:
    config, reached = found.config, found.coverage
    if not reached.all.objects:
        return f"No objects in {reached.split}: every anchor is background."
    sizes = " ".join(f"{side:g}" for side in config.anchor_sizes)
    head = (
        f"Anchors at {config.data.size} px (levels {config.model.levels}, sizes {sizes}) and the objects in "
        f"{reached.split}: share with an anchor at IoU >= {config.assignment.positive_iou:g}, at >= "
        f"{config.assignment.background_iou:g}, with only a best one below; then the first by size at "
        f"{config.data.size} px"
    )
    present = [name for name, reach in reached.per_class.items() if reach.objects]
    bounds = (f">= {config.assignment.positive_iou:g}", f">= {config.assignment.background_iou:g}")
    grid = _grid(["class", "objects", *bounds, "only best", *SIZES])
    grid.add_row("all", *_reach(reached.all), *(percent(reached.per_size[size].at_positive_iou) for size in SIZES))
    for name in _most(present, key=lambda name: _uncovered(reached.per_class[name])):
        by_size = reached.per_class_and_size[name]
        grid.add_row(name, *_reach(reached.per_class[name]), *(percent(by_size[s].at_positive_iou) for s in SIZES))
    _rest(grid, len(present))
    parts = [textwrap.fill(head, width), _rendered(grid, width)]
    if warning(reached):
        parts.append(textwrap.fill(warning(reached), width))
    if found.advice:
        parts.append("To cover more, add one of these to the command:")
        parts += [f"  {advice.flags}\n      {advice.effect}" for advice in found.advice]
    return "\n".join(parts)


def _imbalance(found: Inspection, width: int) -> str:
    mean = found.imbalance
    if not mean.pictures:
        return ""
    ratio = f", 1 : {mean.ignored / mean.positive:.1f} : {mean.background / mean.positive:.0f}" if mean.positive else ""
    padding = f" (and {mean.on_padding:.0f} on padding)" if mean.on_padding else ""
    text = (
        f"Imbalance: of {mean.anchors:.0f} anchors a picture {mean.positive:.1f} are positive, {mean.ignored:.1f} "
        f"ignored, {mean.background:.0f} background{padding}{ratio} (mean of {counted(mean.pictures, 'picture')} of "
        f"{mean.split})."
    )
    if not mean.positives_per_object:
        return textwrap.fill(text, width)
    names = sorted(mean.positives_per_object, key=lambda name: mean.positives_per_object[name])[:10]
    fewest = "" if len(names) == len(mean.positives_per_object) else "the fewest are "
    each = ", ".join(f"{name} {mean.positives_per_object[name]:.1f}" for name in names)
    return textwrap.fill(f"{text} Positive anchors an object: {fewest}{each}.", width)


def _problems(problems: Sequence[Problem], width: int) -> str:
    if not problems:
        return "No problems."
    by_cause: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_cause[_cause(problem)].append(problem)
    lines = [counted(len(problems), "problem")]
    for alike in list(by_cause.values())[:SHOWN_CAUSES]:
        for problem in alike[:SHOWN_EXAMPLES]:
            named = f"{problem.field} {problem.value}".strip()
            place = ", ".join(part for part in (problem.file, problem.where, named) if part)
            sentence = textwrap.fill(f"{problem.problem}; {problem.fix}", width - 4)
            lines += [place, textwrap.indent(sentence, "    ")]
        lines += _more(len(alike) - SHOWN_EXAMPLES, "like the last")
    return "\n".join(lines + _more(sum(map(len, list(by_cause.values())[SHOWN_CAUSES:])), "of other causes"))


def _cause(problem: Problem) -> str:
    """What problems of one kind have in common: how the sentence begins, without numbers and names."""
    return " ".join(re.sub(r"\d+|'[^']*'", "", problem.problem).split()[:4])


def _more(count: int, which: str) -> list[str]:
    return [f"... and {count:,} more {which}; --json lists all of them"] if count > 0 else []


def _grid(headers: Sequence[str]) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column(headers[0], overflow="fold", min_width=8)
    for header in headers[1:]:
        grid.add_column(header, justify="right")
    return grid


def _rendered(grid: Grid, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _most(names: Sequence[str], key: Callable[[str], float]) -> list[str]:
    """At most SHOWN_CLASSES names, those with the largest keys, in the order they have."""
    chosen = set(sorted(names, key=key, reverse=True)[:SHOWN_CLASSES])
    return [name for name in names if name in chosen]


def _rest(grid: Grid, count: int) -> None:
    if count > SHOWN_CLASSES:
        grid.add_row(f"... {count - SHOWN_CLASSES} more (--json)")


def _uncovered(reach: Reach) -> float:
    return reach.objects * (1 - (reach.at_positive_iou or 0))


def _reach(reach: Reach) -> tuple[str, ...]:
    shares = (reach.at_positive_iou, reach.at_background_iou, reach.only_best)
    return f"{reach.objects}", *(percent(share) for share in shares)


def _sizes(per_size: dict[str, int]) -> str:
    return " / ".join(str(per_size[name]) for name in SIZES)


def _median(width: Sequence[int], height: Sequence[int]) -> str:
    return f"{width[1]} x {height[1]}" if width else "-"
