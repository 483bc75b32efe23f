"""What is read of transformers' files: configuration, pixels, weights, and a sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_transformers import TINY, folder_of
from torch.testing import assert_close

from foveal.config import Config, ModelConfig
from foveal.errors import FovealError, UsageError, WeightsError
from foveal.model.backbone import IMAGE_MEAN, IMAGE_STD
from foveal.model.retinanet import RetinaNet, build_model
from foveal.model.transformers_backbone import TransformersBackbone
from foveal.model.transformers_files import Description, describe

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SMALL: dict[str, Any] = {"weights": "none", "batch_norm": "trained", "pyramid_channels": 8, "head_channels": 8}


def keep(description: Description, folder: Path) -> Path:
    """As a run keeps it."""
    folder.mkdir()
    for stem, value in description.files().items():
        (folder / f"{stem}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("pixels", "mean", "std"),
    [
        (None, IMAGE_MEAN, IMAGE_STD),
        ({}, IMAGE_MEAN, IMAGE_STD),
        (HALF, (0.5,) * 3, (0.5,) * 3),
        ({**HALF, "rescale_factor": 1 / 127.5}, (0.25,) * 3, (0.25,) * 3),
        ({"do_rescale": False, "image_mean": 127.5, "image_std": 51}, (0.5,) * 3, (0.2,) * 3),
        ({"do_normalize": False}, (0.0,) * 3, (1.0,) * 3),
    ],
)
def test_pixels_are_the_models_own_in_0_to_1(pixels, mean, std, tmp_path):
    found = describe(folder_of("resnet", tmp_path, pixels)).pixels
    assert (found.mean, found.std) == (pytest.approx(mean), pytest.approx(std))


def test_pictures_are_normalised_by_the_backbones_pixels(tmp_path):
    model = RetinaNet(ModelConfig(backbone=folder_of("resnet", tmp_path, HALF), **SMALL), 2, 9)
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert_close(model.normalise(images)[0, :, 0, 0], torch.tensor([-1, -0.6, 1]))


@pytest.mark.parametrize("kind", ["resnet", "swin", "dinov2"])
def test_what_a_run_keeps_makes_the_same_network_without_the_model(kind, tmp_path):
    name = folder_of(kind, tmp_path, HALF)
    first = TransformersBackbone(describe(name), "trained", 0, 3)
    kept = keep(first.described, tmp_path / "backbone")
    shutil.rmtree(tmp_path / kind)
    again = TransformersBackbone(describe(name, kept), "trained", 0, 3)
    again.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert_close(again.eval()(x), first.eval()(x), atol=0, rtol=0)
    assert again.description() == first.description()
    assert again.pixel_mean == pytest.approx((0.5,) * 3)
    assert str(tmp_path) not in (kept / "config.json").read_text()


def test_published_weights_are_loaded_but_for_norms_that_only_feature_maps_have(tmp_path):
    import transformers

    name = folder_of("swin", tmp_path, weights=True)
    backbone = TransformersBackbone(describe(name), "trained", 0, 3)
    backbone.load_published()
    published = transformers.AutoModel.from_pretrained(tmp_path / "swin").state_dict()
    state = {key.removeprefix("swin."): value for key, value in backbone.model.state_dict().items()}
    assert set(state) - set(published) == {
        f"hidden_states_norms.stage{n}.{kind}" for n in (2, 3, 4) for kind in ("weight", "bias")
    }
    assert all(torch.equal(state[key], value) for key, value in published.items() if key in state)


def test_build_model_takes_the_published_weights_or_none(tmp_path):
    name = folder_of("resnet", tmp_path, weights=True)
    settings = {"model": {"backbone": name, "pyramid_channels": 8, "head_channels": 8}}
    models = [build_model(Config().with_changes(settings), 2) for _ in range(2)]
    key = "embedder.embedder.convolution.weight"
    assert torch.equal(*(m.backbone.model.state_dict()[key] for m in models))
    settings["model"] |= {"weights": "none", "batch_norm": "trained"}
    random = build_model(Config().with_changes(settings), 2)
    assert not torch.equal(random.backbone.model.state_dict()[key], models[0].backbone.model.state_dict()[key])


def test_half_precision_files_become_float32(tmp_path):
    name = folder_of("resnet", tmp_path, dtype="float16")
    assert {p.dtype for p in TransformersBackbone(describe(name), "trained", 0, 3).parameters()} == {torch.float32}


def refused(name: str, kind: type[FovealError] = WeightsError, kept_in: Path | None = None) -> str:
    with pytest.raises(kind) as caught:
        describe(name, kept_in)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert 'pip install "foveal[transformers]"' in refused("hf:microsoft/resnet-50", UsageError)


def test_a_model_without_feature_maps_is_refused(tmp_path):
    assert "transformers has no backbone for a 'bert' model" in refused(folder_of("bert", tmp_path))


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused("hf:nobody/no-such-model-anywhere")
    assert "hub cannot be reached" in said
    assert "hf:FOLDER" in said


@pytest.mark.parametrize("name", ["hf:/nonexistent/folder", "hf:./nowhere", "hf:a/b/c", "hf:~/no-such-folder"])
def test_a_folder_that_is_not_there_is_not_asked_for_on_the_hub(name):
    assert f"{name}: there is no such folder" in refused(name)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "config.json"),
        ("{", "config.json"),
        ('{"model_type": "no-such-kind"}', "no-such-kind"),
        ('{"model_type": "x", "auto_map": {"AutoConfig": "code.Config"}}', "needs code of its own repository"),
    ],
)
def test_a_folder_that_holds_no_model_is_refused(config, words, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    (tmp_path / "code.py").write_text("raise SystemExit('a stranger ran')")
    assert words in refused(f"hf:{tmp_path}")


@pytest.mark.parametrize("pixels", [{"image_std": [0, 1, 1]}, {"rescale_factor": 0}, {"image_mean": "grey"}])
def test_pixels_that_cannot_be_are_refused(pixels, tmp_path):
    assert "model.backbone hf:" in refused(folder_of("resnet", tmp_path, pixels))


def test_a_run_that_lost_its_description_says_so_and_asks_nobody(tmp_path):
    name = folder_of("resnet", tmp_path)
    assert "is gone; restore it" in refused(name, kept_in=tmp_path / "run" / "backbone")


def test_weights_that_are_not_there_or_of_another_model_are_refused(tmp_path):
    backbone = TransformersBackbone(describe(folder_of("resnet", tmp_path)), "trained", 0, 3)
    with pytest.raises(WeightsError, match=r"model.weights imagenet: hf:.*resnet"):
        backbone.load_published()
    folder_of("convnext", tmp_path, weights=True)
    shutil.copy(tmp_path / "convnext" / "model.safetensors", tmp_path / "resnet")
    with pytest.raises(WeightsError, match=r"are not those of its config\.json"):
        backbone.load_published()


def test_a_network_larger_than_the_free_memory_is_refused_before_it_is_made(tmp_path):
    name = folder_of("dinov2", tmp_path, hidden_size=200_000)
    with pytest.raises(WeightsError, match=r"has [\d,]+ parameters, which take [\d,]+ GB, and [\d.]+ GB are free"):
        TransformersBackbone(describe(name), "trained", 0, 3)


def test_what_a_control_group_leaves_is_what_a_network_may_take(tmp_path, monkeypatch):
    (tmp_path / "own").write_text("0::/\n")
    for name, content in (("max", "2000000"), ("current", "1900000"), ("stat", "inactive_file 0")):
        (tmp_path / f"memory.{name}").write_text(content)
    monkeypatch.setattr("foveal.free_memory.GROUPS", tmp_path)
    monkeypatch.setattr("foveal.free_memory.OWN_GROUPS", tmp_path / "own")
    with pytest.raises(WeightsError, match=r"dinov2: has [\d,]+ parameters, which take .* take a smaller model"):
        TransformersBackbone(describe(folder_of("dinov2", tmp_path, hidden_size=64)), "trained", 0, 3)


@pytest.mark.parametrize(
    ("kind", "change"),
    [("dinov2", {"num_hidden_layers": 10**9}), ("resnet", {"depths": [1, 1, 10**9, 1]})],
)
def test_a_network_of_very_many_layers_is_refused_before_one_is_made(kind, change, tmp_path):
    assert "asks for 1,000,000,00" in refused(with_config(kind, tmp_path, change))


def test_a_class_called_after_a_player_is_no_number_of_layers(tmp_path):
    names = {"label2id": {"a player": 10_000}, "id2label": {"10000": "a player"}}
    describe(with_config("resnet", tmp_path, names))


def with_config(kind: str, folder: Path, change: dict[str, Any]) -> str:
    """A tiny model's folder with other numbers, which transformers itself could not count to."""
    name = folder_of(kind, folder)
    file = folder / kind / "config.json"
    config = {
        key: value for key, value in json.loads(file.read_text()).items() if not key.startswith(("stage", "out_"))
    }
    file.write_text(json.dumps(config | change))
    return name


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("content", ["code", "no pickle"])
def test_a_pickle_in_place_of_weights_is_refused_and_nobody_is_told_to_open_it(content, tmp_path):
    backbone = TransformersBackbone(describe(folder_of("resnet", tmp_path)), "trained", 0, 3)
    file = tmp_path / "resnet" / "pytorch_model.bin"
    if content == "code":
        torch.save({"weight": Hostile(tmp_path / "ran")}, file)
    else:
        file.write_bytes(b"\x80\x02\x1b[2J")
    with pytest.raises(WeightsError) as caught:
        backbone.load_published()
    assert "weights_only" not in str(caught.value)
    assert "model.safetensors" in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "ran").exists()


