"""A picture and its boxes change together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.config import DataConfig
from foveal.data.augment import augment, crop, crop_objects, jitter_colour, visible
from foveal.detections import Objects

PLAIN = DataConfig(horizontal_flip=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def painted(height: int, width: int, box: tuple[int, int, int, int]) -> tuple[np.ndarray, Objects]:
    """A black picture with one white box, which is also its object."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image, Objects.of([box], [3])


def white_box(image: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(image[:, :, 0])
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


@pytest.mark.parametrize(
    ("config", "turns", "expected"),
    [
        pytest.param(PLAIN, 0, [1, 2, 4, 3], id="nothing"),
        pytest.param(DataConfig(horizontal_flip=1), 0, [6, 2, 9, 3], id="mirrored"),
        pytest.param(DataConfig(horizontal_flip=0, vertical_flip=1), 0, [1, 4, 4, 5], id="upside_down"),
        pytest.param(PLAIN, 1, [2, 6, 3, 9], id="quarter_turn"),
        pytest.param(PLAIN, 2, [6, 4, 9, 5], id="half_turn"),
        pytest.param(PLAIN, 3, [4, 1, 5, 4], id="three_quarter_turn"),
    ],
)
def test_a_box_in_a_picture_of_7_x_10_by_hand(config: DataConfig, turns: int, expected: list[int]):
    image, objects = augment(*painted(7, 10, (1, 2, 4, 3)), config, rng(), turns)
    assert objects.boxes.tolist() == [expected]
    assert white_box(image) == expected
    assert image.shape == ((10, 7, 3) if turns % 2 else (7, 10, 3))
    assert objects.labels.tolist() == [3]


@st.composite
def boxes_in(draw: st.DrawFn) -> tuple[int, int, tuple[int, int, int, int]]:
    height, width = draw(st.integers(2, 40)), draw(st.integers(2, 40))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return height, width, (x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))


EVERYTHING = DataConfig(horizontal_flip=0.5, vertical_flip=0.5, quarter_turns=True, crop=1)


@settings(max_examples=200, deadline=None)
@given(boxes_in(), st.integers(0, 1000))
def test_boxes_stay_on_what_they_show(case: tuple[int, int, tuple[int, int, int, int]], seed: int):
    height, width, box = case
    generator = rng(seed)
    image, objects = crop(*painted(height, width, box), EVERYTHING, generator)
    image, objects = augment(image, objects, EVERYTHING, generator)
    assert objects.boxes.tolist() == [white_box(image)]
    assert not objects.crowd.any()


def test_the_same_generator_gives_the_same_picture_and_another_another():
    config = DataConfig(horizontal_flip=0.5, vertical_flip=0.5, quarter_turns=True, colour_jitter=0.5)
    image = rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    results = [augment(image, Objects.empty(), config, rng(seed))[0] for seed in (5, 5, 6)]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_the_given_picture_and_objects_are_not_changed():
    image, objects = painted(20, 30, (3, 4, 15, 9))
    before, boxes_before = image.copy(), objects.boxes.clone()
    for seed in range(10):
        cropped, kept = crop(image, objects, EVERYTHING, rng(seed))
        augment(cropped, kept, EVERYTHING.model_copy(update={"colour_jitter": 1.0}), rng(seed))
    assert np.array_equal(image, before)
    assert torch.equal(objects.boxes, boxes_before)


def test_half_of_the_pictures_are_mirrored():
    image, objects = painted(4, 10, (0, 0, 1, 4))
    generator = rng()
    mirrored = sum(white_box(augment(image, objects, DataConfig(), generator)[0])[0] == 9 for _ in range(1000))
    assert 440 <= mirrored <= 560


def test_a_picture_without_objects_is_augmented_all_the_same():
    image, objects = augment(np.zeros((4, 6, 3), np.uint8), Objects.empty(), EVERYTHING, rng(), 1)
    assert image.shape == (6, 4, 3)
    assert objects.boxes.shape == (0, 4)


def test_boxes_are_clipped_and_those_under_1_px_dropped():
    objects = Objects.of(
        [[-5, -5, 5, 5], [8, 0, 20, 20], [9.5, 0, 30, 5], [3, 3, 3.9, 8], [3, 3, 4, 4], [20, 20, 30, 30]],
        [0, 1, 2, 3, 4, 5],
        [False, True, False, False, False, False],
    )
    kept = visible(objects, (10, 10))
    assert kept.boxes.tolist() == [[0, 0, 5, 5], [8, 0, 10, 10], [3, 3, 4, 4]]
    assert kept.labels.tolist() == [0, 1, 4]
    assert kept.crowd.tolist() == [False, True, False]


