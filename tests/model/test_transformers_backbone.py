"""Backbones of transformers as C2 .. C5: shapes, places, padding, frozen parts, for nets of every kind."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from tiny_transformers import folder_of
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close

from foveal.config import ModelConfig
from foveal.engine.memory import estimate_step_bytes
from foveal.errors import ConfigError, WeightsError
from foveal.model import transformers_backbone
from foveal.model.backbone import BatchNormMode
from foveal.model.retinanet import RetinaNet
from foveal.model.transformers_backbone import TransformersBackbone, resampled
from foveal.model.transformers_files import Description, Pixels, describe

KINDS = ("resnet", "convnext", "swin", "dinov2", "vitdet", "short")


def build(
    kind: str,
    root: Path,
    batch_norm: BatchNormMode = "trained",
    frozen_stages: int = 0,
    first_level: int = 3,
    **changes: Any,
) -> TransformersBackbone:
    torch.manual_seed(0)
    return TransformersBackbone(describe(folder_of(kind, root, **changes)), batch_norm, frozen_stages, first_level)


def picture(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "channels", "strides"),
    [
        ("resnet", (8, 16, 24, 32), [4, 8, 16, 32]),
        ("convnext", (8, 16, 24, 32), [4, 8, 16, 32]),
        ("swin", (8, 16, 32, 64), [4, 8, 16, 32]),
        ("dinov2", (16, 16, 16, 16), [14, 14, 14, 14]),
        ("vitdet", (16, 16, 16, 16), [16, 16, 16, 16]),
        ("short", (8, 16, 32, 32), [4, 8, 16, 16]),
    ],
)
def test_c2_to_c5_have_strides_4_to_32_at_any_size(kind, channels, strides, tmp_path):
    backbone = build(kind, tmp_path, first_level=2).eval()
    assert (backbone.channels, backbone.strides) == (channels, strides)
    for height, width in ((64, 96), (65, 97), (1, 1)):
        expected = [(2, c, -(-height // n), -(-width // n)) for c, n in zip(channels, (4, 8, 16, 32), strict=True)]
        assert [tuple(f.shape) for f in backbone(picture(2, 3, height, width))] == expected


@pytest.mark.parametrize("kind", ["resnet", "convnext", "swin"])
def test_where_strides_fit_the_maps_are_the_models_own(kind, tmp_path):
    backbone = build(kind, tmp_path, first_level=2).eval()
    x = picture(1, 3, 64, 96)
    with torch.no_grad():
        assert_close(backbone(x), list(backbone.model(pixel_values=x).feature_maps))


def test_a_plain_transformer_gives_its_last_map_at_every_stride(tmp_path):
    backbone = build("vitdet", tmp_path, first_level=2).eval()
    x = picture(1, 3, 64, 96)
    with torch.no_grad():
        features = backbone(x)
        (last,) = backbone.model(pixel_values=x).feature_maps
    assert_close(features[2], last)
    for feature, wanted in zip(features, (4, 8, 16, 32), strict=True):
        assert_close(feature, resampled(last, 16, wanted))


@pytest.mark.parametrize(("stride", "wanted"), [(14, 4), (14, 8), (14, 16), (14, 32), (16, 8), (16, 32)])
def test_resampling_keeps_every_cell_where_it_was(stride, wanted):
    """A map of the x of each cell's centre becomes one of the new centres' x: cell 0 of stride 14 is at pixel 7."""
    centres = (torch.arange(30) + 0.5) * stride
    x = resampled(centres.expand(1, 1, 30, 30), stride, wanted)[0, 0, 5]
    expected = (torch.arange(len(x)) + 0.5) * wanted
    inner = (expected > 2 * max(stride, wanted)) & (expected < 30 * stride - 2 * max(stride, wanted))
    assert inner.sum() > 5
    assert_close(x[inner], expected[inner], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_padded_with_their_mean_colour_on_the_right_and_below(kind, tmp_path):
    backbone = build(kind, tmp_path).eval()
    small = picture(1, 3, 67, 81)
    side = 98 if kind == "dinov2" else 96  # 7 patches of 14; 3 cells of the coarsest level
    large = torch.zeros(1, 3, side, side)
    large[..., :67, :81] = small
    with torch.no_grad():
        features, maps = backbone(small), backbone.model(pixel_values=large).feature_maps
    for n in (1, 2, 3):
        whole = resampled(maps[backbone.place[n]], backbone.strides[n], (4, 8, 16, 32)[n])
        assert_close(features[n], whole[..., : features[n].shape[-2], : features[n].shape[-1]])


@pytest.mark.parametrize("kind", ["swin", "dinov2"])
def test_a_batch_gives_what_its_pictures_give_alone(kind, tmp_path):
    backbone, images = build(kind, tmp_path).eval(), picture(3, 3, 64, 80)
    with torch.no_grad():
        batched, alone = backbone(images), [backbone(image[None]) for image in images]
    for i, one in enumerate(alone):
        assert_close([f[i : i + 1] for f in batched[1:]], one[1:], atol=1e-5, rtol=1e-4)


def test_levels_that_are_not_used_are_not_computed(tmp_path):
    backbone = build("swin", tmp_path, first_level=4)
    assert [f.numel() > 0 for f in backbone(picture(1, 3, 64, 64))] == [False, False, True, True]
    assert backbone.description()["config"]["out_features"] == ["stage3", "stage4"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", ["2-6", "3-7"])
def test_every_parameter_that_wants_a_gradient_gets_one(kind, levels, tmp_path):
    small = {"pyramid_channels": 8, "head_channels": 8, "head_depth": 1}
    config = ModelConfig(
        backbone=folder_of(kind, tmp_path), weights="none", batch_norm="evaluating", levels=levels, **small
    )
    model = RetinaNet(config, 2, 9).train()
    outputs = model(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    sum(x.square().mean() for x in (*outputs.logits, *outputs.deltas)).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("kind", ["resnet", "swin"])
@pytest.mark.parametrize("stages", range(1, 6))
def test_frozen_stages_keep_everything_up_to_their_feature(kind, stages, tmp_path):
    backbone = build(kind, tmp_path, "evaluating", stages, first_level=2).train()
    x = picture(1, 3, 64, 64)
    features = backbone(x)
    assert [f.grad_fn is not None for f in features] == [number > stages for number in (2, 3, 4, 5)]
    if stages < 5:
        sum(f.sum() for f in features if f.requires_grad).backward()
        with torch.no_grad():
            for p in backbone.parameters():
                p.sub_(0.1 * p.grad) if p.grad is not None else None
        for number, before, after in zip((2, 3, 4, 5), features, backbone(x), strict=True):
            assert torch.equal(before, after) == (number <= stages)


@pytest.mark.parametrize(("stages", "blocks"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)])
def test_frozen_stages_of_a_plain_transformer_are_its_embedding_and_quarters_of_its_blocks(stages, blocks, tmp_path):
    backbone = build("dinov2", tmp_path, frozen_stages=stages)
    held = [name for name, p in backbone.model.named_parameters() if not p.requires_grad]
    assert {int(n) for name in held for n in re.findall(r"layer\.(\d+)\.", name)} == set(range(blocks))
    assert any("patch_embeddings" in name for name in held) == (stages > 0)
    assert "model.embeddings.mask_token" in held or "embeddings.mask_token" in held  # which only pretraining uses


@pytest.mark.parametrize(
    ("batch_norm", "statistics_move", "affine_learns"),
    [("frozen", False, False), ("evaluating", False, True), ("trained", True, True)],
)
def test_batch_norm_modes(batch_norm, statistics_move, affine_learns, tmp_path):
    backbone = build("resnet", tmp_path, batch_norm).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key}
    sum(f.square().mean() for f in backbone(picture(2, 3, 64, 64))[1:]).backward()
    state = backbone.state_dict()
    assert [not torch.equal(state[key], value) for key, value in before.items()] == [statistics_move] * len(before)
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.weight.grad is not None for norm in norms] == [affine_learns] * len(norms)


def test_frozen_stages_keep_their_statistics_where_norms_are_trained(tmp_path):
    backbone = build("resnet", tmp_path, "trained", 2).train()
    backbone(picture(2, 3, 64, 64))
    moved = {key for key, value in backbone.state_dict().items() if key.endswith("num_batches_tracked") and value > 0}
    assert len(moved) == 12  # three stages, each of a shortcut and three convolutions
    assert not any("embedder" in key or "stages.0" in key for key in moved)


def test_layer_norms_learn_whatever_batch_norm_says(tmp_path):
    backbone = build("convnext", tmp_path, "frozen")
    assert all(p.requires_grad for p in backbone.parameters())


def test_nothing_is_drawn_at_random_in_training(tmp_path):
    backbone = build("swin", tmp_path, drop_path_rate=0.5, hidden_dropout_prob=0.5).train()
    x = picture(2, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(backbone(x), backbone(x), strict=True))


@pytest.mark.parametrize("kind", ["swin", "dinov2"])
def test_computing_blocks_twice_gives_the_same_gradients_and_needs_less(kind, tmp_path):
    name = folder_of(kind, tmp_path)
    small = {"pyramid_channels": 8, "head_channels": 8, "head_depth": 1}
    gradients, needed = [], []
    for twice in (False, True):
        torch.manual_seed(0)
        model = RetinaNet(ModelConfig(backbone=name, weights="none", batch_norm="trained", **small), 2, 9).train()
        if twice:
            model.backbone.enable_recompute()
        outputs = model(torch.arange(3 * 64 * 64, dtype=torch.uint8).view(1, 3, 64, 64))
        loss = sum(x.square().mean() for x in (*outputs.logits, *outputs.deltas))
        gradients.append(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))
        needed.append(estimate_step_bytes(model, 4, (64, 64)))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert needed[1] < 0.9 * needed[0]


def test_a_backbone_that_transformers_cannot_compute_twice_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.recompute_backbone: transformers cannot recompute a 'convnext'"):
        build("convnext", tmp_path).enable_recompute()


def test_a_backbone_for_pictures_of_one_size_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"hf:.*vitpose: cannot be run on a picture of 1344 x 1344: .*256\*192"):
        build("vitpose", tmp_path)


class WithoutTheRim(nn.Module):
    """A backbone whose maps leave out the picture's rim, as convolutions without padding do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 7, stride=4)

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(feature_maps=(self.layer(pixel_values),))


