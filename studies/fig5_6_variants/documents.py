"""The pictures of docs/losses.md about the family: all members side by side, and those with soft targets."""

from __future__ import annotations

from pathlib import Path

import torch

from foveal.losses import CrossEntropy, Focal, FocalStar, Hinge, QualityFocal, Varifocal
from foveal.losses.classification import ClassificationLoss
from studies.drawing import BLACK, BLUE, COLOURS, GREEN, panels, save

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
QUALITY = 0.7


def draw_documents() -> None:
    _family()
    _quality()


def _family() -> None:
    members: dict[str, ClassificationLoss] = {
        "CE": CrossEntropy(),
        "FL, $\\gamma$ = 2": Focal(alpha=1.0, gamma=2.0),
        "FL*, $\\gamma$ = 2, $\\beta$ = 1": FocalStar(alpha=1.0, gamma=2.0, beta=1.0),
        "FL*, $\\gamma$ = 4, $\\beta$ = 0": FocalStar(alpha=1.0, gamma=4.0, beta=0.0),
        "hinge, margin .5": Hinge(),
    }
    x_t = torch.linspace(-5, 5, 401, dtype=torch.float64)
    figure, [left, right] = panels(2)
    for (name, loss), colour in zip(members.items(), COLOURS, strict=False):
        left.plot(x_t, loss(x_t, 1.0), color=colour, linewidth=2, label=name)
        right.plot(x_t, -loss.derivative(x_t, 1.0), color=colour, linewidth=2)
    left.set(xlim=(-5, 5), ylim=(0, 5), xlabel="$x_t$, logit towards the right answer", ylabel="loss")
    right.set(xlim=(-5, 5), xlabel="$x_t$", ylabel="size of the gradient")
    left.legend(frameon=False)
    save(figure, IMAGES / "loss-family.png")


def _quality() -> None:
    p = torch.linspace(0.002, 0.998, 499, dtype=torch.float64)
    logits = torch.logit(p)
    members: dict[str, tuple[ClassificationLoss, str]] = {
        "CE": (CrossEntropy(), BLACK),
        "quality focal": (QualityFocal(), BLUE),
        "varifocal": (Varifocal(), GREEN),
    }
    figure, [left, right] = panels(2)
    for name, (loss, colour) in members.items():
        left.plot(p, loss(logits, QUALITY), color=colour, linewidth=2, label=name)
        right.plot(p, loss(logits, 0.0), color=colour, linewidth=2)
    left.axvline(QUALITY, color="#888888", linewidth=1, linestyle="--")
    left.set(title=f"a positive whose box has an IoU of {str(QUALITY)[1:]}", ylabel="loss")
    right.set(title="background")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 3), xlabel="$p$, the score")
    left.legend(frameon=False)
    save(figure, IMAGES / "loss-quality.png")
