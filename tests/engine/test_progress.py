"""What is told where there is no terminal: plain lines, and a time left only once there is a speed to tell it from."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from foveal.engine import progress
from foveal.engine.progress import ConsoleReporter


def test_time_left_follows_the_speed_and_is_not_told_before_there_is_one(monkeypatch: pytest.MonkeyPatch):
    said = io.StringIO()
    reporter = ConsoleReporter(Console(file=said, width=200))
    for step, now in ((101, 1000.0), (102, 1002.0), (111, 1020.0), (1101, 3000.0)):
        monkeypatch.setattr(progress.time, "monotonic", lambda now=now: now)
        reporter.step(step, 1101, {"lr": 0.5})
    assert said.getvalue().splitlines() == [
        "step 101/1101  lr 0.5",
        "step 111/1101  lr 0.5  time left 33:00",
        "step 1101/1101  lr 0.5  time left 0:00",
    ]
