import copy

import pytest
import torch

from foveal.anchors import Anchors
from foveal.config import Config, preset
from foveal.detections import Batch, Objects
from foveal.engine.step import make_optimiser, normalised, train_step
from foveal.losses import fused
from foveal.losses.total import LossSums
from foveal.model.retinanet import RetinaNet, build_model

SMALL = {
    "model": {
        "weights": "none",
        "batch_norm": "evaluating",
        "levels": "3-5",
        "pyramid_channels": 8,
        "head_channels": 8,
    },
    "anchors": {"sizes": [16, 28, 48]},
    "data": {"size": 64, "max_size": 64},
    "train": {"batch_size": 2, "lr_batch": 2, "clip": 0.0, "momentum": 0.9},
}


def setup(**changes) -> tuple[Config, RetinaNet, Batch, Anchors]:
    config = preset("light").with_changes(SMALL).with_changes({k.replace("__", "."): v for k, v in changes.items()})
    torch.manual_seed(0)
    model = build_model(config, 2).train()
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    objects = [Objects.of([[8, 8, 30, 30], [20, 20, 50, 48]], [0, 1]), Objects.empty()]
    return config, model, Batch.pack(images, objects), Anchors.from_config(config)


def test_the_batch_normaliser_divides_by_all_assigned_anchors_and_the_image_one_by_each_pictures_own():
    sums = LossSums(
        torch.tensor([6.0, 2.0, 1.0]), torch.tensor([3.0, 0.0, 0.0]), torch.tensor([3, 1, 0]), torch.tensor([3, 1, 0])
    )
    batch = normalised(sums, Config(), torch.tensor(4.0), images=3)
    torch.testing.assert_close(batch, torch.tensor([9 / 4, 3 / 4]))
    image = normalised(sums, Config().with_changes({"loss.normaliser": "image"}), torch.tensor(4.0), images=3)
    torch.testing.assert_close(image, torch.tensor([(6 / 3 + 2 / 1 + 1 / 1) / 3, (3 / 3) / 3]))


def test_nothing_assigned_divides_by_one():
    sums = LossSums(torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([0]), torch.tensor([0]))
    torch.testing.assert_close(normalised(sums, Config(), torch.tensor(0.0), 1), torch.tensor([0.5, 0.0]))


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_step_does_what_a_plain_unfused_optimiser_does(optimiser):
    """Guards against torch's fused optimisers, which mix up elements where layouts of weight and gradient differ."""
    config, model, batch, anchors = setup(train__optimiser=optimiser)
    plain = copy.deepcopy(model)
    ours = make_optimiser(model, config.train)
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimiser]

    class Unfused(kind):
        def step(self, closure=None):
            self.found_inf = None  # which only fused ones understand
            return super().step(closure)

    groups = [{**group, "fused": False, "foreach": False} for group in ours.param_groups]
    names = {id(p): name for name, p in model.named_parameters()}
    theirs = dict(plain.named_parameters())
    reference = Unfused([{**group, "params": [theirs[names[id(p)]] for p in group["params"]]} for group in groups])
    for _ in range(3):
        train_step(model, ours, [batch], anchors, config, lr=1e-2)
        train_step(plain, reference, [batch], anchors, config, lr=1e-2)
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        # Adam turns the rounding of a gradient near 0 into whole steps; mixed-up layouts would move every element.
        far = ((a - b).abs() > 1e-4 + 1e-3 * b.abs()).float().mean()
        assert far < 0.002, f"{name}: {far:.4f} of the elements"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("normaliser", ["batch", "image"])
def test_a_step_goes_through_the_logits_once(normaliser, precision, monkeypatch):
    """What backward will bring is known to the last bit before, so the gradient is ready when it comes."""
    config, model, batch, anchors = setup(loss__normaliser=normaliser, train__precision=precision)
    passes, one = [], fused._pass
    monkeypatch.setattr(fused, "_pass", lambda *of: passes.append(of[1].shape) or one(*of))
    train_step(model, make_optimiser(model, config.train), [batch], anchors, config, lr=1e-2)
    assert len(passes) == len(anchors.levels)


