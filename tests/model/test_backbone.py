"""Backbones: torchvision's shapes and names, batch-norm modes, frozen stages, folded norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from foveal.model.backbone import Backbone, BatchNormMode, conv_norm
from foveal.model.mobilenet import MobileNetV2, relu6_
from foveal.model.resnet import Bottleneck, resnet
from foveal.model.weights import load_backbone, read_tensors

# Published sizes of torchvision's classifiers, less the classifier (fc: 1000 (C + 1); MobileNetV2: 1000 x 1281).
PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
    "resnext50_32x4d": 25_028_904 - 2_049_000,
    "resnext101_32x8d": 88_791_336 - 2_049_000,
    "mobilenet_v2": 3_504_872 - 1_281_000,
}
CHANNELS = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048), "mobilenet_v2": (24, 32, 96, 1280)}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(name: str, batch_norm: BatchNormMode = "trained", frozen_stages: int = 0) -> Backbone:
    torch.manual_seed(0)
    if name == "mobilenet_v2":
        return MobileNetV2(batch_norm, frozen_stages)
    return resnet(name, batch_norm, frozen_stages)


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_backbone_has_as_many_parameters_as_torchvisions(name):
    with torch.device("meta"):
        backbone = build(name)
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", CHANNELS)
def test_c2_to_c5_have_strides_4_to_32_at_any_size(name):
    backbone = build(name).eval()
    features = backbone(torch.zeros(1, 3, 65, 97))
    assert [tuple(f.shape) for f in features] == [
        (1, CHANNELS[name][0], 17, 25),
        (1, CHANNELS[name][1], 9, 13),
        (1, CHANNELS[name][2], 5, 7),
        (1, CHANNELS[name][3], 3, 4),
    ]
    assert backbone.channels == CHANNELS[name]


def test_names_are_torchvisions():
    names = set(build("resnet50").state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias"} <= names
    names = set(build("mobilenet_v2").state_dict())
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.17.conv.3.bias", "features.18.1.bias"} <= names


def test_resnext_groups_its_3x3_convolutions():
    with torch.device("meta"):
        state = build("resnext50_32x4d").state_dict()
    assert state["layer1.0.conv2.weight"].shape == (128, 4, 3, 3)
    assert state["layer4.2.conv2.weight"].shape == (1024, 32, 3, 3)


def test_imagenet_weights_see_a_palace(mobilenet_weights):
    """scikit-learn's china.jpg is an ImageNet palace (class 698): names, layers and normalisation have to be right."""
    from sklearn.datasets import load_sample_image

    backbone = MobileNetV2("frozen").eval()
    load_backbone(backbone, str(mobilenet_weights), "mobilenet_v2")
    classifier = read_tensors(mobilenet_weights)
    image = torch.from_numpy(np.array(load_sample_image("china.jpg"))).permute(2, 0, 1)[None] / 255
    image = F.interpolate(image, size=(256, 384), mode="bilinear", antialias=True)[..., 16:240, 80:304]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        c5 = backbone((image - mean[:, None, None]) / std[:, None, None])[-1]
        logits = c5.mean((2, 3)) @ classifier["classifier.1.weight"].T + classifier["classifier.1.bias"]
    assert logits.argmax() == 698
    assert logits.softmax(1)[0, 698] > 0.6


@pytest.mark.parametrize("groups", [1, 4])
def test_a_folded_norm_gives_the_values_and_gradients_of_the_two_layers(groups):
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups, bias=False).double()
    norm = nn.BatchNorm2d(8).double().eval()
    for values in (norm.weight.data, norm.bias.data, norm.running_mean):
        values.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64, requires_grad=True)
    wanted = (x, conv.weight, norm.weight, norm.bias)
    plain = norm(conv(x))
    folded = conv_norm(x, conv, norm)
    assert_close(folded, plain)
    probe = torch.randn_like(plain)
    assert_close(torch.autograd.grad(folded, wanted, probe), torch.autograd.grad(plain, wanted, probe))


def test_a_norm_in_training_uses_the_batch():
    conv, norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
    y = conv_norm(IMAGES, conv, norm)
    assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert norm.num_batches_tracked == 1


def test_a_caffe_bottleneck_is_torchvisions_with_the_stride_in_its_first_convolution():
    torch.manual_seed(0)
    block = Bottleneck(8, 4, 2, 1, 64, stride_first=True).eval()
    x = torch.randn(1, 8, 9, 9)
    y = block.bn1(F.conv2d(x, block.conv1.weight, stride=2)).relu()
    y = block.bn2(F.conv2d(y, block.conv2.weight, padding=1)).relu()
    y = block.bn3(F.conv2d(y, block.conv3.weight)) + block.downsample(x)
    assert_close(block(x), y.relu())
    usual = Bottleneck(8, 4, 2, 1, 64).eval()
    usual.load_state_dict(block.state_dict())
    assert not torch.allclose(usual(x), y.relu(), atol=1e-3)


