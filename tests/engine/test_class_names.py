import pytest

from foveal.engine.class_names import match_classes
from foveal.errors import UsageError


def test_classes_are_matched_by_name_whatever_their_order():
    found = match_classes(("cell", "dust", "dog"), ("dog", "platelet", "cell"))
    assert found.data_label_of == (2, -1, 0)
    assert found.run_label_of == (2, -1, 0)
    assert (found.strange, found.unused) == (("platelet",), ("dust",))


def test_the_same_list_leaves_nothing_over():
    found = match_classes(("a", "b"), ("a", "b"))
    assert (found.data_label_of, found.run_label_of, found.strange, found.unused) == ((0, 1), (0, 1), (), ())


def test_nothing_in_common_is_refused():
    with pytest.raises(UsageError, match=r"the run knows dog; the data has cell, platelet: no class in common"):
        match_classes(("dog",), ("cell", "platelet"))


def test_data_without_a_class_has_nothing_that_the_run_does_not_know():
    assert match_classes(("dog",), ()).unused == ("dog",)
