"""What a person sees while something runs: a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_LINE_EVERY_S = 15.0
COUNTED_EVERY_S = 30.0


class Reporter(Protocol):
    """Where the engine says what it does."""

    def say(self, text: str) -> None:
        """A line for the person."""

    def step(self, step: int, total: int, numbers: dict[str, float]) -> None:
        """One optimiser step is done; `numbers` holds loss parts, lr and images_per_s."""

    def counted(self, what: str, done: int, total: int) -> None:
        """`done` of `total` of something (pictures evaluated, files read) are done."""


class Silent:
    """Says nothing: worker ranks and tests."""

    def say(self, text: str) -> None: ...

    def step(self, step: int, total: int, numbers: dict[str, float]) -> None: ...

    def counted(self, what: str, done: int, total: int) -> None: ...


@dataclass
class _Count:
    """How far something is that is counted, where it stood when first heard of, and when a line was said of it."""

    begun_with: int
    begun_at: float
    done: int
    said_at: float


class ConsoleReporter:
    """A progress bar on standard error if that is a terminal, else plain lines.

    A line every 15 seconds tells of steps, one every 30 of what is counted.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._bar: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._said_at = 0.0
        self._first_step: tuple[int, float] | None = None
        self._counted: dict[str, _Count] = {}

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def step(self, step: int, total: int, numbers: dict[str, float]) -> None:
        words = "  ".join(f"{name} {_short(value)}" for name, value in numbers.items())
        if self._bar is not None:
            self._advance("training", step, total, words)
            return
        now = time.monotonic()
        if self._first_step is None or self._first_step[0] >= step:
            self._first_step = (step, now)
        if now - self._said_at >= PLAIN_LINE_EVERY_S or step == total:
            begun_step, begun_at = self._first_step
            if step > begun_step:
                left_s = (total - step) * (now - begun_at) / (step - begun_step)
                words += f"  time left {_duration(left_s)}"
            self._said_at = now
            self.say(f"step {step}/{total}  {words}")

    def counted(self, what: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._advance(what, done, total, "")
            if 0 < total <= done:  # 0: how many there will be is not known
                self._bar.update(self._tasks[what], visible=False)
            return
        now = time.monotonic()
        count = self._counted.get(what)
        if count is None or done < count.done:  # another evaluation begins
            self._counted[what] = _Count(done, now, done, now)
            return
        count.done = done
        if now - count.said_at < COUNTED_EVERY_S:
            return
        count.said_at = now
        left = ""
        if total and done > count.begun_with:
            left_s = (total - done) * (now - count.begun_at) / (done - count.begun_with)
            left = f"/{total}  time left {_duration(left_s)}"
        self.say(f"{what} {done}{left}")

    @contextmanager
    def live(self) -> Iterator[ConsoleReporter]:
        """Shows bars inside the block when there is a terminal to show them on."""
        if not self.console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, speed_estimate_period=120) as bar:
            self._bar = bar
            try:
                yield self
            finally:
                self._bar = None

    def _advance(self, what: str, done: int, total: int, words: str) -> None:
        assert self._bar is not None
        if what not in self._tasks:
            # Starting at `done - 1` keeps a resumed run's speed estimate honest.
            self._tasks[what] = self._bar.add_task(what, total=total or None, completed=done - 1, words=words)
        self._bar.update(self._tasks[what], completed=done, total=total or None, words=words, visible=True)


def _short(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2e}"
    return f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
