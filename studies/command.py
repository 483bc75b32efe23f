"""`python -m studies.NAME`: trains what is missing, scores it, and puts the paper's numbers beside ours."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from foveal.config import Config
from foveal.engine.progress import ConsoleReporter, Reporter
from foveal.errors import FovealError, Interrupted, UsageError
from studies.drawing import save
from studies.keys import code_key, run_key
from studies.locks import alone, if_free
from studies.readme import write_measured
from studies.report import figure, further_table, sentences, table
from studies.results import different_code, figure_file, line_of, outcomes_in, write_results
from studies.runs import Finished, Outcome, expected_minutes, finish, read_outcome
from studies.scales import Data, scale_and_data
from studies.study import Further, Row, Scale, Study, paper_rows

RUNS = Path("runs/studies")
POLL_S = 2.0
"""Between two looks at the runs that another process is training."""

Act = Callable[["Plan", Sequence[str] | None, str], object]
"""What a command does with a plan, the names of its rows and a device."""


def main(
    study: Study, arguments: Sequence[str] | None = None, act: Act | None = None, usual: Sequence[str] | None = None
) -> int:
    """The command; returns its exit code. `act` stands in for `run`, `usual` for all rows where none are named."""
    chosen = parser(study).parse_args(arguments)
    names = chosen.rows or usual
    try:
        for part in (chosen.runs, *chosen.runs.parents):
            if part.is_file():
                raise UsageError(f"{part}: is a file; give a folder with --runs")
        scale, data = scale_and_data(chosen.scale, chosen.data, chosen.runs)
        scale = scale if chosen.steps is None else scale.with_steps(chosen.steps)
        plan = Plan(study.at(scale.name), scale, data, chosen.runs, chosen.seeds).told_apart()
        if chosen.dry_run:
            Console(soft_wrap=True).print(missing(plan, names), markup=False, highlight=False)
        else:
            (act or run)(plan, names, chosen.device)
    except FovealError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def draw(name: str, about: str, steps: Sequence[Callable[[], object]], arguments: Sequence[str] | None = None) -> int:
    """The command of a study that trains nothing: takes no flag but --help, draws, and returns its exit code."""
    made = argparse.ArgumentParser(prog=f"python -m studies.{name}", description=about)
    made.parse_args(arguments)
    for step in steps:
        step()
    return 0


def parser(study: Study) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m studies.{study.name}",
        description=study.title,
        epilog="\n".join(["rows:", *(f'  "{row.name}"' for row in study.rows)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--data", type=Path, help="a data set; the small scale draws its own where none is given")
    made.add_argument("--scale", choices=("small", "paper"), default="small", help="minutes on a CPU, or the paper's")
    made.add_argument("--steps", type=_count, help="of each run, where not the scale's own; told apart in results")
    made.add_argument("--seeds", type=_count, default=3, help="runs of each row, with seeds 0, 1, ... (default 3)")
    made.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows, each in quotes; all are listed below")
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

    def told_apart(self) -> Plan:
        """The plan with a folder's data named by its labels too: two folders called `cells` are two data sets."""
        if self.data.scenes is not None:
            return self
        return replace(self, data=replace(self.data, name=f"{self.data.name} {self.labels[:6]}"))

    def work(self, names: Sequence[str] | None = None) -> list[Work]:
        """All runs of these rows at this scale, finished or not: one seed of every row comes before the next seed."""
        rows = self.study.chosen(names, self.scale.name)
        found = []
        for seed in range(self.seeds):
            for row in rows:
                config = self.scale.config(self.study, row, seed)
                method = row.method.key(self.scale.name) if row.method else ""
                found.append(Work(row, seed, config, self.runs / run_key(config, self.labels, method=method)))
        return found

    def finished(self, device: str = "auto") -> list[Finished]:
        """The runs of all rows that are done."""
        outcomes = ((item, read_outcome(item.folder)) for item in self.work())
        return [self.done(item, outcome, device) for item, outcome in outcomes if outcome]

    def done(self, item: Work, outcome: Outcome, device: str) -> Finished:
        where = (item.folder, self.data.folder, self.scale.test_split, device)
        # The folder's name is made of today's code, also where an older version wrote no code into the outcome.
        return Finished(item.row.name, replace(outcome, code=code_key()), item.config, *where)

    def kept(self) -> dict[str, dict[int, Outcome]]:
        """What result.csv has at this scale on these data, by row and seed; older code's runs too."""
        found: dict[str, dict[int, Outcome]] = {}
        for row, outcome in outcomes_in(self.study.folder / "result.csv"):
            if (outcome.scale, outcome.data) == (self.scale.label, self.data.name):
                found.setdefault(row, {})[outcome.seed] = outcome
        return found

    @functools.cached_property
    def labels(self) -> str:
        """The fingerprint of the splits that are learnt from and scored; COCO's takes seconds to read."""
        first = self.scale.config(self.study, self.study.chosen(None, self.scale.name)[0], 0)
        return self.data.fingerprint([first.data.train_split, self.scale.test_split])


