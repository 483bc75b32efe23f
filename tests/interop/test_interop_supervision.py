import numpy as np
import pytest
import supervision
from detections_of_all_kinds import NAMES, TWO, assert_same, detections
from hypothesis import given

from foveal.errors import DataError, UsageError
from foveal.interop import from_supervision, to_supervision


def test_supervision_gets_boxes_scores_ids_and_names():
    theirs = to_supervision(TWO)
    assert isinstance(theirs, supervision.Detections)
    assert theirs.xyxy.tolist() == [[100, 30, 300, 90], [0, 0, 40, 150]]
    assert theirs.confidence.tolist() == [0.75, 0.5]
    assert theirs.class_id.tolist() == [1, 0]
    assert theirs["class_name"].tolist() == ["dog", "cat"]


def test_what_supervision_changes_is_not_changed_here():
    theirs = to_supervision(TWO)
    theirs.xyxy += 5
    assert TWO.boxes[0].tolist() == [100, 30, 300, 90]


@given(detections())
def test_supervision_and_back_is_the_same(found):
    assert_same(from_supervision(to_supervision(found), found.class_names), found)


def test_names_come_from_supervision_where_none_are_given():
    assert from_supervision(to_supervision(TWO)).names == ["dog", "cat"]
    assert from_supervision(to_supervision(TWO[:1])).class_names == ("0", "dog")


def test_supervisions_own_filters_and_orders_come_back_best_first():
    theirs = to_supervision(TWO)[np.array([1, 0])]
    assert_same(from_supervision(theirs, NAMES), TWO)


def test_where_names_lie_beside_ids_that_are_numbered_otherwise_the_names_count():
    theirs = supervision.Detections(
        xyxy=np.array([[0.0, 0, 4, 4], [0, 0, 9, 9]]),
        class_id=np.array([0, 17]),
        data={"class_name": np.array(["dog", "cat"])},
    )
    found = from_supervision(theirs, NAMES)
    assert found.names == ["dog", "cat"]
    assert found.labels.tolist() == [1, 0]
    assert from_supervision(theirs).names == ["dog", "cat"]
    theirs.data = {}
    with pytest.raises(DataError, match="class 17 is none of the 3 classes"):
        from_supervision(theirs, NAMES)


def test_nothing_is_nothing():
    found = from_supervision(supervision.Detections.empty())
    assert found.boxes.shape == (0, 4)
    assert len(to_supervision(found)) == 0


def test_without_scores_all_have_one_and_without_ids_the_names_count():
    theirs = supervision.Detections(xyxy=np.array([[0.0, 0, 4, 4]]), data={"class_name": np.array(["dog"])})
    found = from_supervision(theirs, NAMES)
    assert found.scores.tolist() == [1]
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({}, "neither class_id nor class_name"),
        ({"class_id": np.array([3])}, "class 3 is none of the 3 classes"),
        ({"class_id": np.array([-1])}, "class -1 is none of"),
        ({"class_id": np.array([0]), "confidence": np.array([np.nan])}, "finite"),
        ({"class_id": np.array([0]), "xyxy": np.array([[5.0, 0, 4, 4]])}, "x2 < x1"),
        ({"class_id": np.array([0]), "xyxy": np.array([[0.0, 5, 4, 4]])}, "y2 < y1"),
        ({"data": {"class_name": np.array(["cow"])}}, "class 'cow' is none of cat, dog, 0"),
        ({"class_id": np.array([0]), "data": {"class_name": np.array(["cow"])}}, "class 'cow' is none of cat, dog, 0"),
    ],
)
def test_what_cannot_be_detections_is_told(theirs, said):
    with pytest.raises(DataError, match=said):
        from_supervision(supervision.Detections(**{"xyxy": np.array([[0.0, 0, 4, 4]]), **theirs}), NAMES)


def test_what_is_not_supervisions_is_misuse():
    with pytest.raises(UsageError, match=r"int: is no supervision\.Detections"):
        from_supervision(3)
