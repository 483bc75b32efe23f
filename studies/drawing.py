"""How all figures of the studies look, and how they are saved: equal numbers give equal files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from foveal.engine.checkpoint import write_text

# Okabe and Ito's colours, told apart by colour-blind readers too; black first, for what the others are held against.
BLACK, BLUE, ORANGE, GREEN, RED, SKY, PINK = (
    "#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7",
)  # fmt: skip
COLOURS = (BLACK, BLUE, ORANGE, GREEN, RED, SKY, PINK)


def panels(columns: int, width: float = 9.0, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure of `columns` panels side by side; sides in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    found = figure.subplots(1, columns, squeeze=False)[0]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, list(found)


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG without the version of what drew it; at once, never half a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part-{os.getpid()}")
    figure.savefig(beside, format="png", dpi=110, metadata={"Software": None})
    os.replace(beside, path)
    return path


def write_points(path: Path, columns: Mapping[str, Sequence[float]]) -> Path:
    """Writes curves as CSV, a column each, six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{value:.6g}" for value in row] for row in zip(*columns.values(), strict=True))
    write_text(path, text.getvalue())
    return path
