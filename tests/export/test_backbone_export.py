"""A backbone of transformers from training to an ONNX file that finds what PyTorch finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_transformers import folder_of

from foveal.cli import main
from foveal.data.scenes import write_scenes

FLAGS = [
    "--model.weights=none", "--model.batch-norm=trained", "--model.levels=3-5", "--model.pyramid-channels=8",
    "--model.head-channels=8", "--model.head-depth=1", "--model.prior=0.1", "--anchors.sizes", "16", "28", "48",
    "--data.size=64", "--data.max-size=96", "--data.workers=0", "--train.steps=2", "--train.batch-size=4",
    "--train.no-tensorboard", "--device=cpu",
]  # fmt: skip


def predicted(run: Path, pictures: list[Path], out: Path, engine: str) -> list[list[dict[str, Any]]]:
    words = ["predict", str(run), *map(str, pictures), "--out", str(out), "--engine", engine, "--min-score", "0.05"]
    assert main(words) == 0
    lines = (out / "detections.jsonl").read_text().splitlines()
    return [json.loads(line)["detections"] for line in lines]


def not_found(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Detections that are not among the others; of those that hardly were kept, rounding may decide."""

    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        alike = one["class"] == other["class"] and abs(one["score"] - other["score"]) < 1e-4
        return alike and other["box"] == pytest.approx(one["box"], abs=0.02)

    kept = min(one["score"] for one in some) + 1e-4
    return [one for one in some if one["score"] > kept and not any(same(one, other) for other in others)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "dinov2"])
def test_a_run_with_a_backbone_of_transformers_finds_the_same_as_an_onnx_file(kind, pictures, tmp_path):
    """Pictures of several sizes, of which the exporter saw none: patches of 14 need another padding for each."""
    data, run = tmp_path / "scenes", tmp_path / "run"
    write_scenes(data, {"train": 8, "val": 4}, size=64, seed=1)
    name = folder_of(kind, tmp_path)
    assert main(["train", str(data), "--out", str(run), "--model.backbone", name, *FLAGS]) == 0
    shutil.rmtree(tmp_path / kind)  # the run's own folder says what the network is
    assert main(["export", str(run), "--format", "onnx"]) == 0
    ours, theirs = (predicted(run, pictures, tmp_path / engine, engine) for engine in ("torch", "onnxruntime"))
    assert all(len(found) > 20 for found in ours)
    for expected, found in zip(ours, theirs, strict=True):
        assert not_found(expected, found) == not_found(found, expected) == []
