"""A hub of its own for each test, with an empty cache and the token of its owner; nothing else is reached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from rectangles import config
from stand_in import TOKEN, Hub, Server
from tiny_run import CLASSES, DATA, EVALUATION, TINY

from foveal.engine.checkpoint import save_tensors, write_description, write_json
from foveal.model.retinanet import build_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage has no stand-in
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # pytest keeps what tests wrote


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as training leaves it, with everything in its folder that is nobody's business; read-only."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = config(**TINY)
    torch.manual_seed(3)
    model = build_model(settings, len(CLASSES), pretrained=False)
    data = {"root": DATA, "format": "coco", "split": "train", "images": 690, "boxes": 11013, "fingerprint": "f00"}
    environment = {"system": "Linux-of-someone", "device": "cpu"}
    write_description(folder, settings, CLASSES, (3, 90), data=data, environment=environment)
    for name in ("best", "last"):
        save_tensors(folder / f"{name}.safetensors", dict(model.state_dict()))
    write_json(folder / "result.json", {"steps": 50, "best_step": 40, "AP": 0.51, "threshold": 0.31, "minutes": 1.5})
    lines = [{"step": 40, "loss": 0.5}, EVALUATION, {**EVALUATION, "step": 50, "AP": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "checkpoints" / "step-00000040").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000040" / "state.json").write_text("{}")
    (folder / "picture.jpg").write_bytes(b"a picture")
    return folder
