"""The fast paths by hand, then against the plain one: bit-equal for every layout of anchors, policy and kind of box.

What is asked of the tensor path is asked of the compiled kernel too, where it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import foveal.reach
from foveal import compiled
from foveal.anchors import Anchors
from foveal.config import AssignmentConfig, Config
from foveal.detections import Batch, Objects
from foveal.matching import Match, match, match_plainly

PAPER = Anchors.from_config(Config())
ONE = Anchors((3,), (16.0,), (1.0,), (1.0,))
"""On 32 x 32: 16 squares of 16 pixels, centred on 4, 12, 20 and 28; number 5 is (4, 4, 20, 20)."""

POLICIES = ("none", "authors", "all")

on_both_paths = pytest.mark.usefixtures("path")


@pytest.fixture(scope="module", params=["compiled", "tensors"])
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    """What `match` takes on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tensors":
            patch.setattr(compiled, "KERNELS", None)
        elif compiled.KERNELS is None:
            pytest.skip("the compiled kernels are not built")
        yield


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "KERNELS", None)


def batch_of(*objects: Objects, sizes: Any = None, shape: tuple[int, int] = (32, 32)) -> Batch:
    pictures = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes or [shape] * len(objects)]
    return Batch.pack(pictures, objects, shape)


def boxes(*rows: list[float], crowd: list[bool] | None = None) -> Objects:
    return Objects.of(rows, [0] * len(rows), crowd)


def answers(found: Match) -> tuple[dict[int, int], list[int]]:
    """Object by positive anchor, and ignored anchors."""
    return dict(zip(found.positive.tolist(), found.object.tolist(), strict=True)), found.ignored.tolist()


