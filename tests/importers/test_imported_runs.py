"""An imported detector is a run like any other: it is evaluated, predicts, looks through tiles, and is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from their_names import exported, small_model, write_names

import foveal
from foveal.cli import main
from foveal.config import load_config
from foveal.data.scenes import write_scenes
from foveal.model.weights import read_tensors

DIGITS = [str(number) for number in range(10)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, {"train": 4, "val": 2, "test": 2}, size=64, seed=3)
    return folder


@pytest.fixture(scope="module")
def run(module_folder) -> Path:
    """A torchvision detector of digits, imported; for small pictures, so that tests are quick."""
    folder = module_folder
    torch.save(exported("torchvision", small_model(classes=10, head_norm="group")), folder / "digits.pth")
    names = write_names(folder, *DIGITS)
    assert main(["import", str(folder / "digits.pth"), "--out", str(folder / "run"), "--names", str(names)]) == 0
    config = load_config(folder / "run" / "config.yaml")
    small = config.with_changes({"data.size": 64, "data.max_size": 64, "data.workers": 0})
    (folder / "run" / "config.yaml").write_text(small.to_yaml())
    return folder / "run"


def test_it_is_evaluated(run, scenes, capsys):
    assert main(["evaluate", str(run), str(scenes), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2


def test_it_predicts_whole_pictures_and_tiles(run, scenes, tmp_path):
    picture = str(scenes / "images" / "test-00000.jpg")
    for tile in ("0", "40"):
        words = ["predict", str(run), picture, "--out", str(tmp_path / tile), "--tile", tile, "--min-score", "0.01"]
        assert main(words) == 0
        assert len((tmp_path / tile / "detections.jsonl").read_text().splitlines()) > 0


def train(run: Path, data: Path, out: Path, *more: str) -> int:
    flags = ["--data.size=64", "--data.max-size=64", "--data.workers=0", "--train.steps=2", "--train.batch-size=2"]
    flags += ["--train.no-tensorboard", "--device=cpu", *more]
    return main(["train", str(data), "--weights", str(run), "--out", str(out), *flags])


def test_it_is_trained_on_with_its_head(run, scenes, tmp_path, capsys):
    assert train(run, scenes, tmp_path / "run", "--train.lr=1e-9", "--train.ema=0") == 0
    assert "replaced" not in capsys.readouterr().err
    config = foveal.load(tmp_path / "run", "cpu").config
    assert (config.anchors.offset, config.model.head_norm, config.model.backbone) == ("corner", "group", "resnet18")
    before, after = (read_tensors(folder / "last.safetensors") for folder in (run, tmp_path / "run"))
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before if "predict" in name)


def test_with_other_classes_its_class_head_is_replaced_and_that_is_said(run, scenes, tmp_path, capsys):
    data = tmp_path / "data"
    write_scenes(data, {"train": 2, "val": 2}, size=64, seed=3)
    for split in ("train", "val"):
        labels = json.loads((data / f"{split}.json").read_text())
        for category in labels["categories"]:
            category["name"] = "digit " + category["name"]
        (data / f"{split}.json").write_text(json.dumps(labels))
    assert train(run, data, tmp_path / "run") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "replaced, not taken over: class_head.predict.weight, class_head.predict.bias" in said
    assert foveal.load(tmp_path / "run", "cpu").class_names[0].startswith("digit ")


def test_it_has_no_data_of_its_own(run, scenes, tmp_path, capsys):
    assert main(["bootstrap", str(run), str(scenes / "images" / "test-00000.jpg"), "--into", str(tmp_path / "d")]) == 2
    assert "was imported, so it has no data of its own; say where yours is with --data" in capsys.readouterr().err


def test_what_was_done_is_kept_in_the_run(run):
    about = json.loads((run / "import.json").read_text())
    assert (about["source"], about["file"]) == ("torchvision", "digits.pth")
    assert len(about["sha256"]) == 64
    assert any("antialiasing" in note for note in about["notes"])
    assert not list(run.glob(".*"))


@pytest.mark.slow
def test_it_is_exported_and_the_file_finds_what_it_finds(scenes, tmp_path, capsys):
    """torchvision's first version is the one with anchors and levels unlike ours."""
    torch.save(exported("torchvision", small_model(classes=10, p6_from="P5")), tmp_path / "digits.pth")
    names = write_names(tmp_path, *DIGITS)
    run = tmp_path / "run"
    assert main(["import", str(tmp_path / "digits.pth"), "--out", str(run), "--names", str(names)]) == 0
    small = load_config(run / "config.yaml").with_changes({"data.size": 96, "data.max_size": 128})
    (run / "config.yaml").write_text(small.to_yaml())
    picture = scenes / "images" / "test-00000.jpg"
    capsys.readouterr()
    assert main(["export", str(run), "--pictures", str(picture)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told[:2]] == ["against PyTorch", "with its own resize"]
    assert int(told[0].split()[2]) > 0
    assert main(["predict", str(run / "model.onnx"), str(picture), "--out", str(tmp_path / "found")]) == 0
