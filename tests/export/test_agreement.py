import pytest
import torch

from foveal.detections import Detections
from foveal.export.agreement import agreement


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    values = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Detections(values[:, :4].float(), values[:, 4].float(), values[:, 5].long())


def compared(ours: Detections, theirs: Detections, most: int = 100):
    return agreement([ours], [theirs], 0.05, most)


CELL = (10, 10, 50, 30, 0.8, 1)


def test_equal_detections_agree():
    result = compared(found(CELL), found(CELL))
    assert (result.pictures, result.detections, result.unpaired, result.score, result.box) == (1, 1, 0, 0, 0)
    assert result.passed


def test_a_box_is_compared_in_its_longer_side():
    # .03 of 40 pixels is 7.5e-4, .05 is 1.25e-3.
    near = compared(found(CELL), found((10, 10, 50.03, 30, 0.8, 1)))
    far = compared(found(CELL), found((10, 10, 50.05, 30, 0.8, 1)))
    assert near.box == pytest.approx(7.5e-4, rel=1e-3)
    assert far.box == pytest.approx(1.25e-3, rel=1e-3)
    assert near.passed
    assert not far.passed


def test_a_score_may_differ_by_a_thousandth():
    assert compared(found(CELL), found((*CELL[:4], 0.8009, 1))).passed
    assert not compared(found(CELL), found((*CELL[:4], 0.8011, 1))).passed


def test_the_order_of_equal_scores_is_no_difference():
    other = (100, 10, 150, 30, 0.8, 1)
    assert compared(found(CELL, other), found(other, CELL)).passed


@pytest.mark.parametrize(
    "theirs", [found(), found((*CELL[:5], 2)), found((90, 10, 130, 30, 0.8, 1)), found(CELL, CELL)]
)
def test_one_too_many_or_too_few_or_another_class_or_place_is_unpaired(theirs):
    result = compared(found(CELL), theirs)
    assert result.unpaired
    assert not result.passed
    assert "ONE SIDE ALONE" in str(result)


def test_one_is_not_told_as_many():
    assert str(compared(found(CELL), found(CELL))).startswith("1 detection in 1 picture: ")


def test_a_score_at_the_threshold_may_fall_on_either_side():
    result = compared(found(CELL, (60, 60, 90, 90, 0.0504, 0)), found(CELL))
    assert (result.borderline, result.unpaired) == (1, 0)
    assert result.passed


def test_so_may_the_last_of_those_that_are_kept():
    last, other = (60, 60, 90, 90, 0.4, 0), (100, 60, 130, 90, 0.4001, 0)
    assert compared(found(CELL, last), found(CELL, other), most=2).passed
    assert not compared(found(CELL, last), found(CELL, other), most=100).passed


def test_pictures_without_detections_agree():
    assert compared(found(), found()).passed


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_agrees_with_nothing(place, value):
    spoilt = [*CELL]
    spoilt[place] = value
    for ours, theirs in ((CELL, spoilt), (spoilt, CELL), (spoilt, spoilt)):
        result = compared(found(ours), found(theirs))
        assert result.unpaired
        assert not result.passed
    # One spoilt row must not hide the pair beside it.
    assert compared(found(CELL), found(spoilt, CELL)).unpaired == 1
