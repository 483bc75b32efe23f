"""The GPU's class loss: by hand, against float64, at the ends of the dtypes; in Triton's interpreter without a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from foveal.anchors import Anchors
from foveal.config import AssignmentConfig, Config, LossConfig
from foveal.detections import Batch, Objects
from foveal.engine.step import class_gradient, normalised
from foveal.errors import UsageError
from foveal.losses import triton_loss
from foveal.losses.classification import classification_loss
from foveal.losses.total import LossSums, anchor_losses, detector_loss
from foveal.losses.triton_loss import anchor_labels, level_loss, takes
from foveal.matching import BACKGROUND, IGNORED, Match, match

pytest.importorskip("triton", reason="Triton is Linux's; CUDA builds of torch bring it along")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
B, A, K, HEIGHT, WIDTH = 2, 3, 5, 6, 7
LAYOUTS = [torch.contiguous_format, torch.channels_last]
SETTINGS: list[dict[str, Any]] = [
    *({"gamma": gamma} for gamma in (0.0, 0.1, 0.5, 2.0, 5.0)),
    {"name": "cross_entropy"},
    {"name": "balanced_cross_entropy", "alpha": 0.75},
    {"name": "focal_star", "gamma": 2.0, "beta": 1.0},
    {"name": "focal_star", "gamma": 4.0, "beta": 0.0},
    {"name": "hinge"},
    {"class_alpha": (0.1, 0.25, 0.5, 0.9, 0.3)},
    {"label_smoothing": 0.1},
]
each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """630 logits of an image are three blocks, the last one not full."""
    monkeypatch.setattr(triton_loss, "BLOCK", 256)


def some_logits(layout: torch.memory_format, dtype: torch.dtype = torch.float32) -> Tensor:
    """Like those of a net that has learnt something, and some at the ends."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(B, A * K, HEIGHT, WIDTH, generator=generator) * 4 - 3
    ends = torch.tensor([1e4, -1e4, 100, -100, 17, -17, 0.0])
    logits.view(-1)[torch.randperm(logits.numel(), generator=generator)[:70]] = ends.repeat(10)
    return logits.to(DEVICE, dtype).contiguous(memory_format=layout).requires_grad_()


def some_labels() -> Tensor:
    """Two positives and an ignored anchor in the first picture's first block, none in its last; few in the second."""
    labels = torch.full((B, HEIGHT * WIDTH * A), BACKGROUND, dtype=torch.int16)
    labels[0, 3], labels[0, 4], labels[0, 40], labels[1, 80], labels[1, -1] = 2, IGNORED, 0, IGNORED, 4
    return labels.to(DEVICE)


