"""The other side: the same answers, later."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.worker import Job
from tests.benchmarks import stand_in


def versions() -> str:
    return "slow stand-in 2"


def _sleeping(settings: dict[str, Any]) -> Job:
    return stand_in.JOBS["nms"](settings | {"seconds": 3 * settings["seconds"]})


JOBS = {**stand_in.JOBS, "nms": _sleeping}
