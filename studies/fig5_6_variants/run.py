"""Figures 5 and 6: FL and FL* against x_t, and their derivatives.

`python -m studies.fig5_6_variants` writes points.csv and figure.png beside this file in seconds. Nothing is trained.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from foveal.losses import CrossEntropy, Focal, FocalStar
from foveal.losses.classification import ClassificationLoss
from studies.drawing import COLOURS, panels, save, write_points

HERE = Path(__file__).resolve().parent
X_T = torch.arange(-100, 101, dtype=torch.float64) / 20
# Without alpha: alpha 1 gives a foreground logit the weight 1.
MEMBERS: dict[str, ClassificationLoss] = {
    "CE": CrossEntropy(),
    "FL gamma 2": Focal(alpha=1.0, gamma=2.0),
    "FL* gamma 2 beta 1": FocalStar(alpha=1.0, gamma=2.0, beta=1.0),
    "FL* gamma 4 beta 0": FocalStar(alpha=1.0, gamma=4.0, beta=0.0),
}


def value(loss: ClassificationLoss) -> Tensor:
    """The loss of a foreground logit, for which x_t is the logit itself."""
    return loss(X_T, 1.0)


def slope(loss: ClassificationLoss) -> Tensor:
    return loss.derivative(X_T, 1.0)


def points() -> dict[str, list[float]]:
    values = {name: value(loss).tolist() for name, loss in MEMBERS.items()}
    slopes = {f"d {name}": slope(loss).tolist() for name, loss in MEMBERS.items()}
    return {"x_t": X_T.tolist(), **values, **slopes}


def run() -> None:
    write_points(HERE / "points.csv", points())
    figure, [left, right] = panels(2)
    for (name, loss), colour in zip(MEMBERS.items(), COLOURS, strict=False):
        label = name.replace("gamma ", "$\\gamma$ = ").replace(" beta ", ", $\\beta$ = ")
        left.plot(X_T, value(loss), color=colour, linewidth=2, label=label)
        right.plot(X_T, slope(loss), color=colour, linewidth=2)
    left.set(xlim=(-5, 5), ylim=(0, 5), xlabel="$x_t$", ylabel="loss", title="Figure 5: the losses")
    right.set(xlim=(-5, 5), xlabel="$x_t$", ylabel="d loss / d x", title="Figure 6: their derivatives")
    left.legend(frameon=False)
    save(figure, HERE / "figure.png")
