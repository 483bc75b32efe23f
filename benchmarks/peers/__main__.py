"""Foveal against torchvision on the same work, in turns: `python -m benchmarks.peers [--only loss matching]`.

Each side is a process of its own. Both run in the environment that has torchvision, so both have one build of torch;
with --own-environment Foveal runs in the one that this command runs in. Before a work is timed, the answers are
compared. `fresh` memory is what processes get by default: large blocks are mapped anew each time. With `reused` both
sides keep what was freed. In both torchvision has the faster of two memory layouts. `as run`, Foveal keeps freed
memory, as its commands do, and torchvision is as it comes, in its own layout. What ran replaces its rows in
results/peers.csv; a training step's parts go to results/parts.csv.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.common import replace_rows
from benchmarks.peers.agreement import RULES, DisagreementError
from benchmarks.peers.driver import ROOT, Contest, Worker, WorkerError, contest, prepared
from benchmarks.peers.works import AS_RUN, FRESH, GROUPS, QUICK, REUSED, WORKS, Work

OURS, THEIRS = "benchmarks.peers.foveal_side", "benchmarks.peers.torchvision_side"
PARTS = ("folding", "channels_last", "fast_loss", "fast_matching", "reused_memory")
PREPARE_S = 300.0


def main() -> int:
    chosen = _arguments()
    python = sys.executable if chosen.own_environment else chosen.peer_python
    pool = Pool(ours=python, theirs=chosen.peer_python, threads=chosen.threads)
    works = [work for work in WORKS if work.group in chosen.only]
    trained = [work for work in works if work.job == "training"]
    rows: list[dict[str, Any]] = []
    with pool:
        if chosen.parts:
            name, key = "parts", ["work", "part"]
            measured = (row for work in trained for row in parts_of(work, pool, chosen))
        else:
            name, key = "peers", ["work", "case", "memory"]
            measured = (compare(work, memory, pool, chosen) for work in works for memory in work.memory)
        for row in measured:
            rows.append(row)
            replace_rows(name, [row], key, quietly=True)  # whoever stops it keeps what is done
    if rows:
        replace_rows(name, rows, key)
    return 1 if any("times_faster" not in row for row in rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, default=list(QUICK), help="works (default: all but 608 px)"
    )
    parser.add_argument("--parts", action="store_true", help="a training step without one of its gains at a time")
    parser.add_argument("--peer-python", type=Path, default=ROOT / ".venv-peers" / "bin" / "python")
    parser.add_argument(
        "--own-environment", action="store_true", help="Foveal in its own environment, on its own torch"
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of a work at most")
    parser.add_argument("--limit", type=float, default=6.0, help="seconds after which a work begins no more rounds")
    parser.add_argument("--threads", type=int, default=0, help="of each side; default: torch's choice")
    chosen = parser.parse_args()
    if chosen.parts and not any(work.job == "training" for work in WORKS if work.group in chosen.only):
        parser.error("--parts is about training: leave --only out, or give it training_320 or training_608")
    if not chosen.peer_python.exists():
        parser.error(
            f"{chosen.peer_python} is not there: run `make bench-peers`, or name a Python that has torchvision"
        )
    return chosen


class Pool:
    """The workers, started when they are first wanted and again when one has ended."""

    def __init__(self, ours: Path | str, theirs: Path | str, threads: int, sides: tuple[str, str] = (OURS, THEIRS)):
        self.pythons = dict(zip(sides, (ours, theirs), strict=True))
        self.threads, self.sides = threads, sides
        self.workers: dict[tuple[str, str, int], Worker] = {}
        self.abouts: dict[str, dict[str, Any]] = {}
        self._stack = ExitStack()

    def worker(self, module: str, memory: str, number: int = 0) -> Worker:
        """The living worker of a side; `number` tells apart two of one side."""
        key = (module, memory, number)
        worker = self.workers.get(key)
        if worker is None or worker.process.poll() is not None:
            name = module.rsplit(".", 1)[-1].removesuffix("_side")
            worker = self._stack.enter_context(Worker(name, self.pythons[module], module, memory == REUSED))
            self.workers[key] = worker
            self.abouts[module] = worker.ask("about", 120.0, threads=self.threads)
        return worker

    def both(self, memory: str) -> tuple[Worker, Worker]:
        """Ours and theirs."""
        ours, theirs = (REUSED, FRESH) if memory == AS_RUN else (memory, memory)
        return self.worker(self.sides[0], ours), self.worker(self.sides[1], theirs)

    def about(self) -> dict[str, Any]:
        """Columns of a row: the threads of each side, and what both run on."""
        about = [self.abouts[side] for side in self.sides if side in self.abouts]
        return (
            {"threads": about[0]["threads"], "versions": "; ".join(one["versions"] for one in about)} if about else {}
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def compare(work: Work, memory: str, pool: Pool, chosen: argparse.Namespace) -> dict[str, Any]:
    """The row of a work: whether the answers agree, then how long each side takes, then how much memory."""
    row: dict[str, Any] = {"work": work.group, "case": work.case, "memory": memory}
    settings = work.settings | ({"as_it_comes": True} if memory == AS_RUN else {})
    try:
        workers = pool.both(memory)
        with tempfile.TemporaryDirectory() as folder:
            theirs, ours = prepared(workers[::-1], work.job, {**settings, "folder": folder}, PREPARE_S)
        row["agreement"] = RULES[work.job](ours["answer"], theirs["answer"])
        row |= _timed(contest(*workers, rounds=chosen.rounds, limit_s=chosen.limit), "ours", "peer")
        if memory == FRESH:
            # What times were taken in would be slower from here on. So each side is another process, anew.
            others = [pool.worker(side, FRESH, number=2) for side in pool.sides]
            with tempfile.TemporaryDirectory() as folder:
                prepared(others[::-1], work.job, {**settings, "folder": folder}, PREPARE_S)
            peaks = [round(other.ask("peak", PREPARE_S)["bytes"] / 1e6, 1) for other in others]
            row |= {"ours_MB": peaks[0], "peer_MB": peaks[1]}
        row |= {"ours_note": ours["note"], "peer_note": theirs["note"]}
    except (WorkerError, DisagreementError) as error:
        row["agreement"] = f"{type(error).__name__}: {error}"
    _tell(row)
    return row | pool.about()


def parts_of(work: Work, pool: Pool, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each gain: Foveal's training step as it is, in turns with one that lacks the gain."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {**work.settings, "folder": folder}
        prepared([pool.worker(THEIRS, REUSED)], work.job, settings, PREPARE_S)  # for its weights
        for part in PARTS:
            row: dict[str, Any] = {"work": work.case, "part": part}
            lacks_memory = part == "reused_memory"
            try:
                whole = pool.worker(OURS, REUSED)
                lacking = pool.worker(OURS, FRESH if lacks_memory else REUSED, 1)
                prepared([whole], work.job, settings, PREPARE_S)
                prepared([lacking], work.job, settings | ({} if lacks_memory else {"without": part}), PREPARE_S)
                row |= _timed(contest(whole, lacking, chosen.rounds, chosen.limit), "with", "without")
            except WorkerError as error:
                row["note"] = str(error)
            _tell(row)
            yield row | pool.about()


def _timed(result: Contest, first: str, second: str) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, timing in zip((first, second), result.timings, strict=True):
        columns |= {f"{name}_{key}": value for key, value in timing.per(1).items() if key != "runs"}
    ratio = result.ratio
    columns |= {"times_faster": round(ratio.median_s, 2), "times_faster_min": round(ratio.min_s, 2)}
    return columns | {"times_faster_max": round(ratio.max_s, 2), "rounds": ratio.runs}


def _tell(row: dict[str, Any]) -> None:
    """A line for the one who waits."""
    said = " ".join(str(row[key]) for key in ("work", "case", "memory", "part") if key in row)
    outcome = f"{row['times_faster']} times faster" if "times_faster" in row else "not timed"
    print(f"{said}: {outcome} ({row.get('agreement', row.get('note', ''))})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
