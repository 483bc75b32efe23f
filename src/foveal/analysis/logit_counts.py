"""How often each class logit was said: a histogram that holds any number of anchors in constant memory.

Every loss that the paper compares is a function of the logit and of whether it should be high. So one histogram of the
logits, taken once, gives the distribution of every loss at every gamma, of all elements instead of a sample. A bin is
1/64 wide and knows how many logits fell into it and their sum: its elements are taken to have their mean, so logits
that lie farther apart than a bin are told apart exactly.

An element is one (anchor, class) pair: positive if the anchor is assigned to an object of that class, else background.
Memory: 98 kB for each level and class (39 MB for 5 levels and 80 classes), whatever the number of pictures.

Letters: B images, N anchors of an image, A anchors per cell, K classes, L levels, S cells of a level, Q bins, P
positive anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from foveal.matching import BACKGROUND, IGNORED, Match

BINS_PER_LOGIT = 64
FARTHEST = 24
"""Logits beyond +-24 share the last bin: there a loss is as good as 0, or as good as a straight line."""
BINS = 2 * FARTHEST * BINS_PER_LOGIT

Side = Literal["background", "positives"]
SIDES: tuple[Side, Side] = ("background", "positives")


class LogitCounts:
    """Counts and sums of the logits of two sides, by level, bin and class.

    count: [2, L, Q, K] int64, total: [2, L, Q, K] float64; first all background, then all positive elements.
    """

    def __init__(self, num_levels: int, num_classes: int, device: torch.device | str = "cpu"):
        self.num_classes = num_classes
        shape = (len(SIDES), num_levels, BINS, num_classes)
        self.count = torch.zeros(shape, dtype=torch.int64, device=device)
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)

    def add(self, logits: Sequence[Tensor], class_BN: Tensor) -> None:
        """Counts the logits of a batch.

        logits: L of [B, A*K, H, W], finite, channel a*K + k. class_BN: what `anchor_classes` says.
        The order of pictures, and how they are batched, change the sums by rounding only.
        """
        first = 0
        for level, logits_BCHW in enumerate(logits):
            logits_BAKS = logits_BCHW.flatten(2).unflatten(1, (-1, self.num_classes))
            per_cell, cells = logits_BAKS.shape[1], logits_BAKS.shape[3]
            class_BSA = class_BN[:, first : first + cells * per_cell].unflatten(1, (cells, per_cell))
            # Picture by picture: the indices of a whole batch would take several times its logits.
            for logits_AKS, class_SA in zip(logits_BAKS, class_BSA, strict=True):
                self._add_level(level, logits_AKS.double(), class_SA.T)
            first += cells * per_cell
        assert first == class_BN.shape[1], f"{first} anchors have logits, {class_BN.shape[1]} a class"

    def elements(self, side: Side) -> tuple[Tensor, Tensor]:
        """[L, Q, K] float64 each: how many elements a bin holds, and their mean logit; 0 where it is empty."""
        place = SIDES.index(side)
        number_LQK = self.count[place].double().cpu()
        return number_LQK, self.total[place].cpu() / number_LQK.clamp(min=1)

    def _add_level(self, level: int, logits_AKS: Tensor, class_AS: Tensor) -> None:
        size = BINS * self.num_classes
        bin_AKS = ((logits_AKS + FARTHEST) * BINS_PER_LOGIT).clamp_(0, BINS - 1).long()
        place_AKS = bin_AKS.mul_(self.num_classes) + torch.arange(self.num_classes, device=bin_AKS.device)[:, None]
        nowhere = size
        place_AKS.masked_fill_((class_AS == IGNORED)[:, None], nowhere)
        anchor_P, cell_P = (class_AS >= 0).nonzero(as_tuple=True)
        at = anchor_P, class_AS[anchor_P, cell_P], cell_P
        own_P, own_logits_P = place_AKS[at], logits_AKS[at]
        place_AKS[at] = nowhere
        place = place_AKS.flatten()
        shape = BINS, self.num_classes
        self.count[0, level] += torch.bincount(place, minlength=size + 1)[:size].view(shape)
        self.total[0, level] += torch.bincount(place, logits_AKS.flatten(), size + 1)[:size].view(shape)
        self.count[1, level].view(-1).index_add_(0, own_P, torch.ones_like(own_P))
        self.total[1, level].view(-1).index_add_(0, own_P, own_logits_P)


def anchor_classes(match: Match, labels_G: Tensor) -> Tensor:
    """[B, N] int64: the class that each anchor of a batch answers for, BACKGROUND, or IGNORED.

    labels_G: class of each packed object of the batch; the anchors of an object whose class is negative are IGNORED.
    """
    class_X = torch.full((match.num_images * match.num_anchors,), BACKGROUND, device=labels_G.device)
    class_X[match.ignored] = IGNORED
    label_P = labels_G[match.object]
    class_X[match.positive] = torch.where(label_P < 0, IGNORED, label_P)
    return class_X.view(match.num_images, match.num_anchors)
