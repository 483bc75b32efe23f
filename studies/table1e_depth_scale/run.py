"""Table 1e: depth of the backbone and size of the picture. Command, numbers and what was measured: README.md."""

from __future__ import annotations

import statistics
from pathlib import Path

from matplotlib.figure import Figure

from studies.drawing import panels
from studies.report import circumstances
from studies.study import Results, Row, Study, paper_rows
from studies.table1e_depth_scale.lines import called, draw_lines
from studies.table1e_depth_scale.speed import speed


def small(backbone: str, size: int) -> Row:
    """The longest side is the base's, so that MobileNetV2 at 160 pixels is the run that all tables share."""
    return Row(f"{called(backbone)}, {size} px", {"model.backbone": backbone, "data.size": size}, only_at="small")


def paper(depth: int, size: int) -> Row:
    """The longest side grows with the shorter one: 1000 pixels for 600, as in the base."""
    changes = {"model.backbone": f"resnet{depth}", "data.size": size, "data.max_size": round(size * 5 / 3)}
    return Row(f"ResNet-{depth}, {size} px", changes, only_at="paper")


def draw(study: Study, results: Results) -> Figure:
    """AP over the size of the picture, a line for each backbone: the paper's, and ours."""
    figure, [left, right] = panels(2, width=10, height=4)
    sizes = {row.name: row.changes["data.size"] for row in study.rows}
    theirs = {name: row.ap for name, row in paper_rows(study.folder).items() if row.ap is not None}
    ours = {name: statistics.fmean(o.ap for o in outcomes.values()) for name, outcomes in results.items()}
    for axes, aps, title in ((left, theirs, "the paper"), (right, ours, "ours, mean over seeds")):
        draw_lines(axes, study.rows, {name: (sizes[name], ap) for name, ap in aps.items()})
        axes.set(title=title, xlabel="shorter side in pixels", ylabel="AP")
    figure.suptitle(f"{study.title}{circumstances(results)}")
    return figure


STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Table 1e: depth and picture size",
    rows=(
        *(small(backbone, size) for backbone in ("mobilenet_v2", "resnet18", "resnet50") for size in (96, 128, 160)),
        *(paper(depth, size) for depth in (50, 101) for size in (400, 500, 600, 700, 800)),
    ),
    baseline="MobileNetV2, 160 px",
    paper_baseline="ResNet-50, 600 px",
    compares=("model.backbone", "data.size", "data.max_size"),
    extra=speed,
    draw=draw,
)