def test_caffe_backbones_differ_only_in_strides():
    with torch.device("meta"):
        caffe, usual = build("resnet50_caffe"), build("resnet50")
    assert {k: v.shape for k, v in caffe.state_dict().items()} == {k: v.shape for k, v in usual.state_dict().items()}
    strides = [{k: m.stride for k, m in net.named_modules() if isinstance(m, nn.Conv2d)} for net in (caffe, usual)]
    moved = [name for name, stride in strides[0].items() if strides[1][name] != stride]
    assert moved == [f"layer{n}.0.conv{i}" for n in (2, 3, 4) for i in (1, 2)]


def after_a_step(name: str, batch_norm: BatchNormMode, frozen_stages: int = 0) -> tuple[Backbone, list[Tensor]]:
    """A backbone in training mode after one forward and backward, and its features."""
    backbone = build(name, batch_norm, frozen_stages).train()
    features = backbone(IMAGES)
    sum(f.square().mean() for f in features if f.requires_grad).backward()
    return backbone, features


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize(
    ("batch_norm", "statistics_move", "affine_learns"),
    [("frozen", False, False), ("evaluating", False, True), ("trained", True, True)],
)
def test_batch_norm_modes(name, batch_norm, statistics_move, affine_learns):
    backbone, _ = after_a_step(name, batch_norm)
    fresh = {key: value for key, value in build(name).state_dict().items() if "running" in key}
    state = backbone.state_dict()
    assert [not torch.equal(state[key], value) for key, value in fresh.items()] == [statistics_move] * len(fresh)
    assert [norm.weight.grad is not None for norm in norms(backbone)] == [affine_learns] * len(norms(backbone))
    assert all(p.grad is not None for key, p in backbone.named_parameters() if p.dim() == 4)


def test_norms_that_stand_still_keep_standing_after_train():
    backbone = build("resnet18", "frozen")
    backbone.eval().train()
    assert backbone.training
    assert not any(norm.training for norm in norms(backbone))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("stages", range(6))
def test_frozen_stages_take_no_gradient_and_record_nothing(name, stages):
    if stages == 5:
        features = build(name, "trained", stages)(IMAGES)
        learning = set()
    else:
        backbone, features = after_a_step(name, "trained", stages)
        learning = {i for i, modules in enumerate(backbone.stages()) if _any_gradient(modules)}
    assert learning == set(range(stages, 5))
    assert [f.grad_fn is not None for f in features] == [stage > stages for stage in (2, 3, 4, 5)]


def _any_gradient(modules: list[nn.Module]) -> bool:
    return any(p.grad is not None for module in modules for p in module.parameters())


def test_frozen_stages_keep_their_statistics_where_norms_are_trained():
    backbone, _ = after_a_step("resnet18", "trained", 2)
    moved = [key for key, value in backbone.state_dict().items() if key.endswith("num_batches_tracked") and value > 0]
    assert moved
    assert {key.split(".")[0] for key in moved} == {"layer2", "layer3", "layer4"}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize(
    ("batch_norm", "frozen_stages"), [("frozen", 0), ("evaluating", 2), ("trained", 0), ("trained", 2)]
)
def test_a_backbone_that_is_computed_twice_gives_the_same_bits(name, batch_norm, frozen_stages):
    gradients, states, kept = [], [], []
    for twice in (False, True):
        backbone = build(name, batch_norm, frozen_stages).train()
        if twice:
            backbone.enable_recompute()
        kept.append(0)

        def count(tensor: Tensor, kept=kept) -> Tensor:
            kept[-1] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            features = backbone(IMAGES)
        sum(f.square().mean() for f in features if f.requires_grad).backward()
        gradients.append({key: p.grad for key, p in backbone.named_parameters() if p.grad is not None})
        states.append(backbone.state_dict())
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][key], gradients[1][key]) for key in gradients[0])
    # Statistics above all: batch norm that is run twice must count the batch once.
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert all(norm.momentum == 0.1 for norm in norms(backbone))
    assert kept[1] < kept[0] / 5


def test_what_needs_no_gradient_is_computed_once():
    backbone = build("resnet18", "trained").train()
    backbone.enable_recompute()
    with torch.no_grad():
        backbone(IMAGES)
    assert backbone.bn1.num_batches_tracked == 1


def test_the_stages_hold_every_parameter_once():
    for name in ("resnet18", "mobilenet_v2"):
        backbone = build(name)
        staged = [id(p) for stage in backbone.stages() for module in stage for p in module.parameters()]
        assert sorted(staged) == sorted(id(p) for p in backbone.parameters())


def test_relu6_in_place_gives_torchs_values_and_gradients():
    x = torch.tensor([-1.0, 0.0, 0.5, 5.9, 6.0, 7.0], dtype=torch.float64, requires_grad=True)
    ours, theirs = relu6_(x * 1), F.relu6(x)
    assert_close(ours, theirs)
    probe = torch.arange(1.0, 7.0, dtype=torch.float64)
    assert_close(torch.autograd.grad(ours, x, probe), torch.autograd.grad(theirs, x, probe))


@pytest.mark.parametrize("learning", [True, False])
def test_relu6_in_place_takes_no_memory(learning):
    x = torch.randn(5, requires_grad=learning) * 1
    assert relu6_(x).data_ptr() == x.data_ptr()
