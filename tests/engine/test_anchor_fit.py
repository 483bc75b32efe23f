"""Fitted anchors reach what the paper's do not, and advice says what it is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveal.config import Config, preset
from foveal.data.detect import read_data
from foveal.data.table import Table
from foveal.engine.anchor_fit import advise, coverage_summary, fit_anchors, size_flags
from foveal.engine.coverage import coverage

CONFIG = Config().with_changes({"data.size": 256, "data.max_size": 256})


def table(widths: np.ndarray, heights: np.ndarray, labels: np.ndarray, seed: int = 0) -> Table:
    """Objects of these sides anywhere in pictures of 256 px, ten a picture."""
    rng = np.random.default_rng(seed)
    sides = np.stack([widths, heights], 1)
    corners = rng.uniform(0, 1, sides.shape) * (256 - sides)
    pictures = -(-len(labels) // 10)
    return Table.of(
        root="nowhere",
        split="train",
        format="coco",
        class_names=tuple(f"class {k}" for k in range(int(labels.max(initial=0)) + 1)),
        category_ids=None,
        paths=[f"{i}.jpg" for i in range(pictures)],
        sizes=np.full((pictures, 2), 256),
        image_ids=np.arange(pictures),
        rows=np.arange(len(labels)) // 10,
        boxes=np.concatenate([corners, corners + sides], 1),
        labels=labels,
        crowd=np.zeros(len(labels), dtype=bool),
    )


def specks(count: int = 200) -> Table:
    side = np.random.default_rng(1).uniform(8, 14, count)
    return table(side, side, np.zeros(count, dtype=int))


def covered(data: Table, config: Config) -> float:
    return coverage(data, config).all.at_positive_iou or 0.0


def with_fit(data: Table, config: Config) -> Config:
    return config.with_changes({"anchors": fit_anchors(data, config).model_dump()})


def test_specks_that_the_papers_anchors_miss_are_reached_by_fitted_ones():
    """Of objects of 8 to 14 px some fall between the cells of level 3, whatever the anchors; level 2 has them all."""
    data = specks()
    assert covered(data, CONFIG) == 0
    fitted = with_fit(data, CONFIG)
    assert covered(data, fitted) > 0.6
    assert len(fitted.anchors.sizes) == 5
    assert list(fitted.anchors.sizes) == sorted(fitted.anchors.sizes)
    assert covered(data, with_fit(data, CONFIG.with_changes({"model.levels": "2-7"}))) > 0.95


def test_anchors_that_reach_everything_already_stay():
    side = np.geomspace(32, 200, 300)
    fitted = fit_anchors(table(side, side, np.zeros(300, dtype=int)), CONFIG)
    assert fitted.sizes == CONFIG.anchor_sizes
    assert fitted.ratios == CONFIG.anchors.ratios


def test_long_thin_objects_get_other_ratios():
    width = np.random.default_rng(2).uniform(150, 220, 200)
    data = table(width, width / 7, np.zeros(200, dtype=int))
    assert covered(data, CONFIG) < 0.2
    anchors = fit_anchors(data, CONFIG)
    assert min(anchors.ratios) < 0.3
    assert covered(data, CONFIG.with_changes({"anchors": anchors.model_dump()})) > 0.9


def test_a_rare_class_is_not_given_up_for_a_common_one():
    """20 small objects beside 2000 of 40 to 60 px are 1 % of all, but fitted anchors reach them."""
    rng = np.random.default_rng(3)
    side = np.concatenate([rng.uniform(40, 60, 2000), rng.uniform(14, 20, 20)])
    data = table(side, side, np.repeat([0, 1], [2000, 20]))
    assert coverage(data, CONFIG).per_class["class 1"].at_positive_iou == 0
    found = coverage(data, with_fit(data, CONFIG))
    assert (found.per_class["class 1"].at_positive_iou or 0) > 0.9
    assert (found.per_class["class 0"].at_positive_iou or 0) > 0.95


def test_the_fit_is_the_same_every_time_and_keeps_the_other_settings():
    config = CONFIG.with_changes({"anchors.auto": True, "anchors.offset": "corner", "model.levels": "2-6"})
    fits = [fit_anchors(specks(4000), config) for _ in range(2)]
    assert fits[0] == fits[1]
    assert fits[0].auto
    assert fits[0].offset == "corner"
    assert fits[0].scales == config.anchors.scales


def test_without_objects_the_anchors_come_back_as_they_are():
    empty = table(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int))
    assert fit_anchors(empty, CONFIG) == CONFIG.anchors
    assert advise(empty, CONFIG) == []
    assert coverage_summary(empty, CONFIG) == "train: no objects; every picture is background"


def test_advice_can_be_pasted_and_keeps_its_promise():
    data = specks()
    advice = {a.flags: a for a in advise(data, CONFIG)}
    names = sorted(" ".join(word for word in flags.split() if word.startswith("--")) for flags in advice)
    assert names == [
        "--anchors.auto",
        "--anchors.sizes",
        "--data.size --data.max-size",
        "--model.levels",
        "--model.levels --anchors.auto",
    ]
    for flags, each in advice.items():
        config = CONFIG.with_changes(pasted(flags))
        config = with_fit(data, config) if config.anchors.auto else config
        assert covered(data, config) == pytest.approx(each.covered)
    assert next(iter(advice)) in ("--model.levels 2-7 --anchors.auto", "--data.size 768 --data.max-size 768")
    assert advice["--model.levels 2-7"].anchors == pytest.approx(4, abs=0.1)
    assert "covered, worst class class 0" in str(advice["--anchors.auto"])


def test_fitted_anchors_that_are_not_enough_are_advised_a_finer_level():
    config = with_fit(specks(), CONFIG.with_changes({"anchors.auto": True}))
    assert "--model.levels 2-7" in [a.flags for a in advise(specks(), config)]


def pasted(flags: str) -> dict:
    """Flags as changes to a config."""
    changes: dict = {}
    for part in flags.split("--")[1:]:
        name, *words = part.split()
        numbers = [float(word) for word in words] if name.startswith("anchors") else words
        if not numbers:
            value = True
        else:
            value = tuple(numbers) if name.startswith("anchors") else words[0]
        changes[name.replace("-", "_")] = value
    return changes


def test_nothing_is_advised_where_the_anchors_reach_the_objects():
    side = np.geomspace(32, 200, 100)
    assert advise(table(side, side, np.zeros(100, dtype=int)), CONFIG) == []


def test_no_finer_level_is_advised_below_level_two():
    flags = [a.flags for a in advise(specks(), CONFIG.with_changes({"model.levels": "2-6", "anchors.scales": (1.0,)}))]
    assert flags
    assert not any("model.levels" in each for each in flags)


def test_training_is_warned_of_a_class_that_no_anchor_reaches():
    text = coverage_summary(specks(), CONFIG)
    assert "0 % of 200 objects have one at IoU >= 0.5" in text
    assert "WARNING: no anchor reaches most objects of class 0 (0 % of 200): they will hardly be found" in text
    assert "  add --anchors.auto  (then " in text


def test_training_is_told_in_three_lines_where_all_is_well():
    side = np.geomspace(32, 200, 100)
    text = coverage_summary(table(side, side, np.zeros(100, dtype=int)), CONFIG)
    assert len(text.splitlines()) == 3
    assert "WARNING" not in text


def test_flags_hold_only_what_differs():
    usual = CONFIG.anchors
    anchors = usual.model_copy(update={"sizes": (16.0, 32.5)})
    assert size_flags(anchors, usual) == "--anchors.sizes 16 32.5"
    ratios = anchors.model_copy(update={"ratios": (0.25, 1.0)})
    assert size_flags(ratios, usual) == "--anchors.sizes 16 32.5 --anchors.ratios 0.25 1"


def test_platelets_of_bloodcells_are_covered_better_by_fitted_anchors(bloodcells: Path):
    data, config = read_data(bloodcells, "train"), preset("light")
    before = coverage(data, config).per_class["Platelets"].at_positive_iou
    fitted = with_fit(data, config)
    after = coverage(data, fitted).per_class
    assert before == pytest.approx(0.819, abs=0.002)
    assert after["Platelets"].at_positive_iou > 0.95
    assert min(reach.at_positive_iou for reach in after.values()) > 0.95
