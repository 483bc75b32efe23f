"""Figure 1: the focal loss against p_t, for the gammas that the paper draws.

`python -m studies.fig1_curves` writes points.csv and figure.png beside this file in seconds. Nothing is trained.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from foveal.losses import Focal
from studies.drawing import COLOURS, panels, save, write_points

HERE = Path(__file__).resolve().parent
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
P_T = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)


def curve(gamma: float, p_t: Tensor = P_T) -> Tensor:
    """The loss of a foreground logit with these p_t, without alpha."""
    return Focal(alpha=1.0, gamma=gamma)(torch.logit(p_t), 1.0)


def points() -> dict[str, list[float]]:
    return {"p_t": P_T.tolist()} | {f"gamma {gamma:g}": curve(gamma).tolist() for gamma in GAMMAS}


def run() -> None:
    write_points(HERE / "points.csv", points())
    figure, [axes] = panels(1, width=6.4, height=4.2)
    for gamma, colour in zip(GAMMAS, COLOURS, strict=False):
        name = f"$\\gamma$ = {gamma:g}{' (cross entropy)' if gamma == 0 else ''}"
        axes.plot(P_T, curve(gamma), color=colour, linewidth=2, label=name)
    axes.axvspan(0.6, 1, color="#f2f2f2", zorder=0)
    axes.text(0.8, 3.2, "well classified\n($p_t$ > .6)", ha="center", va="top", color="#555555")
    axes.set(xlim=(0, 1), ylim=(0, 5), xlabel="$p_t$, probability of the right answer", ylabel="loss")
    axes.legend(frameon=False)
    save(figure, HERE / "figure.png")
