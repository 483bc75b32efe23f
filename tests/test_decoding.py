"""Decoding by hand, then against a loop over every anchor and class."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from foveal.anchors import Anchors
from foveal.boxes import area, iou
from foveal.boxes import clip as clip_boxes
from foveal.boxes import decode as decode_boxes
from foveal.candidates import logit
from foveal.config import InferenceConfig
from foveal.decoding import Found, decode
from foveal.model.retinanet import Outputs

K = 2
TWO_LEVELS = Anchors(levels=(3, 4), sizes=(16.0, 32.0), scales=(1.0,), ratios=(0.5, 1.0))
SHAPE = (32, 48)
WHOLE = torch.tensor([SHAPE])


def silent(batch: int = 1) -> Outputs:
    """Outputs in which nothing reaches any threshold and every box is its anchor."""
    shapes = TWO_LEVELS.feature_shapes(*SHAPE)
    logits = tuple(torch.full((batch, 2 * K, *s), -20.0) for s in shapes)
    return Outputs(logits, tuple(torch.zeros(batch, 2 * 4, *s) for s in shapes))


def random_outputs(batch: int, seed: int, step: float = 0.5) -> Outputs:
    """Logits rounded to `step`, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    shapes = TWO_LEVELS.feature_shapes(*SHAPE)
    logits = [torch.randn(batch, 2 * K, *s, generator=generator) * 2 - 2 for s in shapes]
    deltas = [torch.randn(batch, 2 * 4, *s, generator=generator) * 0.3 for s in shapes]
    return Outputs(tuple((x / step).round() * step for x in logits), tuple(deltas))


def test_one_confident_anchor_becomes_one_detection() -> None:
    outputs = silent()
    # Level 4: anchor 1 (32 x 32), class 1, row 0, column 2: centred on (40, 8), so 24 .. 56 x -8 .. 24 before clipping.
    outputs.logits[1][0, 1 * K + 1, 0, 2] = 2.0
    outputs.deltas[1][0, 4:8, 0, 2] = torch.tensor([-0.5, 0.25, math.log(0.5), 0.0])
    ((boxes, scores, labels),) = decode(outputs, TWO_LEVELS, SHAPE, WHOLE, InferenceConfig())
    # The centre moves to (24, 16), the width to 16: 16 .. 32 x 0 .. 32.
    assert_close(boxes, torch.tensor([[16.0, 0.0, 32.0, 32.0]]))
    assert_close(scores, torch.tensor([1 / (1 + math.exp(-2))]))
    assert labels.tolist() == [1]


def test_a_silent_net_finds_nothing() -> None:
    for boxes, scores, labels in decode(silent(2), TWO_LEVELS, SHAPE, WHOLE.repeat(2, 1), InferenceConfig()):
        assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
        assert labels.dtype == torch.int64


def test_a_score_at_the_threshold_stays() -> None:
    outputs = silent()
    outputs.logits[0][0, 0, 0, 0] = logit(0.3)
    for threshold, count in ((0.3, 1), (0.301, 0), (0.0, 1), (1.0, 0)):
        config = InferenceConfig(nms_iou=0)
        ((_, scores, _),) = decode(outputs, TWO_LEVELS, (32, 48), WHOLE, config, score_threshold=threshold)
        assert int((scores > 0.01).sum()) == count


def test_scores_that_print_as_1_still_have_an_order() -> None:
    outputs = silent()
    outputs.logits[0][0, 0, 1, 1], outputs.logits[0][0, 0, 1, 2] = 40.0, 50.0
    # Two neighbouring anchors mean the same object; only their logits tell which was surer.
    width = 16 * 2**0.5
    outputs.deltas[0][0, 0, 1, 1], outputs.deltas[0][0, 0, 1, 2] = 4 / width, -4 / width
    outputs.deltas[0][0, 2, 1, 2] = math.log(1.1)
    ((boxes, scores, _),) = decode(outputs, TWO_LEVELS, SHAPE, WHOLE, InferenceConfig())
    assert scores.tolist() == [1.0]
    assert_close(boxes[0, 2] - boxes[0, 0], torch.tensor(1.1 * width))


def test_each_level_keeps_only_its_best_candidates_and_ties_go_to_the_lower_index() -> None:
    outputs = silent()
    outputs.logits[0][0, 0] = 1.0  # anchor 0, class 0 in all 24 cells of level 3, all equal
    outputs.logits[1][0, 0, 0, 0] = 0.5
    config = InferenceConfig(candidates_per_level=2, nms_iou=1.0)
    ((boxes, scores, _),) = decode(outputs, TWO_LEVELS, SHAPE, WHOLE, config)
    cells = clip_boxes(TWO_LEVELS.levels_of(*SHAPE)[0][[0, 2]], SHAPE)
    assert_close(boxes[:2], cells)
    assert_close(scores, torch.tensor([1.0, 1.0, 0.5]).sigmoid())


