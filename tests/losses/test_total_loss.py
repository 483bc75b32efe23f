"""The detector's loss against dense targets, at its starting point, without objects, and where it must not look."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from foveal.anchors import Anchors
from foveal.boxes import decode, paired_iou
from foveal.config import AssignmentConfig, Config, LossConfig
from foveal.detections import Batch, Objects
from foveal.losses.boxes import box_loss
from foveal.losses.classification import classification_loss
from foveal.losses.fused import has_fast_path
from foveal.losses.mining import keep_mask
from foveal.losses.total import LossSums, anchor_losses, detector_loss, per_level_terms
from foveal.matching import Match, match

K = 3
SHAPE = (64, 96)
PAPER = Anchors.from_config(Config())
OBJECTS = Objects.of([[4, 4, 40, 40], [30, 20, 80, 60], [50, 5, 90, 35]], [0, 2, 1], [False, False, True])
ONE = Objects.of([[10, 10, 60, 50]], [1])


@dataclass
class Case:
    batch: Batch
    match: Match
    logits: list[Tensor]
    deltas: list[Tensor]

    def sums(self, config: LossConfig | None = None) -> LossSums:
        return detector_loss(self.logits, self.deltas, PAPER, self.match, self.batch, config or LossConfig())


def case(*objects: Objects, channels_last: bool = False, dtype: torch.dtype = torch.float32) -> Case:
    """Random outputs for pictures with these objects."""
    batch = Batch.pack([torch.zeros(3, *SHAPE, dtype=torch.uint8) for _ in objects], objects)
    generator = torch.Generator().manual_seed(3)

    def outputs(channels: int) -> list[Tensor]:
        maps = [torch.randn(len(batch), channels, *s, generator=generator) for s in PAPER.feature_shapes(*SHAPE)]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return [x.to(dtype).contiguous(memory_format=layout).requires_grad_() for x in maps]

    return Case(batch, match(PAPER, batch, AssignmentConfig()), outputs(9 * K), outputs(9 * 4))


def flat(maps: list[Tensor], channels: int) -> Tensor:
    """[B, N, channels] in the anchors' order."""
    rows = [x.unflatten(1, (9, channels)).permute(0, 3, 4, 1, 2).reshape(len(x), -1, channels) for x in maps]
    return torch.cat(rows, 1)


def dense(of: Case, config: LossConfig) -> tuple[Tensor, Tensor]:
    """([B, N], [B, N]): both losses of each anchor with a dense target and a mask over all anchors, in float64."""
    logits, deltas = flat(of.logits, K).double().reshape(-1, K), flat(of.deltas, 4).double().reshape(-1, 4)
    at, boxes = of.match.positive, of.batch.boxes[of.match.object].double()
    anchors = PAPER.boxes(*SHAPE)[at % of.match.num_anchors].double()
    target = torch.zeros_like(logits)
    own = torch.ones(len(at), dtype=torch.float64)
    if config.name in ("quality_focal", "varifocal"):
        own = paired_iou(decode(anchors, deltas[at].detach()), boxes)
    target[at] = config.label_smoothing / K
    target[at, of.batch.labels[of.match.object]] += own * (1 - config.label_smoothing)
    keep = torch.ones(len(target), 1, dtype=torch.bool)
    keep[of.match.ignored] = False
    classification = classification_loss(config)(logits, target, keep=keep).sum(1)
    box = torch.zeros(len(target), dtype=torch.float64)
    box = box.index_put((at,), box_loss(deltas[at], anchors, boxes, config).double())
    return classification.view(len(of.batch), -1), box.view(len(of.batch), -1)


