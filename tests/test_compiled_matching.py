"""The compiled matching where it alone could go wrong: buffers, counts, types. More is in `test_grid_matching.py`."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from foveal import compiled, compiled_matching
from foveal.anchors import Anchors
from foveal.compiled_matching import assign, takes
from foveal.config import AssignmentConfig
from foveal.detections import Batch, Objects
from foveal.matching import match, match_plainly

pytestmark = pytest.mark.skipif(compiled.KERNELS is None, reason="the compiled kernels are not built")

ONE = Anchors((3,), (16.0,), (1.0,), (1.0,))
"""On 32 x 32: 16 squares of 16 pixels, centred on 4, 12, 20 and 28; number 5 is (4, 4, 20, 20)."""
TWO_LEVELS = Anchors((3, 4), (16.0, 32.0), (1.0,), (0.5, 2.0))


def batch_of(*objects: Objects, sizes: Any = None, shape: tuple[int, int] = (32, 32)) -> Batch:
    pictures = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes or [shape] * len(objects)]
    return Batch.pack(pictures, objects, shape)


def boxes(*rows: list[float], crowd: list[bool] | None = None) -> Objects:
    return Objects.of(rows, [0] * len(rows), crowd)


def assert_equal_to_plain(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> int:
    """How many anchors are positive."""
    plain = match_plainly(anchors, batch, config)
    found = assign(anchors, batch, config)
    for one, other in zip(found, (plain.positive, plain.object, plain.ignored), strict=True):
        assert one.dtype == torch.int64
        assert_close(one, other, atol=0, rtol=0)
    return len(plain.positive)


def test_it_is_what_match_takes_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(boxes([4, 4, 20, 20]))
    assert takes(batch)
    expected = match(ONE, batch, AssignmentConfig())
    calls: list[Batch] = []
    monkeypatch.setattr(compiled_matching, "assign", lambda *given: calls.append(given[1]) or assign(*given))
    found = match(ONE, batch, AssignmentConfig())
    assert calls == [batch]
    assert (found.positive.tolist(), found.num_images, found.num_anchors) == ([5], 1, 16)
    assert expected.positive.tolist() == [5]
    monkeypatch.setattr(compiled, "KERNELS", None)
    assert not takes(batch)
    assert match(ONE, batch, AssignmentConfig()).positive.tolist() == [5]
    assert len(calls) == 1


def test_it_does_not_take_what_it_could_not_read() -> None:
    batch = batch_of(boxes([4, 4, 20, 20]))
    for name, dtype in (("boxes", torch.float64), ("crowd", torch.uint8), ("image_index", torch.int32)):
        assert not takes(replace(batch, **{name: getattr(batch, name).to(dtype)}))
    assert not takes(replace(batch, sizes=batch.sizes.int()))
    assert not takes(batch.to("meta"))


def test_boxes_may_lie_anyhow_and_belong_to_a_graph() -> None:
    batch = batch_of(boxes([4, 4, 20, 20], [12, 4, 28, 20]))
    strided = torch.zeros(4, 2).copy_(batch.boxes.t()).t().requires_grad_()
    assert not strided.is_contiguous()
    assert assign(ONE, replace(batch, boxes=strided), AssignmentConfig())[0].tolist() == [5, 6]


@pytest.mark.parametrize("shape", [(1, 1), (8, 24), (24, 40), (56, 64), (64, 72)])
@pytest.mark.parametrize("low_quality", ["none", "authors", "all"])
def test_any_number_of_anchors(shape: tuple[int, int], low_quality: Any) -> None:
    # 4, 10, 42, 144 and 184 anchors; one object lies on the last of them.
    height, width = shape
    last = TWO_LEVELS.boxes(height, width)[-1].tolist()
    batch = batch_of(boxes([0, 0, 11, 22], last, [0, 0, width, height]), shape=shape)
    config = AssignmentConfig(low_quality=low_quality, padding="background")
    assert assert_equal_to_plain(TWO_LEVELS, batch, config) > 0
    assert assign(TWO_LEVELS, batch, config)[0][-1] == TWO_LEVELS.count(height, width) - 1


@pytest.mark.parametrize("low_quality", ["none", "authors", "all"])
@pytest.mark.parametrize("padding", ["ignored", "background"])
def test_many_pictures_of_different_sizes(low_quality: Any, padding: Any) -> None:
    # Each picture's state begins anew: a picture without objects comes after a full one.
    sizes = [(5 + 3 * n % 60, 64 - 2 * n) for n in range(30)]
    generator = torch.Generator().manual_seed(1)
    objects = []
    for n in range(30):
        corners = torch.rand(n % 4, 2, generator=generator) * 40
        sides = 4 + torch.rand(n % 4, 2, generator=generator) * 40
        crowd = torch.rand(n % 4, generator=generator) < 0.2
        objects.append(Objects(torch.cat([corners, corners + sides], 1), torch.zeros(n % 4).long(), crowd))
    batch = batch_of(*objects, sizes=sizes, shape=(64, 64))
    config = AssignmentConfig(low_quality=low_quality, padding=padding)
    assert assert_equal_to_plain(TWO_LEVELS, batch, config) > 5


def test_anchors_of_a_batch_may_be_more_than_32_bits_count() -> None:
    # 9,600 anchors in each of 230,000 pictures: 2.2 thousand million.
    fine = Anchors((2,), (8.0,), (1.0,), (0.1, 1.0, 9.0))
    count, (one, last) = 230_000, (batch_of(boxes([0, 0, 2, 2])), torch.tensor([230_000 - 1]))
    batch = replace(
        batch_of(boxes([2, 2, 10, 10])),
        images=one.images[:, :, :1, :1].expand(count, 3, 200, 256),
        sizes=torch.tensor([[200, 256]]).expand(count, 2),
        image_index=last,
    )
    positive, of_object, ignored = assign(fine, batch, AssignmentConfig())
    # Row 1, column 1 has its square at (2, 2, 10, 10).
    assert (positive - last * 9600).tolist() == [3 * (64 + 1) + 1]
    assert (of_object.tolist(), len(ignored)) == ([0], 0)
    assert int(positive) > 2**31


@pytest.mark.parametrize("low_quality", ["none", "all"])
def test_endless_boxes_overlap_nothing_and_endless_crowds_everything(low_quality: Any) -> None:
    # An infinite area makes every IoU 0; anchor 5 is inside the crowd and answers for an object all the same.
    endless = [[-inf, -inf, inf, inf], [0, 0, inf, 20], [-inf, 4, 20, 20], [inf, 0, inf, 9], [4, 4, 20, 20]]
    config = AssignmentConfig(low_quality=low_quality)
    for crowd in ([False] * 5, [True, False, False, False, False], [False, True, False, False, False]):
        assert assert_equal_to_plain(ONE, batch_of(boxes(*endless, crowd=crowd)), config) == 1
    positive, of_object, ignored = assign(
        ONE, batch_of(boxes(*endless, crowd=[True, False, False, False, False])), config
    )
    assert (positive.tolist(), of_object.tolist(), len(ignored)) == ([5], [4], 15)


def test_what_is_no_number_is_no_object() -> None:
    rows = [[nan, 0, 9, 9], [0, 0, nan, nan], [4, 4, 20, 20], [nan] * 4, [nan, 0, 32, 32]]
    objects = boxes(*rows, crowd=[False, True, False, False, True])
    positive, of_object, ignored = assign(ONE, batch_of(objects), AssignmentConfig(low_quality="all"))
    assert (positive.tolist(), of_object.tolist(), ignored.tolist()) == ([5], [2], [])


def test_thresholds_in_the_wrong_order() -> None:
    # A neighbour of anchor 5 has 1/3: positive, though below the threshold of background.
    config = AssignmentConfig(positive_iou=0.3, background_iou=0.5, low_quality="none")
    assert assert_equal_to_plain(ONE, batch_of(boxes([4, 4, 20, 20])), config) == 5


ANCHORS, LEVELS, BOUNDS, BOXES, CROWD, IMAGE_OF, SIZES, NUM_LEVELS, PER_CELL, NUM_OBJECTS, NUM_IMAGES = range(11)


def arguments() -> list[Any]:
    """One object in the second of two pictures, each with one level of 4 x 4 cells."""
    squares_N4 = ONE.boxes(32, 32).numpy()
    return [
        squares_N4,
        np.array([[4, 4, 8, 8]]),
        np.array([[-8.0, -8.0, 8.0, 8.0, 256.0]]),
        np.array([[4, 4, 20, 20]], np.float32),
        np.zeros(1, bool),
        np.array([1]),
        np.array([[32, 32], [32, 32]]),
        *(1, 1, 1, 2),
        *(False, 0, 0.5, 0.4, True, 0.5),
    ]


def test_the_kernel_by_hand() -> None:
    assert compiled.KERNELS is not None
    found = compiled.KERNELS.match(*arguments())
    assert [np.frombuffer(one, np.int64).tolist() if one else [] for one in found] == [[16 + 5], [0], []]


@pytest.mark.parametrize(
    ("buffer", "name"),
    [
        (ANCHORS, "anchors"),
        (LEVELS, "levels"),
        (BOUNDS, "bounds"),
        (BOXES, "boxes"),
        (CROWD, "crowd"),
        (IMAGE_OF, "image_index"),
        (SIZES, "sizes"),
    ],
)
def test_a_buffer_that_is_too_short_is_refused(buffer: int, name: str) -> None:
    assert compiled.KERNELS is not None
    given = arguments()
    given[buffer] = given[buffer].reshape(-1)[:-1].copy()
    with pytest.raises(ValueError, match=rf"^{name} is shorter than the other arguments say$"):
        compiled.KERNELS.match(*given)


@pytest.mark.parametrize("count", [NUM_LEVELS, PER_CELL, NUM_OBJECTS, NUM_IMAGES])
@pytest.mark.parametrize("value", [-1, 3, 2**62])
def test_a_count_that_the_buffers_do_not_have_is_refused(count: int, value: int) -> None:
    assert compiled.KERNELS is not None
    given = arguments()
    given[count] = value
    with pytest.raises(ValueError, match=r"is shorter than the other arguments say$"):
        compiled.KERNELS.match(*given)


@pytest.mark.parametrize("level", [[-4, 4, 8, 8], [4, -4, 8, 8], [4, 4, 0, 8], [4, 4, 8, 0], [2**40, 2**40, 8, 8]])
def test_a_level_that_is_no_grid_is_refused(level: list[int]) -> None:
    assert compiled.KERNELS is not None
    given = arguments()
    given[LEVELS] = np.array([level])
    with pytest.raises(ValueError, match="a level is not a grid of cells"):
        compiled.KERNELS.match(*given)


def test_an_object_of_no_picture_matches_nothing() -> None:
    assert compiled.KERNELS is not None
    for image in (-1, 2, 2**62):
        given = arguments()
        given[IMAGE_OF] = np.array([image])
        assert compiled.KERNELS.match(*given) == (b"", b"", b"")
