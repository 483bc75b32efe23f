"""What fits into a number of minutes, on a clock that only the work moves."""

from __future__ import annotations

import pytest

from foveal.config import TrainConfig
from foveal.data.table import TableBuilder
from foveal.engine import budget
from foveal.engine.budget import Plan, plan_within


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def planned(monkeypatch, minutes: float, step_s: float, picture_s: float, pictures: int = 100, **settings) -> Plan:
    """The plan where a step takes step_s seconds, and an evaluation picture_s for each picture."""
    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)
    builder = TableBuilder("/data", "val", "csv")
    for number in range(pictures):
        builder.add_image(f"{number}.jpg", (10, 10))

    def work(seconds: float) -> None:
        clock.now += seconds

    train = TrainConfig(minutes=minutes, batch_size=5, **settings)
    val = builder.build(("a",)) if pictures else None
    return plan_within(train, 0.0, [[None]] * 6, lambda _: work(step_s), lambda some: work(picture_s * len(some)), val)


def test_ten_evaluations_where_they_are_cheap(monkeypatch: pytest.MonkeyPatch):
    # Of 600 s, six timed steps take 6 and ten pictures .1; ten evaluations take 10 of the other 593.9; 3 % is kept.
    plan = planned(monkeypatch, 10, 1.0, 0.01)
    assert (plan.steps, plan.evaluations) == (int(583.9 * 0.97), 10)
    assert str(plan) == "566 steps at 1.00 s each, and 10 evaluations at 1.0 s each"


def test_fewer_where_ten_would_take_more_than_a_quarter_of_the_time(monkeypatch: pytest.MonkeyPatch):
    # Of 120 s, six steps take 6 and ten pictures 1; an evaluation takes 10 s, a quarter of 113 s pays for two.
    plan = planned(monkeypatch, 2, 1.0, 0.1)
    assert (plan.steps, plan.evaluations) == (int(93 * 0.97), 2)


def test_there_is_always_one_evaluation_and_one_step(monkeypatch: pytest.MonkeyPatch):
    plan = planned(monkeypatch, 2, 15.0, 1.0)
    assert (plan.steps, plan.evaluations) == (1, 1)


def test_evaluations_at_given_steps_are_paid_for(monkeypatch: pytest.MonkeyPatch):
    plan = planned(monkeypatch, 2, 1.0, 0.1, evaluate_every=10)  # 2 s a step
    assert (plan.steps, plan.evaluations) == (int(113 * 0.97 / 2), 6)


def test_without_a_validation_split_steps_take_all(monkeypatch: pytest.MonkeyPatch):
    plan = planned(monkeypatch, 2, 1.0, 0.1, pictures=0)
    assert str(plan) == f"{int(114 * 0.97)} steps at 1.00 s each"
