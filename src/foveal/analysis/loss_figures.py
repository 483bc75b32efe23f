"""The paper's figure 4 of any run, and the files of a loss distribution.

Figures are built without pyplot: nothing global is set, and no display is needed.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from foveal.analysis.folders import made
from foveal.analysis.loss_distribution import OWN, LossDistribution
from foveal.analysis.loss_shares import FRACTIONS, Curve
from foveal.engine.checkpoint import write_json, write_text
from foveal.engine.results import part_of, writing
from foveal.wording import counted

_COLOURS = ("#d7191c", "#fd8d3c", "#41ab5d", "#2b7bba", "#756bb1", "#8c510a")
_FURTHEST = 1e-6


def write_files(found: LossDistribution, folder: str | os.PathLike[str]) -> Path:
    """Writes losses.json, cdf.csv and cdf.png into a folder that is made where missing; each is whole or not there."""
    folder = made(folder)
    with writing(folder):
        write_json(folder / "losses.json", found.as_dict())
        write_text(folder / "cdf.csv", found.csv())
        save(cdf_figure(found), folder / "cdf.png")
    return folder


def cdf_figure(found: LossDistribution) -> Figure:
    """Three panels: positives and background as in figure 4, and the background's hardest elements on a log axis."""
    figure = Figure(figsize=(14, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    positives, background, hardest = figure.subplots(1, 3)
    lines: dict[str, Any] = {}
    for place, (name, curves) in enumerate(found.curves.items()):
        style = _style(name, place)
        for axes, side in ((positives, "positives"), (background, "background")):
            lines[name] = _draw(axes, FRACTIONS, curves[side], style) or lines.get(name)
        curve = curves["background"]
        if curve.loss is not None:
            hardest.plot(1 - FRACTIONS[:-1], 1 - curve.loss[:-1], **style)
    for axes, side in ((positives, "positives"), (background, "background")):
        _label(
            axes, f"{side} ({found.elements(side):,} elements)", f"share of {side}, easiest first", "cumulative loss"
        )
        axes.set_xlim(0, 1)
    _label(hardest, "background, the hardest few", "share of background, hardest first", "share of loss")
    hardest.set_xscale("log")
    hardest.set_xlim(_FURTHEST, 1)
    where = ", ".join(part for part in (found.run, found.split) if part)
    figure.suptitle(
        f"{where}: cumulative distribution of the class loss, {counted(found.pictures, 'picture')}", parse_math=False
    )
    named = {_named(found, name): line for name, line in lines.items() if line is not None}
    if named:
        columns = min(6, len(named))
        figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns, frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG beside its place, then renames it."""
    with warnings.catch_warnings():
        # A run's name may hold letters that the font lacks; boxes in their place do no harm.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(part_of(path), format="png", dpi=110)
    os.replace(part_of(path), path)


def _style(name: str, place: int) -> dict[str, Any]:
    """The run's own loss is a dashed black line: it lies on that of a gamma where the run trained with it."""
    if name == OWN:
        return {"color": "black", "linestyle": (0, (1, 2)), "linewidth": 2.0}
    return {"color": _COLOURS[place % len(_COLOURS)], "linewidth": 1.8}


def _named(found: LossDistribution, name: str) -> str:
    told = found.losses[name]
    return f"own: {told if len(told) <= 40 else told.split('(')[0]}" if name == OWN else name


def _draw(axes: Axes, fractions_F: np.ndarray, curve: Curve, style: dict[str, Any]) -> Any:
    if curve.loss is None:
        return None
    (line,) = axes.plot(fractions_F, curve.loss, **style)
    return line


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25)
    if not axes.lines:
        axes.text(0.5, 0.5, "no loss here", ha="center", va="center", transform=axes.transAxes)