def by_anchor(maps: Tensor) -> Tensor:
    """[B, X, K] float64 on the CPU, in the anchors' order."""
    return maps.detach().cpu().double().unflatten(1, (A, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def expected(logits: Tensor, labels: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Sums [B] and derivatives [B, X, K] with dense targets, in float64."""
    flat, labels = by_anchor(logits), labels.cpu().long()
    target = torch.nn.functional.one_hot(labels.clamp(min=0), flat.shape[2]) * (1 - config.label_smoothing)
    target = (target + config.label_smoothing / flat.shape[2]) * (labels >= 0)[..., None]
    keep = (labels != IGNORED)[..., None]
    loss = classification_loss(config)
    return loss(flat, target, keep=keep).sum((1, 2)), loss.derivative(flat, target) * keep


def gradient_of(sums: Tensor, logits: Tensor, upstream: Tensor | None = None) -> Tensor:
    (gradient,) = torch.autograd.grad(sums, logits, torch.ones_like(sums) if upstream is None else upstream)
    return gradient


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_a_positive_a_background_and_an_ignored_anchor() -> None:
    logits = torch.tensor([[[[math.log(9), 0, math.nan]], [[0, -math.log(9), math.inf]]]], device=DEVICE)
    logits.requires_grad_()
    sums = level_loss(logits, torch.tensor([[0, BACKGROUND, IGNORED]], dtype=torch.int16, device=DEVICE), LossConfig())
    positive, middle, easy = 0.25 * 0.1**2 * -math.log(0.9), 0.75 * 0.25 * math.log(2), 0.75 * 0.1**2 * -math.log(0.9)
    assert sums.tolist() == pytest.approx([positive + 2 * middle + easy], rel=1e-6)
    gradient = gradient_of(sums, logits)
    # Equation 10 at p = .9 of a positive; at p = .5 of background it is .75 x .25 x (log 2 + .5).
    assert float(gradient[0, 0, 0, 0]) == pytest.approx(0.25 * 0.01 * (2 * 0.9 * math.log(0.9) - 0.1), rel=1e-6)
    assert float(gradient[0, 1, 0, 0]) == pytest.approx(0.75 * 0.25 * (math.log(2) + 0.5), rel=1e-6)
    assert gradient[..., 2].tolist() == [[[0], [0]]]


def test_labels_say_class_background_or_ignored() -> None:
    found = Match(torch.tensor([1, 5]), torch.tensor([2, 0]), torch.tensor([0, 7]), num_images=2, num_anchors=4)
    labels = anchor_labels(found, torch.tensor([7, 8, 9]), num_classes=10)
    assert labels.tolist() == [[IGNORED, 9, BACKGROUND, BACKGROUND], [BACKGROUND, 7, BACKGROUND, IGNORED]]
    assert labels.dtype == torch.int16
    assert anchor_labels(found, torch.tensor([7, 8, 40_000]), num_classes=2**16)[0, 1] == 40_000


# -- against float64 ---------------------------------------------------------------------------------------------------


@each_layout
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_the_sum_over_dense_targets(settings: dict[str, Any], layout: torch.memory_format) -> None:
    config, logits, labels = LossConfig(**settings), some_logits(layout), some_labels()
    sums = level_loss(logits, labels, config)
    value, slope = expected(logits, labels, config)
    assert_close(sums.cpu(), value, rtol=1e-6, atol=0)
    gradient = gradient_of(sums, logits)
    assert gradient.stride() == logits.stride()
    assert_close(by_anchor(gradient), slope, rtol=2e-6, atol=1e-12)


EQUAL: list[dict[str, Any]] = [
    *({"gamma": gamma} for gamma in (0.0, 0.1, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.7, 5.0)),
    {"name": "cross_entropy"},
    *(
        {"name": "focal_star", "gamma": gamma, "beta": beta}
        for gamma, beta in ((2.0, 1.0), (4.0, 0.0), (0.1, -1.0), (4.7, 1.3), (5.0, 2.0))
    ),
]


def sums_of_equal(values: Tensor, target: float, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Sums of eight logits of each value, an image each, and the gradient of one of them."""
    logits = values[:, None, None, None].repeat(1, 1, 2, 4).to(DEVICE).requires_grad_()
    labels = torch.full((len(values), 8), 0 if target else BACKGROUND, dtype=torch.int16, device=DEVICE)
    sums = level_loss(logits, labels, config, torch.ones(len(values), device=DEVICE))
    return sums.detach().cpu(), gradient_of(sums, logits)[:, 0, 0, 0].cpu().double()


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("settings", EQUAL, ids=str)
def test_equal_logits_are_within_a_millionth(
    settings: dict[str, Any], target: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their roundings do not cancel."""
    monkeypatch.setattr(triton_loss, "BLOCK", 8)
    config, loss = LossConfig(**settings), classification_loss(LossConfig(**settings))
    values = torch.linspace(-16, 16, 50)
    sums, gradient = sums_of_equal(values, target, config)
    assert_close(sums, 8 * loss(values.double(), target), rtol=1e-6, atol=8 * torch.finfo(torch.float32).tiny)
    assert_close(gradient, loss.derivative(values.double(), target), rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_fl_star_of_equal_half_precision_logits_is_within_a_millionth_too(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_loss, "BLOCK", 8)
    config, values = LossConfig(name="focal_star", gamma=5.0, beta=2.0), torch.linspace(-16, 16, 50).to(dtype)
    expected = 8 * classification_loss(config)(values.double(), 0.0)
    assert_close(sums_of_equal(values, 0.0, config)[0], expected, rtol=1e-6, atol=8 * torch.finfo(torch.float32).tiny)


@each_layout
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("settings", [{}, {"gamma": 0.5}], ids=str)
def test_half_precision_logits_are_computed_in_float32(
    settings: dict[str, Any], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    config, logits, labels = LossConfig(**settings), some_logits(layout, dtype), some_labels()
    sums = level_loss(logits, labels, config)
    value, slope = expected(logits, labels, config)
    assert_close(sums.cpu(), value, rtol=1e-6, atol=0)
    gradient = gradient_of(sums, logits)
    assert gradient.dtype == dtype
    limits = torch.finfo(dtype)
    # float32's error may turn which of two neighbours is nearer: a unit in the last place, and half of the smallest.
    smallest = limits.smallest_normal * limits.eps if dtype == torch.float16 else 1e-12
    assert_close(by_anchor(gradient), slope, rtol=limits.eps, atol=smallest)


def test_float16_keeps_a_gradient_that_only_the_loss_scale_makes_large_enough() -> None:
    logits = torch.full((1, A * K, 2, 2), -8.0, dtype=torch.float16, device=DEVICE).requires_grad_()
    labels = torch.full((1, 4 * A), BACKGROUND, dtype=torch.int16, device=DEVICE)
    slope = float(expected(logits, labels, LossConfig())[1][0, 0, 0])
    assert slope == pytest.approx(8e-11, rel=0.1)
    assert float(torch.tensor(slope, dtype=torch.float16)) == 0
    gradient = gradient_of(65536 * level_loss(logits, labels, LossConfig()).sum(), logits)
    assert_close(gradient.double(), torch.full_like(gradient, 65536 * slope, dtype=torch.float64), rtol=1e-3, atol=6e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_gradient_from_above_is_right_whatever_was_expected(dtype: torch.dtype) -> None:
    logits, labels, config = some_logits(torch.channels_last, dtype), some_labels(), LossConfig()
    _, slope = expected(logits, labels, config)
    arriving = torch.tensor([0.25, 3.0], dtype=torch.float64, device=DEVICE)
    for scale in (None, [0.25, 3.0], [0.25, 64.0]):
        scale_B = None if scale is None else torch.tensor(scale, device=DEVICE)
        gradient = gradient_of(level_loss(logits, labels, config, scale_B), logits, arriving)
        wanted = slope * arriving.cpu()[:, None, None]
        eps = max(2e-6, 2 * torch.finfo(dtype).eps)
        assert_close(by_anchor(gradient), wanted, rtol=eps, atol=6e-8 if dtype == torch.float16 else 1e-12)


def test_where_the_expected_gradient_arrives_the_stored_one_is_handed_on_untouched() -> None:
    logits, labels = some_logits(torch.channels_last), some_labels()
    scale_B = torch.tensor([0.3, 0.7], device=DEVICE)
    sums = level_loss(logits, labels, LossConfig(), scale_B)
    stored = sums.grad_fn.gradient  # type: ignore[union-attr]
    before = stored.clone()
    gradient = gradient_of(sums, logits, scale_B.double())
    assert gradient.data_ptr() == stored.data_ptr()
    assert torch.equal(gradient, before)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "focal_star", "hinge"])
def test_a_logit_that_is_not_a_number_is_not_hidden(name: Any) -> None:
    logits = torch.zeros(B, A * K, 1, 1, device=DEVICE)
    logits[1, 4] = math.nan
    labels = torch.full((B, A), BACKGROUND, dtype=torch.int16, device=DEVICE)
    assert level_loss(logits, labels, LossConfig(name=name)).isnan().tolist() == [False, True]


# -- none, one, many ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, A * K, 2, 2), (2, A * K, 0, 3)], ids=str)
def test_nothing_costs_nothing(shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape, device=DEVICE, requires_grad=True)
    labels = torch.zeros(shape[0], A * shape[2] * shape[3], dtype=torch.int16, device=DEVICE)
    sums = level_loss(logits, labels, LossConfig())
    assert sums.tolist() == [0] * shape[0]
    assert gradient_of(sums, logits).shape == shape


@pytest.mark.parametrize("cells", [(1, 1), (1, 5)], ids=str)
@each_layout
def test_small_levels_and_pictures_without_objects(layout: torch.memory_format, cells: tuple[int, int]) -> None:
    logits = torch.randn(B, A * K, *cells, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    logits = logits.contiguous(memory_format=layout).requires_grad_()
    labels = torch.full((B, A * cells[0] * cells[1]), BACKGROUND, dtype=torch.int16, device=DEVICE)
    value, slope = expected(logits, labels, LossConfig())
    sums = level_loss(logits, labels, LossConfig())
    assert_close(sums.cpu(), value, rtol=1e-6, atol=0)
    assert_close(by_anchor(gradient_of(sums, logits)), slope, rtol=2e-6, atol=1e-12)


@each_layout
def test_a_picture_costs_the_same_bits_in_a_batch_and_alone(layout: torch.memory_format) -> None:
    logits, labels, config = some_logits(layout), some_labels(), LossConfig()
    sums = level_loss(logits, labels, config)
    for image in range(B):
        alone = level_loss(logits[image : image + 1], labels[image : image + 1], config)
        assert torch.equal(alone, sums[image : image + 1])


def test_levels_add_up_to_the_detectors_class_loss() -> None:
    anchors, shape = Anchors.from_config(Config()), (32, 48)
    objects = [Objects.of([[2, 2, 30, 30], [20, 8, 40, 31]], [0, 2]), Objects.empty()]
    batch = Batch.pack([torch.zeros(3, *shape, dtype=torch.uint8) for _ in objects], objects).to(DEVICE)
    matched = match(anchors, batch, AssignmentConfig())
    generator = torch.Generator().manual_seed(2)
    logits, deltas = (
        [torch.randn(2, 9 * c, *s, generator=generator).to(DEVICE) for s in anchors.feature_shapes(*shape)]
        for c in (3, 4)
    )
    labels_L = anchor_labels(matched, batch.labels, 3).split(anchors.level_counts(*shape), 1)
    sums = torch.stack([level_loss(*level, LossConfig()) for level in zip(logits, labels_L, strict=True)]).sum(0)
    summands_BN, _ = anchor_losses(logits, deltas, anchors, matched, batch, LossConfig())
    assert len(matched.positive) > 0
    assert_close(sums, summands_BN.sum(1, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_detectors_loss_takes_the_kernel_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU the gate is opened by hand; the kernel behind it is the real one."""
    monkeypatch.setattr(triton_loss, "takes", lambda logits, config: config.mining == "all")
    anchors, shape = Anchors.from_config(Config()), (32, 48)
    objects = [Objects.of([[2, 2, 30, 30], [20, 8, 40, 31]], [0, 2]), Objects.empty()]
    batch = Batch.pack([torch.zeros(3, *shape, dtype=torch.uint8) for _ in objects], objects).to(DEVICE)
    matched = match(anchors, batch, AssignmentConfig())
    generator = torch.Generator().manual_seed(2)
    deltas = [torch.zeros(2, 36, *s, device=DEVICE) for s in anchors.feature_shapes(*shape)]
    logits = [
        (torch.randn(2, 27, *s, generator=generator) - 3).to(DEVICE).requires_grad_()
        for s in anchors.feature_shapes(*shape)
    ]
    found = detector_loss(logits, deltas, anchors, matched, batch, LossConfig()).classification
    gradients = torch.autograd.grad((found / 7).sum(), logits)
    assert "_LevelLoss" in _makers(found)
    plainly, _ = anchor_losses(logits, deltas, anchors, matched, batch, LossConfig())
    assert_close(found, plainly.sum(1), rtol=1e-6, atol=0)
    for one, judge in zip(gradients, torch.autograd.grad((plainly.sum(1) / 7).sum(), logits), strict=True):
        assert_close(one, judge, rtol=4e-6, atol=1e-12)


def _makers(value: Tensor) -> str:
    """The names of all that a value was computed by."""
    names, waiting = [], [value.grad_fn]
    while waiting:
        if (node := waiting.pop()) is not None:
            names.append(node.name())
            waiting += [before for before, _ in node.next_functions]
    return " ".join(names)


@pytest.mark.parametrize("normaliser", ["batch", "image"])
def test_what_training_divides_by_is_known_to_the_bit_before_the_loss(normaliser: Any) -> None:
    logits, config = some_logits(torch.channels_last), Config(loss=LossConfig(normaliser=normaliser))
    assigned, counted = torch.tensor(7.0, device=DEVICE), torch.tensor([3.0, 0.0], device=DEVICE)
    world, images = 3, B * 3
    at = torch.tensor([0, 3, 9], device=DEVICE)  # three positives of the first picture
    matched = Match(at, torch.zeros_like(at), at[:0], num_images=B, num_anchors=HEIGHT * WIDTH * A)
    scale_B = class_gradient(matched, config, assigned, images, world)
    sums = level_loss(logits, some_labels(), config.loss, scale_B)
    arrived: list[Tensor] = []
    sums.register_hook(arrived.append)  # type: ignore[no-untyped-call]
    of_batch = LossSums(sums.float(), torch.zeros(B, device=DEVICE), counted, counted)
    (normalised(of_batch, config, assigned, images)[0] * world).backward()
    assert torch.equal(arrived[0].float(), scale_B)


# -- the contract ------------------------------------------------------------------------------------------------------


def test_a_scale_that_changes_before_backward_spoils_nothing() -> None:
    logits, labels = some_logits(torch.channels_last), some_labels()
    (plain,) = torch.autograd.grad(level_loss(logits, labels, LossConfig()).sum(), logits)
    scale_B = torch.full((B,), 2.0, device=DEVICE)
    sums = level_loss(logits, labels, LossConfig(), scale_B)
    scale_B.fill_(1)
    (gradient,) = torch.autograd.grad(sums.sum(), logits)
    assert torch.equal(gradient, plain)


def test_expanded_scales_and_labels_are_read_as_they_look() -> None:
    logits = some_logits(torch.channels_last)
    scale_B = torch.tensor([3.0, 5.0], device=DEVICE)[:1].expand(B)
    labels = torch.tensor([[BACKGROUND], [IGNORED]], dtype=torch.int16, device=DEVICE).expand(B, HEIGHT * WIDTH * A)
    sums = level_loss(logits, labels, LossConfig(), scale_B)
    assert torch.equal(sums, level_loss(logits, labels.contiguous(), LossConfig()).detach())
    assert sums[1] == 0
    (gradient,) = torch.autograd.grad(sums.sum() * 3, logits)
    (judge,) = torch.autograd.grad(level_loss(logits, labels.contiguous(), LossConfig()).sum() * 3, logits)
    assert torch.equal(gradient, judge)


def test_without_a_gradient_none_is_kept_and_the_sums_are_the_same() -> None:
    logits, labels = some_logits(torch.channels_last), some_labels()
    with torch.no_grad():
        sums = level_loss(logits, labels, LossConfig())
    assert not sums.requires_grad
    assert torch.equal(sums, level_loss(logits, labels, LossConfig()).detach())


@pytest.mark.parametrize("scale", [None, 2.0])
def test_a_second_backward_pass_gives_the_same_again(scale: float | None) -> None:
    logits = some_logits(torch.channels_last)
    scale_B = None if scale is None else torch.full((B,), scale, device=DEVICE)
    sums = level_loss(logits, some_labels(), LossConfig(), scale_B)
    upstream = torch.full((B,), 2.0, dtype=torch.float64, device=DEVICE)
    first, second = (torch.autograd.grad(sums, logits, upstream, retain_graph=True)[0] for _ in range(2))
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [lambda sums: sums.sum(), lambda sums: sums.square().sum()], ids=["sum", "square"])
def test_a_loss_that_is_differentiated_twice_is_refused(shape: Callable[[Tensor], Tensor]) -> None:
    logits = some_logits(torch.channels_last)
    sums = level_loss(logits, some_labels(), LossConfig())
    (gradient,) = torch.autograd.grad(shape(sums), logits, create_graph=True, retain_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(shape(sums), logits)[0])
    with pytest.raises(UsageError, match="differentiated once"):
        gradient.sum().backward()


def test_what_the_kernel_cannot_do_is_refused() -> None:
    logits, labels = some_logits(torch.channels_last), some_labels()
    with pytest.raises(UsageError, match=r"\(2, 125\) do not fit logits of \(2, 15, 6, 7\)"):
        level_loss(logits, labels[:, 1:], LossConfig())
    for config in (LossConfig(name="varifocal"), LossConfig(mining="ssd")):
        assert not takes(logits, config)
        with pytest.raises(UsageError, match="no kernel"):
            level_loss(logits, labels, config)
    assert takes(logits, LossConfig()) == (DEVICE == "cuda")
