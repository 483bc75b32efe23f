"""What a difference is worth: intervals worked by hand, and the sentences made of them."""

import pytest

from studies.compare import Difference, paired_difference, sentence, verdict


def test_three_paired_seeds_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1, t(.975, 2) = 4.3027, so 4.3027 / sqrt 3 = 2.4841.
    found = paired_difference({0: 11, 1: 12, 2: 13}, {0: 10, 1: 10, 2: 10})
    assert found.mean == pytest.approx(2)
    assert found.half_width == pytest.approx(2.4841, abs=1e-4)
    assert found.seeds == 3
    assert found.sign == 0
    assert str(found) == "+2.0 ± 2.5"


def test_pairing_takes_out_what_a_seed_does_to_both_rows():
    # Seeds differ by 20 AP, rows by 1, 1.1 and .9: mean 1, deviation .1, 4.3027 x .1 / sqrt 3 = .2484.
    found = paired_difference({0: 11.0, 1: 21.1, 2: 30.9}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (found.mean, found.half_width) == (pytest.approx(1), pytest.approx(0.2484, abs=1e-4))
    assert found.sign == 1


def test_two_seeds_have_a_wide_interval_and_one_has_none():
    # Differences 1 and 2: deviation sqrt(.5), t(.975, 1) = 12.7062: 12.7062 / 2 = 6.3531.
    two = paired_difference({0: 1, 1: 2}, {0: 0, 1: 0})
    assert two.half_width == pytest.approx(6.3531, abs=1e-4)
    one = paired_difference({0: 1, 5: 9}, {0: 0, 1: 7})
    assert one == Difference(1, None, 1)
    assert one.sign == 0


def test_seeds_that_only_one_has_do_not_count():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({}, {}) is None


def test_equal_differences_leave_no_doubt():
    assert paired_difference({0: 2, 1: 3}, {0: 1, 1: 2}).sign == 1
    assert paired_difference({0: 1, 1: 2}, {0: 1, 1: 2}).sign == 0


@pytest.mark.parametrize(
    ("found", "in_paper", "expected"),
    [
        (Difference(2, 1, 3), 2.9, "holds here"),
        (Difference(-2, 1, 3), 2.9, "does not hold here"),
        (Difference(-2, 1, 3), -0.1, "holds here"),
        (Difference(2, 1, 3), 0.0, "does not hold here"),
        (Difference(1, 2, 3), 2.9, "noise, the interval holds 0"),
        (Difference(9, None, 1), 2.9, "one seed tells nothing"),
    ],
)
def test_verdicts(found, in_paper, expected):
    assert verdict(found, in_paper) == expected


def test_sentences():
    assert sentence("gamma 2", "gamma 0", Difference(2.04, 1, 3), 2.9) == (
        "gamma 2 against gamma 0: +2.0 ± 1.0 AP (3 seeds); +2.9 in the paper: holds here"
    )
    assert sentence("SSD", "FL", Difference(-3, 1, 2), None).endswith("the paper gives no number: worse")
    assert "(1 seed)" in sentence("SSD", "FL", Difference(-3, None, 1), None)
