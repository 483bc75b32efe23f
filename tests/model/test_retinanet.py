"""The whole network: what section 4 of the paper says of it, at any size, in every mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from foveal.config import Config, ModelConfig, build_config, preset
from foveal.errors import ConfigError
from foveal.model.mobilenet import MobileNetV2
from foveal.model.resnet import ResNet
from foveal.model.retinanet import Outputs, RetinaNet, build_model

SMALL: dict[str, Any] = {
    "backbone": "mobilenet_v2",
    "weights": "none",
    "batch_norm": "trained",
    "pyramid_channels": 16,
    "head_channels": 16,
    "head_depth": 1,
    "head_norm": "group",
    "head_init": "scaled",
}


def small_model(num_classes: int = 3, **changes: Any) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(ModelConfig(**{**SMALL, **changes}), num_classes, anchors_per_cell=9).eval()


def pictures(number: int, height: int, width: int) -> Tensor:
    g = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=g)


def all_values(outputs: Outputs) -> list[Tensor]:
    return [*outputs.logits, *outputs.deltas]


def test_600_pixels_are_7555_cells_and_67995_anchors():
    outputs = small_model()(pictures(1, 600, 600))
    assert [tuple(x.shape) for x in outputs.logits] == [(1, 27, n, n) for n in (75, 38, 19, 10, 5)]
    assert [tuple(x.shape) for x in outputs.deltas] == [(1, 36, n, n) for n in (75, 38, 19, 10, 5)]
    cells = sum(x.shape[-2] * x.shape[-1] for x in outputs.logits)
    assert (cells, cells * 9) == (7_555, 67_995)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 64), (127, 129)])
def test_any_size_works(height, width):
    outputs = small_model()(pictures(1, height, width))
    expected = [(-(-height // 2**level), -(-width // 2**level)) for level in range(3, 8)]
    assert [tuple(x.shape[-2:]) for x in outputs.logits] == expected
    assert all(x.isfinite().all() for x in all_values(outputs))


def test_levels_are_a_setting():
    outputs = small_model(levels="2-6")(pictures(1, 64, 64))
    assert [x.shape[-1] for x in outputs.logits] == [16, 8, 4, 2, 1]


def test_the_papers_network_has_torchvisions_published_sizes():
    """34,014,999 with P6 from P5, less the affine of its frozen norms; 38,198,935 with P6 from C5 and group norm."""
    with torch.device("meta"):
        v1 = RetinaNet(ModelConfig(p6_from="P5"), 91, 9)
        v2 = RetinaNet(ModelConfig(batch_norm="trained", head_norm="group"), 91, 9)
    assert sum(p.numel() for p in v1.parameters() if p.requires_grad) == 34_014_999
    assert sum(p.numel() for p in v2.parameters()) == 38_198_935


def test_a_fresh_network_gives_every_anchor_the_prior():
    outputs = small_model(head_init="paper", prior=0.01)(pictures(1, 128, 128))
    scores = torch.cat([x.flatten() for x in outputs.logits]).sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.05)
    assert scores.max() < 0.02
    deltas = torch.cat([x.flatten() for x in outputs.deltas])
    assert deltas.abs().max() < 0.5


def test_a_batch_gives_what_its_pictures_give_alone():
    model, images = small_model(), pictures(3, 96, 64)
    with torch.no_grad():
        batched, alone = model(images), [model(image[None]) for image in images]
    for i, one in enumerate(alone):
        assert_close([x[i : i + 1] for x in all_values(batched)], all_values(one), atol=1e-5, rtol=1e-4)


def test_a_picture_of_one_batch_does_not_change_another():
    model, images = small_model(), pictures(2, 64, 64)
    changed = torch.stack([images[0], 255 - images[1]])
    with torch.no_grad():
        assert_close([x[0] for x in all_values(model(changed))], [x[0] for x in all_values(model(images))])


def test_subnets_are_shared_over_levels_and_not_between_each_other():
    model = small_model()
    x = torch.randn(1, 16, 4, 4)
    model.pyramid.forward = lambda features: [x] * 5
    outputs = model(pictures(1, 128, 128))
    assert_close(outputs.logits[1:], outputs.logits[:1] * 4)
    assert_close(outputs.deltas[1:], outputs.deltas[:1] * 4)
    shared = {id(p) for p in model.class_head.parameters()} & {id(p) for p in model.box_head.parameters()}
    assert not shared


def test_channels_are_anchor_major():
    """Channel a*K + k of a class subnet whose only non-zero is the bias of anchor 4, class 2."""
    model = small_model()
    for parameter in model.class_head.predict.parameters():
        torch.nn.init.zeros_(parameter)
    model.class_head.predict.bias.data[4 * 3 + 2] = 7
    logits = model(pictures(1, 64, 64)).logits[0]
    per_anchor = logits.reshape(1, 9, 3, 8, 8)
    assert per_anchor[0, 4, 2].eq(7).all()
    assert per_anchor.sum() == 7 * 64


def test_pictures_are_normalised_inside():
    model = small_model()
    images = pictures(1, 4, 4)
    expected = (images.double() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    assert_close(model.normalise(images), expected.float(), atol=1e-5, rtol=1e-5)
    assert_close(model.normalise(images.float()), model.normalise(images))


def test_float_pictures_are_not_changed():
    images = pictures(1, 64, 64).float().contiguous(memory_format=torch.channels_last)
    before = images.clone()
    small_model()(images)
    assert_close(images, before)


def test_memory_layout_is_a_setting_and_changes_no_value():
    images = pictures(2, 64, 96)
    last, first = small_model(channels_last=True), small_model(channels_last=False)
    with torch.no_grad():
        a, b = last(images), first(images)
    assert a.logits[0].is_contiguous(memory_format=torch.channels_last)
    assert b.logits[0].is_contiguous()
    assert last.class_head.predict.weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(all_values(a), all_values(b), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"backbone": "resnet18"}])
def test_training_and_evaluating_return_the_same_type(changes):
    model, images = small_model(**changes), pictures(2, 64, 64)
    outputs = model.train()(images), model.eval()(images)
    assert [type(o) for o in outputs] == [Outputs, Outputs]
    assert [x.shape for x in all_values(outputs[0])] == [x.shape for x in all_values(outputs[1])]


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("levels", ["2-6", "3-7"])
def test_every_parameter_that_wants_a_gradient_gets_one(backbone, levels):
    model = small_model(backbone=backbone, levels=levels).train()
    sum(x.square().mean() for x in all_values(model(pictures(2, 128, 128)))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_two_passes_are_bit_for_bit_the_same():
    model, images = small_model(), pictures(2, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(all_values(model(images)), all_values(model(images)), strict=True))


def test_build_model_takes_what_the_config_says():
    model_settings = {**SMALL, "backbone": "resnet18", "weights": "a.pth", "frozen_stages": 1}
    config = build_config({"model": model_settings, "anchors": {"ratios": [1.0], "scales": [1, 2]}})
    model = build_model(config, num_classes=5, pretrained=False)
    assert isinstance(model.backbone, ResNet)
    assert not model.backbone.conv1.weight.requires_grad
    assert [x.shape[1] for x in model(pictures(1, 64, 64)).logits] == [10] * 5


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"batch_norm": "frozen"}, ["model.batch_norm", "frozen", "trained"]),
        ({"batch_norm": "trained", "frozen_stages": 2}, ["model.frozen_stages is 2", "weights"]),
    ],
)
def test_a_network_from_nothing_has_no_frozen_parts_but_a_runs_may(network, words):
    config = build_config({"model": {**SMALL, "backbone": "resnet18", "weights": "none", **network}})
    with pytest.raises(ConfigError) as caught:
        build_model(config, num_classes=3)
    for word in words:
        assert word in str(caught.value)
    build_model(config, num_classes=3, pretrained=False)  # weights of a run follow


def test_the_light_preset_loads_its_backbone(mobilenet_weights):
    config = preset("light").with_changes({"model.weights": str(mobilenet_weights)})
    model = build_model(config, num_classes=3)
    assert isinstance(model.backbone, MobileNetV2)
    file = torch.load(mobilenet_weights, weights_only=True)
    assert_close(model.backbone.features[18][0].weight, file["features.18.0.weight"], check_stride=False)
    fresh = build_model(config, num_classes=3, pretrained=False)
    assert not torch.equal(fresh.backbone.features[18][0].weight, model.backbone.features[18][0].weight)


def test_the_papers_preset_is_resnet_50_with_256_channels():
    with torch.device("meta"):
        model = build_model(Config(), num_classes=80, pretrained=False)
    assert model.backbone.channels == (256, 512, 1024, 2048)
    assert model.class_head.predict.weight.shape == (720, 256, 3, 3)
    assert len([m for m in model.class_head.tower if isinstance(m, torch.nn.Conv2d)]) == 4


@pytest.mark.slow
def test_the_network_compiles_as_one_graph(fresh_compiler):
    """No graph breaks, the same values and gradients; the tracing backend, so that no C++ compiler is needed."""
    model, images = small_model(batch_norm="evaluating").train(), pictures(2, 64, 96)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    parameters = list(model.parameters())
    answers = []
    for network in (compiled, model):
        outputs = network(images)
        assert isinstance(outputs, Outputs)
        loss = sum(x.square().mean() for x in all_values(outputs))
        answers.append([*all_values(outputs), *torch.autograd.grad(loss, parameters)])
    assert_close(answers[0], answers[1], atol=1e-4, rtol=1e-4)
