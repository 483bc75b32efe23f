"""What an evaluation says: the numbers, as one JSON object for programs and as tables of 80 columns for people.

A number that does not exist (AP of a class without objects, precision without detections) is None, null in JSON and
"-" in tables, and is left out of every mean.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from foveal.engine.metrics import Counts
from foveal.wording import counted

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRIC_NAMES = {"coco": "COCO", "voc07": "VOC 2007 (11 points)", "voc12": "VOC 2012 (every point)"}
COLUMNS = 80
BACKGROUND = "background"
WIDEST_MATRIX = 6
MIX_UPS = 5


@dataclass(frozen=True)
class ClassEvaluation:
    """One class: its AP, in how many pictures it has how many objects, and what the threshold makes of it."""

    ap: float | None
    ap50: float | None
    images: int
    objects: int
    counts: Counts
    recommended_threshold: float | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "AP": self.ap,
            "AP50": self.ap50,
            "images": self.images,
            "objects": self.objects,
            **_rates(self.counts),
            "recommended_threshold": self.recommended_threshold,
        }


@dataclass(frozen=True)
class Evaluation:
    """Detections held against the truth; `print` it, or take `as_dict()`.

    metric: coco, voc07 or voc12. numbers: the names of NUMBERS, 0 .. 1; a VOC metric has AP (= AP50) and AP75 alone.
    threshold: detections with at least this score make `counts`, the classes' counts and `confusion`, all at IoU .5;
    threshold_from says where it comes from.
    recommended_threshold: where F1 over all classes together is best, recommended_f1, ON THESE pictures; None if
        nothing was found.
        Take it from validation pictures, never from those whose precision and recall are reported.
    curve: counts for a series of thresholds. confusion: [K+1, K+1] as `metrics.confusion_matrix` has it.
    images, objects, ignored, detections: how many of each there were. notes: sentences that a reader must know.
    """

    metric: str
    numbers: dict[str, float | None]
    per_class: dict[str, ClassEvaluation]
    threshold: float
    threshold_from: str
    counts: Counts
    recommended_threshold: float | None
    recommended_f1: float | None
    curve: dict[float, Counts]
    confusion: np.ndarray
    images: int
    objects: int
    ignored: int
    detections: int
    notes: tuple[str, ...] = ()

    @property
    def ap(self) -> float | None:
        return self.numbers["AP"]

    @property
    def ap50(self) -> float | None:
        return self.numbers["AP50"]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl, threshold, per_class, ...; no NaN."""
        return {
            **{name: self.numbers[name] for name in NUMBERS},
            "metric": self.metric,
            "threshold": self.threshold,
            "threshold_from": self.threshold_from,
            **_rates(self.counts),
            "recommended_threshold": self.recommended_threshold,
            "recommended_f1": self.recommended_f1,
            "per_class": {name: one.as_dict() for name, one in self.per_class.items()},
            "curve": [{"threshold": at, **_rates(counts)} for at, counts in self.curve.items()],
            "confusion": {"classes": [*self.per_class, BACKGROUND], "matrix": self.confusion.tolist()},
            "images": self.images,
            "objects": self.objects,
            "ignored": self.ignored,
            "detections": self.detections,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The tables, for people, at most 80 columns wide; AP, precision and the like in percent."""
        parts: list[Table | Text] = [Text(f"note: {note}") for note in self.notes]
        parts += [Text(self._head()), self._numbers_table(), self._class_table(), Text(self._threshold_lines() + "\n")]
        console = Console(file=io.StringIO(), width=COLUMNS, color_system=None, legacy_windows=False)
        for part in (*parts, *self._confusion_parts()):
            console.print(part)
            if isinstance(part, Table):
                console.print()
        text = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n")

    def __str__(self) -> str:
        return self.table()

    def _head(self) -> str:
        ignored = f" (and {self.ignored:,} to ignore)" if self.ignored else ""
        return (
            f"{METRIC_NAMES[self.metric]}: {counted(self.images, 'picture')}, "
            f"{counted(self.objects, 'object')}{ignored}, {counted(self.detections, 'detection')}"
        )

    def _numbers_table(self) -> Table:
        known = [name for name in NUMBERS if self.metric == "coco" or self.numbers[name] is not None]
        grid = _grid(known, left=0, gap=0)
        grid.add_row(*[_percent(self.numbers[name]) for name in known])
        return grid

    def _class_table(self) -> Table:
        grid = _grid(["class", "pictures", "objects", "AP", "AP50", "precision", "recall", "F1"])
        for name, one in self.per_class.items():
            rates = [one.ap, one.ap50, one.counts.precision, one.counts.recall, one.counts.f1]
            grid.add_row(Text(name), f"{one.images:,}", f"{one.objects:,}", *map(_percent, rates))
        together = [self.ap, self.ap50, self.counts.precision, self.counts.recall, self.counts.f1]
        grid.add_section()
        grid.add_row("all", f"{self.images:,}", f"{self.objects:,}", *map(_percent, together))
        return grid

    def _threshold_lines(self) -> str:
        lines = f"precision, recall, F1: IoU .5, score at least {self.threshold:.3g} ({self.threshold_from})"
        if self.recommended_threshold is not None:
            lines += (
                f"\nbest F1 on these pictures: {_percent(self.recommended_f1)} "
                f"at score {self.recommended_threshold:.3g}"
            )
        return lines

    def _confusion_parts(self) -> list[Table | Text]:
        if len(self.per_class) <= WIDEST_MATRIX:
            return [Text("true class (row) and what it was detected as (column)"), self._confusion_table()]
        mix_ups = self._mix_ups_table()
        if mix_ups.row_count:
            return [Text("most often taken for another class"), mix_ups]
        return [Text("no class was taken for another")]

    def _confusion_table(self) -> Table:
        names = [*self.per_class, BACKGROUND]
        grid = _grid(["", *names])
        for name, row in zip(names, self.confusion.tolist(), strict=True):
            cells = [f"{count:,}" for count in row]
            grid.add_row(Text(name), *(cells if name != BACKGROUND else [*cells[:-1], ""]))
        return grid

    def _mix_ups_table(self) -> Table:
        K = len(self.per_class)
        between = self.confusion[:K, :K] * (1 - np.eye(K, dtype=np.int64))
        top = np.argsort(-between, axis=None, kind="stable")[:MIX_UPS]
        names = list(self.per_class)
        grid = _grid(["true class", "detected as", "times"], left=2)
        for true, detected in (divmod(int(place), K) for place in top):
            if between[true, detected]:
                grid.add_row(Text(names[true]), Text(names[detected]), f"{between[true, detected]:,}")
        return grid


def _rates(counts: Counts) -> dict[str, float | int | None]:
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "true": counts.true,
        "false": counts.false,
        "missed": counts.missed,
    }


def _grid(columns: Sequence[str], left: int = 1, gap: int = 1) -> Table:
    """An empty table whose first `left` columns hold text; the others hold numbers, which stand to the right."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap))
    for place, name in enumerate(columns):
        is_text = place < left
        grid.add_column(Text(name), justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis")
    return grid


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
