"""A loss distribution as text for a terminal: who holds the loss, by loss, by level, by class."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from foveal.analysis.loss_shares import Share, SideShares
from foveal.wording import counted

if TYPE_CHECKING:
    from foveal.analysis.loss_distribution import LossDistribution

COLUMNS = 80
SHOWN_CLASSES = 40
_SIDES = ("background", "positives")
_LEGEND = (
    "In percent. all: held by this side, of the loss of both. 1 %, 10 %, 20 %: held by the hardest of this side, of "
    "this side's own. easy: held by the elements with p_t > .9, of this side's own. gradient: the same of the sum of "
    "|d loss / d logit|."
)


def as_text(found: LossDistribution) -> str:
    """Sections one below the other, at most 80 columns wide: both sides under every loss, then the run's own loss."""
    sections = [textwrap.fill(f"note: {note}", COLUMNS) for note in found.notes]
    where = f", {found.split}" if found.split else ""
    sections.append(textwrap.fill(f"{found.run}{where}: {counted(found.pictures, 'picture')}", COLUMNS))
    for side in _SIDES:
        rows = [(name, part[side]) for name, part in found.overall.items()]
        sections.append(f"{side}: {_elements(rows[0][1])}\n\n{_shares(rows)}")
    sections.append(textwrap.fill(_LEGEND, COLUMNS))
    own = list(found.losses)[-1]
    loss = textwrap.shorten(found.losses[own], 60, placeholder=" ...")
    sections.append(
        textwrap.fill(f"The parts under {loss}; all: held by this part, of the loss of everything.", COLUMNS)
    )
    sections.append(_parts("level", ((f"P{level}", parts[own]) for level, parts in found.per_level.items())))
    sections.append(_parts("class", ((name, parts[own]) for name, parts in _most(found, own))))
    if len(found.per_class) > SHOWN_CLASSES:
        sections.append(f"... and {len(found.per_class) - SHOWN_CLASSES} more classes, which hold less: see --json")
    return "\n\n".join(sections)


def _most(found: LossDistribution, own: str) -> list[tuple[str, dict[str, dict[str, SideShares]]]]:
    """The classes that are shown, in their order; of many those that hold the most of the loss."""

    def held(name: str) -> float:
        return sum(side.of_all.loss or 0.0 for side in found.per_class[name][own].values())

    kept = set(sorted(found.per_class, key=held, reverse=True)[:SHOWN_CLASSES])
    return [(name, parts) for name, parts in found.per_class.items() if name in kept]


def _elements(side: SideShares) -> str:
    easy = "" if side.easy_elements is None else f", {100 * side.easy_elements:.2f} % of them easy (p_t > .9)"
    return f"{side.elements:,} elements{easy}"


def _shares(rows: Iterable[tuple[str, SideShares]]) -> str:
    held = ["all", "1 %", "10 %", "20 %", "easy"]
    grid = _grid(["\nloss", *(f"{'loss' if not i else ''}\n{h}" for i, h in enumerate(held)), "",
                  *(f"{'gradient' if not i else ''}\n{h}" for i, h in enumerate(held))])  # fmt: skip
    for name, side in rows:
        shares = [side.of_all, *side.hardest.values(), side.easy]
        grid.add_row(Text(name), *(_loss(s) for s in shares), "", *(_gradient(s) for s in shares))
    return _rendered(grid)


def _parts(what: str, parts: Iterable[tuple[str, dict[str, SideShares]]]) -> str:
    grid = _grid([f"\n{what}", "positives\nelements", "\nall", "\n10 %", "", "background\nelements", "\nall", "\n10 %",
                  "\neasy"])  # fmt: skip
    for name, part in parts:
        positives, background = part["positives"], part["background"]
        tenth = [_loss(side.hardest[0.1]) for side in (positives, background)]
        grid.add_row(
            Text(name),
            *(f"{positives.elements:,}", _loss(positives.of_all), tenth[0], ""),
            *(f"{background.elements:,}", _loss(background.of_all), tenth[1], _loss(background.easy)),
        )
    return _rendered(grid)


def _loss(share: Share) -> str:
    return _percent(share.loss)


def _gradient(share: Share) -> str:
    return _percent(share.gradient)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _grid(columns: Iterable[str]) -> Grid:
    """An empty table whose first column holds text; the others hold numbers, which stand to the right."""
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0))
    for place, name in enumerate(columns):
        if place:
            grid.add_column(Text(name), justify="right", no_wrap=True, overflow="ellipsis", min_width=5 if name else 1)
        else:
            grid.add_column(Text(name), no_wrap=True, overflow="ellipsis", max_width=24)
    return grid


def _rendered(grid: Grid) -> str:
    console = Console(file=io.StringIO(), width=COLUMNS, color_system=None, legacy_windows=False)
    console.print(grid)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n")