def as_pytorch_files(folder: Path, shards: int = 1, **how: Any) -> dict[str, torch.Tensor]:
    """model.safetensors becomes what transformers wrote before it: pytorch_model.bin, or parts of it with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin", **how)
        return tensors
    place = {name: f"pytorch_model-{n % shards + 1:05}-of-{shards:05}.bin" for n, name in enumerate(tensors)}
    for file in set(place.values()):
        torch.save({name: tensors[name] for name in tensors if place[name] == file}, folder / file, **how)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return tensors


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("swin", {}),
        ("resnet", {"_use_new_zipfile_serialization": False}),
        ("dinov2", {"shards": 3}),
    ],
    ids=["one file", "an old one", "in parts"],
)
def test_published_files_of_torch_are_read_as_safetensors_are(kind, how, tmp_path):
    name = folder_of(kind, tmp_path, weights=True)
    states = []
    for written in (False, True):
        if written:
            as_pytorch_files(tmp_path / kind, **how)
        torch.manual_seed(0)  # what is missing in the file stays as it starts
        backbone = TransformersBackbone(describe(name), "trained", 0, 3)
        start = dict(backbone.model.state_dict())
        backbone.load_published()
        states.append(backbone.model.state_dict())
    assert_close(states[1], states[0], atol=0, rtol=0)
    assert start.keys() == states[0].keys()


def test_weights_of_a_classifier_in_half_precision_go_into_a_float32_backbone(tmp_path):
    import transformers

    name = folder_of("resnet", tmp_path)
    torch.manual_seed(7)
    classifier = transformers.ResNetForImageClassification(TINY["resnet"]).half()
    torch.save(classifier.state_dict(), tmp_path / "resnet" / "pytorch_model.bin")
    backbone = TransformersBackbone(describe(name), "trained", 0, 3)
    backbone.load_published()
    state, key = backbone.model.state_dict(), "embedder.embedder.convolution.weight"
    assert_close(state[key], classifier.state_dict()[f"resnet.{key}"].float(), atol=0, rtol=0)


REPEATS = torch.zeros(1).expand(10**10)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x20\x85R.", r"holds more than tensors \(names builtins"),
        ({"embedder.embedder.convolution.weight": REPEATS}, "claim 40,000,000,000 bytes"),
        ({"epoch": 3}, "is not a state dict"),
    ],
    ids=["half a gigabyte", "a few bytes for ever", "no tensors"],
)
@pytest.mark.parametrize("whole", [True, False], ids=["one file", "in parts"])
def test_a_file_of_torch_that_would_cost_much_is_not_read(content, said, whole, tmp_path, monkeypatch):
    backbone = TransformersBackbone(describe(folder_of("resnet", tmp_path)), "trained", 0, 3)
    file = tmp_path / "resnet" / ("pytorch_model.bin" if whole else "part.bin")
    if not whole:
        index = {"weight_map": {"embedder.embedder.convolution.weight": "part.bin"}}
        (tmp_path / "resnet" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    if isinstance(content, bytes):
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was handed to torch"))
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(WeightsError, match=rf"model\.weights imagenet: hf:.*\.bin: .*{said}.*model\.safetensors"):
        backbone.load_published()


@pytest.mark.parametrize("index", [{"weight_map": {"a": "../other.bin"}}, {"weight_map": ["a"]}, []])
def test_an_index_that_names_no_files_beside_it_is_refused(index, tmp_path):
    backbone = TransformersBackbone(describe(folder_of("resnet", tmp_path)), "trained", 0, 3)
    torch.save(backbone.model.state_dict(), tmp_path / "other.bin")
    (tmp_path / "resnet" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"its pytorch_model\.bin\.index\.json names no weight files beside it"):
        backbone.load_published()


def test_a_configuration_does_not_say_which_file_holds_the_weights(tmp_path):
    """transformers would hand `adapter_model.bin` to torch."""
    name = with_config("resnet", tmp_path, {"transformers_weights": "adapter_model.bin"})
    torch.save({"weight": Hostile(tmp_path / "ran")}, tmp_path / "resnet" / "adapter_model.bin")
    backbone = TransformersBackbone(describe(name), "trained", 0, 3)
    with pytest.raises(WeightsError, match=r"publishes no model\.safetensors and no pytorch_model\.bin"):
        backbone.load_published()
