"""What a study is: rows that differ from one base config in the compared thing alone, at one of the scales.

The base is the same for all studies: SGD, the paper's step schedule, no averaged weights, no augmentation but a
horizontal flip where the data allow it, and the `image` normaliser, which is the paper's wording and what OHEM needs.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from foveal.config import Config, build_config, field_names
from foveal.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from foveal.engine.progress import Reporter
    from studies.runs import Finished, Outcome

Changes = Mapping[str, Any]
Results = Mapping[str, Mapping[int, "Outcome"]]
"""Outcomes by row and seed: those that are there."""
Further = Mapping[str, float | str]
"""What a run has beside AP and loss, by the name of its column."""

COMPARABLE = ("loss.", "anchors.", "assignment.", "model.prior")


class Method(Protocol):
    """A detector that is not Foveal's own. All its methods get the scale's name, since it may be smaller at `small`.

    Training keeps a run in `folder` as `foveal.train` does, and goes on from what is there: metrics.jsonl, checkpoints,
    and result.json with the steps at the end. After Ctrl-C it raises Interrupted; a loss that is not finite leaves
    non-finite-step-N.safetensors and raises TrainingError.
    """

    def key(self, scale: str) -> str:
        """What makes another run of it, besides the config, the labels and Foveal's code."""

    def train(
        self, data: Path, folder: Path, config: Config, scale: str, device: str, reporter: Reporter | None
    ) -> None: ...

    def score(self, data: Path, folder: Path, split: str, scale: str, device: str) -> Mapping[str, float | None]:
        """COCO's numbers of the last weights by their names, shares of 1."""


@dataclass(frozen=True)
class Row:
    """A line of a table: its name and how its config differs from the base, {"loss.gamma": 0.5}."""

    name: str
    changes: Changes
    only_at: str | None = None
    """The one scale that has this row; None where all have it."""
    method: Method | None = None
    """The detector, where it is not Foveal's own."""


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper whose rows are trained. `folder` has its paper.csv and gets its result.csv."""

    folder: Path
    title: str
    rows: tuple[Row, ...]
    baseline: str
    """The row that the others are compared with."""
    at_paper_scale: Changes = field(default_factory=dict)
    """What all rows have besides at the paper's scale, such as another backbone."""
    compares: tuple[str, ...] = COMPARABLE
    """How the settings begin that rows may change; all others are the same for all rows."""
    paper_baseline: str | None = None
    """The baseline at the paper's scale, where that has other rows."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Further comparisons: a row, and the row that it is held against."""
    extra: Callable[[Finished], Further] | None = None
    """Further columns of a run; what takes long to find is kept in the run's folder."""
    draw: Callable[[Study, Results], Figure] | None = None
    """The figure, where it is not the usual one."""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        assert len(set(names)) == len(names), f"{self.title}: two rows have one name"
        in_pairs = [name for pair in self.pairs for name in pair]
        for named in (self.baseline, self.paper_baseline or self.baseline, *in_pairs):
            assert named in names, f"{self.title}: no row is called {named}"
        for row in self.rows:
            unknown = [name for name in row.changes if name not in field_names()]
            assert not unknown, f"{self.title}: row {row.name} changes {unknown}, which are no settings"
            others = [name for name in row.changes if not name.startswith(self.compares)]
            assert not others, f"{self.title}: row {row.name} changes {others}, which would be the same for all rows"

    @property
    def name(self) -> str:
        return self.folder.name

    def chosen(self, names: Sequence[str] | None, scale: str | None = None) -> tuple[Row, ...]:
        """The rows of these names, in the study's order; all for None. `scale` leaves out those of another scale."""
        there = [row for row in self.rows if scale is None or row.only_at in (None, scale)]
        known = [row.name for row in there]
        unknown = [name for name in names or () if name not in known]
        if unknown:
            where = "" if scale is None else f" at the {scale} scale"
            raise UsageError(f"{self.name} has no row {unknown[0]!r}{where}: use some of {', '.join(map(repr, known))}")
        return tuple(row for row in there if names is None or row.name in names)

    def at(self, scale: str) -> Study:
        """The study with the baseline of a scale."""
        return replace(self, baseline=self.paper_baseline) if scale == "paper" and self.paper_baseline else self


@dataclass(frozen=True)
class Scale:
    """How large a study is run: the base config, the split that counts, and what a run is expected to take."""

    name: str
    base: Changes
    test_split: str
    minutes: float
    """Of one run; an expectation, until runs have finished."""
    because: str
    """Where that expectation comes from."""
    steps: int | None = None
    """Another length of all runs than the scale's own."""

    @property
    def label(self) -> str:
        """What results are filed under: `small`, or `small 3600 steps`."""
        return self.name if self.steps is None else f"{self.name} {self.steps} steps"

    def with_steps(self, steps: int) -> Scale:
        """The scale with runs of another length; milestones and warm-up are shares of it."""
        usual = build_config({}).with_changes(self.base).train.steps
        if steps == usual:
            return self
        length = {"train.steps": steps, "train.evaluate_every": steps}
        return replace(self, base={**self.base, **length}, minutes=self.minutes * steps / usual, steps=steps)

    def config(self, study: Study, row: Row, seed: int) -> Config:
        further = study.at_paper_scale if self.name == "paper" else {}
        base = build_config({}).with_changes(self.base)
        return base.with_changes(further).with_changes(row.changes).with_changes({"seed": seed})


@dataclass(frozen=True)
class PaperRow:
    """What the paper has for a row; None where it gives no number. A note says so in words."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    note: str = ""
    further: Mapping[str, float] = field(default_factory=dict)
    """Other numbers than AP, by the name of their column."""


def paper_rows(folder: Path) -> dict[str, PaperRow]:
    """paper.csv of a study's folder, by the names of its rows."""
    with (folder / "paper.csv").open(newline="", encoding="utf-8") as file:
        return {line["row"]: _paper_row(line) for line in csv.DictReader(file)}


def _paper_row(line: Mapping[str, str]) -> PaperRow:
    numbers = {name: _number(text) for name, text in line.items() if name not in ("row", "note")}
    ap, ap50, ap75 = (numbers.pop(name) for name in ("AP", "AP50", "AP75"))
    further = {name: number for name, number in numbers.items() if number is not None}
    return PaperRow(ap, ap50, ap75, line.get("note") or "", further)


def _number(text: str) -> float | None:
    return float(text) if text else None
