"""Who holds the loss: how much of it the hardest elements have, and the easy ones, and its cumulative distribution.

From the histogram of the logits (logit_counts.py), for any loss. Hardest means highest loss. A share of the gradient is
that of the sum of |d loss / d logit| over the same elements.

How exact: no share is off by more than (gamma + 1) / 250, even if all logits lie within one bin; where they spread over
many, the error is about as many times smaller. Logits farther apart than a bin are told apart exactly.

Letters: L levels, Q bins, K classes, M groups of equal elements, F fractions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from foveal.analysis.logit_counts import LogitCounts, Side
from foveal.losses.classification import ClassificationLoss

HARDEST = (0.01, 0.1, 0.2)
EASY_P_T = 0.9

# From the easiest element to the hardest: every half percent, and ten steps a decade towards the last one in 1e8.
FRACTIONS = 1 - np.unique(np.concatenate([np.linspace(0, 1, 201), np.logspace(-8, 0, 81)]))[::-1]


@dataclass(frozen=True)
class Share:
    """Part of a sum of losses and of a sum of |gradients|, 0 .. 1; None where that sum is 0."""

    loss: float | None
    gradient: float | None

    def as_dict(self) -> dict[str, float | None]:
        return {"loss": self.loss, "gradient": self.gradient}


@dataclass(frozen=True)
class SideShares:
    """The positives, or the background, of a part of the anchors under one loss.

    elements: (anchor, class) pairs. of_all: their part of the loss of everything that was counted, both sides.
    hardest: what the hardest 1 %, 10 %, 20 % of them hold of their own sum.
    easy_elements: which part of them has p_t > .9; easy: what those hold of the own sum, easy_of_all: of everything.
    """

    elements: int
    of_all: Share
    hardest: dict[float, Share]
    easy_elements: float | None
    easy: Share
    easy_of_all: Share

    def as_dict(self) -> dict[str, Any]:
        return {
            "elements": self.elements,
            "of_all": self.of_all.as_dict(),
            "hardest": {f"{fraction:g}": share.as_dict() for fraction, share in self.hardest.items()},
            "easy_elements": self.easy_elements,
            "easy": self.easy.as_dict(),
            "easy_of_all": self.easy_of_all.as_dict(),
        }


@dataclass(frozen=True)
class Curve:
    """[F] each: which share of the sum the easiest part of the elements holds, for the parts FRACTIONS; from 0 to 1.

    None where the sum is 0: there is nothing to share.
    """

    loss: np.ndarray | None
    gradient: np.ndarray | None


@dataclass(frozen=True)
class Elements:
    """Elements of one side under one loss, as groups of equal ones; the arrays have one shape, float64 or bool.

    number: elements of a group. loss, gradient: of one of them, gradient without its sign. easy: p_t > .9.
    """

    number: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray
    easy: np.ndarray

    @classmethod
    def of(cls, counts: LogitCounts, side: Side, loss: ClassificationLoss) -> Elements:
        """Those of a histogram, [L, Q, K]; an index picks levels or classes."""
        number_LQK, logit_LQK = counts.elements(side)
        target = float(side == "positives")
        margin_LQK = logit_LQK if target else -logit_LQK
        slope_LQK: Tensor = loss.derivative(logit_LQK, target).abs()
        return cls(
            number=number_LQK.numpy(),
            loss=loss(logit_LQK, target).numpy(),
            gradient=slope_LQK.numpy(),
            easy=(margin_LQK > math.log(EASY_P_T / (1 - EASY_P_T))).numpy(),
        )

    def __getitem__(self, index: Any) -> Elements:
        return Elements(self.number[index], self.loss[index], self.gradient[index], self.easy[index])

    @property
    def sums(self) -> np.ndarray:
        """[2]: the loss and the |gradient| of all elements together."""
        return np.array([(self.number * self.loss).sum(), (self.number * self.gradient).sum()])

    def shares(self, all_sums: np.ndarray) -> SideShares:
        """Who holds what; all_sums: [2] sums of everything that was counted."""
        groups = self[self.number > 0]
        number, sums = float(groups.number.sum()), groups.sums
        easy = groups[groups.easy]
        held = groups._held_by_hardest(HARDEST)
        return SideShares(
            elements=int(number),
            of_all=_share(sums, all_sums),
            hardest={
                fraction: Share(*(_number(part[place]) for part in held)) for place, fraction in enumerate(HARDEST)
            },
            easy_elements=float(easy.number.sum()) / number if number else None,
            easy=_share(easy.sums, sums),
            easy_of_all=_share(easy.sums, all_sums),
        )

    def curve(self) -> Curve:
        """The cumulative distributions, as in the paper's figure 4."""
        held = self[self.number > 0]._held_by_hardest(1 - FRACTIONS)
        return Curve(*(None if np.isnan(part).any() else 1 - part for part in held))

    def _held_by_hardest(self, fractions_F: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[F] twice: share of the loss, and of the |gradient|, of the hardest fractions; NaN where there is none.

        Within a group of equal elements the share grows evenly.
        """
        order = np.argsort(-self.loss, kind="stable")
        number_M = self.number[order]
        wanted_F = np.asarray(fractions_F) * number_M.sum()
        reached = np.concatenate([[0.0], number_M.cumsum()])
        shares = []
        for value in (self.loss, self.gradient):
            held = np.concatenate([[0.0], (number_M * value[order]).cumsum()])
            shares.append(np.interp(wanted_F, reached, held / held[-1] if held[-1] > 0 else np.full_like(held, np.nan)))
        return shares[0], shares[1]


def _share(part: np.ndarray, whole: np.ndarray) -> Share:
    return Share(*(float(a / b) if b > 0 else None for a, b in zip(part, whole, strict=True)))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