def missing(plan: Plan, names: Sequence[str] | None = None) -> str:
    """What would be trained, and about how long that takes."""
    work = plan.work(names)
    left = [item for item in work if read_outcome(item.folder) is None]
    minutes, because = expected_minutes(plan.runs, plan.scale, plan.data)
    where = f"at scale {plan.scale.label} on {plan.data.name}"
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
    """Finishes the runs of these rows; result.csv grows with each. Reports on all that it has at this scale.

    Returns the finished runs of today's code: what result.csv has of older code is shown too.
    """
    console, study = console or Console(), plan.study
    finish_all(plan, names, device, reporter, lambda done: _record(plan, [done]))
    everything = plan.finished(device)
    further, paper = _record(plan, everything), paper_rows(study.folder)
    results = plan.kept()
    console.print(table(study, results, paper))
    if more := further_table(study, further, paper):
        console.print(more)
    code = different_code(outcome.code for by_seed in results.values() for outcome in by_seed.values())
    for said in (*sentences(study, results, paper), code):
        if said:
            console.print(said, markup=False, highlight=False)
    drawn = study.draw(study, results) if study.draw else figure(study, results, paper)
    file = save(drawn, figure_file(study.folder, plan.scale.label, plan.data.name))
    write_measured(study)
    console.print(
        f"{study.folder / 'result.csv'}, {file.name} and what README.md says of them",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return by_row(everything)


def finish_all(
    plan: Plan,
    names: Sequence[str] | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    then: Callable[[Finished], object] | None = None,
) -> None:
    """Finishes the runs of these rows; `then` is called with each as soon as it is done.

    A run that another process is training is left alone until all others are done. Then it is waited for, and taken up
    if the other stops without finishing it.
    """
    reporter, work = reporter or ConsoleReporter(), plan.work(names)
    waiting, told = list(enumerate(work, start=1)), 0
    while waiting:
        held = []
        for number, item in waiting:
            with if_free(item.folder) as free:
                if not free and read_outcome(item.folder) is None:
                    held.append((number, item))
                    continue
                about = f"{item.row.name}, seed {item.seed}, in {item.folder}"
                reporter.say(f"{plan.study.name} {number}/{len(work)}: {about}")
                outcome = finish(item.config, plan.scale, plan.data, item.folder, device, reporter, item.row.method)
            if then:
                then(plan.done(item, outcome, device))
        if held:
            if len(held) != told:
                reporter.say(f"another process is training {len(held)} of these runs; waiting for it")
            _pause()
        waiting, told = held, len(held)


def by_row(runs: Sequence[Finished]) -> dict[str, dict[int, Outcome]]:
    results: dict[str, dict[int, Outcome]] = {}
    for done in runs:
        results.setdefault(done.row, {})[done.outcome.seed] = done.outcome
    return results


def further_of(study: Study, done: Finished) -> Further:
    """A run's further columns. One process at a time finds them, since it keeps them in the run's folder."""
    if study.extra is None:
        return {}
    with alone(done.folder):
        return study.extra(done)


def _record(plan: Plan, runs: Sequence[Finished]) -> dict[str, list[Further]]:
    """Puts runs into result.csv; returns their further columns by row."""
    found: dict[str, list[Further]] = {}
    lines = []
    for done in runs:
        further = further_of(plan.study, done)
        found.setdefault(done.row, []).append(further)
        lines.append(line_of(done.row, done.outcome, further))
    write_results(plan.study.folder / "result.csv", lines, [row.name for row in plan.study.rows])
    return found


def _pause() -> None:
    try:
        time.sleep(POLL_S)
    except KeyboardInterrupt:
        raise Interrupted("stopped while another process was training; the same command goes on") from None


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number: give 1 or more") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: give 1 or more")
    return number
