import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import NAMES, detector, picture

from foveal.detections import Detections
from foveal.engine.tiles import detect_tiled, merge, tile_grid
from foveal.errors import UsageError


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), NAMES)


def cut(*sides: str) -> torch.Tensor:
    return torch.tensor([[side in row for side in ("l", "t", "r", "b")] for row in sides])


def test_a_picture_of_1440_in_tiles_of_800_with_a_fifth_shared():
    assert tile_grid((800, 1440), 800, 0.2) == [(0, 0, 800, 800), (640, 0, 1440, 800)]


def test_a_picture_smaller_than_a_tile_is_one_tile():
    assert tile_grid((300, 500), 800, 0.2) == [(0, 0, 500, 300)]


def test_tiles_are_spread_evenly_and_row_by_row():
    grid = tile_grid((100, 250), 100, 0.0)
    assert grid == [(0, 0, 100, 100), (75, 0, 175, 100), (150, 0, 250, 100)]
    assert [rect[1] for rect in tile_grid((180, 180), 100, 0.2)] == [0, 0, 80, 80]


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), tile=st.integers(64, 900), overlap=st.floats(0, 0.9))
def test_tiles_cover_every_pixel_and_share_what_was_asked(height, width, tile, overlap):
    grid = tile_grid((height, width), tile, overlap)
    for axis, side in ((0, width), (1, height)):
        spans = sorted({(rect[axis], rect[axis + 2]) for rect in grid})
        assert spans[0][0] == 0
        assert spans[-1][1] == side
        assert all(end - start == min(tile, side) for start, end in spans)
        assert all(before[1] - after[0] >= np.floor(tile * overlap) - 1 for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("tile", "overlap", "words"), [(8, 0.2, "tile 8"), (800, 1.0, "overlap 1"), (800, -0.1, "overlap -0.1")]
)
def test_tilings_that_cannot_be_are_refused(tile, overlap, words):
    with pytest.raises(UsageError, match=words):
        tile_grid((1000, 1000), tile, overlap)


def test_a_cut_piece_goes_even_if_its_score_is_the_better():
    # The same object: whole in the right tile, cut at x = 100 in the left one.
    parts = found(([80, 10, 100, 50], 0.9, 0), ([80, 10, 120, 50], 0.6, 0))
    merged = merge(parts, cut("r", ""), 0.5)
    assert merged.boxes.tolist() == [[80, 10, 120, 50]]


def test_a_piece_of_another_class_stays():
    parts = found(([80, 10, 100, 50], 0.9, 1), ([80, 10, 120, 50], 0.6, 0))
    assert len(merge(parts, cut("r", ""), 0.5)) == 2


def test_a_small_object_inside_a_large_one_of_its_class_stays_if_it_is_not_cut():
    parts = found(([10, 10, 90, 90], 0.9, 0), ([40, 40, 60, 60], 0.6, 0))
    assert len(merge(parts, cut("", ""), 0.5)) == 2


def test_a_neighbour_that_a_whole_box_hardly_covers_stays():
    # 5 of 20 columns are covered: another object, of which this tile has a piece only.
    parts = found(([95, 10, 115, 50], 0.9, 0), ([60, 10, 100, 50], 0.6, 0))
    assert len(merge(parts, cut("l", ""), 0.5)) == 2


def test_twins_from_two_tiles_become_one_with_the_better_score():
    parts = found(([10, 10, 50, 50], 0.7, 0), ([11, 10, 51, 50], 0.8, 0))
    merged = merge(parts, cut("", ""), 0.5)
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_an_object_larger_than_the_overlap_is_joined_from_its_pieces():
    # Tiles 0..100 and 80..180: the object 40..150 is whole in neither.
    parts = found(([40, 10, 100, 50], 0.7, 0), ([80, 12, 150, 50], 0.8, 0))
    merged = merge(parts, cut("r", "l"), 0.5)
    assert merged.boxes.tolist() == [[40, 10, 150, 50]]
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_an_object_over_four_tiles_is_joined():
    parts = found(
        ([40, 40, 100, 100], 0.5, 2), ([80, 40, 150, 100], 0.6, 2),
        ([40, 80, 100, 150], 0.7, 2), ([80, 80, 150, 150], 0.8, 2),
    )  # fmt: skip
    merged = merge(parts, cut("rb", "lb", "rt", "lt"), 0.5)
    assert merged.boxes.tolist() == [[40, 40, 150, 150]]
    assert merged.names == ["blue"]


def test_pieces_that_do_not_line_up_are_not_joined():
    parts = found(([40, 10, 100, 50], 0.7, 0), ([80, 60, 150, 100], 0.8, 0))
    assert len(merge(parts, cut("r", "l"), 0.5)) == 2


def test_nothing_merges_to_nothing():
    assert len(merge(Detections.empty(NAMES), torch.zeros(0, 4, dtype=torch.bool), 0.5)) == 0


def scattered(height: int, width: int, side: int, step: int) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """Rectangles everywhere, many of them across the borders of tiles."""
    wanted = [
        (number % 3, [x, y, x + side, y + side])
        for number, (y, x) in enumerate(
            (y, x) for y in range(5, height - side, step) for x in range(7, width - side, step)
        )
    ]
    return picture(height, width, *[(label, tuple(box)) for label, box in wanted]), wanted


def test_every_object_of_a_large_picture_is_found_once_and_whole():
    image, wanted = scattered(330, 430, side=20, step=37)
    result = detect_tiled(detector(size=100), image, tile=100, overlap=0.3, batch_size=3)
    assert len(result) == len(wanted)
    expected = sorted((label, *box) for label, box in wanted)
    got = sorted(
        (label, *(round(v) for v in box))
        for label, box in zip(result.labels.tolist(), result.boxes.tolist(), strict=True)
    )
    assert got == expected


def test_tiles_go_through_the_network_in_batches_of_the_asked_size():
    detect = detector(size=100)
    detect_tiled(detect, picture(330, 430), tile=100, overlap=0.3, batch_size=3)
    assert max(shape[0] for shape in detect.model.calls) == 3


def test_one_tile_gives_what_the_picture_gives():
    image = picture(64, 64, (0, (8, 8, 40, 40)), (2, (44, 20, 60, 52)))
    detect = detector()
    torch.testing.assert_close(detect_tiled(detect, image).boxes, detect(image).boxes)


def test_detections_of_each_tile_are_limited_and_those_of_the_picture_are_not():
    image, wanted = scattered(330, 430, side=20, step=37)
    result = detect_tiled(detector(size=100, **{"inference.max_detections": 12}), image, tile=100, overlap=0.3)
    assert len(result) == len(wanted) > 12
