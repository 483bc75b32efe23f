from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from rectangles import config

from foveal.cli import main
from foveal.errors import UsageError, WeightsError
from foveal.runtime.description import Description, fingerprint
from foveal.runtime.exported import open_detector
from foveal.runtime.sessions import open_session

TOLD = Description(config(), ("red", "blue"), (7, 9), 0.4, True, False, "abc", {"network": {"passed": True}})


def test_it_survives_as_metadata():
    assert Description.of_metadata(TOLD.as_metadata(), Path("x")) == TOLD
    assert all(isinstance(value, str) for value in TOLD.as_metadata().values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"foveal_format": ""}, "was not written by `foveal export`"),
        ({"foveal_format": "2"}, "is of format 2, newer than this version"),
        ({"threshold": "high"}, "its metadata cannot be read"),
        ({"config": "model: 3"}, "its metadata cannot be read"),
        ({"threshold": "NaN"}, "its metadata cannot be read"),
        ({"threshold": "1.5"}, "its metadata cannot be read"),
        ({"threshold": "1" + 400 * "0"}, "its metadata cannot be read"),
        ({"category_ids": "[7]"}, "its metadata cannot be read"),
        ({"category_ids": "[7, Infinity]"}, "its metadata cannot be read"),
        ({"class_names": '["red", "red"]'}, "its metadata cannot be read"),
        ({"check": 100_000 * "["}, "its metadata cannot be read"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(changes, words):
    with pytest.raises(WeightsError, match=rf"model\.onnx: {words}"):
        Description.of_metadata({**TOLD.as_metadata(), **changes}, Path("model.onnx"))


@pytest.mark.parametrize(
    ("setting", "value"), [("data.size", 10**6), ("data.pad_multiple", 10**6), ("inference.max_detections", 10**9)]
)
def test_settings_with_which_any_picture_would_fill_the_memory_are_refused(setting, value):
    told = replace(TOLD, config=TOLD.config.with_changes({"data.max_size": 0, setting: value}))
    with pytest.raises(
        WeightsError, match=rf"^model\.onnx: its {setting} is {value}, more than the \d+ that is allowed"
    ):
        Description.of_metadata(told.as_metadata(), Path("model.onnx"))
    many = replace(TOLD, config=TOLD.config.with_changes({"data.max_pixels": 10**12}))
    assert Description.of_metadata(many.as_metadata(), Path("model.onnx")) == many


def test_missing_metadata_is_refused():
    kept = {name: value for name, value in TOLD.as_metadata().items() if name != "nms"}
    with pytest.raises(WeightsError, match="'nms'"):
        Description.of_metadata(kept, Path("model.onnx"))


def test_the_fingerprint_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert fingerprint(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def another_model(path: Path) -> Path:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value], [other])
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_somebody_elses_model_runs_but_is_no_detector(tmp_path, engine):
    path = another_model(tmp_path / "other.onnx")
    assert open_session(path, engine)({"x": np.ones(1, np.float32)})["y"].tolist() == [-1]
    with pytest.raises(WeightsError, match="was not written by `foveal export`"):
        open_detector(path, engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_damaged_file_is_one_clear_sentence(tmp_path, engine, capfd):
    path = tmp_path / "cut.onnx"
    path.write_bytes(another_model(tmp_path / "other.onnx").read_bytes()[:-9])
    assert main(["predict", str(path), "a.jpg", "--out", str(tmp_path / "out"), "--engine", engine]) == 1
    told = capfd.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"foveal: {path}: ")
    assert told.endswith("export the run again")


def test_files_that_an_engine_does_not_read_are_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        open_session(tmp_path / "none.onnx", "onnxruntime")
    (tmp_path / "a.xml").write_text("")
    with pytest.raises(UsageError, match=r"ONNX Runtime reads \.onnx files"):
        open_session(tmp_path / "a.xml", "onnxruntime")
    with pytest.raises(UsageError, match=r"PyTorch does not run \.xml files"):
        open_detector(tmp_path / "a.xml", "torch")


@pytest.mark.parametrize(
    ("name", "engine", "words"),
    [
        ("hf://alice/cells", "onnxruntime", r"a run on the hub has no exported file; .*--out FILE"),
        ("hf://alice/cells", "openvino", r"a run on the hub has no exported file"),
        ("a.onnx", "tensorrt", "give one of auto, torch, onnxruntime, openvino"),
        ("none.onnx", "auto", "there is no such file"),
        ("none.xml", "auto", "there is no such file"),
        ("there.pt2", "auto", r"is a program for torch\.export\.load"),
        ("there.safetensors", "auto", "is a file; give the run's folder"),
    ],
)
def test_what_cannot_be_opened_is_told_by_what_it_is(name, engine, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for there in ("there.pt2", "there.safetensors"):
        (tmp_path / there).write_text("")
    with pytest.raises(UsageError, match=words):
        open_detector(name, engine)


def test_an_address_that_became_a_path_has_both_its_slashes_in_the_message():
    with pytest.raises(UsageError, match=r"^hf://a/b: a run on the hub .* foveal export hf://a/b --out FILE"):
        open_detector(Path("hf://a/b"), "onnxruntime")
