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


def test_counting_is_told_every_half_minute_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    said = io.StringIO()
    reporter = ConsoleReporter(Console(file=said, width=200))
    for done, now in ((8, 1000.0), (16, 1010.0), (40, 1035.0), (48, 1040.0), (80, 1090.0), (100, 1100.0)):
        monkeypatch.setattr(progress.time, "monotonic", lambda now=now: now)
        reporter.counted("evaluating", done, 100)
    for done, now in ((1, 2000.0), (9, 2031.0)):  # how many there are is not known
        monkeypatch.setattr(progress.time, "monotonic", lambda now=now: now)
        reporter.counted("predicting", done, 0)
    assert said.getvalue().splitlines() == [
        "evaluating 40/100  time left 1:06",
        "evaluating 80/100  time left 0:25",
        "predicting 9",
    ]
