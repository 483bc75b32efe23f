"""One side's process: it prepares a job, runs it when it is told to, and answers with numbers.

    python -m benchmarks.peers.worker MODULE

MODULE has `JOBS`, functions by name from settings to a `Job`, and `versions()`. Requests come as JSON lines on standard
input, answers go as JSON lines to what was standard output; whatever the libraries print goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """run: the work that is timed. answer: its result as JSON, to be compared. note: how it is done, if it matters."""

    run: Callable[[], Any]
    answer: Callable[[], Numbers]
    note: str = ""


class Side:
    """What a worker knows between two requests: the prepared job, if any."""

    def __init__(self, jobs: dict[str, Callable[[Numbers], Job]], versions: Callable[[], str]):
        self.jobs, self.versions = jobs, versions
        self.job: Job | None = None

    def about(self, threads: int) -> Numbers:
        """Sets the threads, 0 for torch's own choice; says what runs here."""
        torch = sys.modules.get("torch")  # there, if the side's module works with it
        if torch and threads:
            torch.set_num_threads(threads)
        return {"versions": self.versions(), "threads": torch.get_num_threads() if torch else 1}

    def prepare(self, job: str, settings: Numbers) -> Numbers:
        """Makes the inputs and does the work once, for its answer."""
        self.job = None
        gc.collect()
        self.job = self.jobs[job](settings)
        return {"answer": self.job.answer(), "note": self.job.note}

    def round(self, runs: int) -> Numbers:
        """Seconds of each of some runs."""
        assert self.job is not None
        seconds = []
        for _ in range(runs):
            began = time.perf_counter()
            result = self.job.run()
            seconds.append(time.perf_counter() - began)
            del result
        return {"seconds": seconds}

    def peak(self) -> Numbers:
        """Bytes at the peak of one run, above what was there; from here on the process gives freed memory back."""
        from benchmarks.memory import give_freed_memory_back, whole_peak_bytes

        assert self.job is not None
        give_freed_memory_back()
        return {"bytes": whole_peak_bytes(self.job.run)}


def serve(side: Side, requests: TextIO, answers: TextIO) -> None:
    """Answers request after request until there are no more; an exception is an answer too."""
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(side, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library's print must not stand between the answers
    module = importlib.import_module(sys.argv[1])
    serve(Side(module.JOBS, module.versions), sys.stdin, answers)


if __name__ == "__main__":
    main()
