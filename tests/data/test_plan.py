"""Every picture once an epoch, in batches of shapes that are fixed beforehand and not rare."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.config import Config, build_config
from foveal.data.plan import BATCHES_A_SHAPE, Draw, Plan, jittered_sizes, merge_shapes

EVERYTHING: dict[str, Any] = {"quarter_turns": True, "scale_jitter": (0.5, 1.5)}


def settings_of(batch_size: int = 2, seed: int = 0, **data: Any) -> Config:
    small = {"size": 32, "max_size": 64, "pad_multiple": 8}
    return build_config({"seed": seed, "train": {"batch_size": batch_size}, "data": small | data})


def draws(plan: Plan, steps: int) -> list[Draw]:
    return [draw for work in itertools.islice(plan.steps(), steps) for draw in work.draws]


def test_every_picture_is_drawn_once_an_epoch_in_another_order():
    plan = Plan(np.array([(20, 30)] * 6), settings_of(batch_size=2))
    drawn = draws(plan, 9)
    epochs = [[draw.row for draw in drawn[start : start + 6]] for start in (0, 6, 12)]
    assert [draw.epoch for draw in drawn] == [0] * 6 + [1] * 6 + [2] * 6
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_what_does_not_fill_a_batch_waits_for_the_next_epoch():
    plan = Plan(np.array([(20, 30)] * 5), settings_of(batch_size=4))
    drawn = draws(plan, 5)
    assert [draw.epoch for draw in drawn] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert set(Counter(draw.row for draw in drawn).values()) == {4}


def test_another_seed_draws_another_order():
    sizes = np.array([(20, 30)] * 50)
    orders = [draws(Plan(sizes, settings_of(seed=seed)), 25) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3]


@pytest.mark.parametrize("data", [{}, EVERYTHING])
def test_a_resumed_plan_goes_on_where_it_would_have_been(data: dict[str, Any]):
    sizes = np.random.default_rng(0).integers(10, 60, (40, 2))
    plan = Plan(sizes, settings_of(batch_size=3, **data))
    whole = list(itertools.islice(plan.steps(), 60))
    for start in (0, 1, 17, 59):
        assert next(plan.steps(start)) == whole[start]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=60), st.booleans())
def test_every_picture_of_any_data_set_fits_into_its_batch_and_is_drawn(sizes: list[tuple[int, int]], jitter: bool):
    plan = Plan(np.array(sizes), settings_of(batch_size=4, **(EVERYTHING if jitter else {})))
    seen: Counter[tuple[int, int]] = Counter()
    for work in itertools.islice(plan.steps(), 4 * len(sizes)):
        assert work.shape in plan.shapes
        assert len(work.draws) == 4
        assert all(side % 8 == 0 for side in work.shape)
        for draw in work.draws:
            height, width = draw.size[::-1] if draw.turns % 2 else draw.size
            assert height <= work.shape[0]
            assert width <= work.shape[1]
            seen[draw.epoch, draw.row] += 1
    assert set(seen.values()) == {1}
    assert {row for _, row in seen} == set(range(len(sizes)))


def test_a_picture_has_one_shape_whatever_it_is_batched_with():
    sizes = np.random.default_rng(1).integers(20, 200, (100, 2))
    plan = Plan(sizes, settings_of(batch_size=4, **EVERYTHING))
    shapes: dict[tuple[int, int, int, int], set[tuple[int, int]]] = {}
    for work in itertools.islice(plan.steps(), 2000):
        for draw in work.draws:
            shapes.setdefault((draw.row, *draw.size, draw.turns), set()).add(work.shape)
    assert len(plan.shapes) > 3
    assert {len(some) for some in shapes.values()} == {1}


def test_200_pictures_of_150_sizes_are_all_drawn_in_nearly_every_epoch():
    sizes = np.random.default_rng(2).integers(200, 1000, (200, 2))
    sizes[150:] = sizes[:50]
    plan = Plan(sizes, settings_of(batch_size=8, size=320, max_size=0, pad_multiple=32))
    assert 1 < len(plan.shapes) <= 200 // 8 // BATCHES_A_SHAPE
    last = Counter(draw.epoch for draw in draws(plan, 250))
    assert all(last[epoch] == 200 for epoch in range(8))


def test_replaying_a_million_draws_takes_seconds():
    plan = Plan(np.random.default_rng(0).integers(300, 700, (5000, 2)), settings_of(batch_size=16, **EVERYTHING))
    assert len(next(plan.steps(1_000_000 // 16)).draws) == 16


def test_a_panorama_among_squares_widens_two_batches_of_them_and_not_all():
    shapes, groups = merge_shapes(np.array([[32, 32], [32, 96]]), np.array([0] * 1000 + [1]), least=16)
    assert shapes.tolist() == [[32, 32], [32, 96]]
    assert Counter(groups.tolist()) == {0: 985, 1: 16}


def test_rare_shapes_join_the_one_that_costs_least():
    # 3 of 32 x 40 in 32 x 48 cost 3 x 256 pixels, in 64 x 64 they cost 3 x 2816.
    cells = np.array([0] * 20 + [1] * 3 + [2] * 20)
    shapes, groups = merge_shapes(np.array([[32, 48], [32, 40], [64, 64]]), cells, least=8)
    assert shapes[groups[20]].tolist() == [32, 48]
    assert len(shapes) == 2


def test_upright_and_lying_shapes_that_are_both_rare_become_a_square():
    shapes, groups = merge_shapes(np.array([[32, 48], [48, 32]]), np.array([0, 0, 1]), least=16)
    assert shapes.tolist() == [[48, 48]]
    assert groups.tolist() == [0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=15, unique=True),
    st.integers(1, 30),
    st.data(),
)
def test_merged_shapes_hold_their_cells_and_are_not_rare(
    shapes: list[tuple[int, int]], least: int, data: st.DataObject
):
    counts = [data.draw(st.integers(1, 40)) for _ in shapes]
    cells = np.repeat(np.arange(len(shapes)), counts)
    merged, groups = merge_shapes(np.array(shapes), cells, least)
    assert (merged[groups] >= np.array(shapes)[cells]).all()
    assert set(groups.tolist()) == set(range(len(merged)))
    assert len(merged) == 1 or min(Counter(groups.tolist()).values()) >= least


@pytest.mark.parametrize(
    ("size", "jitter", "expected"),
    [
        pytest.param(600, (1.0, 1.0), [600], id="none"),
        pytest.param(320, (0.8, 1.2), [256, 288, 320, 352, 384], id="multiples_within"),
        pytest.param(320, (0.95, 0.99), [304, 317], id="no_multiple_within"),
    ],
)
def test_scale_jitter_draws_multiples(size: int, jitter: tuple[float, float], expected: list[int]):
    assert jittered_sizes(settings_of(size=size, scale_jitter=jitter, pad_multiple=32).data) == expected


def test_all_sizes_and_turns_are_drawn_about_equally_often():
    plan = Plan(np.array([(30, 40)] * 100), settings_of(batch_size=4, **EVERYTHING))
    drawn = draws(plan, 1000)
    sizes, turns = Counter(min(draw.size) for draw in drawn), Counter(draw.turns for draw in drawn)
    assert set(sizes) == {16, 24, 32, 40, 48}
    assert min(sizes.values()) > 650
    assert set(turns) == {0, 1, 2, 3}
    assert min(turns.values()) > 850
