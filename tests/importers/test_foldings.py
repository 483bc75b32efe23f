"""What is folded into weights, against the formula of the project it comes from."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from foveal.anchors import Anchors
from foveal.boxes import decode
from foveal.config import Config
from foveal.importers import detectron2, fizyr, mmdetection, yhenon
from foveal.importers.folding import fold_boxes, fold_epsilon, fold_pixels, keep_classes, reorder_anchors
from foveal.model.retinanet import IMAGE_MEAN, IMAGE_STD


def picture() -> Tensor:
    """Red, green, blue; [1, 3, 21, 26] of 0 .. 255."""
    return torch.randint(0, 256, (1, 3, 21, 26), generator=torch.Generator().manual_seed(0)).float()


def ours(pixels: Tensor) -> Tensor:
    """As Foveal normalises."""
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (pixels - mean) / std


def stem() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "backbone.conv1.weight": torch.randn(5, 3, 7, 7) * 0.1,
        "backbone.bn1.weight": torch.rand(5) + 0.5,
        "backbone.bn1.bias": torch.randn(5),
        "backbone.bn1.running_mean": torch.randn(5),
        "backbone.bn1.running_var": torch.rand(5) + 0.5,
    }


def answer(tensors: dict[str, Tensor], x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """First convolution and norm."""
    w, scale, shift, mean, variance = tensors.values()
    return F.batch_norm(F.conv2d(x, w, stride=2, padding=3), mean, variance, scale, shift, eps=epsilon)


def test_detectron2s_pixels():
    theirs, folded = stem(), stem()
    blue_first = picture().flip(1) - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    fold_pixels(folded, detectron2.MEAN, detectron2.STD, bgr=True)
    assert_close(answer(folded, ours(picture())), answer(theirs, blue_first), rtol=1e-4, atol=1e-3)


def test_mmdetections_pixels_are_ours():
    folded = stem()
    fold_pixels(folded, mmdetection.MEAN, mmdetection.STD, bgr=False)
    assert_close(folded, stem(), rtol=1e-6, atol=0)


def test_fizyrs_pixels_but_for_the_rim():
    theirs, folded = stem(), stem()
    blue_first = picture().flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    fold_pixels(folded, fizyr.MEAN, fizyr.STD, bgr=True)
    there, here = answer(theirs, blue_first), answer(folded, ours(picture()))
    assert_close(here[..., 2:-2, 2:-2], there[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-3)
    # At the rim the kernel sees zeros, which mean another grey: off by less than half a grey level of all weights.
    off = (here - there).abs().amax((0, 2, 3))
    scale = theirs["backbone.bn1.weight"] / (theirs["backbone.bn1.running_var"] + 1e-5).sqrt()
    assert (off > 1e-3).any()
    assert (off <= 0.5 * theirs["backbone.conv1.weight"].abs().sum((1, 2, 3)) * scale).all()


def test_another_epsilon():
    theirs, folded = stem(), stem()
    fold_epsilon(folded, 1e-2)
    x = ours(picture())
    assert_close(answer(folded, x), answer(theirs, x, epsilon=1e-2))
    assert not torch.allclose(answer(stem(), x), answer(theirs, x, epsilon=1e-2), atol=1e-3)


def box_head() -> tuple[dict[str, Tensor], Tensor]:
    """Last box convolution and features."""
    torch.manual_seed(0)
    tensors = {"box_head.predict.weight": torch.randn(36, 4, 3, 3) * 0.2, "box_head.predict.bias": torch.randn(36)}
    return tensors, torch.randn(1, 4, 2, 3)


def offsets(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """[54, 4], cell by cell and anchor by anchor."""
    out = F.conv2d(x, tensors["box_head.predict.weight"], tensors["box_head.predict.bias"], padding=1)
    return out[0].permute(1, 2, 0).reshape(-1, 4)


def some_anchors(number: int) -> Tensor:
    corner = torch.rand(number, 2, generator=torch.Generator().manual_seed(1)) * 100
    return torch.cat([corner, corner + 10 + corner.flip(1)], 1)


def test_yhenons_boxes():
    tensors, x = box_head()
    anchors = some_anchors(54)
    d = offsets(tensors, x) * torch.tensor([0.1, 0.1, 0.2, 0.2])
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + 0.5 * size + d[:, :2] * size
    half = 0.5 * torch.exp(d[:, 2:]) * size
    fold_boxes(tensors, yhenon.OFFSETS)
    assert_close(
        decode(anchors, offsets(tensors, x)), torch.cat([centre - half, centre + half], 1), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("small", [0.3, 0.1])
def test_fizyrs_boxes_to_first_order(small):
    """Off by a side's growth squared: a hundredth of the side where it grows by a tenth."""
    tensors, x = box_head()
    tensors = {name: tensor * small for name, tensor in tensors.items()}
    anchors = some_anchors(54)
    size = (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
    d = 0.2 * offsets(tensors, x)
    theirs = anchors + d * size
    fold_boxes(tensors, fizyr.OFFSETS)
    found = decode(anchors, offsets(tensors, x))
    growth = (d[:, 2:] - d[:, :2]).repeat(1, 2)
    assert growth.abs().max() > small / 10
    assert ((found - theirs).abs() <= growth.square() * size * 0.5 + 1e-4).all()
    centre = [(boxes[:, 2:] + boxes[:, :2]) / 2 for boxes in (found, theirs)]
    assert_close(centre[0], centre[1])


def test_detectron2s_anchor_order():
    """An anchor of ours has the rows of detectron2's anchor with the same corners."""
    theirs = []
    for size in (32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)):
        for ratio in (0.5, 1.0, 2.0):
            width = math.sqrt(size**2 / ratio)
            theirs.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    cell = Anchors.from_config(Config()).cell_boxes(0)
    same = [[torch.allclose(a, torch.tensor(b), atol=1e-3) for b in theirs].index(True) for a in cell]
    tensors = {
        f"{head}.predict.{part}": torch.arange(9.0).repeat_interleave(rows)
        for head, rows in (("class_head", 2), ("box_head", 4))
        for part in ("weight", "bias")
    }
    reorder_anchors(tensors, detectron2.ORDER)
    assert sorted(same) == list(range(9))
    assert tensors["class_head.predict.bias"].tolist() == [float(a) for a in same for _ in range(2)]
    assert tensors["box_head.predict.weight"].tolist() == [float(a) for a in same for _ in range(4)]


def test_classes_that_are_kept_keep_their_rows():
    tensors = {f"class_head.predict.{part}": torch.arange(9.0 * 4) for part in ("weight", "bias")}
    keep_classes(tensors, 9, [1, 3])
    assert tensors["class_head.predict.bias"].tolist() == [4.0 * a + k for a in range(9) for k in (1, 3)]
