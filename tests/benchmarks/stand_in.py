"""A side of a comparison that needs no torchvision: jobs that count, sleep, print, fail and die."""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.peers.worker import Job


def versions() -> str:
    return "stand-in 1"


def _sleeping(settings: dict[str, Any]) -> Job:
    def run() -> None:
        print("what a library prints")
        time.sleep(settings["seconds"])

    return Job(run, lambda: {"kept": [1, 2, 3]}, "asleep")


def _failing(settings: dict[str, Any]) -> Job:
    raise ValueError("no such shape")


def _dying(settings: dict[str, Any]) -> Job:
    os._exit(3)


def _as_it_comes(settings: dict[str, Any]) -> Job:
    return Job(lambda: None, lambda: {"kept": []}, str(settings.get("as_it_comes", False)))


def _environment(settings: dict[str, Any]) -> Job:
    return Job(lambda: None, lambda: {"kept": [], "mmap_max": os.environ.get("MALLOC_MMAP_MAX_")})


JOBS = {"nms": _sleeping, "fail": _failing, "die": _dying, "as it comes": _as_it_comes, "environment": _environment}
