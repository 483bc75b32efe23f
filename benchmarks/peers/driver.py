"""Two processes that live side by side and work in turns, so that whatever else the machine does falls on both.

Only numbers go between them and this process. Nothing here needs torch.
"""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.common import Timing

ROOT = Path(__file__).resolve().parents[2]

# glibc's switches: no block is mapped afresh, and nothing that was freed goes back to the system.
REUSED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
QUIET_PROFILER = {"KINETO_LOG_LEVEL": "9"}
"""torch's profiler tells of every start and stop otherwise."""
LEAST_ROUNDS = 3
ROUND_S = 0.02
"""Work shorter than this is repeated within a round, so that a round is more than a pipe's delay."""
MOST_RUNS = 200


class WorkerError(Exception):
    """A worker died, said that it failed, or did not answer in time."""


class Worker:
    """A process of `benchmarks.peers.worker`, asked by `ask`; a context that ends it.

    python: the interpreter, whose environment has what `module` needs. reused: freed memory stays with the process.
    """

    def __init__(self, name: str, python: Path | str, module: str, reused: bool = False):
        self.name = name
        paths = [str(ROOT / "src"), str(ROOT)]
        environment = {key: value for key, value in os.environ.items() if key not in REUSED_MEMORY}
        self.process = subprocess.Popen(
            [str(python), "-m", "benchmarks.peers.worker", module],
            cwd=ROOT,
            env=QUIET_PROFILER
            | environment
            | {"PYTHONPATH": os.pathsep.join(paths)}
            | (REUSED_MEMORY if reused else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._unread = b""

    def ask(self, do: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """The answer to one request; WorkerError, and the process has ended, if there is none in time."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = json.loads(self._line(do, timeout_s))
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, do: str, timeout_s: float) -> bytes:
        assert self.process.stdout is not None
        until = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                self.close()
                raise WorkerError(f"{self.name}: no answer to {do!r} within {timeout_s:g} s")
            some = os.read(self.process.stdout.fileno(), 2**16)
            if not some:
                raise self._ended()
            self._unread += some
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _ended(self) -> WorkerError:
        self.close()
        return WorkerError(f"{self.name}: its process ended with code {self.process.returncode}; see what it printed")


@dataclass(frozen=True)
class Contest:
    """What alternating rounds of two workers gave, in the workers' order.

    timings: of one run. ratio: second over first, so how many times faster the first is, a number a round.
    """

    timings: tuple[Timing, Timing]
    ratio: Timing


def contest(first: Worker, second: Worker, rounds: int, limit_s: float) -> Contest:
    """Runs the prepared jobs in turns: after a round that does not count at most `rounds`, at least three.

    Past `limit_s` no further round is begun. Each round starts with the other side, and each side repeats its
    work within a round until that takes 20 ms. A round's time is the median of its runs.
    """
    workers, timeout = (first, second), max(60.0, 4 * limit_s)
    began = time.monotonic()
    runs = [_runs_in_a_round(worker.ask("round", timeout, runs=1)["seconds"][0]) for worker in workers]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.monotonic() - began > limit_s:
            break
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            answer = workers[index].ask("round", timeout, runs=runs[index])
            seconds[index].append(statistics.median(answer["seconds"]))
    ratios = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
    return Contest((_timing(seconds[0]), _timing(seconds[1])), _timing(ratios))


def prepared(
    workers: Sequence[Worker], job: str, settings: Mapping[str, Any], timeout_s: float
) -> list[dict[str, Any]]:
    """Each worker's answer to the job, one after the other: the first may leave files for the next."""
    return [worker.ask("prepare", timeout_s, job=job, settings=dict(settings)) for worker in workers]


def _runs_in_a_round(seconds: float) -> int:
    return min(MOST_RUNS, max(1, round(ROUND_S / max(seconds, 1e-9))))


def _timing(seconds: Sequence[float]) -> Timing:
    return Timing(statistics.median(seconds), min(seconds), max(seconds), len(seconds))
