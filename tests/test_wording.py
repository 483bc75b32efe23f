import pytest

from foveal.wording import counted


@pytest.mark.parametrize(
    ("number", "thing", "said"),
    [
        (0, "picture", "0 pictures"),
        (1, "picture", "1 picture"),
        (2, "picture", "2 pictures"),
        (11013, "box", "11,013 boxes"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (1, "region to ignore", "1 region to ignore"),
    ],
)
def test_one_is_singular(number, thing, said):
    assert counted(number, thing) == said


def test_a_plural_that_follows_no_rule_is_given():
    assert counted(2, "region to ignore", "regions to ignore") == "2 regions to ignore"
