"""What a difference between two rows is worth: paired over seeds, with a 95 % confidence interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean of a row minus the baseline over the seeds that both have, and half the width of its interval.

    half_width is None for fewer than two seeds, whose spread is not known.
    """

    mean: float
    half_width: float | None
    seeds: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, 0 where it holds 0 or is not known."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1

    def __str__(self) -> str:
        return f"{self.mean:+.1f}" if self.half_width is None else f"{self.mean:+.1f} ± {self.half_width:.1f}"


def paired_difference(row: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Both by seed; None where no seed is in both. Seeds 0, 1, 2 at +1, +2, +3 give 2 ± 2.48: 4.303 x 1 / sqrt 3."""
    both = sorted(row.keys() & baseline.keys())
    if not both:
        return None
    differences = [row[seed] - baseline[seed] for seed in both]
    mean = statistics.fmean(differences)
    if len(both) < 2:
        return Difference(mean, None, len(both))
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, len(both) - 1))
    return Difference(mean, quantile * statistics.stdev(differences) / math.sqrt(len(both)), len(both))


def sentence(row: str, baseline: str, found: Difference, in_paper: float | None) -> str:
    """One comparison in words: `holds here`, `does not hold here` or `noise`, as far as the paper has a number."""
    seeds = f"{found.seeds} seed{'' if found.seeds == 1 else 's'}"
    said = f"{row} against {baseline}: {found} AP ({seeds})"
    if in_paper is None:
        return f"{said}; the paper gives no number: {_without_paper(found)}"
    return f"{said}; {in_paper:+.1f} in the paper: {verdict(found, in_paper)}"


def verdict(found: Difference, in_paper: float) -> str:
    if found.half_width is None:
        return "one seed tells nothing"
    if not found.sign:
        return "noise, the interval holds 0"
    return "holds here" if found.sign * in_paper > 0 else "does not hold here"


def _without_paper(found: Difference) -> str:
    if found.half_width is None:
        return "one seed tells nothing"
    return ("worse", "noise, the interval holds 0", "better")[found.sign + 1]
