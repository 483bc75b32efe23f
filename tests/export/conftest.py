"""A tiny run that finds much in any picture, and its network as ONNX, made once: torch's exporter takes seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from rectangles import NAMES, config

import foveal.export.network
from foveal.config import Config
from foveal.data.scenes import draw_scene
from foveal.engine.checkpoint import save_tensors, write_description
from foveal.export.graph import OPSET
from foveal.export.network import as_onnx
from foveal.model.retinanet import RetinaNet, build_model

TINY = {
    "model.backbone": "resnet18",
    "model.pyramid_channels": 8,
    "model.head_channels": 8,
    "model.head_depth": 1,
    "model.prior": 0.02,
}


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return config(96, **TINY)


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Config) -> RetinaNet:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build_model(tiny_config, 3, pretrained=False)
        torch.nn.init.normal_(model.class_head.predict.weight, std=0.5)
        torch.nn.init.normal_(model.box_head.predict.weight, std=0.05)
    return model.eval()


@pytest.fixture(scope="session")
def network(tiny_model: RetinaNet) -> onnx.ModelProto:
    return as_onnx(tiny_model, OPSET)


@pytest.fixture
def exporter_ran_once(network: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of a test get the network that torch's exporter has already written."""
    monkeypatch.setattr(foveal.export.network, "as_onnx", lambda *_: network)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Scenes of several sizes: as large as the network wants them, larger, and not square."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for index, crop in enumerate(((96, 96), (192, 192), (130, 190), (190, 101))):
        path = folder / f"{index}.png"
        image = draw_scene("test", index).image[: crop[0], : crop[1]]
        assert cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))
        paths.append(path)
    return paths


@pytest.fixture
def run(tmp_path: Path, tiny_config: Config, tiny_model: RetinaNet) -> Path:
    folder = tmp_path / "run"
    write_description(folder, tiny_config, NAMES, (10, 20, 30), result={"threshold": 0.25})
    save_tensors(folder / "best.safetensors", tiny_model.state_dict())
    return folder