SETTINGS = [
    {"gamma": 0.0},
    {"gamma": 0.5},
    {},
    {"name": "cross_entropy"},
    {"name": "balanced_cross_entropy", "alpha": 0.75},
    {"name": "focal_star", "gamma": 4.0, "beta": 0.0},
    {"name": "hinge"},
    {"name": "quality_focal"},
    {"name": "varifocal", "alpha": 0.75},
    {"class_alpha": (0.1, 0.25, 0.9)},
    {"label_smoothing": 0.1},
    {"box": "l1"},
    {"box": "giou"},
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_the_sum_over_dense_targets_with_ignored_anchors_left_out(
    channels_last: bool, settings: dict[str, object]
) -> None:
    config = LossConfig(**{"box_beta": 1.0, **settings})
    of = case(OBJECTS, Objects.empty(), ONE, channels_last=channels_last)
    classification, box = (each.sum(1) for each in dense(of, config))
    sums = of.sums(config)
    assert_close(sums.classification.double(), classification, rtol=1e-6, atol=0)
    assert_close(sums.box.double(), box, rtol=1e-6, atol=1e-6)
    assert torch.equal(sums.positives, of.match.positives_per_image().float())
    assert torch.equal(sums.counted, sums.positives)
    assert sums.positives.tolist()[1] == 0 < min(sums.positives.tolist()[::2])

    leaves = of.logits + of.deltas
    expected = torch.autograd.grad((classification + box).sum(), leaves)
    found = torch.autograd.grad((sums.classification + sums.box).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every second column"])
def test_the_fast_sums_are_the_plain_ones_per_level(layout: str, settings: dict[str, object]) -> None:
    config = LossConfig(**settings)
    of = case(OBJECTS, Objects.empty(), ONE, channels_last=layout == "channels_last")
    if layout == "every second column":  # no convolution leaves this, and no fast path takes it
        wide = [torch.randn(*x.shape[:3], 2 * x.shape[3]).requires_grad_() for x in of.logits]
        leaves, of.logits = wide, [x[..., ::2] for x in wide]
        assert not has_fast_path(of.logits[0].flatten(2).unflatten(1, (9, K)))
    else:
        leaves = of.logits
        assert all(has_fast_path(x.flatten(2).unflatten(1, (9, K))) for x in of.logits)
    fast = of.sums(config).classification
    terms = per_level_terms(of.logits, of.deltas, PAPER, of.match, of.batch, config)
    plain = torch.stack([sums for _, name, sums in terms if name == "classification"]).sum(0)
    assert_close(fast.double(), plain, rtol=1e-6, atol=0)

    # As `normalised` weighs images: each by its own count.
    upstream = 1 / of.sums(config).counted.clamp(min=1)
    expected = torch.autograd.grad(plain, leaves, upstream.double())
    for one, other in zip(torch.autograd.grad(fast, leaves, upstream), expected, strict=True):
        assert_close(one, other, rtol=4e-6, atol=1e-10)


MINING = [
    {"mining": "ohem", "mining_count": 20},
    {"mining": "ohem", "mining_count": 2000, "mining_nms": 0.7},
    {"mining": "ohem_1_3", "mining_count": 32},
    {"mining": "ssd"},
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("settings", MINING, ids=str)
def test_mining_sums_over_the_kept_anchors_and_says_what_to_divide_by(
    channels_last: bool, settings: dict[str, object]
) -> None:
    config = LossConfig(name="cross_entropy", normaliser="image", **settings)
    of = case(OBJECTS, Objects.empty(), ONE, channels_last=channels_last)
    classification, box = dense(of, config)
    positive, counted = torch.zeros(classification.numel(), dtype=torch.bool), torch.ones_like(classification).bool()
    positive[of.match.positive] = True
    counted.view(-1)[of.match.ignored] = False
    positive = positive.view_as(counted)
    keep = keep_mask(classification.detach().float(), positive, counted, PAPER.boxes(*SHAPE), config)
    assert 0 < int(keep.sum()) < int(counted.sum())

    sums = of.sums(config)
    expected = (classification * keep).sum(1), (box * keep).sum(1)
    assert_close(sums.classification.double(), expected[0], rtol=1e-6, atol=0)
    assert_close(sums.box.double(), expected[1], rtol=1e-6, atol=1e-6)
    assert torch.equal(sums.positives, (keep & positive).sum(1).float())
    assert torch.equal(sums.counted, (keep & positive if settings["mining"] == "ssd" else keep).sum(1).float())

    leaves = of.logits + of.deltas
    wanted = torch.autograd.grad(expected[0].sum() + expected[1].sum(), leaves)
    found = torch.autograd.grad((sums.classification + sums.box).sum(), leaves)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_batch_costs_what_its_pictures_cost() -> None:
    of = case(OBJECTS, Objects.empty(), ONE)
    together = of.sums()
    for image, objects in enumerate((OBJECTS, Objects.empty(), ONE)):
        alone = case(objects)
        single = replace(
            alone,
            logits=[x[image : image + 1] for x in of.logits],
            deltas=[x[image : image + 1] for x in of.deltas],
        ).sums()
        assert_close(together.classification[image], single.classification[0], rtol=1e-6, atol=0)
        assert_close(together.box[image], single.box[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 0.0)])
def test_the_first_loss_of_a_fresh_net_has_a_closed_form(alpha: float, gamma: float) -> None:
    of = case(OBJECTS, ONE)
    of.logits = [torch.full_like(x, -math.log(99)) for x in of.logits]
    sums = of.sums(LossConfig(alpha=alpha, gamma=gamma))
    pi, positives = 0.01, len(of.match.positive)
    # Every class of a background anchor and all but one of a positive anchor are background.
    backgrounds = (2 * of.match.num_anchors - len(of.match.ignored)) * K - positives
    expected = alpha * (1 - pi) ** gamma * -math.log(pi) * positives
    expected += (1 - alpha) * pi**gamma * -math.log(1 - pi) * backgrounds
    assert float(sums.classification.sum()) == pytest.approx(expected, rel=1e-5)


def test_pictures_without_objects_teach_background_and_leave_no_parameter_unused() -> None:
    of = case(Objects.empty(), Objects.empty())
    sums = of.sums()
    assert_close(sums.box, torch.zeros(2))
    assert bool((sums.classification > 0).all())
    (sums.classification + sums.box).sum().backward()
    for logits, deltas in zip(of.logits, of.deltas, strict=True):
        assert logits.grad is not None
        assert deltas.grad is not None
        assert torch.equal(deltas.grad, torch.zeros_like(deltas))
        assert bool((logits.grad >= 0).all())


def test_ignored_anchors_count_in_neither_loss_even_if_their_logits_are_not_finite() -> None:
    of = case(OBJECTS)
    before = of.sums()
    at = of.match.ignored[of.match.ignored < PAPER.level_counts(*SHAPE)[0]]
    assert len(at) > 0
    cell, anchor = at // 9, at % 9
    poisoned = of.logits[0].detach().clone()
    poisoned.unflatten(1, (9, K)).flatten(3)[0, anchor, :, cell] = torch.nan
    of.logits[0] = poisoned.requires_grad_()
    after = of.sums()
    assert torch.equal(after.classification, before.classification)
    after.classification.sum().backward()
    gradient = poisoned.grad
    assert gradient is not None
    assert torch.equal(gradient.unflatten(1, (9, K)).flatten(3)[0, anchor, :, cell], torch.zeros(len(at), K))


def test_only_assigned_anchors_have_a_box_loss() -> None:
    of = case(OBJECTS)
    of.sums().box.sum().backward()
    touched = flat([x.grad for x in of.deltas if x.grad is not None], 4)[0]
    assert touched.ne(0).any(1).nonzero().squeeze(1).tolist() == of.match.positive.tolist()


def test_half_precision_logits_are_summed_in_float32() -> None:
    of = case(OBJECTS, dtype=torch.bfloat16)
    exact = replace(of, logits=[x.float() for x in of.logits], deltas=[x.float() for x in of.deltas])
    assert_close(of.sums().classification, exact.sums().classification, rtol=1e-6, atol=0)
    assert_close(of.sums().box, exact.sums().box, rtol=1e-6, atol=0)


def test_the_terms_of_all_levels_add_up_and_name_the_one_that_is_not_finite() -> None:
    of = case(OBJECTS, ONE)
    sums = of.sums()
    terms = per_level_terms(of.logits, of.deltas, PAPER, of.match, of.batch, LossConfig())
    assert [(level, name) for level, name, _ in terms] == [
        (level, name) for level in range(3, 8) for name in ("classification", "box")
    ]
    for name, total in (("classification", sums.classification), ("box", sums.box)):
        assert_close(torch.stack([x for _, term, x in terms if term == name]).sum(0).float(), total)

    of.logits[1] = torch.full_like(of.logits[1], torch.inf)
    terms = per_level_terms(of.logits, of.deltas, PAPER, of.match, of.batch, LossConfig())
    assert [(level, name) for level, name, x in terms if not bool(x.isfinite().all())] == [(4, "classification")]


def test_neither_layout_is_copied_before_it_is_used() -> None:
    for channels_last in (False, True):
        x = case(ONE, channels_last=channels_last).logits[0]
        assert x.flatten(2).unflatten(1, (9, -1)).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("settings", [{}, {"name": "quality_focal"}, {"box": "giou"}], ids=str)
def test_the_losses_of_single_anchors_add_up_to_the_sums(settings: dict[str, object]) -> None:
    config = LossConfig(**settings)
    of = case(OBJECTS, Objects.empty(), ONE)
    sums = of.sums(config)
    classification, box = anchor_losses(of.logits, of.deltas, PAPER, of.match, of.batch, config)
    assert classification.shape == (3, of.match.num_anchors)
    assert_close(classification.sum(1), sums.classification)
    assert torch.equal(classification.flatten()[of.match.ignored], torch.zeros(len(of.match.ignored)))
    by_image = torch.zeros(3).index_add(0, of.match.positive // of.match.num_anchors, box.detach())
    assert_close(by_image, sums.box.detach())
    # The first positive anchor's own loss stands at its own place.
    dense_classification, dense_box = dense(of, config)
    at = of.match.positive
    assert_close(classification.flatten()[at].double(), dense_classification.flatten()[at], rtol=1e-5, atol=1e-7)
    assert_close(box.double(), dense_box.flatten()[at], rtol=1e-5, atol=1e-6)


def test_float64_outputs_have_losses_of_single_anchors_too() -> None:
    of = case(OBJECTS, dtype=torch.float64)
    classification, box = anchor_losses(of.logits, of.deltas, PAPER, of.match, of.batch, LossConfig())
    assert (classification.dtype, box.dtype) == (torch.float64, torch.float32)
    assert_close(classification.sum(1).float(), of.sums().classification)


def test_an_ignored_anchor_costs_exactly_nothing_under_a_loss_that_hardly_falls() -> None:
    config = LossConfig(name="focal_star", gamma=0.001)
    of = case(OBJECTS)
    classification, _ = anchor_losses(of.logits, of.deltas, PAPER, of.match, of.batch, config)
    assert len(of.match.ignored) > 0
    assert torch.equal(classification.flatten()[of.match.ignored], torch.zeros(len(of.match.ignored)))
    assert_close(classification.sum(1), of.sums(config).classification)
