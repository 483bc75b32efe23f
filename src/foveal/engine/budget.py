"""How many steps fit into a number of minutes: asked once, by timing steps that change nothing."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from foveal.config import TrainConfig
from foveal.data.table import Table
from foveal.detections import Batch
from foveal.wording import counted

TIMED_STEPS = 6
RESERVE = 0.03
"""Share of the time for checkpoints and for a machine that slows down."""
EVALUATIONS = 10
"""Over a run, where `train.evaluate_every` does not say otherwise and they are not too dear."""
MOST_EVALUATING = 0.25
"""Share of the time that they may take; one, at the end, there is always."""
FEW_STEPS = 50
"""Fewer than this are warned of."""


@dataclass(frozen=True)
class Plan:
    """Steps and evaluations of a run, with the seconds that one of each takes."""

    steps: int
    step_s: float
    evaluations: int = EVALUATIONS
    evaluation_s: float = 0.0

    def __str__(self) -> str:
        told = f"{counted(self.steps, 'step')} at {self.step_s:.2f} s each"
        if self.evaluation_s:
            told += f", and {counted(self.evaluations, 'evaluation')} at {self.evaluation_s:.1f} s each"
        return told


def plan_within(
    train: TrainConfig,
    spent_s: float,
    batches: Iterable[Sequence[Batch]],
    try_step: Callable[[Batch], None],
    evaluate: Callable[[Table], object],
    val: Table | None,
) -> Plan:
    """What fills what is left of `train.minutes` after `spent_s` seconds; at least one step.

    Evaluations are timed on a few pictures and paid for; there are fewer of them where ten would take more than a
    quarter of the time. The first of the timed steps, in which memory is allocated and workers start, does not count.
    """
    times: list[float] = []
    began = time.monotonic()
    for micro_batches in itertools.islice(batches, TIMED_STEPS):
        for batch in micro_batches:
            try_step(batch)
        times.append(time.monotonic() - began)
        began = time.monotonic()
    step_s = statistics.median(times[1:])
    left_s = train.minutes * 60 - spent_s - sum(times)
    if val is None:
        return Plan(_steps(left_s, step_s), step_s)
    began = time.monotonic()
    some = val.select(range(min(len(val), 2 * train.batch_size)))
    evaluate(some)
    took_s = time.monotonic() - began
    evaluation_s = took_s * len(val) / len(some)
    left_s -= took_s
    if train.evaluate_every:
        steps = _steps(left_s, step_s + evaluation_s / train.evaluate_every)
        return Plan(steps, step_s, -(-steps // train.evaluate_every), evaluation_s)
    affordable = int(MOST_EVALUATING * left_s / max(evaluation_s, 1e-9))
    evaluations = min(EVALUATIONS, max(1, affordable))
    return Plan(_steps(left_s - evaluations * evaluation_s, step_s), step_s, evaluations, evaluation_s)


def _steps(left_s: float, cost_s: float) -> int:
    return max(1, int(left_s * (1 - RESERVE) / cost_s))
