import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rectangles import NAMES
from torch.testing import assert_close

import foveal
from foveal.cli import main
from foveal.data.images import read_image
from foveal.data.scenes import write_scenes
from foveal.engine.checkpoint import read_run, save_tensors, write_json, write_text
from foveal.engine.predict import load
from foveal.errors import ExportError, UsageError
from foveal.export import agreement, formats
from foveal.export.exporting import export_run, pictures_of
from foveal.export.formats import ProgramSession
from foveal.export.network import output_names, program
from foveal.runtime.description import Description
from foveal.runtime.exported import open_detector
from foveal.runtime.publishing import publishable
from foveal.runtime.sessions import open_session

once = pytest.mark.usefixtures("exporter_ran_once")


@once
def test_a_file_answers_in_the_pixels_of_pictures_of_any_size(run, pictures):
    exported = export_run(run, pictures=pictures)
    assert exported.path == run / "model.onnx"
    session = open_session(exported.path, "onnxruntime")
    detector = load(run)
    for path in pictures:
        expected = detector(path, min_score=0.05)
        found = session({"images": read_image(path)[None]})
        count = len(expected)
        assert count > 10
        assert_close(torch.from_numpy(found["boxes"][0, :count]), expected.boxes, atol=1e-2, rtol=1e-4)
        assert_close(torch.from_numpy(found["scores"][0, :count]), expected.scores, atol=1e-4, rtol=1e-4)
        assert found["labels"][0, :count].tolist() == expected.labels.tolist()
        assert (found["labels"][0, count:] == -1).all()


@once
@pytest.mark.parametrize("resize", [True, False])
@pytest.mark.parametrize("nms", [True, False])
def test_every_kind_of_file_finds_what_pytorch_finds(run, pictures, resize, nms):
    exported = export_run(run, pictures=pictures, resize=resize, nms=nms)
    assert set(exported.checks) == ({"network", "pixels"} if resize else {"network"})
    assert all(one.passed and one.detections > 100 for one in exported.checks.values())
    _, detector = open_detector(run, "onnxruntime")
    for ours, theirs in zip(load(run)(pictures), detector(pictures), strict=True):  # batches of unlike sizes
        assert ours.names == theirs.names
        assert_close(theirs.boxes, ours.boxes, atol=1e-2, rtol=1e-4)


@once
def test_a_batch_of_pictures_equals_its_pictures(run, pictures):
    session = open_session(export_run(run, pictures=pictures).path, "onnxruntime")
    first = read_image(pictures[1])
    images = np.stack([first, first[::-1], first[:, ::-1]])
    together = session({"images": images})
    for row, image in enumerate(images):
        alone = session({"images": image[None]})
        assert together["labels"][row].tolist() == alone["labels"][0].tolist()
        np.testing.assert_allclose(together["boxes"][row], alone["boxes"][0], atol=1e-2)


@once
def test_the_metadata_tells_all_that_a_user_needs(run, pictures):
    export_run(run, pictures=pictures)
    model = onnx.load(run / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["class_names"]) == list(NAMES)
    assert json.loads(metadata["category_ids"]) == [10, 20, 30]
    assert json.loads(metadata["threshold"]) == json.loads(metadata["show_from"]) == 0.25
    told = json.loads(metadata["check"])
    assert told["network"]["passed"]
    assert told["pixels"]["pictures"] == len(pictures)
    config = read_run(run).config
    kept = publishable(config).with_changes({"data.max_pixels": config.data.max_pixels})
    assert Description.of_metadata(metadata, Path("x")).config == kept
    assert [entry.version for entry in model.opset_import] == [21]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@once
def test_openvino_finds_the_same_and_its_file_stands_alone(run, pictures, capsys):
    words = ["export", str(run), "--format", "openvino", "--pictures", *map(str, pictures)]
    assert main(words) == 0
    assert "limit 0.001" in capsys.readouterr().out
    assert sorted(path.name for path in run.glob("model.*")) == ["model.bin", "model.xml"]
    info, detector = open_detector(run / "model.xml")
    assert (info.class_names, info.threshold) == (NAMES, 0.25)
    ours, theirs = load(run)(pictures[2]), detector(pictures[2])
    assert ours.names == theirs.names
    assert_close(theirs.boxes, ours.boxes, atol=1e-2, rtol=1e-4)


@once
def test_openvino_reads_the_onnx_file_too(run, pictures):
    export_run(run, pictures=pictures)
    _, detector = open_detector(run, "openvino")
    assert detector(pictures[0]).names == load(run)(pictures[0]).names


@once
def test_a_file_that_finds_something_else_is_not_left(run, pictures, monkeypatch, capsys):
    before = sorted(run.rglob("*"))
    written = formats.OnnxFile.write

    def spoilt(self, path, metadata):
        for tensor in self.model.graph.initializer:
            if tensor.name.endswith("class_head.predict.bias"):
                bias = onnx.numpy_helper.to_array(tensor) + 0.1
                tensor.CopyFrom(onnx.numpy_helper.from_array(bias, tensor.name))
        written(self, path, metadata)

    monkeypatch.setattr(formats.OnnxFile, "write", spoilt)
    assert main(["export", str(run), "--pictures", *map(str, pictures)]) == 1
    assert "would not find what PyTorch finds" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


@once
def test_a_file_of_before_stays_where_the_new_one_fails(run, pictures, monkeypatch):
    (run / "model.onnx").write_text("the old one")
    monkeypatch.setattr(agreement, "LIMIT", 0.0)
    monkeypatch.setattr(agreement.Agreement, "passed", False)
    with pytest.raises(ExportError, match="not written"):
        export_run(run, pictures=pictures)
    assert (run / "model.onnx").read_text() == "the old one"