def test_micro_batches_of_one_picture_give_the_step_of_two():
    config, model, batch, anchors = setup(train__optimiser="sgd")
    split = copy.deepcopy(model)
    whole = train_step(model, make_optimiser(model, config.train), [batch], anchors, config, lr=0.1)
    ones = [Batch.pack([batch.images[i]], [batch.objects_of(i)]) for i in range(2)]
    parts = train_step(split, make_optimiser(split, config.train), ones, anchors, config, lr=0.1)
    torch.testing.assert_close(parts.classification, whole.classification)
    torch.testing.assert_close(parts.box, whole.box)
    for a, b in zip(model.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone():
    config, model, batch, anchors = setup(loss__box_weight=1e38, train__optimiser="sgd")
    with torch.no_grad():
        model.box_head.predict.bias.fill_(1e30)
    before = copy.deepcopy(model.state_dict())
    result = train_step(model, make_optimiser(model, config.train), [batch], anchors, config, lr=0.1)
    assert not bool(result.finite)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_clipping_bounds_the_gradient_but_reports_its_whole_norm():
    plain = {"train__momentum": 0.0, "train__weight_decay": 0.0, "train__backbone_lr": 1.0}
    config, model, batch, anchors = setup(train__optimiser="sgd", **plain)
    clipped = copy.deepcopy(model)
    start = [p.detach().clone() for p in model.parameters()]
    free = train_step(model, make_optimiser(model, config.train), [batch], anchors, config, lr=1.0)
    tight = config.with_changes({"train.clip": 0.5})
    result = train_step(clipped, make_optimiser(clipped, tight.train), [batch], anchors, tight, lr=1.0)
    torch.testing.assert_close(result.gradient_norm, free.gradient_norm)
    moved = torch.stack([(a - b).square().sum() for a, b in zip(clipped.parameters(), start, strict=True)]).sum().sqrt()
    torch.testing.assert_close(moved, torch.tensor(0.5), rtol=1e-3, atol=1e-4)


def test_under_adamw_biases_and_norms_do_not_decay_and_under_sgd_everything_does():
    config, model, _, _ = setup()
    decays = {
        id(p): group["weight_decay"]
        for group in make_optimiser(model, config.train).param_groups
        for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.05 if parameter.dim() > 1 else 0.0), name
    sgd = config.with_changes({"train.optimiser": "sgd"}).train
    assert {group["weight_decay"] for group in make_optimiser(model, sgd).param_groups} == {0.05}


def test_the_backbone_can_learn_slower():
    config, model, _, _ = setup(train__backbone_lr=0.1)
    factors = {
        id(p): group["lr_factor"] for group in make_optimiser(model, config.train).param_groups for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert factors[id(parameter)] == (0.1 if name.startswith("backbone.") else 1.0), name


def test_a_skipped_first_step_leaves_no_garbage_in_the_momentum():
    """torch's fused SGD makes its buffers uninitialised where a loss scaler skips the first step."""
    config, model, _, _ = setup(train__optimiser="sgd", train__weight_decay=0.0)
    optimiser = make_optimiser(model, config.train)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    optimiser.found_inf = torch.tensor(1.0)
    optimiser.step()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.found_inf = torch.tensor(0.0)
    optimiser.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_the_wish_to_stop_travels_with_the_sums():
    config, model, batch, anchors = setup()
    optimiser = make_optimiser(model, config.train)
    assert not bool(train_step(model, optimiser, [batch], anchors, config, lr=0.1).stop)
    assert bool(train_step(model, optimiser, [batch], anchors, config, lr=0.1, stop=True).stop)


def gradient_of_a_step(**changes) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and what SGD at a rate of 1, without momentum or decay, takes off the weights: the gradient."""
    plain = {"train__optimiser": "sgd", "train__momentum": 0.0, "train__weight_decay": 0.0, "train__backbone_lr": 1.0}
    config, model, batch, anchors = setup(**plain, model__backbone="resnet18", **changes)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = train_step(model, make_optimiser(model, config.train), [batch], anchors, config, lr=1.0)
    assert bool(result.finite)
    return float(result.classification + result.box), {n: before[n] - p.detach() for n, p in model.named_parameters()}


def test_a_step_in_mixed_precision_is_finite_and_near_the_one_in_float32():
    loss, gradient = gradient_of_a_step()
    mixed_loss, mixed = gradient_of_a_step(train__precision="bf16")
    assert mixed_loss == pytest.approx(loss, rel=0.02)
    assert all(g.isfinite().all() for g in mixed.values())
    whole, other = (torch.cat([g.flatten() for g in one.values()]) for one in (gradient, mixed))
    # bfloat16 rounds each activation to 3 digits; measured here: a cosine of .996 through the 20 layers of a ResNet-18.
    assert torch.cosine_similarity(other, whole, dim=0) > 0.99
    assert not torch.equal(other, whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_backbone_computed_twice_takes_the_same_step(precision):
    one, twice = (
        gradient_of_a_step(train__precision=precision, train__recompute_backbone=twice, model__batch_norm="trained")
        for twice in (False, True)
    )
    assert one[0] == twice[0]
    for name, gradient in one[1].items():
        assert torch.equal(gradient, twice[1][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"train__precision": "bf16", "train__recompute_backbone": True}])
def test_a_compiled_network_takes_the_same_step(fresh_compiler, changes):
    """One graph, no break; the tracing backend, so that no C++ compiler is needed."""
    config, model, batch, anchors = setup(train__optimiser="sgd", model__backbone="resnet18", **changes)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = [
        train_step(network, make_optimiser(net, config.train), [batch], anchors, config, lr=0.1)
        for network, net in ((compiled, model), (plain, plain))
    ]
    assert all(bool(result.finite) for result in results)
    torch.testing.assert_close(results[0].classification, results[1].classification, rtol=1e-2, atol=1e-3)
    close = {"rtol": 1e-4, "atol": 1e-5} if not changes else {"rtol": 0.1, "atol": 2e-3}
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, **close, msg=lambda told, name=name: f"{name}: {told}")
