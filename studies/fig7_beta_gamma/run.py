"""Figure 7: FL* over gamma and beta. Command, numbers and what was measured: README.md."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from foveal.losses import FocalStar
from studies.drawing import BLACK, panels
from studies.report import circumstances
from studies.study import Results, Row, Study
from studies.table3_fl_star.run import star

GRID = [(gamma, beta) for gamma in (1.0, 2.0, 4.0) for beta in (-1.0, 0.0, 1.0, 2.0)]


def draw(study: Study, results: Results) -> Figure:
    """Each setting's curve of FL*, coloured by its AP, beside the AP itself over gamma and beta."""
    figure, [left, right] = panels(2, width=10, height=4)
    aps = {name: statistics.fmean(o.ap for o in outcomes.values()) for name, outcomes in results.items() if outcomes}
    low, high = min(aps.values(), default=0.0), max(aps.values(), default=1.0)
    x_t = torch.linspace(-5, 5, 201, dtype=torch.float64)
    for row, (gamma, beta) in zip(study.rows[1:], GRID, strict=True):
        if row.name not in aps:
            continue
        share = (aps[row.name] - low) / max(high - low, 1e-9)
        colour = colormaps["viridis"](share)
        # The better, the further in front.
        left.plot(x_t, FocalStar(1.0, gamma, beta)(x_t, 1.0), color=colour, linewidth=2, zorder=2 + share)
        right.plot([beta], [gamma], "s", color=colour, markersize=30)
        ink = BLACK if share > 0.6 else "white"
        right.text(beta, gamma, f"{aps[row.name]:.1f}", ha="center", va="center", color=ink)
    left.plot(x_t, FocalStar(1.0, 1.0, 0.0)(x_t, 1.0), color=BLACK, linewidth=1, linestyle="--", label="CE", zorder=4)
    left.set(xlim=(-5, 5), ylim=(0, 5), xlabel="$x_t$", ylabel="FL*, yellow is better")
    left.legend(frameon=False)
    right.set(xlim=(-1.6, 2.6), ylim=(0.4, 4.6), xlabel="$\\beta$", ylabel="$\\gamma$", title="AP")
    right.set_xticks(sorted({beta for _, beta in GRID}))
    right.set_yticks(sorted({gamma for gamma, _ in GRID}))
    figure.suptitle(f"{study.title}{circumstances(results)}")
    return figure


STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Figure 7: FL* over gamma and beta",
    rows=(
        Row("CE", {"loss.name": "balanced_cross_entropy", "loss.alpha": 0.75}),
        *(star(gamma, beta) for gamma, beta in GRID),
    ),
    baseline="CE",
    draw=draw,
)
