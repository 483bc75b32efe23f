"""Assignment by hand at its exact thresholds, its settings one by one, torchvision's recordings, coverage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from foveal.anchors import Anchors, centred_inside
from foveal.boxes import iou
from foveal.config import AssignmentConfig, Config
from foveal.detections import Batch, Objects
from foveal.matching import BACKGROUND, IGNORED, Match, best_iou, match, match_image

GOLDEN = Path(__file__).parent / "golden"
PAPER = Anchors.from_config(Config())
NONE = AssignmentConfig(low_quality="none")
ANCHORS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 110.0, 10.0], [200.0, 0.0, 210.0, 10.0]])


def labels_of(boxes: list[list[float]], config: AssignmentConfig = NONE, crowd: list[bool] | None = None) -> list[int]:
    objects = Objects.of(boxes, [0] * len(boxes), crowd)
    return match_image(ANCHORS, objects.boxes, objects.crowd, None, config).tolist()


def batch_of(*objects: Objects, shape: tuple[int, int] = (64, 64)) -> Batch:
    return Batch.pack([torch.zeros(3, *shape, dtype=torch.uint8) for _ in objects], objects)


def some_objects(count: int, seed: int, side: int = 64) -> Objects:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * (side - 20)
    sides = 8 + torch.rand(count, 2, generator=generator) * (side - 10)
    crowd = torch.rand(count, generator=generator) < 0.2
    return Objects(torch.cat([corners, (corners + sides).clamp(max=side)], 1), torch.zeros(count).long(), crowd)


@pytest.mark.parametrize(
    ("height", "expected"),
    [
        (10.0, 0),
        (5.0, 0),  # IoU exactly .5 is positive
        (4.99, IGNORED),
        (4.0, IGNORED),  # exactly .4 is not background: the paper's background is [0, .4)
        (3.99, BACKGROUND),
    ],
)
def test_thresholds_are_exact(height: float, expected: int) -> None:
    assert labels_of([[0.0, 0.0, 10.0, height]]) == [expected, BACKGROUND, BACKGROUND]


def test_without_objects_every_anchor_is_background() -> None:
    assert labels_of([]) == [BACKGROUND] * 3


def test_an_anchor_answers_for_the_object_it_overlaps_most_and_a_tie_goes_to_the_lower_one() -> None:
    half, most = [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 9.0]
    assert labels_of([half, most])[0] == 1
    assert labels_of([half, [0.0, 5.0, 10.0, 10.0]])[0] == 0


def test_one_object_may_have_many_anchors() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 6.0]])
    assert match_image(anchors, anchors[:1], torch.tensor([False]), None, NONE).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("policy", "at_45", "at_30"), [("none", IGNORED, BACKGROUND), ("authors", 0, BACKGROUND), ("all", 0, 0)]
)
def test_best_anchors_of_objects_without_a_match(policy: Any, at_45: int, at_30: int) -> None:
    config = AssignmentConfig(low_quality=policy)
    assert labels_of([[0.0, 0.0, 10.0, 4.5]], config)[0] == at_45
    assert labels_of([[0.0, 0.0, 10.0, 3.0]], config)[0] == at_30


def test_every_anchor_that_is_equally_the_best_is_promoted() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    box, config = torch.tensor([[0.0, 0.0, 10.0, 4.5]]), AssignmentConfig(low_quality="authors")
    assert match_image(anchors, box, torch.tensor([False]), None, config).tolist() == [0, 0]


def test_a_promoted_anchor_keeps_the_object_it_overlaps_most() -> None:
    # The anchor is the best of both objects: IoU .45 with the first, .3 with the second.
    objects = [[0.0, 0.0, 10.0, 4.5], [0.0, 7.0, 10.0, 10.0]]
    assert labels_of(objects, AssignmentConfig(low_quality="all"))[0] == 0


@pytest.mark.parametrize("policy", ["none", "authors", "all"])
@pytest.mark.parametrize("box", [[500.0, 0.0, 510.0, 10.0], [3.0, 3.0, 3.0, 8.0]], ids=["outside", "without area"])
def test_an_object_that_no_anchor_touches_matches_nothing(policy: Any, box: list[float]) -> None:
    assert labels_of([box], AssignmentConfig(low_quality=policy)) == [BACKGROUND] * 3


def test_a_positive_threshold_of_0_does_not_match_what_does_not_touch() -> None:
    config = AssignmentConfig(positive_iou=0, background_iou=0, low_quality="none")
    assert labels_of([[0.0, 0.0, 10.0, 1.0]], config) == [0, IGNORED, IGNORED]


@pytest.mark.parametrize(
    ("crowd", "expected"),
    [
        ([0.0, 0.0, 10.0, 5.0], IGNORED),  # half of the anchor lies in it, exactly the share that is asked for
        ([0.0, 0.0, 10.0, 4.9], BACKGROUND),
        ([-500.0, -500.0, 50.0, 500.0], IGNORED),  # IoU is tiny, the anchor is wholly inside
    ],
)
def test_anchors_in_a_crowd_are_ignored_and_never_positive(crowd: list[float], expected: int) -> None:
    assert labels_of([crowd], AssignmentConfig(low_quality="all"), [True]) == [expected, BACKGROUND, BACKGROUND]


def test_an_object_within_a_crowd_keeps_its_anchor() -> None:
    assert labels_of([[-5.0, -5.0, 120.0, 20.0], [0.0, 0.0, 10.0, 9.0]], crowd=[True, False]) == [1, IGNORED, -1]


def test_a_crowd_overlap_of_0_still_needs_overlap() -> None:
    assert labels_of([[0.0, 0.0, 1.0, 1.0]], AssignmentConfig(crowd_overlap=0), [True]) == [IGNORED, -1, -1]


def test_anchors_centred_on_padding_are_ignored_whatever_they_overlap() -> None:
    box, no_crowd = torch.tensor([[100.0, 0.0, 110.0, 10.0]]), torch.tensor([False])
    assert match_image(ANCHORS, box, no_crowd, (20, 105), NONE).tolist() == [-1, IGNORED, IGNORED]
    assert match_image(ANCHORS, box, no_crowd, (20, 106), NONE).tolist() == [-1, 0, IGNORED]
    peers = AssignmentConfig(low_quality="none", padding="background")
    assert match_image(ANCHORS, box, no_crowd, (20, 105), peers).tolist() == [-1, 0, -1]


def test_the_best_anchor_of_an_object_is_looked_for_inside_the_picture() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0]])
    box, config = torch.tensor([[4.0, 0.0, 14.0, 4.5]]), AssignmentConfig(low_quality="all")
    assert match_image(anchors, box, torch.tensor([False]), (20, 8), config).tolist() == [0, IGNORED]
    assert match_image(anchors, box, torch.tensor([False]), (20, 10), config).tolist() == [BACKGROUND, 0]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_assignments_equal_torchvisions_recording(version: str) -> None:
    recorded = np.load(GOLDEN / f"torchvision_{version}_r50_k7_256x320.npz")
    anchors = Anchors.from_config(
        Config().with_changes({"anchors": {"offset": "corner", "round_sizes": True, "stride": "floor_of_padded"}})
    )
    objects = Objects.of(recorded["gt_boxes"], recorded["gt_labels"])
    config = AssignmentConfig(low_quality="all", padding="background")
    labels = match_image(anchors.boxes(256, 320), objects.boxes, objects.crowd, (256, 320), config)
    positive = (labels >= 0).nonzero().squeeze(1)
    assert positive.tolist() == recorded["matched_index"].tolist()
    assert labels[positive].tolist() == recorded["matched_object"].tolist()
    assert (labels == IGNORED).nonzero().squeeze(1).tolist() == recorded["ignored_index"].tolist()


def by_the_paper(anchors: Tensor, objects: Objects, config: AssignmentConfig) -> list[int]:
    """One anchor at a time, in words of the paper and of the settings."""
    overlaps = iou(objects.boxes, anchors)
    learned = [g for g in range(len(objects)) if not objects.crowd[g]]
    labels = []
    for n in range(len(anchors)):
        best = max((float(overlaps[g, n]) for g in learned), default=0.0)
        promoted = any(float(overlaps[g, n]) == float(overlaps[g].max()) > 0 for g in learned)
        promoted &= config.low_quality == "all" or (config.low_quality == "authors" and best >= np.float32(0.4))
        if promoted or best >= 0.5:
            labels.append(next(g for g in learned if float(overlaps[g, n]) == best))
        elif best >= np.float32(0.4) or _share_in_crowd(anchors[n], objects) >= 0.5:
            labels.append(IGNORED)
        else:
            labels.append(BACKGROUND)
    return labels


def _share_in_crowd(anchor: Tensor, objects: Objects) -> float:
    shares = [0.0]
    for box in objects.boxes[objects.crowd]:
        sides = (torch.minimum(anchor[2:], box[2:]) - torch.maximum(anchor[:2], box[:2])).clamp(min=0)
        shares.append(float(sides.prod() / (anchor[2:] - anchor[:2]).prod()))
    return max(shares)


@given(st.integers(0, 5), st.integers(0, 1000), st.sampled_from(["none", "authors", "all"]))
def test_matching_reads_like_the_paper(count: int, seed: int, policy: Any) -> None:
    anchors = Anchors((5, 6), (32.0, 64.0), (1.0, 1.5), (0.5, 1.0)).boxes(64, 64)
    objects, config = some_objects(count, seed), AssignmentConfig(low_quality=policy)
    labels = match_image(anchors, objects.boxes, objects.crowd, None, config)
    assert labels.tolist() == by_the_paper(anchors, objects, config)


def dense(found: Match) -> Tensor:
    labels = torch.full((found.num_images * found.num_anchors,), BACKGROUND)
    labels[found.positive], labels[found.ignored] = found.object, IGNORED
    return labels.reshape(found.num_images, -1)


def test_a_batch_is_matched_as_its_pictures_are() -> None:
    objects = [some_objects(4, 1), Objects.empty(), some_objects(1, 2)]
    found = match(PAPER, batch_of(*objects), AssignmentConfig())
    anchors, first = PAPER.boxes(64, 64), 0
    for labels, one in zip(dense(found), objects, strict=True):
        alone = match_image(anchors, one.boxes, one.crowd, (64, 64), AssignmentConfig())
        assert torch.equal(labels, torch.where(alone >= 0, alone + first, alone))
        first += len(one)
    assert found.positives_per_image().tolist() == [int((row >= 0).sum()) for row in dense(found)]
    assert len(found.positive) == len(found.object) > 0


def test_a_batch_without_any_object_has_no_positive() -> None:
    found = match(PAPER, batch_of(Objects.empty(), Objects.empty()), AssignmentConfig())
    assert found.positives_per_image().tolist() == [0, 0]
    assert found.positive.dtype == found.object.dtype == found.ignored.dtype == torch.int64


def test_padding_does_not_change_what_a_picture_teaches() -> None:
    one = some_objects(5, 7)
    alone = match(PAPER, batch_of(one), AssignmentConfig())
    padded_batch = Batch.pack([torch.zeros(3, 64, 64, dtype=torch.uint8)], [one], shape=(96, 128))
    padded = match(PAPER, padded_batch, AssignmentConfig())

    def answers(found: Match, shape: tuple[int, int]) -> set[tuple[float, ...]]:
        chosen = PAPER.boxes(*shape)[found.positive].tolist()
        return {(*box, g) for box, g in zip(chosen, found.object.tolist(), strict=True)}

    assert answers(alone, (64, 64)) == answers(padded, (96, 128)) != set()


@settings(max_examples=30)
@given(st.integers(0, 30), st.integers(0, 1000), st.sampled_from([(60, 60), (90, 300), (97, 240)]))
def test_best_iou_is_what_comparing_with_every_anchor_inside_gives(
    count: int, seed: int, shape: tuple[int, int]
) -> None:
    boxes = some_objects(count, seed, side=min(shape)).boxes
    for layout in (PAPER, Anchors((6,), (40.0,), (1.0,), (1.0,))):
        anchors = layout.boxes(*shape)
        expected = iou(anchors[centred_inside(anchors, shape)], boxes).amax(0)
        assert_close(best_iou(layout, boxes, shape), expected, atol=1e-6, rtol=0)


def test_a_level_without_an_anchor_inside_covers_nothing() -> None:
    # The one cell of level 7 is centred on (64, 64).
    coarse, box = Anchors((7,), (200.0,), (1.0,), (1.0,)), torch.tensor([[0.0, 0.0, 60.0, 60.0]])
    assert_close(best_iou(coarse, box, (64, 100)), torch.zeros(1))
    assert_close(best_iou(coarse, torch.zeros(1, 4), (64, 100)), torch.zeros(1))
    assert_close(best_iou(coarse, box, (65, 65)), torch.tensor([3600 / 40_000]))


@pytest.mark.parametrize("offset", ["centre", "corner"])
@pytest.mark.parametrize("stride", ["exact", "floor_of_padded"])
def test_best_iou_knows_every_layout_of_the_grid(offset: Any, stride: Any) -> None:
    boxes, shape = some_objects(200, 3, side=300).boxes, (304, 400)
    for levels, sizes in (((3, 5, 7), (32.0, 100.0, 500.0)), ((7,), (60.0,))):
        anchors = Anchors(levels, sizes, (1.0,), (0.5, 2.0), offset, round_sizes=True, stride=stride)
        grid = anchors.boxes(*shape)
        expected = iou(grid[centred_inside(grid, shape)], boxes).amax(0)
        assert_close(best_iou(anchors, boxes, shape), expected, atol=1e-6, rtol=0)


def test_best_iou_takes_a_shape_for_each_box() -> None:
    boxes = some_objects(4, 9).boxes
    shapes = torch.tensor([[64, 64], [64, 128], [320, 320], [100, 64]])
    expected = [best_iou(PAPER, box[None], tuple(shape)) for box, shape in zip(boxes, shapes.tolist(), strict=True)]
    assert_close(best_iou(PAPER, boxes, shapes), torch.cat(expected))


def test_small_objects_have_no_anchor_and_boxes_without_area_none_at_all() -> None:
    # A 32-pixel anchor around a 16-pixel square: IoU 1/4 at best.
    boxes = torch.tensor([[92.0, 92.0, 108.0, 108.0], [50.0, 50.0, 50.0, 60.0]])
    assert_close(best_iou(PAPER, boxes, (200, 200)), torch.tensor([0.25, 0.0]))


def test_many_boxes_are_covered_without_a_matrix() -> None:
    # 200,000 x 19,206 overlaps would take 15 GB.
    boxes = some_objects(1000, 4).boxes.repeat(200, 1)
    best = best_iou(PAPER, boxes, (320, 320))
    assert_close(best, best_iou(PAPER, boxes[:1000], (320, 320)).repeat(200), atol=1e-6, rtol=0)
