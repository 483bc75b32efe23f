"""The numbers of the second stage that Foveal's config has no fields for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sampling = Literal["random", "hardest"]


@dataclass(frozen=True)
class Settings:
    """How many boxes go where, of each picture.

    sampling: which RoIs are learnt from: at random, one of an object to three of background; or OHEM's hardest.
    """

    sampling: Sampling
    anchors: int
    """Anchors that the first stage learns from, half of them objects where there are as many (Ren et al. 2015)."""
    proposals_trained: int
    """Proposals kept while training: the best of each level before NMS, and of the picture after it."""
    proposals: int
    """The same at inference."""
    rois: int
    """RoIs that the second stage learns from."""
    width: int
    """Outputs of each of the box head's two fully connected layers."""


# Lin et al. 2017 (1612.03144) where it gives a number, else its authors' code (Detectron).
PAPER = {"anchors": 256, "proposals_trained": 2000, "proposals": 1000, "rois": 512, "width": 1024}
# A picture of the small scale has a fourteenth of the pixels and three objects: an eighth of the boxes, and a box head
# that is four times as wide as the pyramid, as the paper's is.
SMALL = {"anchors": 32, "proposals_trained": 250, "proposals": 125, "rois": 64, "width": 256}


def settings_of(scale: str, sampling: Sampling) -> Settings:
    """The settings at a scale's name: `paper` or `small`."""
    return Settings(sampling=sampling, **(PAPER if scale == "paper" else SMALL))
