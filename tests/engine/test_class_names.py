import pytest
import torch

from foveal.data.table import TableBuilder
from foveal.engine.class_names import in_order_of, match_classes
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


def test_a_table_takes_the_runs_order_where_the_classes_are_the_same():
    builder = TableBuilder("/data", "train", "csv")
    builder.add_image("a.jpg", (10, 10))
    for label in (0, 1, 2, 1):
        builder.add_object((0.0, 0.0, 5.0, 5.0), label)
    table = builder.build(("Platelets", "RBC", "WBC"), (7, 8, 9))
    ordered = in_order_of(table, ("WBC", "RBC", "Platelets"))
    assert (ordered.class_names, ordered.category_ids) == (("WBC", "RBC", "Platelets"), (9, 8, 7))
    assert ordered.labels.tolist() == [2, 1, 0, 1]
    assert ordered.labels.dtype == table.labels.dtype
    assert torch.equal(ordered.boxes, table.boxes)
    assert in_order_of(table, ("WBC", "RBC")) is table
    assert in_order_of(table, table.class_names) is table
