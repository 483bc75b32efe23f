"""The GPU's matching is the plain path's to the last bit; in Triton's interpreter where there is no GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal import triton_matching
from foveal.anchors import Anchors
from foveal.config import AssignmentConfig, Config
from foveal.detections import Batch, Objects
from foveal.matching import BACKGROUND, IGNORED, match_plainly

pytest.importorskip("triton", reason="Triton is Linux's; CUDA builds of torch bring it along")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = (64, 96)
PAPER = Anchors.from_config(Config())
ONE_A_CELL = replace(PAPER, levels=(3,), sizes=(16.0,), scales=(1.0,), ratios=(1.0,))


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time is in programs: the 1,152 anchors of a picture are three, the last one not full."""
    monkeypatch.setattr(triton_matching, "BLOCK", 512)


def batch_of(*objects: Objects, sizes: list[tuple[int, int]] | None = None) -> Batch:
    pictures = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes or [SHAPE] * len(objects)]
    return Batch.pack(pictures, objects, shape=SHAPE).to(DEVICE)


def assert_equal_to_the_plain_path(batch: Batch, config: AssignmentConfig, anchors: Anchors = PAPER) -> int:
    """How many anchors are positive."""
    plain = match_plainly(anchors, batch, config)
    found = triton_matching.assign(anchors, batch, config)
    for one, other in zip(found, (plain.positive, plain.object, plain.ignored), strict=True):
        assert one.dtype == torch.int64
        assert torch.equal(one, other)
    return len(plain.positive)


def test_an_object_on_an_anchor_and_its_neighbours_by_hand() -> None:
    # Anchors of 16 x 16 every 8 pixels, the first centred on (4, 4). The object lies on that of row 1, column 1, and
    # shares half of itself with four neighbours: an IoU of 1/3. The crowd covers 3/4 of the last column and half of the
    # one before; those centred on padding, from row 6 on, are nobody's.
    batch = batch_of(Objects.of([[4, 4, 20, 20], [84, -8, 96, 72]], [0, 0], [False, True]), sizes=[(48, 96)])
    labels = triton_matching.anchor_objects(ONE_A_CELL, batch, AssignmentConfig(background_iou=0.3)).view(8, 12)
    wanted = torch.full((8, 12), BACKGROUND, dtype=torch.int32)
    wanted[:, 10:] = IGNORED
    wanted[0, 1] = wanted[1, 0] = wanted[1, 2] = wanted[2, 1] = IGNORED
    wanted[1, 1] = 0
    wanted[6:] = IGNORED
    assert labels.tolist() == wanted.tolist()


EXTREMES = Objects.of(
    [
        [0, 0, 4, 4],  # ties with every anchor around it
        [-500, -500, 700, 700],
        [200, 200, 220, 220],  # outside
        [10, 10, 10, 30],  # no area
        [20, 20, 52, 52],
        [20, 20, 52, 52],  # the same again: the lower one answers
        [40, 10, 90, 60],
        [60, 0, 96, 64],
    ],
    [0] * 8,
    [False] * 7 + [True],
)


@pytest.mark.parametrize("padding", ["ignored", "background"])
@pytest.mark.parametrize("low_quality", ["none", "authors", "all"])
def test_boxes_outside_huge_tiny_flat_and_twice_under_every_policy(low_quality: Any, padding: Any) -> None:
    config = AssignmentConfig(low_quality=low_quality, padding=padding)
    batch = batch_of(EXTREMES, Objects.empty(), EXTREMES[4:6], sizes=[(50, 96), SHAPE, (64, 30)])
    assert assert_equal_to_the_plain_path(batch, config) > 0


@pytest.mark.parametrize(
    "layout",
    [{"offset": "corner"}, {"round_sizes": True}, {"stride": "floor_of_padded", "levels": (3, 4, 5, 6, 7)}],
    ids=str,
)
def test_every_way_to_lay_anchors(layout: dict[str, Any]) -> None:
    assert assert_equal_to_the_plain_path(batch_of(EXTREMES), AssignmentConfig(), replace(PAPER, **layout)) > 0


@pytest.mark.parametrize("thresholds", [(0.0, 0.0), (0.5, 0.0), (1.0, 1.0), (0.3, 0.6)], ids=str)
@pytest.mark.parametrize("objects", [Objects.empty(), EXTREMES[7:], EXTREMES], ids=["none", "a crowd", "many"])
def test_thresholds_at_their_ends(objects: Objects, thresholds: tuple[float, float]) -> None:
    config = AssignmentConfig.model_construct(
        **{**AssignmentConfig().model_dump(), "positive_iou": thresholds[0], "background_iou": thresholds[1]}
    )
    assert_equal_to_the_plain_path(batch_of(objects, EXTREMES[4:5]), config)


corner = st.integers(-40, 120)
side = st.sampled_from([0.5, 3, 16, 22.627417, 32, 57.3, 200])
box = st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@settings(max_examples=10)
@given(
    boxes=st.lists(st.tuples(box, st.booleans(), st.integers(0, 2)), max_size=7),
    low_quality=st.sampled_from(["none", "authors", "all"]),
    height=st.integers(1, SHAPE[0]),
)
def test_random_objects(boxes: list[Any], low_quality: Any, height: int) -> None:
    objects = []
    for image in range(3):
        mine = [entry for entry in boxes if entry[2] == image]
        objects.append(Objects.of([b for b, _, _ in mine], [0] * len(mine), [c for _, c, _ in mine]))
    batch = batch_of(*objects, sizes=[SHAPE, (height, 96), SHAPE])
    assert_equal_to_the_plain_path(batch, AssignmentConfig(low_quality=low_quality))


def test_a_batch_without_pictures_has_no_anchors() -> None:
    batch = replace(batch_of(EXTREMES[:0]), images=torch.zeros(0, 3, *SHAPE), sizes=torch.zeros(0, 2).long())
    found = triton_matching.assign(PAPER, batch, AssignmentConfig())
    assert [len(each) for each in found] == [0, 0, 0]


def test_only_a_gpu_is_sent_here() -> None:
    assert triton_matching.takes(torch.zeros(1, 4, device=DEVICE)) == (DEVICE == "cuda")
