"""Which objects the anchors reach: hand-made boxes on an anchor or far from every one, and the words about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foveal.anchors import Anchors
from foveal.boxes import iou
from foveal.config import Config
from foveal.data.table import Table
from foveal.engine.coverage import LabelledBoxes, Reach, coverage, in_words, percent, size_index, warning

CONFIG = Config().with_changes({"data.size": 128, "data.max_size": 128})


def table(boxes: list, labels: list, size: tuple[int, int] = (128, 128), crowd: list | None = None) -> Table:
    """One picture with these objects."""
    return Table.of(
        root="nowhere",
        split="train",
        format="coco",
        class_names=("cell", "dust", "none of these"),
        category_ids=None,
        paths=["a.jpg"],
        sizes=np.array([size]),
        image_ids=np.array([1]),
        rows=np.zeros(len(labels), dtype=int),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=int),
        crowd=np.array(crowd or [False] * len(labels), dtype=bool),
    )


ON_ANCHOR = [44 - 16, 44 - 16, 44 + 16, 44 + 16]  # the 32 px square around the centre of the sixth cell of level 3
DUST = [40, 40, 48, 48]  # 8 x 8 in that anchor: IoU 64 / 1024


def test_an_object_on_an_anchor_is_covered_and_a_speck_has_only_a_best_one():
    found = coverage(table([ON_ANCHOR, DUST], [0, 1]), CONFIG)
    assert found.all == Reach(2, 0.5, 0.5, 0.5, pytest.approx((1 + 64 / 1024) / 2))
    assert found.per_class["cell"].at_positive_iou == 1
    assert found.per_class["dust"] == Reach(1, 0, 0, 1, pytest.approx(64 / 1024))
    assert found.per_class["none of these"] == Reach(0, None, None, None, None)
    assert found.per_size["small"].objects == 1
    assert found.per_size["medium"].objects == 1
    assert found.per_class_and_size["dust"]["small"].only_best == 1


def test_an_object_between_the_thresholds_counts_at_the_lower_one_only():
    side = 32 * 0.45**0.5  # a square of .45 of the smallest anchor's area, in its middle
    box = [44 - side / 2, 44 - side / 2, 44 + side / 2, 44 + side / 2]
    reach = coverage(table([box], [0]), CONFIG).all
    assert (reach.at_positive_iou, reach.at_background_iou, reach.only_best) == (0, 1, 0)


def test_shares_are_those_at_the_training_resolution():
    """In a picture of 1024 px the object of 256 px becomes 32 px, the speck of 64 px becomes 8."""
    boxes = np.array([ON_ANCHOR, DUST]) * 8.0
    found = coverage(table(boxes.tolist(), [0, 1], size=(1024, 1024)), CONFIG)
    assert found.per_class["cell"].at_positive_iou == 1
    assert found.per_class["dust"].at_positive_iou == 0
    assert found.per_size["small"].objects == 1


def test_crowd_regions_are_not_objects_to_reach():
    found = coverage(table([ON_ANCHOR, DUST], [0, 1], crowd=[False, True]), CONFIG)
    assert found.all.objects == 1
    assert found.all.at_positive_iou == 1


def test_a_split_without_objects_has_no_shares():
    found = coverage(table([], []), CONFIG)
    assert found.all == Reach(0, None, None, None, None)
    assert found.weak_classes() == []
    assert warning(found) == ""


def test_best_iou_of_a_picture_is_that_of_all_its_anchors():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 90, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, 38, (40, 2))], 1)
    labelled = LabelledBoxes.of(table(boxes.tolist(), [0] * 40))
    anchors_N4 = Anchors.from_config(CONFIG).boxes(128, 128)
    torch.testing.assert_close(labelled.best_iou(CONFIG), iou(labelled.boxes, anchors_N4).amax(1), atol=1e-5, rtol=0)


def test_sizes_change_at_cocos_bounds():
    sides = torch.tensor([31.9, 32, 95.9, 96])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sides, sides], 1)
    assert size_index(boxes).tolist() == [0, 1, 1, 2]


def test_weak_classes_come_with_most_uncovered_objects_first():
    boxes = [ON_ANCHOR, DUST, DUST, DUST, ON_ANCHOR, ON_ANCHOR]
    found = coverage(table(boxes, [0, 0, 0, 1, 2, 2]), CONFIG)
    assert found.weak_classes() == ["cell", "dust"]
    assert "cell (33.3 % of 3), dust (0 % of 1)" in warning(found)


def test_the_words_name_the_worst_classes_and_every_size():
    text = in_words(coverage(table([ON_ANCHOR, DUST], [0, 1]), CONFIG), CONFIG, worst=1)
    assert "anchors at 128 px: 50 % of 2 objects have one at IoU >= 0.5, 50 % at >= 0.4, 50 % only a best one" in text
    assert "by class: dust 0 %, 1 class better" in text
    assert "by size: small 0 % of 1, medium 100 % of 1" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.1234, "12.3 %"), (0.9999, ">99.9 %"), (1e-5, "<0.1 %")],
)
def test_a_share_never_looks_like_all_or_nothing_when_it_is_not(share: float | None, text: str):
    assert percent(share) == text