def test_boxes_are_clipped_to_the_picture_and_dropped_where_nothing_is_left() -> None:
    outputs = silent()
    outputs.logits[0][0, 0, 0, 0] = outputs.logits[0][0, 1, 3, 5] = 3.0
    outputs.deltas[0][0, 0, 0, 0] = -10.0  # far to the left of the picture
    ((boxes, _, labels),) = decode(outputs, TWO_LEVELS, SHAPE, torch.tensor([[31, 45]]), InferenceConfig())
    assert labels.tolist() == [1]
    assert boxes[0, 2:].tolist() == [45.0, 31.0]


def test_anchors_centred_on_padding_are_asked_only_if_told() -> None:
    outputs = silent()
    outputs.logits[0][0, 0, 0, 4] = 3.0  # centred on x = 36
    for width, told, count in ((37, False, 1), (36, False, 0), (36, True, 1)):
        size = torch.tensor([[32, width]])
        ((boxes, _, _),) = decode(outputs, TWO_LEVELS, SHAPE, size, InferenceConfig(), padding_answers=told)
        assert len(boxes) == count


def test_what_is_not_a_number_is_not_a_detection() -> None:
    outputs = silent()
    outputs.logits[0][0, 0, 0, 0] = torch.nan
    outputs.logits[0][0, 0, 1, 1] = 5.0
    outputs.deltas[0][0, 1, 1, 1] = torch.nan
    ((boxes, _, _),) = decode(outputs, TWO_LEVELS, SHAPE, WHOLE, InferenceConfig())
    assert len(boxes) == 0


def one_by_one(outputs: Outputs, image: int, config: InferenceConfig) -> list[tuple[float, int, list[float]]]:
    """(logit, label, box) of every detection, by a loop over anchors and classes and one over candidates."""
    candidates = []
    first = 0
    for anchors, logits, deltas in zip(TWO_LEVELS.levels_of(*SHAPE), outputs.logits, outputs.deltas, strict=True):
        rows, columns = logits.shape[2:]
        level = []
        for n in range(len(anchors)):
            cell, a = divmod(n, 2)
            y, x = divmod(cell, columns)
            box = clip_boxes(decode_boxes(anchors[n], deltas[image, a * 4 : a * 4 + 4, y, x]), SHAPE)
            for k in range(K):
                value = float(logits[image, a * K + k, y, x])
                level.append((-value, (first + n) * K + k, k, box))
        assert len(level) == rows * columns * 2 * K
        level = [c for c in sorted(level, key=lambda c: c[:2]) if c[0] <= -logit(config.score_threshold)]
        candidates += [c for c in level[: config.candidates_per_level] if float(area(c[3])) > 0]
        first += len(anchors)
    kept: list[tuple[float, int, int, Tensor]] = []
    for candidate in sorted(candidates, key=lambda c: c[:2]):
        rivals = [c[3] for c in kept if c[2] == candidate[2]]
        if not rivals or float(iou(candidate[3][None], torch.stack(rivals)).max()) <= config.nms_iou:
            kept.append(candidate)
    return [(-value, label, box.tolist()) for value, _, label, box in kept[: config.max_detections]]


def readable(found: Found) -> list[tuple[float, int, list[float]]]:
    boxes, scores, labels = found
    return list(zip(scores.logit().tolist(), labels.tolist(), boxes.tolist(), strict=True))


@given(st.integers(0, 200), st.sampled_from([(1000, 100), (7, 100), (30, 5)]))
def test_it_finds_what_looking_at_every_pair_finds(seed: int, limits: tuple[int, int]) -> None:
    outputs = random_outputs(2, seed)
    config = InferenceConfig(candidates_per_level=limits[0], max_detections=limits[1])
    for image, found in enumerate(decode(outputs, TWO_LEVELS, SHAPE, WHOLE.repeat(2, 1), config)):
        expected = one_by_one(outputs, image, config)
        assert [c[1:] for c in readable(found)] == [c[1:] for c in expected]
        assert [c[0] for c in readable(found)] == pytest.approx([c[0] for c in expected], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_layout_and_batching_change_nothing(dtype: torch.dtype) -> None:
    outputs = random_outputs(3, seed=1)
    outputs = Outputs(tuple(x.to(dtype) for x in outputs.logits), tuple(x.to(dtype) for x in outputs.deltas))
    config, sizes = InferenceConfig(), torch.tensor([[32, 48], [20, 48], [32, 30]])
    together = decode(outputs, TWO_LEVELS, SHAPE, sizes, config)
    last = Outputs(
        tuple(x.to(memory_format=torch.channels_last) for x in outputs.logits),
        tuple(x.to(memory_format=torch.channels_last) for x in outputs.deltas),
    )
    for image in range(3):
        mine = slice(image, image + 1)
        single = Outputs(tuple(x[mine] for x in outputs.logits), tuple(x[mine] for x in outputs.deltas))
        alone = decode(single, TWO_LEVELS, SHAPE, sizes[mine], config)[0]
        also = decode(last, TWO_LEVELS, SHAPE, sizes, config)[image]
        for one, other, third in zip(together[image], alone, also, strict=True):
            assert torch.equal(one, other)
            assert torch.equal(one, third)
        assert together[image][1].dtype == torch.float32
