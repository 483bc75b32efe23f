"""The corruption that mining is measured on: what it does to labels, and how findings are counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmarks.label_errors import Corruption, corrupt, precision
from foveal.analysis.hard_examples import DoubtfulLabel
from foveal.analysis.label_errors import Suspect

BOX = (10.0, 10.0, 30.0, 30.0)


def labels(pictures: int = 10, each: int = 6) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 100} for i in range(pictures)],
        "annotations": [
            {"id": 100 * i + j, "image_id": i, "category_id": 1 + j % 2, "bbox": [30 * j, 20, 20, 30]}
            for i in range(pictures)
            for j in range(each)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def finding(picture: str, index: int, box: tuple[float, float, float, float] = BOX) -> DoubtfulLabel:
    kind = "missing label" if index < 0 else "wrong class"
    return DoubtfulLabel(0, picture, Suspect(kind, 0.9, box, None, index, 0, 1, 0.9, 1.0), "a", "b", 0.0)


def test_each_kind_gets_a_third_and_the_rest_is_left_alone():
    before = labels()
    after, done = corrupt(before, 0.2, seed=1)
    assert Counter(one.kind for one in done) == {"dropped": 4, "moved": 4, "relabelled": 4}
    old = {one["id"]: one for one in before["annotations"]}
    new = {one["id"]: one for one in after["annotations"]}
    assert len(old) - len(new) == 4
    changed = Counter("moved" if new[i]["bbox"] != old[i]["bbox"] else "relabelled" for i in new if new[i] != old[i])
    assert changed == {"moved": 4, "relabelled": 4}
    assert before == labels()  # not written to
    assert corrupt(before, 0.2, seed=1) == (after, done)
    assert corrupt(before, 0.2, seed=2)[1] != done


def test_a_corruption_says_where_the_label_stands_now_and_stood_before():
    before = labels()
    after, done = corrupt(before, 0.3, seed=3)
    for one in done:
        image = int(one.picture.removesuffix(".png"))
        x1, y1, x2, y2 = one.box
        was = next(
            a for a in before["annotations"] if a["image_id"] == image and a["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        )
        if one.kind == "dropped":
            assert one.index == -1
            continue
        now = [a for a in after["annotations"] if a["image_id"] == image][one.index]
        assert now["id"] == was["id"]
        x, y, w, h = now["bbox"]
        assert 0 <= x <= 200 - w
        assert 0 <= y <= 100 - h


def test_precision_counts_each_corruption_once_among_as_many_findings():
    done = [Corruption("relabelled", "x.png", 2, BOX), Corruption("dropped", "y.png", -1, BOX)]
    right, wrong = finding("images/x.png", 2), finding("images/x.png", 3)
    missing = finding("images/y.png", -1, (11.0, 10.0, 30.0, 30.0))
    assert precision([right, missing], done) == 1.0
    assert precision([right, right, missing], done) == 0.5
    assert precision([wrong, finding("images/y.png", -1, (200.0, 0, 220, 20))], done) == 0.0
    assert precision([], done) == 0.0
    assert precision([right], []) == pytest.approx(0.0)
