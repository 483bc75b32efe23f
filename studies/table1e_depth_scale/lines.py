"""A line for each backbone through the rows of table 1e, over whatever the axis is; figure 2 draws the same lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from studies.drawing import BLUE, GREEN, ORANGE, RED
from studies.study import Row

COLOURS = {"resnet18": GREEN, "mobilenet_v2": RED, "resnet50": BLUE, "resnet101": ORANGE}


def called(backbone: str) -> str:
    """How a backbone is written: ResNet-50, MobileNetV2."""
    return "MobileNetV2" if backbone == "mobilenet_v2" else backbone.replace("resnet", "ResNet-")


def draw_lines(axes: Axes, rows: Sequence[Row], points: Mapping[str, tuple[float, float]]) -> None:
    """Draws rows that have a point (x, AP), by their names; each point is named by its picture's size."""
    for backbone, colour in COLOURS.items():
        mine = [row for row in rows if row.changes["model.backbone"] == backbone and row.name in points]
        mine.sort(key=lambda row: row.changes["data.size"])
        if not mine:
            continue
        x, y = zip(*(points[row.name] for row in mine), strict=True)
        axes.plot(x, y, "o-", color=colour, linewidth=1.8, markersize=5, label=called(backbone))
        for row in mine:
            size = str(row.changes["data.size"])
            axes.annotate(size, points[row.name], (0, 6), textcoords="offset points", ha="center", fontsize=8)
    if axes.lines:
        axes.legend(frameon=False, loc="lower right")
