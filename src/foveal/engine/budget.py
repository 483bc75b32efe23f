"""How many steps fit into a number of minutes: asked once, by timing steps that change nothing."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

from foveal.config import TrainConfig
from foveal.data.table import Table
from foveal.detections import Batch

TIMED_STEPS = 6
RESERVE = 0.03
"""Share of the time for checkpoints and for a machine that slows down."""


def steps_in(
    train: TrainConfig,
    spent_s: float,
    batches: Iterable[Sequence[Batch]],
    try_step: Callable[[Batch], None],
    evaluate: Callable[[Table], object],
    val: Table | None,
) -> tuple[int, float]:
    """(steps, seconds each) that fill what is left of `train.minutes` after `spent_s` seconds.

    Evaluations are timed on a few pictures and paid for. The first of the timed steps, in which memory is allocated
    and workers start, does not count.
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
    cost_s = step_s
    if val is not None:
        began = time.monotonic()
        some = val.select(range(min(len(val), 2 * train.batch_size)))
        evaluate(some)
        took_s = time.monotonic() - began
        evaluation_s = took_s * len(val) / len(some)
        left_s -= took_s
        if train.evaluate_every:
            cost_s += evaluation_s / train.evaluate_every
        else:
            left_s -= 10 * evaluation_s
    return max(1, int(left_s * (1 - RESERVE) / cost_s)), step_s
