import math

import pytest

from foveal.config import Config, TrainConfig
from foveal.engine.schedule import base_lr, is_due, lr_at, warmup_steps


def test_the_papers_schedule_warms_up_from_a_third_and_drops_tenfold_at_60k_and_80k():
    paper = Config().train
    rates = [lr_at(step, paper.steps, paper) for step in (0, 250, 500, 59_999, 60_000, 79_999, 80_000, 89_999)]
    expected = [0.01 / 3, 0.01 * (1 / 3 + 1 / 3), 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    assert rates == pytest.approx(expected)


def test_a_longer_training_drops_at_the_same_shares():
    """The paper's best model: 1.5 times 90,000 steps, so the drops are at 90,000 and 120,000."""
    longer = Config().with_changes({"train.steps": 135_000}).train
    rates = [lr_at(step, longer.steps, longer) for step in (500, 89_999, 90_000, 119_999, 120_000, 134_999)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_sgd_scales_linearly_with_the_global_batch_and_adamw_with_its_root():
    assert base_lr(TrainConfig(lr=0.01, lr_batch=16, batch_size=4)) == pytest.approx(0.0025)
    assert base_lr(TrainConfig(lr=0.01, lr_batch=16, batch_size=4, optimiser="adamw")) == pytest.approx(0.005)
    assert base_lr(TrainConfig(lr=0.01, lr_batch=0, batch_size=4)) == 0.01


def test_warm_up_takes_at_most_a_tenth_of_a_short_run():
    assert warmup_steps(TrainConfig(warmup=500), 90_000) == 500
    assert warmup_steps(TrainConfig(warmup=500), 100) == 10
    assert warmup_steps(TrainConfig(warmup=500), 1) == 0


def test_cosine_starts_at_the_full_rate_after_warm_up_and_ends_near_zero():
    train = TrainConfig(schedule="cosine", warmup=10, lr=1.0, lr_batch=0)
    assert lr_at(10, 110, train) == 1.0
    assert lr_at(60, 110, train) == pytest.approx(0.5)
    assert lr_at(109, 110, train) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


def test_a_constant_rate_stays():
    train = TrainConfig(schedule="constant", warmup=0, lr=0.3, lr_batch=0)
    assert {lr_at(step, 50, train) for step in range(50)} == {0.3}


def test_something_due_every_n_steps_is_also_due_at_the_end():
    assert [step for step in range(11) if is_due(step, 4, 10)] == [4, 8, 10]
    assert [step for step in range(11) if is_due(step, 0, 10)] == [10]
