"""Class names that may be one class: which are told, and which are left alone."""

from __future__ import annotations

import pytest

from foveal.engine.similar_names import similar_names


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"RBC": 40, "rbc": 30}, ["'rbc' (30) and 'RBC' (40)"]),
        (
            {"white cell": 5, "White  Cell": 5, "white_cell": 9},
            ["'White  Cell' (5) and 'white_cell' (9)", "'white cell' (5) and 'white_cell' (9)"],
        ),
        ({"RBC": 2, "RCB": 1}, ["'RCB' (1) and 'RBC' (2)"]),
        ({"platelet": 100, "platelets": 4}, ["'platelets' (4) and 'platelet' (100)"]),
        ({"platelet": 100, "plateet": 4}, ["'plateet' (4) and 'platelet' (100)"]),
        ({"platelet": 100, "paltelet": 40}, ["'paltelet' (40) and 'platelet' (100)"]),
        ({"적혈구": 100, "적형구": 1}, ["'적형구' (1) and '적혈구' (100)"]),
    ],
)
def test_names_that_differ_in_case_or_by_a_slip_are_told(counts: dict[str, int], told: list[str]):
    found = similar_names(counts)
    assert len(found) == len(told)
    for note, part in zip(found, told, strict=True):
        assert part in note


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"RBC": 100},
        {"RBC": 100, "WBC": 5},
        {"RBC": 100, "WBC": 0},
        {"wheel 1": 100, "wheel 2": 1, "wheel": 1},
        {"a": 100, "b": 1, "at": 1},
        {"cell": 100, "dust": 1},
    ],
)
def test_other_names_are_left_alone(counts: dict[str, int]):
    assert similar_names(counts) == []


def test_many_classes_are_compared_in_no_time():
    counts = {f"class {chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)} of things": 1 for i in range(5000)}
    counts["rarity"] = 1000
    counts["rarty"] = 1
    assert [note for note in similar_names(counts) if "rar" in note] == [
        "'rarty' (1) and 'rarity' (1000) may be one class"
    ]