def test_pictures_in_which_nothing_is_found_compare_nothing(run, tiny_model, pictures):
    weights = tiny_model.state_dict() | {"class_head.predict.bias": tiny_model.class_head.predict.bias - 100}
    save_tensors(run / "best.safetensors", weights)
    with pytest.raises(ExportError, match=r"finds nothing in the 4 pictures.*--pictures"):
        export_run(run, pictures=pictures)


def test_pictures_come_from_the_data_of_the_run(run, tmp_path):
    data = write_scenes(tmp_path / "scenes", {"train": 3, "val": 20}, size=96)
    write_json(run / "data.json", {"root": str(data)})
    chosen = pictures_of(read_run(run))
    assert len(chosen) == len(set(chosen)) == 8
    assert all("val-" in path for path in chosen)


def test_without_pictures_there_is_no_export(run, capsys):
    assert main(["export", str(run)]) == 2
    assert "it does not say what it was trained on; give some of your own with --pictures" in capsys.readouterr().err
    write_json(run / "data.json", {"root": str(run / "gone")})
    assert main(["export", str(run)]) == 2
    assert "is not at" in capsys.readouterr().err


def test_a_path_that_is_not_of_the_format_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        export_run(run, out=tmp_path / "model.bin")


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_what_is_not_installed_is_told_with_the_line_that_installs_it(run, format, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(run), "--format", format]) == 2
    assert f"needs {package}, which is not installed: pip install 'foveal[{format}]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_program_of_torch_finds_what_pytorch_finds_in_pictures_with_cells_on_every_level(run, pictures):
    larger = read_run(run).config.with_changes({"data.size": 160})
    (run / "config.yaml").write_text(larger.to_yaml())
    exported = export_run(run, "torch", pictures=pictures)
    assert exported.path.name == "model.pt2"
    assert exported.checks["network"].passed
    outputs = torch.export.load(exported.path).module()(torch.zeros(3, 160, 192, 3, dtype=torch.uint8))
    assert [tuple(level.shape) for level in outputs[:2]] == [(3, 27, 20, 24), (3, 27, 10, 12)]
    program = ProgramSession(exported.path, output_names((3, 4, 5, 6, 7)))
    with pytest.raises(ExportError, match="does not take pictures of 96 x 96"):
        program({"images": np.zeros((1, 96, 96, 3), dtype=np.uint8)})


def test_the_names_of_the_package(run):
    assert foveal.export_run is export_run
    assert foveal.open_detector is open_detector


@once
@pytest.mark.parametrize("shown_from", [0.25, 0.0, "show_threshold"])
def test_the_example_needs_nothing_of_foveal(shown_from, run, pictures, tmp_path):
    if shown_from == "show_threshold":  # .1, as many imported runs have it
        write_text(run / "config.yaml", read_run(run).config.with_changes({"inference.show_threshold": 0.1}).to_yaml())
    write_json(run / "result.json", {} if shown_from == "show_threshold" else {"threshold": shown_from})
    export_run(run, pictures=pictures)
    example = Path(__file__).resolve().parents[2] / "examples" / "onnx_alone.py"
    assert len(example.read_text().splitlines()) <= 30
    assert "foveal." not in example.read_text().replace("`foveal", "")
    words = [sys.executable, str(example), str(run / "model.onnx"), str(pictures[1]), str(tmp_path / "found.png")]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    expected = load(run)(pictures[1], min_score=max(load(run).threshold, 0.05))  # the file has none below
    assert len(told) == len(expected) > 0
    (first, score, *_), (box, best, name) = told[0].split(), next(iter(expected))
    assert (first, score) == (name, f"{best:.2f}")
    assert [float(side) for side in told[0].split(" at ")[1].split()] == pytest.approx(box, abs=0.06)
    assert (tmp_path / "found.png").exists()


PRIVATE = {
    "model.weights": "/home/someone/own.pth",
    "data.oversample": "/home/someone/hard.txt",
    "data.max_pixels": 10**7,
}


@once
def test_no_path_of_the_machine_is_in_a_file(run, pictures):
    (run / "config.yaml").write_text(read_run(run).config.with_changes(PRIVATE).to_yaml())
    written = export_run(run, pictures=pictures)
    assert b"someone" not in written.path.read_bytes()
    assert written.description.config.model.weights == "own.pth"
    assert written.description.config.data.max_pixels == 10**7


def test_a_program_tells_nobodys_source(tiny_model, tmp_path):
    torch.export.save(program(tiny_model), tmp_path / "x.pt2")
    with zipfile.ZipFile(tmp_path / "x.pt2") as file:
        inside = b"".join(file.read(name) for name in file.namelist())
    assert str(Path(foveal.__file__).parent).encode() not in inside
    assert b"site-packages" not in inside


@once
def test_the_last_weights_have_their_own_threshold_or_none(run, pictures, tiny_model):
    save_tensors(run / "last.safetensors", tiny_model.state_dict())
    write_json(run / "result.json", {"steps": 50, "best_step": 40, "AP": 0.5, "threshold": 0.25})
    assert export_run(run, pictures=pictures).description.threshold == 0.25
    assert export_run(run, pictures=pictures, which="last").description.threshold is None
    (run / "metrics.jsonl").write_text('{"step": 50, "AP": 0.4, "recommended_threshold": 0.35}\n')
    assert export_run(run, pictures=pictures, which="last").description.threshold == 0.35


def test_a_run_on_the_hub_is_exported_to_a_place_that_is_said():
    with pytest.raises(UsageError, match=r"hf://alice/cells: is on the hub.*--out FILE"):
        export_run("hf://alice/cells")
    with pytest.raises(UsageError, match=r"^hf://alice/cells: is on the hub"):
        export_run(Path("hf://alice/cells"))
