"""`decode`, `decode_padded` and the plain path find the same, whatever the logits are."""

from __future__ import annotations

from dataclasses import astuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from benchmarks.memory import peak_bytes
from foveal.anchors import Anchors
from foveal.config import Config, InferenceConfig
from foveal.decoding import decode, decode_plainly
from foveal.model.retinanet import Outputs
from foveal.padded_decoding import decode_padded

ANCHORS = Anchors(levels=(3, 5), sizes=(16.0, 48.0), scales=(1.0,), ratios=(0.5, 1.0))
SHAPE = (40, 56)
"""Level 3 has 5 x 7 cells, level 5 has 2 x 2, of which the lower ones are centred outside."""
LAYOUTS = (torch.contiguous_format, torch.channels_last)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
VALUES = ("any", "few", "equal", "none", "special", "outlier")


def outputs_of(values: str, classes: int, images: int, seed: int, anchors: Anchors, shape: tuple[int, int]) -> Outputs:
    """Logits of a kind that has been, or could be, got wrong; boxes that move, and some that leave the picture."""
    generator = torch.Generator().manual_seed(seed)
    logits, deltas = [], []
    for size in anchors.feature_shapes(*shape):
        x = torch.randn(images, anchors.per_cell * classes, *size, generator=generator)
        match values:
            case "few":
                x = x.round()
            case "equal":
                x = torch.zeros_like(x)
            case "none":
                x -= 50
            case "outlier":
                x = x / 10 - 3 + 6 * (torch.rand(x.shape, generator=generator) < 0.02)
            case "special":
                for value in (torch.nan, torch.inf, -torch.inf, -0.0, 0.0):
                    x[torch.rand(x.shape, generator=generator) < 0.15] = value
        logits.append(x)
        d = torch.randn(images, anchors.per_cell * 4, *size, generator=generator) * 0.5
        d[torch.rand(d.shape, generator=generator) < 0.05] = -20
        if values == "special":
            d[torch.rand(d.shape, generator=generator) < 0.05] = torch.nan
        deltas.append(d)
    return Outputs(tuple(logits), tuple(deltas))


def laid_out(outputs: Outputs, dtype: torch.dtype, layout: torch.memory_format) -> Outputs:
    def as_wanted(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.to(dtype).contiguous(memory_format=layout) for part in parts)

    return Outputs(as_wanted(outputs.logits), as_wanted(outputs.deltas))


def assert_paths_agree(
    outputs: Outputs,
    sizes: Tensor,
    config: InferenceConfig,
    padding_answers: bool = False,
    anchors: Anchors = ANCHORS,
    shape: tuple[int, int] = SHAPE,
) -> int:
    """How many detections there are."""
    arguments = (outputs, anchors, shape, sizes, config)
    plain = decode_plainly(*arguments, padding_answers=padding_answers)
    fast = decode(*arguments, padding_answers=padding_answers)
    padded = decode_padded(*arguments, padding_answers=padding_answers)
    assert len(plain) == len(fast) == len(padded.count) == len(sizes)
    for image, expected in enumerate(plain):
        count = int(padded.count[image])
        first, rest = zip(*((part[image, :count], part[image, count:]) for part in astuple(padded)[:3]), strict=True)
        for one, other, third, nothing in zip(expected, fast[image], first, rest, strict=True):
            assert_close(other, one, atol=0, rtol=0)
            # torch's sigmoid rounds the last few of a tensor otherwise, and this tensor is longer.
            assert_close(third, one, atol=0, rtol=2e-7 if one.ndim == 1 else 0)
            assert count + len(nothing) == config.max_detections
            assert not nothing.any()
    return sum(len(labels) for _, _, labels in plain)


@settings(max_examples=200)
@given(
    values=st.sampled_from(VALUES),
    classes=st.sampled_from([1, 2, 3, 40]),
    sizes=st.lists(st.sampled_from([SHAPE, (40, 40), (33, 56), (9, 5), (1, 1)]), min_size=1, max_size=3),
    threshold=st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]),
    limits=st.sampled_from([(1000, 20), (7, 20), (40, 5), (1, 1), (13, 17)]),
    nms_iou=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    padding_answers=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_all_three_paths_find_the_same(
    values: str,
    classes: int,
    sizes: list[tuple[int, int]],
    threshold: float,
    limits: tuple[int, int],
    nms_iou: float,
    dtype: torch.dtype,
    layout: torch.memory_format,
    padding_answers: bool,
    seed: int,
) -> None:
    outputs = laid_out(outputs_of(values, classes, len(sizes), seed, ANCHORS, SHAPE), dtype, layout)
    config = InferenceConfig(
        score_threshold=threshold, candidates_per_level=limits[0], max_detections=limits[1], nms_iou=nms_iou
    )
    assert_paths_agree(outputs, torch.tensor(sizes).reshape(-1, 2), config, padding_answers)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", ["any", "few", "equal", "outlier"])
def test_a_larger_picture_with_more_than_a_thousand_pairs_a_level(values: str, layout: torch.memory_format) -> None:
    anchors, shape = Anchors.from_config(Config()), (160, 224)
    outputs = laid_out(outputs_of(values, 20, 2, 1, anchors, shape), torch.float32, layout)
    sizes = torch.tensor([[160, 224], [150, 100]])
    assert assert_paths_agree(outputs, sizes, InferenceConfig(), anchors=anchors, shape=shape) == 200


def test_a_thousand_classes() -> None:
    outputs = outputs_of("few", 1203, 1, 3, ANCHORS, SHAPE)
    assert assert_paths_agree(outputs, torch.tensor([SHAPE]), InferenceConfig()) == 100


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_logits_are_not_copied(layout: torch.memory_format) -> None:
    anchors, shape, sizes = Anchors.from_config(Config()), (320, 320), torch.tensor([[320, 300]])
    outputs = laid_out(outputs_of("any", 80, 1, 0, anchors, shape), torch.float32, layout)
    assert sum(level.nbytes for level in outputs.logits) > 6e6
    anchors.boxes(*shape)  # cached
    # Every pair is above the threshold.
    assert peak_bytes(lambda: decode(outputs, anchors, shape, sizes, InferenceConfig(), score_threshold=0.0)) < 3e6
