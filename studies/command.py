"""`python -m studies.NAME`: trains what is missing, scores it, and puts the paper's numbers beside ours."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from foveal.config import Config
from foveal.engine.progress import ConsoleReporter, Reporter
from foveal.errors import FovealError
from studies.drawing import save
from studies.keys import run_key
from studies.readme import write_measured
from studies.report import figure, sentences, table
from studies.results import line_of, write_results
from studies.runs import Outcome, expected_minutes, finish, read_outcome
from studies.scales import Data, scale_and_data
from studies.study import Row, Scale, Study, paper_rows

RUNS = Path("runs/studies")


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    chosen = parser(study).parse_args(arguments)
    try:
        scale, data = scale_and_data(chosen.scale, chosen.data, chosen.runs)
        plan = Plan(study, scale, data, chosen.runs, chosen.seeds)
        if chosen.dry_run:
            Console(soft_wrap=True).print(missing(plan, chosen.rows), markup=False, highlight=False)
        else:
            run(plan, chosen.rows, chosen.device)
    except FovealError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def parser(study: Study) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"python -m studies.{study.name}", description=study.title)
    made.add_argument("--data", type=Path, help="a data set; the small scale draws its own where none is given")
    made.add_argument("--scale", choices=("small", "paper"), default="small", help="minutes on a CPU, or the paper's")
    made.add_argument("--seeds", type=_count, default=3, help="runs of each row, with seeds 0, 1, ... (default 3)")
    made.add_argument("--rows", nargs="+", metavar="NAME", help=f"some of: {', '.join(r.name for r in study.rows)}")
    made.add_argument("--dry-run", action="store_true", help="say what would be trained, and for how long")
    made.add_argument("--runs", type=Path, default=RUNS, help=f"where runs are kept and looked for (default {RUNS})")
    made.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes a GPU if there is one")
    return made


@dataclass(frozen=True)
class Work:
    """A row with a seed, and the folder that its run has or will have."""

    row: Row
    seed: int
    config: Config
    folder: Path


@dataclass(frozen=True)
class Plan:
    """A study at a scale on a data set, with seeds 0 to `seeds` - 1; runs lie in `runs`."""

    study: Study
    scale: Scale
    data: Data
    runs: Path
    seeds: int

    def work(self, names: Sequence[str] | None = None) -> list[Work]:
        """All runs of these rows, finished or not: one seed of every row comes before the next seed."""
        rows = self.study.chosen(names)
        found = []
        for seed in range(self.seeds):
            for row in rows:
                config = self.scale.config(self.study, row, seed)
                method = row.method.key(self.scale.name) if row.method else ""
                found.append(Work(row, seed, config, self.runs / run_key(config, self.labels, method=method)))
        return found

    @functools.cached_property
    def labels(self) -> str:
        """The fingerprint of the splits that are learnt from and scored; COCO's takes seconds to read."""
        first = self.scale.config(self.study, self.study.rows[0], 0)
        return self.data.fingerprint([first.data.train_split, self.scale.test_split])


def missing(plan: Plan, names: Sequence[str] | None = None) -> str:
    """What would be trained, and about how long that takes."""
    work = plan.work(names)
    left = [item for item in work if read_outcome(item.folder) is None]
    minutes, because = expected_minutes(plan.runs, plan.scale, plan.data)
    where = f"at scale {plan.scale.name} on {plan.data.name}"
    lines = [f"{plan.study.title}: {len(left)} of {len(work)} runs are missing {where}"]
    for item in left:
        begun = ", begun" if (item.folder / "checkpoints").exists() else ""
        lines.append(f"  {item.row.name}, seed {item.seed}: {item.folder}{begun}")
    if left:
        lines.append(f"about {len(left) * minutes / 60:.1f} hours: {minutes:.1f} minutes a run, {because}")
    return "\n".join(lines)


def run(
    plan: Plan,
    names: Sequence[str] | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    console: Console | None = None,
) -> dict[str, dict[int, Outcome]]:
    """Finishes the runs of these rows; result.csv grows with each. Reports on all rows that have finished."""
    reporter, console = reporter or ConsoleReporter(), console or Console()
    study, work = plan.study, plan.work(names)
    for number, item in enumerate(work, start=1):
        reporter.say(f"{study.name} {number}/{len(work)}: {item.row.name}, seed {item.seed}, in {item.folder}")
        finish(item.config, plan.scale, plan.data, item.folder, device, reporter, item.row.method)
        _record(plan, [item])
    everything = plan.work()
    _record(plan, everything)
    results = _finished(everything)
    paper = paper_rows(study.folder)
    console.print(table(study, results, paper))
    for said in sentences(study, results, paper):
        console.print(said, markup=False, highlight=False)
    drawn = study.draw(study, results) if study.draw else figure(study, results, paper)
    save(drawn, study.folder / "figure.png")
    write_measured(study)
    console.print(
        f"{study.folder / 'result.csv'}, figure.png and what README.md says of them",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return results


def _finished(work: Sequence[Work]) -> dict[str, dict[int, Outcome]]:
    results: dict[str, dict[int, Outcome]] = {}
    for item in work:
        if outcome := read_outcome(item.folder):
            results.setdefault(item.row.name, {})[item.seed] = outcome
    return results


def _record(plan: Plan, work: Sequence[Work]) -> None:
    """Puts what has finished into result.csv."""
    study = plan.study
    lines = []
    for item in work:
        if outcome := read_outcome(item.folder):
            extra = study.extra(item.config, plan.data.folder, item.folder) if study.extra else {}
            lines.append(line_of(item.row.name, outcome, extra))
    write_results(study.folder / "result.csv", lines, [row.name for row in study.rows])


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} seeds: give 1 or more")
    return number
