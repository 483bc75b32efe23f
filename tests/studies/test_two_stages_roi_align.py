"""RoIAlign: numbers by hand, ramps whose mean is known, a loop that says the same, and which level a box looks at."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from studies.table2_stages.roi_align import BINS, SAMPLES, roi_align, roi_levels


def ramp(level: int, height: int, width: int) -> torch.Tensor:
    """[1, 2, H, W]: each cell holds the x and the y of its centre in pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])[None] * 2.0**level


def align_one(feature: torch.Tensor, level: int, box: list[float]) -> torch.Tensor:
    """[BINS, BINS, C] of one box of the first picture of one level."""
    first = torch.zeros(1, dtype=torch.int64)
    return roi_align([feature], [level], torch.tensor([box], dtype=feature.dtype), first, first)[0]


def test_a_box_over_two_by_two_cells_by_hand():
    # In cells the box is 0 .. 2 and its 14 points are at (i + .5) / 7 - .5; below 0 they count as 0, above 1 as 1. Bins
    # 0 and 1 have only such points, bin 2 has 1/7 and 2/7, bin 3 has 3/7 and 4/7, and the rest mirrors them.
    along = torch.tensor([0, 0, 3 / 14, 1 / 2, 11 / 14, 1, 1])
    feature = torch.tensor([[[[0.0, 1.0], [20.0, 21.0]]]])  # x + 20 y
    found = align_one(feature, 3, [0.0, 0.0, 16.0, 16.0])
    torch.testing.assert_close(found[..., 0], along[None, :] + 20 * along[:, None])


@pytest.mark.parametrize("level", [3, 4])
@pytest.mark.parametrize("box", [[20.0, 30.0, 90.0, 44.0], [9.5, 8.25, 10.0, 110.5], [33.0, 33.0, 33.5, 33.5]])
def test_on_a_ramp_every_bin_holds_the_place_of_its_centre(level, box):
    x1, y1, x2, y2 = box
    share = (torch.arange(BINS) + 0.5) / BINS
    found = align_one(ramp(level, 16, 16), level, box)
    torch.testing.assert_close(found[..., 0], (x1 + share * (x2 - x1)).expand(BINS, BINS))
    torch.testing.assert_close(found[..., 1], (y1 + share * (y2 - y1))[:, None].expand(BINS, BINS))


def test_it_says_what_a_loop_over_points_says():
    generator = torch.Generator().manual_seed(0)
    shapes, levels = [(9, 13), (5, 7)], [3, 4]
    features = [torch.rand(2, 3, *shape, generator=generator) for shape in shapes]
    corner = torch.rand(12, 2, generator=generator) * torch.tensor([90.0, 60.0]) - 5
    boxes = torch.cat([corner, corner + 1 + 40 * torch.rand(12, 2, generator=generator)], 1)
    image, level = torch.arange(12) % 2, torch.arange(12) // 6
    expected = torch.stack(
        [by_loop(features[k][b], levels[k], box) for b, k, box in zip(image, level, boxes.tolist(), strict=True)]
    )
    torch.testing.assert_close(roi_align(features, levels, boxes, image, level), expected)


def by_loop(feature: torch.Tensor, level: int, box: list[float]) -> torch.Tensor:
    """[BINS, BINS, C] of a [C, H, W] feature, point by point."""
    points = BINS * SAMPLES
    bins = torch.zeros(BINS, BINS, len(feature))
    for i in range(points):
        for j in range(points):
            y = (box[1] + (i + 0.5) / points * (box[3] - box[1])) / 2**level - 0.5
            x = (box[0] + (j + 0.5) / points * (box[2] - box[0])) / 2**level - 0.5
            bins[i // SAMPLES, j // SAMPLES] += bilinear(feature, y, x) / SAMPLES**2
    return bins


def bilinear(feature: torch.Tensor, y: float, x: float) -> torch.Tensor:
    height, width = feature.shape[1:]
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = feature[:, top, left] * (left + 1 - x) + feature[:, top, right] * (x - left)
    lower = feature[:, bottom, left] * (left + 1 - x) + feature[:, bottom, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def test_the_gradient_by_the_features_is_that_of_differences():
    features = [torch.rand(2, 1, *shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (2, 2))]
    boxes = torch.tensor([[1.0, 2.0, 30.0, 20.0], [0.0, 0.0, 32.0, 24.0], [8.0, 3.0, 9.0, 23.0]], dtype=torch.float64)
    image, level = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])
    assert gradcheck(lambda *levels: roi_align(levels, [3, 4], boxes, image, level), features)


def test_boxes_are_taken_as_they_are():
    feature = torch.rand(1, 1, 4, 4, requires_grad=True)
    box = torch.tensor([[1.0, 1.0, 20.0, 20.0]], requires_grad=True)
    first = torch.zeros(1, dtype=torch.int64)
    roi_align([feature], [3], box, first, first).sum().backward()
    assert box.grad is None
    assert feature.grad is not None


def test_no_boxes_give_an_empty_tensor_that_leads_back_to_the_features():
    feature = torch.rand(1, 5, 4, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    found = roi_align([feature], [3], torch.zeros(0, 4), none, none)
    assert found.shape == (0, BINS, BINS, 5)
    found.sum().backward()
    torch.testing.assert_close(feature.grad, torch.zeros_like(feature))


def squares(sides: list[float]) -> torch.Tensor:
    return torch.tensor([[3.0, 5.0, 3.0 + side, 5.0 + side] for side in sides])


@pytest.mark.parametrize(
    ("levels", "finest", "sides", "expected"),
    [
        # Equation 1 of Lin et al. 2017 as it stands there: 224 pixels are level 4.
        ((2, 3, 4, 5), 32, [10, 111, 112, 223, 224, 447, 448, 2000], [2, 2, 3, 3, 4, 4, 5, 5]),
        # The paper's pyramid begins a level higher.
        ((3, 4, 5), 32, [10, 111, 112, 223, 224, 2000], [3, 3, 4, 4, 5, 5]),
        # Digits: anchors from 20 pixels, so 140 pixels take the place of 224.
        ((3, 4, 5), 20, [12, 69, 70, 139, 140, 160], [3, 3, 4, 4, 5, 5]),
    ],
)
def test_the_level_of_a_box_by_hand(levels, finest, sides, expected):
    found = roi_levels(squares(sides), levels, finest)
    assert [levels[index] for index in found.tolist()] == expected


def test_the_level_follows_from_the_area_alone():
    assert roi_levels(torch.tensor([[0.0, 0.0, 448.0, 112.0]]), (3, 4, 5), 32).tolist() == [2]  # sqrt(448 x 112) = 224
