"""Whole runs with a backbone of transformers, a backbone computed twice, and a compiled network."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_transformers import folder_of
from torch.testing import assert_close

import foveal
from foveal.cli import main
from foveal.config import Config, preset
from foveal.data.scenes import write_scenes
from foveal.engine.checkpoint import read_run
from foveal.engine.progress import Silent
from foveal.errors import TrainingError, WeightsError
from foveal.model.weights import read_tensors

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
TINY: dict[str, Any] = {
    "model": {
        "batch_norm": "trained",
        "weights": "none",
        "levels": "3-5",
        "pyramid_channels": 8,
        "head_channels": 8,
        "head_depth": 1,
    },
    "anchors": {"sizes": [16, 28, 48]},
    "data": {"size": 64, "max_size": 64, "workers": 0},
    "train": {"steps": 4, "batch_size": 4, "lr_batch": 4, "evaluate_every": 2, "log_every": 1, "tensorboard": False},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, {"train": 8, "val": 4, "test": 4}, size=64, seed=1)
    return folder


def tiny(**changes: Any) -> Config:
    return preset("light").with_changes(TINY).with_changes({name.replace("__", "."): v for name, v in changes.items()})


def train(data: Path, out: Path, config: Config, **arguments: Any) -> foveal.engine.checkpoint.RunInfo:
    return foveal.train(data, out, config=config, device="cpu", reporter=Silent(), **arguments)


def logged_losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "dinov2"])
def test_a_run_with_a_backbone_of_transformers_needs_nothing_but_its_folder(kind, scenes, tmp_path):
    name = folder_of(kind, tmp_path, HALF, weights=True)
    config = tiny(model__backbone=name, model__weights="imagenet", model__frozen_stages=1)
    run = train(scenes, tmp_path / "run", config)
    assert len(logged_losses(run.path)) == 4
    picture = scenes / "images" / "test-00000.jpg"
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    first = foveal.load(run)
    with torch.no_grad():
        before, found = first.model(images), first(picture, min_score=0.0)
    assert first.model.mean.flatten().tolist() == [127.5] * 3

    shutil.rmtree(tmp_path / kind)
    moved = shutil.move(run.path, tmp_path / "moved")
    again = foveal.load(moved)
    with torch.no_grad():
        after = again.model(images)
    assert_close((after.logits, after.deltas), (before.logits, before.deltas), atol=0, rtol=0)
    assert torch.equal(again(picture, min_score=0.0).boxes, found.boxes)
    assert main(["predict", str(moved), str(picture), "--out", str(tmp_path / "found")]) == 0
    # Going on, and starting another run from it, need the model's folder as little.
    train(scenes, Path(moved), config, resume=True)
    other = train(scenes, tmp_path / "other", tiny(train__steps=1), weights=moved)
    assert read_run(other.path).config.model.backbone == name
    for stem in ("config", "preprocessor_config"):
        kept = [json.loads((Path(folder) / "backbone" / f"{stem}.json").read_text()) for folder in (moved, other.path)]
        assert kept[0] == kept[1]
    with pytest.raises(WeightsError, match="there is no such folder"):
        train(scenes, tmp_path / "afresh", config)


@pytest.mark.slow
def test_a_resumed_run_is_bit_for_bit_the_unbroken_one(scenes, tmp_path, monkeypatch):
    """Swin would draw which paths to drop from torch's generator, whose state no checkpoint holds."""
    config = tiny(model__backbone=folder_of("swin", tmp_path, drop_path_rate=0.5), train__checkpoint_every=1)
    whole = train(scenes, tmp_path / "whole", config)
    step = foveal.engine.train.train_step

    def dies_in_its_third_call(*arguments: Any, calls: list[int] = [], **named: Any) -> Any:  # noqa: B006
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr("foveal.engine.train.train_step", dies_in_its_third_call)
    with pytest.raises(KeyboardInterrupt):
        train(scenes, tmp_path / "broken", config)
    monkeypatch.undo()
    torch.manual_seed(99)
    broken = train(scenes, tmp_path / "broken", config, resume=True)
    assert (broken.path / "last.safetensors").read_bytes() == (whole.path / "last.safetensors").read_bytes()


@pytest.mark.slow
def test_computing_the_backbone_twice_changes_no_bit_of_a_run_and_may_change_on_resume(scenes, tmp_path):
    plain = train(scenes, tmp_path / "plain", tiny())
    twice = train(scenes, tmp_path / "twice", tiny(train__recompute_backbone=True))
    names = [folder / "last.safetensors" for folder in (plain.path, twice.path)]
    assert all(torch.equal(a, b) for a, b in zip(*(read_tensors(n).values() for n in names), strict=True))
    train(scenes, twice.path, tiny(), resume=True)


@pytest.mark.slow
def test_a_compiled_run_learns_what_a_plain_one_does(fresh_compiler, scenes, tmp_path, monkeypatch):
    """With the tracing backend, which needs no C++ compiler."""
    tracing = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr("foveal.engine.compilation.torch.compile", tracing)
    changes = {"model__backbone": "resnet18", "model__batch_norm": "evaluating", "train__steps": 3}
    plain = train(scenes, tmp_path / "plain", tiny(**changes))
    compiled = train(scenes, tmp_path / "compiled", tiny(**changes, train__compile=True))
    assert logged_losses(compiled.path) == pytest.approx(logged_losses(plain.path), rel=1e-3)
    assert foveal.load(compiled).config.train.compile


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own use
def test_without_a_compiler_the_message_says_what_to_install(fresh_compiler, scenes, tmp_path, monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nonexistent/c++",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))  # what was compiled before is not found
    with pytest.raises(TrainingError, match=r"train\.compile: torch cannot compile .*install a C\+\+ compiler"):
        train(scenes, tmp_path / "run", tiny(model__backbone="resnet18", train__compile=True))
