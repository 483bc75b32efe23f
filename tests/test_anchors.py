"""The anchor grid: the paper's numbers, positions by hand, torchvision's recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from foveal.anchors import Anchors, centred_inside
from foveal.boxes import area
from foveal.config import Config

GOLDEN = Path(__file__).parent / "golden"
PAPER = Anchors.from_config(Config())
ONE_PER_CELL = Anchors(levels=(3, 4), sizes=(32.0, 64.0), scales=(1.0,), ratios=(1.0,))
TORCHVISION = Anchors.from_config(
    Config().with_changes({"anchors": {"offset": "corner", "round_sizes": True, "stride": "floor_of_padded"}})
)


def test_a_picture_of_600_by_600_has_67995_anchors() -> None:
    cells = [75**2, 38**2, 19**2, 10**2, 5**2]
    assert sum(cells) == 7555
    assert PAPER.feature_shapes(600, 600) == [(75, 75), (38, 38), (19, 19), (10, 10), (5, 5)]
    assert PAPER.count(600, 600) == 67_995 == len(PAPER.boxes(600, 600))


def test_anchor_counts_of_the_usual_shapes() -> None:
    assert PAPER.count(600, 1000) == 113_193
    assert PAPER.count(800, 1333) == 200_700


def test_sides_run_from_32_to_about_813_pixels() -> None:
    sides = area(PAPER.boxes(608, 608)).sqrt()
    assert_close(sides.min(), torch.tensor(32.0))
    assert_close(sides.max(), torch.tensor(512 * 2 ** (2 / 3)))


def test_ratios_are_height_over_width_at_equal_area_and_outer_to_scales() -> None:
    cell = PAPER.cell_boxes(0)
    width, height = cell[:, 2] - cell[:, 0], cell[:, 3] - cell[:, 1]
    assert_close(height / width, torch.tensor([0.5] * 3 + [1.0] * 3 + [2.0] * 3))
    side = [32.0, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]
    assert_close((width * height).sqrt(), torch.tensor(side * 3))


def test_cells_go_row_by_row_and_anchors_sit_on_their_centres() -> None:
    # Level 3 of 16 x 24 pixels: 2 rows of 3 cells; the first anchor is 4 +- 16, the next one lies 8 to the right.
    finest, coarsest = ONE_PER_CELL.levels_of(16, 24)
    expected = [[cx - 16, cy - 16, cx + 16, cy + 16] for cy in (4.0, 12.0) for cx in (4.0, 12.0, 20.0)]
    assert_close(finest, torch.tensor(expected))
    assert_close(coarsest, torch.tensor([[-24.0, -24.0, 40.0, 40.0], [-8.0, -24.0, 56.0, 40.0]]))


def test_corner_offset_moves_every_anchor_up_and_left_by_half_a_cell() -> None:
    corner = Anchors((3,), (32.0,), (1.0,), (1.0,), offset="corner").boxes(16, 16)
    assert_close(corner[0], torch.tensor([-16.0, -16.0, 16.0, 16.0]))
    assert_close(corner + 4, Anchors((3,), (32.0,), (1.0,), (1.0,)).boxes(16, 16))


def test_a_floored_stride_differs_where_the_side_is_no_multiple_of_it() -> None:
    # 800 pixels are 7 cells of level 7: 114 pixels apart, where exact cells are 128 apart.
    exact = Anchors((7,), (512.0,), (1.0,), (1.0,), offset="corner")
    floored = Anchors((7,), (512.0,), (1.0,), (1.0,), offset="corner", stride="floor_of_padded")
    assert exact.strides(800, 800) == [(128, 128)]
    assert floored.strides(800, 800) == [(114, 114)]
    assert_close(floored.boxes(800, 800)[-1, :2], torch.tensor([6 * 114.0 - 256, 6 * 114.0 - 256]))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_anchors_equal_torchvisions_recording(version: str) -> None:
    recorded = np.load(GOLDEN / f"torchvision_{version}_r50_k7_256x320.npz")
    boxes = TORCHVISION.boxes(256, 320)
    assert len(boxes) == int(recorded["num_anchors"])
    assert TORCHVISION.feature_shapes(256, 320) == [tuple(shape) for shape in recorded["feature_shapes"].tolist()]
    assert torch.equal(boxes[recorded["anchor_index"]], torch.from_numpy(recorded["anchors"]))


@given(st.integers(1, 300), st.integers(1, 300))
def test_levels_add_up_to_the_whole_for_every_shape(height: int, width: int) -> None:
    levels = PAPER.levels_of(height, width)
    assert [len(level) for level in levels] == PAPER.level_counts(height, width)
    assert torch.equal(torch.cat(levels), PAPER.boxes(height, width))
    assert PAPER.count(height, width) == len(PAPER.boxes(height, width))


def test_the_grid_of_a_shape_is_computed_once() -> None:
    assert PAPER.boxes(64, 96) is Anchors.from_config(Config()).boxes(64, 96)


def test_a_grid_first_laid_in_inference_mode_serves_training() -> None:
    with torch.inference_mode():
        boxes = ONE_PER_CELL.boxes(40, 72)
    assert not boxes.is_inference()


def test_default_sizes_are_four_strides() -> None:
    finer = Anchors.from_config(Config().with_changes({"model": {"levels": "2-6"}}))
    assert (finer.levels, finer.sizes) == ((2, 3, 4, 5, 6), (16.0, 32.0, 64.0, 128.0, 256.0))
    assert finer.per_cell == 9


def test_an_anchor_centred_on_the_edge_of_the_picture_is_on_the_padding() -> None:
    # Cells of level 3 are centred on 4, 12, 20, 28: in a picture 20 high and 28 wide two rows of three are inside.
    boxes = Anchors((3,), (32.0,), (2 ** (1 / 3),), (0.5,)).boxes(32, 32)
    inside = centred_inside(boxes, (20, 28)).reshape(4, 4)
    assert inside.tolist() == [[True, True, True, False]] * 2 + [[False] * 4] * 2


def test_rounding_of_corners_moves_no_anchor_into_the_picture() -> None:
    # 600 pixels: the 38th cell of level 4 is centred on 600, the 10th of level 6 on 608.
    inside = centred_inside(PAPER.boxes(600, 600), (600, 600))
    assert int(inside.sum()) == 9 * (75**2 + 37**2 + 19**2 + 9**2 + 5**2)
    # Every picture up to 300 pixels wide: as many columns of level 3 as have their centre before its right edge.
    grid = Anchors((3,), (32.0,), PAPER.scales, PAPER.ratios).boxes(8, 300)
    for width in range(1, 301):
        assert int(centred_inside(grid, (8, width)).sum()) == 9 * ((width + 3) // 8)