def test_a_window_keeps_cuts_ignores_and_drops_by_the_share_that_is_left():
    # The window begins at x = 70 and y = 0: of boxes 100 wide, 30, 29 and 0 columns are left.
    objects = Objects.of([[0, 0, 100, 10], [-1, 0, 99, 10], [-30, 0, 70, 10], [80, 5, 90, 8]], [0, 1, 2, 3])
    kept = crop_objects(objects, (70, 0, 170, 50))
    assert kept.boxes.tolist() == [[0, 0, 30, 10], [0, 0, 29, 10], [10, 5, 20, 8]]
    assert kept.labels.tolist() == [0, 1, 3]
    assert kept.crowd.tolist() == [False, True, False]


def test_a_crowd_region_stays_one_in_a_window():
    kept = crop_objects(Objects.of([[0, 0, 10, 10]], [0], [True]), (2, 2, 8, 8))
    assert kept.boxes.tolist() == [[0, 0, 6, 6]]
    assert kept.crowd.tolist() == [True]


def test_windows_hold_30_to_100_percent_of_each_side_and_an_object():
    image, objects = painted(100, 200, (150, 60, 190, 90))
    generator = rng()
    shapes = []
    for _ in range(200):
        cropped, kept = crop(image, objects, EVERYTHING, generator)
        shapes.append(cropped.shape[:2])
        assert len(kept) == 1
        assert not kept.crowd.any()
    heights, widths = np.array(shapes).T
    assert 30 <= heights.min() < 50
    assert heights.max() <= 100
    assert 60 <= widths.min() < 100
    assert widths.max() <= 200


def test_a_picture_without_objects_is_cropped_too():
    cropped, kept = crop(np.zeros((100, 100, 3), np.uint8), Objects.empty(), EVERYTHING, rng())
    assert cropped.shape[:2] != (100, 100)
    assert len(kept) == 0


def test_where_no_window_shows_an_object_the_whole_picture_stays():
    # No window holds 30 % of an object 0.9 px wide as a box of 1 px.
    image, objects = np.zeros((100, 100, 3), np.uint8), Objects.of([[50, 0, 50.9, 100]], [0])
    cropped, kept = crop(image, objects, EVERYTHING, rng())
    assert cropped.shape == image.shape
    assert len(kept) == 1


def test_no_strength_of_jitter_changes_no_colour():
    image = rng().integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(jitter_colour(image, 0, rng()), image)


class Fixed:
    """Stands in for a generator: saturation, contrast and brightness as powers of 2."""

    def __init__(self, *powers: float):
        self.powers = np.array(powers)

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        return self.powers


@pytest.mark.parametrize(
    ("powers", "expected"),
    [
        pytest.param((0, 0, 1), [[200, 0, 0], [80, 80, 80]], id="twice_as_bright"),
        pytest.param((0, 0, -1), [[50, 0, 0], [20, 20, 20]], id="half_as_bright"),
        # The greys are 29.9 and 40, their mean is 34.95.
        pytest.param((0, 1, 0), [[165, 0, 0], [45, 45, 45]], id="twice_the_contrast"),
        pytest.param((-1, 0, 0), [[65, 15, 15], [40, 40, 40]], id="half_the_saturation"),
        pytest.param((0, 0, 3), [[255, 0, 0], [255, 255, 255]], id="clipped"),
    ],
)
def test_colours_by_hand(powers: tuple[float, float, float], expected: list[list[int]]):
    image = np.array([[[100, 0, 0], [40, 40, 40]]], dtype=np.uint8)
    assert jitter_colour(image, 1, Fixed(*powers)).tolist() == [expected]  # type: ignore[arg-type]


def test_strong_jitter_leaves_a_grey_picture_grey():
    image = np.repeat(rng().integers(0, 256, (8, 8, 1), dtype=np.uint8), 3, axis=2)
    for seed in range(5):
        changed = jitter_colour(image, 1, rng(seed)).astype(int)
        assert np.ptp(changed, axis=2).max() <= 1