def test_maps_that_are_no_whole_grids_are_refused_in_numbers(monkeypatch):
    monkeypatch.setattr(transformers_backbone, "build", lambda config, device: WithoutTheRim().to(device))
    description = Description("hf:own", SimpleNamespace(stage_names=["only"]), Pixels())
    with pytest.raises(WeightsError) as refused:
        transformers_backbone.measure(description)
    assert str(refused.value) == (
        "model.backbone hf:own: its feature maps are no grids of cells: at stride 4 a picture of 192 x 128 has a map "
        "of 47 x 31 cells, not 48 x 32; take another one, such as hf:microsoft/resnet-50"
    )


def test_an_exported_graph_rounds_sizes_up_too(tmp_path):
    # ONNX's integer division rounds towards zero, so that -(-side // stride) would be a cell short there.
    backbone = build("dinov2", tmp_path, first_level=2).eval().requires_grad_(False)
    example, dynamic = picture(1, 3, 352, 416), {0: Dim.STATIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter about its own names
        written = torch.onnx.export(backbone, (example,), dynamo=True, dynamic_shapes=(dynamic,), verbose=False)
    assert written is not None
    written.save(tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for height, width in ((352, 416), (64, 96), (70, 100)):
        image = picture(1, 3, height, width)
        for found, expected in zip(session.run(None, {"images": image.numpy()}), backbone(image), strict=True):
            assert_close(torch.from_numpy(found), expected, atol=1e-3, rtol=1e-3)