def assert_equal_to_plain(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> Match:
    fast, plain = match(anchors, batch, config), match_plainly(anchors, batch, config)
    for ours, theirs in ((fast.positive, plain.positive), (fast.object, plain.object), (fast.ignored, plain.ignored)):
        assert_close(ours, theirs, atol=0, rtol=0)
    assert (fast.num_images, fast.num_anchors) == (plain.num_images, plain.num_anchors)
    return fast


# -- by hand -----------------------------------------------------------------------------------------------------------


@on_both_paths
def test_an_anchor_and_its_neighbours() -> None:
    # A neighbour shares 8 x 16 of 512 - 128 pixels: 1/3.
    batch = batch_of(boxes([4, 4, 20, 20]))
    config = AssignmentConfig(low_quality="none")
    assert answers(match(ONE, batch, config)) == ({5: 0}, [])
    lower = AssignmentConfig(low_quality="none", background_iou=1 / 3)
    assert answers(match(ONE, batch, lower)) == ({5: 0}, [1, 4, 6, 9])
    lowest = AssignmentConfig(low_quality="none", background_iou=1 / 3, positive_iou=1 / 3)
    assert answers(match(ONE, batch, lowest)) == ({1: 0, 4: 0, 5: 0, 6: 0, 9: 0}, [])


@on_both_paths
@pytest.mark.parametrize(("policy", "expected"), [("none", {}), ("authors", {}), ("all", {5: 0, 6: 0, 9: 0, 10: 0})])
def test_a_tiny_box_ties_with_every_anchor_around_it(policy: Any, expected: dict[int, int]) -> None:
    # Four anchors hold it: IoU 16/256 each.
    batch = batch_of(boxes([14, 14, 18, 18]))
    assert answers(match(ONE, batch, AssignmentConfig(low_quality=policy))) == (expected, [])


@on_both_paths
def test_an_anchor_below_every_threshold_answers_for_the_object_it_overlaps_most() -> None:
    # Object 1 lies in anchors 2, 3, 6 and 7. Object 0 has anchor 5, and overlaps 2 and 6 more than object 1 does.
    batch = batch_of(boxes([4, 4, 20, 20], [22, 8, 26, 12]))
    found = answers(match(ONE, batch, AssignmentConfig(low_quality="all")))
    assert found == ({2: 0, 3: 1, 5: 0, 6: 0, 7: 1}, [])


@on_both_paths
def test_a_huge_box_has_its_best_anchors_in_the_picture() -> None:
    # The one cell of level 7 is centred on (64, 64), outside: its anchor, the largest, is not to be had.
    anchors = Anchors((3, 7), (16.0, 200.0), (1.0,), (1.0,))
    batch = batch_of(boxes([-1e7, -1e7, 1e7, 1e7]))
    found = match(anchors, batch, AssignmentConfig(low_quality="all"))
    assert answers(found) == (dict.fromkeys(range(16), 0), [16])


@on_both_paths
def test_equal_objects_answer_by_the_lower_one_and_a_crowd_by_none() -> None:
    same = [4.0, 4.0, 20.0, 20.0]
    assert answers(match(ONE, batch_of(boxes(same, same)), AssignmentConfig()))[0] == {5: 0}
    crowd = boxes(same, same, crowd=[True, False])
    # Anchors 1, 4, 6 and 9 lie half in the crowd.
    assert answers(match(ONE, batch_of(crowd), AssignmentConfig())) == ({5: 1}, [1, 4, 6, 9])


@on_both_paths
def test_objects_are_numbered_through_the_batch_and_padding_is_ignored() -> None:
    first, second = boxes([4, 4, 20, 20]), boxes([12, 4, 28, 20])
    batch = batch_of(first, Objects.empty(), second, sizes=[(32, 32), (32, 12), (28, 32)])
    # The second picture has the columns centred on 4; the third the rows centred on 4, 12 and 20.
    outside = [16 + n for n in range(16) if n % 4] + [32 + n for n in range(12, 16)]
    assert answers(match(ONE, batch, AssignmentConfig())) == ({5: 0, 32 + 6: 1}, outside)
    peers = AssignmentConfig(padding="background")
    assert answers(match(ONE, batch, peers)) == ({5: 0, 32 + 6: 1}, [])


@on_both_paths
@pytest.mark.parametrize("policy", POLICIES)
def test_without_objects_nothing_is_positive(policy: Any) -> None:
    for config in (AssignmentConfig(low_quality=policy), AssignmentConfig(low_quality=policy, background_iou=0)):
        assert answers(match(ONE, batch_of(Objects.empty()), config)) == ({}, [])
        assert answers(match(ONE, batch_of(boxes([500, 0, 516, 16])), config))[0] == {}


# -- against the plain path --------------------------------------------------------------------------------------------


KINDS = ("any", "tiny", "huge", "outside", "whole", "anchor", "speck", "half an anchor", "sliver", "no area")
KINDS += ("inverted", "again")


def box_of(kind: str, anchors_N4: Tensor, side: float, generator: torch.Generator) -> Tensor:
    """[4] float32: a box of a kind that has been, or could be, got wrong."""
    x, y, w, h = torch.rand(4, generator=generator).tolist()
    near = anchors_N4[int(torch.randint(len(anchors_N4), (1,), generator=generator))]
    x1, y1, x2, y2 = near.tolist()
    corners = {
        "any": [x * side, y * side, (x + w) * side, (y + h) * side],
        "tiny": [round(x * side), round(y * side), round(x * side) + 4, round(y * side) + 4],
        "huge": [-x * 1e7, -y * 1e7, w * 1e7 + side, h * 1e7 + side],
        "outside": [(1 + x) * side, (y - 1) * side, (1 + x + w) * side, y * side],
        "whole": [0, 0, side, side],
        "anchor": [x1, y1, x2, y2],
        "speck": [x2 - 1 / 256, y2 - 1 / 256, x2, y2],
        "half an anchor": [x1, y1, x2, (y1 + y2) / 2],
        "sliver": [x * side, 0, x * side + w * 1e-3, side],
        "no area": [x * side, y * side, x * side, (y + h) * side],
        "inverted": [(x + w) * side, y * side, x * side, (y + h) * side],
        "again": [8, 8, 40, 40],
    }
    return torch.tensor(corners[kind])


@st.composite
def layouts(draw: st.DrawFn) -> Anchors:
    first = draw(st.integers(2, 5))
    levels = tuple(range(first, first + draw(st.integers(1, 3))))
    factor = draw(st.sampled_from([4.0, 1.0, 0.3, 7.3]))
    scales, ratios = draw(
        st.sampled_from([((1.0,), (1.0,)), ((1.0, 1.5), (0.5, 2.0)), ((1.0, 1.26), (0.13, 1.0, 3.0))])
    )
    return Anchors(
        levels,
        tuple(factor * 2**level for level in levels),
        scales,
        ratios,
        offset=draw(st.sampled_from(["centre", "corner"])),
        round_sizes=draw(st.booleans()),
        stride=draw(st.sampled_from(["exact", "floor_of_padded"])),
    )


@st.composite
def batches(draw: st.DrawFn, anchors: Anchors) -> Batch:
    shape = draw(st.sampled_from([(64, 64), (65, 96), (50, 130), (128, 33)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    sizes, objects = [], []
    for _ in range(draw(st.integers(1, 3))):
        sizes.append((draw(st.integers(1, shape[0])), draw(st.integers(1, shape[1]))))
        if draw(st.booleans()):
            sizes[-1] = shape
        kinds = draw(st.lists(st.sampled_from(KINDS), max_size=8))
        rows = [box_of(kind, anchors.boxes(*shape), max(sizes[-1]), generator) for kind in kinds]
        crowd = torch.rand(len(rows), generator=generator) < draw(st.sampled_from([0.0, 0.3]))
        objects.append(Objects(torch.stack([torch.zeros(4), *rows])[1:], torch.zeros(len(rows)).long(), crowd))
    return batch_of(*objects, sizes=sizes, shape=shape)


@st.composite
def settings_of_assignment(draw: st.DrawFn) -> AssignmentConfig:
    pairs = [(0.4, 0.5), (0.0, 0.5), (0.0, 0.0), (0.05, 0.2), (0.5, 1.0), (1.0, 1.0), (0.5, 0.2)]
    low, high = draw(st.sampled_from(pairs))
    return AssignmentConfig(
        background_iou=low,
        positive_iou=high,
        low_quality=draw(st.sampled_from(POLICIES)),
        crowd_overlap=draw(st.sampled_from([0.5, 0.0, 1.0])),
        padding=draw(st.sampled_from(["ignored", "background"])),
    )


@on_both_paths
@settings(max_examples=250)
@given(st.data())
def test_every_path_gives_the_same(data: st.DataObject) -> None:
    anchors = data.draw(layouts())
    assert_equal_to_plain(anchors, data.draw(batches(anchors)), data.draw(settings_of_assignment()))


def mixed(count: int, side: int, seed: int, kinds: tuple[str, ...] = KINDS) -> Objects:
    """Many objects of all kinds, one in ten a crowd."""
    generator = torch.Generator().manual_seed(seed)
    anchors_N4 = PAPER.boxes(side, side)
    rows = [box_of(kinds[n % len(kinds)], anchors_N4, side, generator) for n in range(count)]
    return Objects(torch.stack(rows), torch.zeros(count).long(), torch.rand(count, generator=generator) < 0.1)


@on_both_paths
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("offset", ["centre", "corner"])
@pytest.mark.parametrize("stride", ["exact", "floor_of_padded"])
@pytest.mark.parametrize("rounded", [False, True])
def test_every_path_agrees_with_the_papers_anchors(policy: Any, offset: Any, stride: Any, rounded: bool) -> None:
    anchors = Anchors(PAPER.levels, PAPER.sizes, PAPER.scales, PAPER.ratios, offset, rounded, stride)
    batch = batch_of(mixed(40, 200, 1), mixed(15, 180, 2), sizes=[(210, 230), (180, 200)], shape=(210, 230))
    found = assert_equal_to_plain(anchors, batch, AssignmentConfig(low_quality=policy))
    assert len(found.positive) > 50
    assert len(found.ignored) > 50


@on_both_paths
def test_specks_at_corners_that_rounding_moved() -> None:
    # Corners of the paper's anchors are off by up to 3e-5 pixels; a speck of 1/256 pixels notices.
    batch = batch_of(mixed(150, 400, 9, ("speck",)), shape=(400, 400))
    assert_equal_to_plain(PAPER, batch, AssignmentConfig(low_quality="all"))


@on_both_paths
@pytest.mark.parametrize("policy", POLICIES)
def test_ten_thousand_objects(policy: Any) -> None:
    config = AssignmentConfig(low_quality=policy)
    found = assert_equal_to_plain(PAPER, batch_of(mixed(10_000, 40, 3), shape=(40, 40)), config)
    assert len(found.positive) > 50


@pytest.mark.usefixtures("tensors")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lowest", [0.0, 0.4])
def test_work_in_pieces_gives_the_same(policy: Any, lowest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foveal.reach, "OBJECTS_AT_ONCE", 7)
    monkeypatch.setattr(foveal.reach, "PAIRS_AT_ONCE", 100)
    batch = batch_of(mixed(20, 64, 4), Objects.empty(), mixed(11, 64, 5), shape=(64, 64))
    assert_equal_to_plain(PAPER, batch, AssignmentConfig(low_quality=policy, background_iou=lowest))


# -- what it costs -----------------------------------------------------------------------------------------------------


class Watched(TorchDispatchMode):
    """Counts torch's operations, and the elements of the largest tensor that one of them makes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.operations += 1
        sizes = [
            one.untyped_storage().nbytes() for one in torch.utils._pytree.tree_leaves(made) if torch.is_tensor(one)
        ]
        self.largest = max([self.largest, *sizes])
        return made


def watch(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> Watched:
    match(anchors, batch, config)  # lays the anchors
    with Watched() as watched:
        match(anchors, batch, config)
    return watched


@pytest.mark.usefixtures("tensors")
@pytest.mark.parametrize("policy", POLICIES)
def test_no_loop_goes_over_pictures_or_objects(policy: Any) -> None:
    config = AssignmentConfig(low_quality=policy)
    objects = mixed(60, 128, 6, ("any", "tiny", "anchor"))
    objects.crowd[0] = True
    few = watch(PAPER, batch_of(objects[:20], shape=(128, 128)), config)
    many = watch(PAPER, batch_of(objects, objects[:7], objects, objects[:30], shape=(128, 128)), config)
    assert many.operations == few.operations > 50


@pytest.mark.usefixtures("tensors")
def test_memory_grows_with_objects_and_anchors_not_with_their_product() -> None:
    # A matrix would take 136 MB, and at a threshold of 0 a whole-picture box has all anchors as pairs.
    batch = batch_of(mixed(500, 600, 7, ("any", "anchor")), shape=(600, 600))
    assert watch(PAPER, batch, AssignmentConfig()).largest < 4e6
    everywhere = batch_of(mixed(20, 600, 8, ("whole",)), shape=(600, 600))
    assert watch(PAPER, everywhere, AssignmentConfig(background_iou=0, positive_iou=0)).largest < 8e6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_gpu_gives_the_same(policy: Any) -> None:
    batch = batch_of(mixed(40, 200, 1), mixed(15, 180, 2), sizes=[(210, 230), (180, 200)], shape=(210, 230))
    config = AssignmentConfig(low_quality=policy)
    there, here = match(PAPER, batch.to("cuda"), config), match(PAPER, batch, config)
    assert (there.positive.tolist(), there.object.tolist()) == (here.positive.tolist(), here.object.tolist())
    assert there.ignored.tolist() == here.ignored.tolist()
