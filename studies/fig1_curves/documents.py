"""The pictures of docs/losses.md about focusing: what gamma does, why alpha falls with it, what Huber does."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes

from foveal.losses import Focal, smooth_l1
from studies.drawing import BLACK, BLUE, COLOURS, ORANGE, panels, save
from studies.fig1_curves.run import GAMMAS, curve

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
# A picture of 600 x 1000 pixels with COCO's classes, and the prior of section 4.1.
ANCHORS, CLASSES, POSITIVES, PRIOR = 113_193, 80, 50, 0.01


def draw_documents() -> None:
    _focusing()
    _alpha()
    _robust()


def background_share(alpha: float, gamma: float) -> float:
    """Loss of all background over that of all foreground in a fresh net, where every logit says the prior."""
    loss, logit = Focal(alpha, gamma), torch.tensor(-math.log((1 - PRIOR) / PRIOR), dtype=torch.float64)
    return float(loss(logit, 0.0) * ANCHORS * CLASSES / (loss(logit, 1.0) * POSITIVES))


def _focusing() -> None:
    figure, [left, right] = panels(2)
    p_t = torch.linspace(0.002, 0.998, 499, dtype=torch.float64)
    for gamma, colour in zip(GAMMAS, COLOURS, strict=False):
        label = f"$\\gamma$ = {gamma:g}{' (CE)' if gamma == 0 else ''}"
        left.plot(p_t, curve(gamma, p_t), color=colour, linewidth=2, label=label)
        right.plot(p_t, curve(0.0, p_t) / curve(gamma, p_t), color=colour, linewidth=2)
    left.set(xlim=(0, 1), ylim=(0, 5), xlabel="$p_t$", ylabel="loss")
    left.legend(frameon=False)
    right.set(xlim=(0, 1), ylim=(0.7, 1e5), yscale="log", xlabel="$p_t$", ylabel="times less than cross entropy")
    right.plot([0.5, 0.9, 0.968], [4, 100, 1000], "o", color=COLOURS[3], markersize=5)
    told = "with $\\gamma$ = 2\n4 times at $p_t$ = .5\n100 times at .9\n1000 times at .968"
    right.text(0.03, 7e4, told, va="top", color=COLOURS[3])
    save(figure, IMAGES / "loss-focusing.png")


def _alpha() -> None:
    figure, [axes] = panels(1, width=6.4, height=4.0)
    alphas = torch.linspace(0.05, 0.95, 91).tolist()
    for gamma, colour in zip(GAMMAS[:4], COLOURS, strict=False):
        name = f"$\\gamma$ = {gamma:g}{' (CE)' if gamma == 0 else ''}"
        axes.plot(alphas, [background_share(a, gamma) for a in alphas], color=colour, linewidth=2, label=name)
    for alpha, gamma in ((0.75, 0.0), (0.5, 0.5), (0.25, 1.0), (0.25, 2.0)):
        axes.plot([alpha], [background_share(alpha, gamma)], "o", color=COLOURS[GAMMAS.index(gamma)], markersize=7)
    axes.axhline(1, color="#888888", linewidth=1, linestyle="--")
    axes.text(0.02, 1.15, "equal", va="bottom", color="#555555")
    axes.set(xlim=(0, 1), yscale="log", xlabel="$\\alpha$, the weight of positives")
    axes.set_ylabel("background's loss / positives' loss")
    axes.legend(frameon=False, loc="upper right", ncols=2)
    axes.set_ylim(3e-3, 1e5)
    save(figure, IMAGES / "loss-alpha.png")


def _robust() -> None:
    figure, [left, right] = panels(2)
    error = torch.linspace(0, 3, 301, dtype=torch.float64, requires_grad=True)
    huber = _slope(smooth_l1(error, 1.0), error)
    _pair(left, error.detach(), error.detach(), huber, ("square", "smooth L1 (Huber)"))
    left.set(xlabel="error of an offset", title="robust: hard examples pull less", xlim=(0, 3), ylim=(0, 3))
    difficulty = torch.linspace(0.001, 0.999, 499, dtype=torch.float64)
    logits = torch.logit(1 - difficulty)
    slopes = [-Focal(alpha=1.0, gamma=gamma).derivative(logits, 1.0) for gamma in (0.0, 2.0)]
    _pair(right, difficulty, slopes[0], slopes[1], ("cross entropy", "focal, $\\gamma$ = 2"))
    right.set(xlabel="1 - $p_t$, how wrong", title="focal: easy examples pull less", xlim=(0, 1), ylim=(0, 1.4))
    save(figure, IMAGES / "loss-robust.png")


def _slope(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss.sum(), of)[0]


def _pair(axes: Axes, x: torch.Tensor, plain: torch.Tensor, changed: torch.Tensor, names: tuple[str, str]) -> None:
    axes.plot(x, plain, color=BLACK, linewidth=2, label=names[0])
    axes.plot(x, changed, color=BLUE, linewidth=2, label=names[1])
    axes.fill_between(x, plain, changed, color=ORANGE, alpha=0.25)
    axes.set_ylabel("size of the gradient")
    axes.legend(frameon=False, loc="upper left")
