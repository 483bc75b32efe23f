"""`predict` and `evaluate` with an exported file in place of the run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from rectangles import NAMES

from foveal.cli import main
from foveal.data.scenes import write_scenes
from foveal.engine.checkpoint import read_run, save_tensors, write_description, write_text
from foveal.engine.predict import load
from foveal.errors import UsageError, WeightsError
from foveal.export.benchmarking import Row, as_text, benchmark
from foveal.export.exporting import export_run
from foveal.runtime.exported import open_detector
from foveal.runtime.sessions import EngineName

pytestmark = pytest.mark.usefixtures("exporter_ran_once")


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.fixture
def exported(run: Path, pictures: list[Path]) -> Path:
    return export_run(run, pictures=pictures).path


def test_predict_writes_the_same_table(run, exported, pictures, tmp_path):
    tables = []
    for source, engine in ((run, "torch"), (run, "onnxruntime"), (exported, "auto"), (run, "openvino")):
        out = tmp_path / f"{source.name}-{engine}"
        words = ["predict", str(source), *map(str, pictures), "--out", str(out), "--engine", engine]
        assert main(words) == 0
        tables.append([json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()])
    assert sum(len(picture["detections"]) for picture in tables[0]) > 20
    for table in tables[1:]:
        for ours, theirs in zip(tables[0], table, strict=True):
            assert [d["class"] for d in ours["detections"]] == [d["class"] for d in theirs["detections"]]
            for one, other in zip(ours["detections"], theirs["detections"], strict=True):
                assert other["box"] == pytest.approx(one["box"], abs=0.02)
                assert other["score"] == pytest.approx(one["score"], abs=1e-3)


def test_tiles_look_through_an_exported_file_too(run, exported, pictures, tmp_path):
    out = tmp_path / "tiled"
    assert main(["predict", str(exported), str(pictures[1]), "--out", str(out), "--tile", "96"]) == 0
    assert json.loads((out / "detections.jsonl").read_text())["detections"]


def half_of_what_is_found(run: Path, folder: Path) -> Path:
    """Scenes whose labels are every second detection of the run, two pixels beside it: an AP far from 0 and from 1."""
    data = write_scenes(folder, {"test": 6}, size=120)
    labels = json.loads((data / "test.json").read_text())
    labels["categories"] = [{"id": i, "name": name} for i, name in zip((10, 20, 30), NAMES, strict=True)]
    labels["annotations"] = []
    for picture in labels["images"]:
        found = load(run)(data / "images" / picture["file_name"], min_score=0.05)
        for box, label in list(zip(found.boxes.tolist(), found.labels.tolist(), strict=True))[:60:2]:
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            labels["annotations"].append(
                {
                    "id": len(labels["annotations"]) + 1,
                    "image_id": picture["id"],
                    "category_id": (label + 1) * 10,
                    "bbox": [x + 2 if x + 2 + width <= 120 else x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    (data / "test.json").write_text(json.dumps(labels))
    return data


def test_evaluate_gives_the_same_numbers(run, exported, tmp_path, capsys):
    data = half_of_what_is_found(run, tmp_path / "scenes")
    ours = json.loads(printed(["evaluate", str(run), str(data), "--json"], capsys))
    assert 0.2 < ours["AP"] < ours["AP50"] < 0.95
    theirs = json.loads(printed(["evaluate", str(exported), str(data), "--json"], capsys))
    again = json.loads(printed(["evaluate", str(run), str(data), "--json", "--engine", "onnxruntime"], capsys))
    openvino = json.loads(printed(["evaluate", str(run), str(data), "--json", "--engine", "openvino"], capsys))
    assert theirs == again
    for numbers in (theirs, openvino):
        assert numbers["threshold"] == ours["threshold"] == 0.25
        for name in ("AP", "AP50", "AP75"):
            assert numbers[name] == pytest.approx(ours[name], abs=1e-3)
        assert numbers["per_class"].keys() == ours["per_class"].keys() == set(NAMES)
        for name, one in ours["per_class"].items():
            assert numbers["per_class"][name]["AP"] == pytest.approx(one["AP"], abs=1e-3)


def test_without_a_file_the_command_that_makes_it_is_told(run):
    with pytest.raises(UsageError, match=r"has no model\.onnx for onnxruntime; make it with foveal export .*run"):
        open_detector(run, "onnxruntime")


def test_a_file_of_older_weights_is_refused(run, exported, tiny_model):
    changed = {name: value + 1 for name, value in tiny_model.state_dict().items()}
    save_tensors(run / "best.safetensors", changed)
    with pytest.raises(UsageError, match=r"was not exported from best\.safetensors as it is now; export the run again"):
        open_detector(run, "onnxruntime")
    assert open_detector(exported)[1].class_names == ("red", "green", "blue")  # the file alone is good


def test_a_file_of_older_settings_is_refused(run, exported):
    before = read_run(run)
    changes = [
        ("model.p6_from", "P5", "C5", "P5"),
        ("anchors.ratios", [0.5, 1, 3], "0.5, 1.0, 2.0", "0.5, 1.0, 3.0"),
        ("assignment.padding", "background", "ignored", "background"),
        ("data.size", 64, "96", "64"),
        ("data.max_pixels", 50_000_000, "100000000", "50000000"),
        ("inference.nms_iou", 0.3, "0.5", "0.3"),
        ("inference.show_threshold", 0.2, "0.5", "0.2"),
    ]
    for setting, value, old, new in changes:
        write_text(run / "config.yaml", before.config.with_changes({setting: value}).to_yaml())
        words = rf"was exported with {setting} \(?{old}\)?, and config\.yaml now says \(?{new}\)?; export the run again"
        for engine in ("onnxruntime", "openvino"):
            with pytest.raises(UsageError, match=words):
                open_detector(run, engine)
    trained_otherwise = {"model.batch_norm": "trained", "train.lr": 0.5, "data.workers": 1, "loss.gamma": 1}
    write_text(run / "config.yaml", before.config.with_changes(trained_otherwise).to_yaml())
    open_detector(run, "onnxruntime")
    write_description(run, before.config, ("box", *NAMES[1:]), before.category_ids)
    with pytest.raises(UsageError, match=rf"with class names {', '.join(NAMES)}, and classes\.json now says box, "):
        open_detector(run, "onnxruntime")
    write_description(run, before.config, NAMES, (1, 2, 3))
    with pytest.raises(UsageError, match=r"with category ids 10, 20, 30, and classes\.json now says 1, 2, 3; export"):
        open_detector(run, "onnxruntime")


def retold(file: Path, **metadata: str) -> Path:
    """A copy of an ONNX file whose metadata says something else."""
    model = onnx.load(file)
    told = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**told, **metadata})
    onnx.save(model, file.with_name("retold.onnx"))
    return file.with_name("retold.onnx")


def refusal(file: Path, pictures: list[Path], engine: EngineName) -> str:
    """What is said of a file, when it is opened or when it looks at pictures."""
    with pytest.raises(WeightsError) as caught:
        open_detector(file, engine)[1](pictures)
    said = str(caught.value)
    assert said.startswith(f"{file}: ")
    assert said.endswith("export the run again")
    assert "\n" not in said
    return said.removeprefix(f"{file}: ")


ONE_CLASS = {"class_names": '["a"]', "category_ids": "[1]"}
"""Of a network with three."""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_whose_metadata_tells_of_another_graph_is_refused(engine, run, pictures):
    config = read_run(run).config
    fewer, other = (config.with_changes({"model.levels": levels}).to_yaml() for levels in ("3-5", "4-8"))
    file = export_run(run, pictures=pictures).path
    assert "finds class 2, and its metadata names 1 class" in refusal(retold(file, **ONE_CLASS), pictures, engine)
    said = refusal(retold(file, nms="false"), pictures, engine)
    assert "gives boxes, labels, scores, and its metadata promises deltas_P3, " in said
    assert "takes images, and its metadata promises images, sizes" in refusal(
        retold(file, resize="false"), pictures, engine
    )
    file = export_run(run, pictures=pictures, resize=False).path
    assert "takes images, sizes, and" in refusal(retold(file, resize="true"), pictures, engine)
    file = export_run(run, pictures=pictures, nms=False).path
    assert "gives deltas_P3, deltas_P4, " in refusal(retold(file, nms="true"), pictures, engine)
    assert "its metadata promises deltas_P3, deltas_P4, deltas_P5, logits" in refusal(
        retold(file, config=fewer), pictures, engine
    )
    assert "its metadata promises deltas_P4, " in refusal(retold(file, config=other), pictures, engine)
    wrong = r"logits_P3 has the shape \d+ x 27 x \d+ x \d+ and its metadata promises \d+ x 9 x "
    assert re.search(wrong, refusal(retold(file, **ONE_CLASS), pictures, engine))
    anchors = config.with_changes({"anchors.scales": [1.0]}).to_yaml()
    assert re.search(r"logits_P3 has .* promises \d+ x 9 x ", refusal(retold(file, config=anchors), pictures, engine))
    file = export_run(run, pictures=pictures, nms=False, resize=False).path
    assert "logits_P3 has the shape" in refusal(retold(file, resize="true"), pictures, engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_that_a_runtime_cannot_run_is_one_clear_sentence(engine, exported, pictures):
    model = onnx.load(exported)
    for number, tensor in enumerate(model.graph.initializer):
        if tensor.name.endswith("pyramid.lateral.4.weight"):  # one channel more than its picture has
            weights = onnx.numpy_helper.to_array(tensor)
            wider = np.concatenate([weights, weights[:, :1]], axis=1)
            model.graph.initializer[number].CopyFrom(onnx.numpy_helper.from_array(wider, tensor.name))
    onnx.save(model, exported)
    assert "cannot" in refusal(exported, pictures, engine)


def test_of_two_files_that_openvino_reads_the_newer_one_is_opened(run, pictures):
    names = ("model.xml", "model.onnx")
    formats = dict(zip(names, ("openvino", "onnx"), strict=True))
    for name in names:
        export_run(run, formats[name], pictures=pictures)
    for older, newer in (names, names[::-1]):
        os.utime(run / older, (1000, 1000))
        os.utime(run / newer, (2000, 2000))
        assert open_detector(run, "openvino")[0].path == run / newer


def test_a_file_has_its_own_weights_and_takes_no_checkpoint(exported, tmp_path, capsys):
    for which in ("best", "last"):
        assert main(["evaluate", str(exported), str(tmp_path), "--checkpoint", which]) == 2
        told = capsys.readouterr().err
        assert (
            "has the weights that it was exported with; leave --checkpoint out, or export the run again with " in told
        )
        assert f"--checkpoint {which}" in told


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_other_engines_than_pytorch_run_on_the_cpu_alone(engine, run, exported, tmp_path, capsys):
    for source in (run, exported):
        words = ["predict", str(source), "a.jpg", "--out", str(tmp_path / "found"), "--engine", engine]
        assert main([*words, "--device", "cuda:0"]) == 2
        told = capsys.readouterr().err
        assert f"device cuda:0: {engine} runs on the CPU alone; leave --device out, or use --engine torch" in told
    for device in ("auto", "cpu"):
        assert open_detector(exported, engine, device=device)[1].device.type == "cpu"
    words = ["evaluate", str(exported), str(tmp_path), "--device", "cuda"]
    assert main(words) == 2
    assert "runs on the CPU alone" in capsys.readouterr().err


def test_scores_that_the_file_has_dropped_are_not_promised(exported, pictures):
    _, detector = open_detector(exported)
    with pytest.raises(UsageError, match=r"keeps scores from 0\.05.*--no-nms"):
        detector(pictures[0], min_score=0.01)


def test_a_file_shows_nothing_of_its_inside(exported):
    _, detector = open_detector(exported)
    assert str(detector.device) == "cpu"
    with pytest.raises(UsageError, match="only PyTorch shows what is inside"):
        _ = detector.model


def test_raw_outputs_know_all_scores(run, pictures):
    path = export_run(run, pictures=pictures, nms=False).path
    _, detector = open_detector(path)
    assert len(detector(pictures[0], min_score=0.01)) == len(load(run)(pictures[0], min_score=0.01)) > 0


def test_the_table_of_a_benchmark_says_what_is_missing():
    rows = [
        Row("torch", 320, (320, 352), 2, 100.0, (90.0, 110.0), 10.0, 50.4, 3, 7, 1.0),
        Row("onnxruntime", 320, (320, 352), 2, 50.0, (49.0, 51.0), 20.0, 60.0, 3, 9, 2.0),
        Row("openvino", 320, missing="this needs openvino"),
    ]
    head, torch_line, onnx_line, missing = as_text(rows).splitlines()
    assert head.split("  ")[0] == "engine"
    assert torch_line.split() == "torch 320 320 x 352 2 100.0 90.0 - 110.0 10.00 50 1.00".split()
    assert onnx_line.split()[-1] == "2.00"
    assert missing.split() == "openvino 320 this needs openvino".split()


def test_what_was_not_measured_is_null_in_json():
    told = json.loads(json.dumps(Row("openvino", 320, missing="this needs openvino").as_dict(), allow_nan=False))
    assert (told["ms"], told["ms_spread"], told["memory_mb"], told["shape"]) == (None, [None, None], None, [0, 0])


@pytest.mark.parametrize("seconds", [-3.0, float("nan"), float("inf")])
def test_a_benchmark_of_no_time_is_misuse(run, seconds):
    with pytest.raises(UsageError, match=f"{seconds:g} seconds: give 0 or more"):
        benchmark(run, seconds=seconds)


@pytest.mark.slow
def test_a_benchmark_measures_each_engine_in_a_process_of_its_own(run, pictures, capsys):
    words = ["benchmark", str(run), "--sizes", "64", "96", "--seconds", "0.1", "--picture", str(pictures[2]), "--json"]
    rows = json.loads(printed([*words, "--engines", "torch", "onnxruntime"], capsys))
    assert [(row["engine"], row["size"]) for row in rows] == [
        ("torch", 64), ("onnxruntime", 64), ("torch", 96), ("onnxruntime", 96),
    ]  # fmt: skip
    assert all(row["ms"] > 0 and row["memory_mb"] > 0 and row["runs"] >= 5 for row in rows)
    assert [row["ratio"] for row in rows[::2]] == [1, 1]
    assert rows[0]["detections"] == rows[1]["detections"] > 0
    assert rows[0]["shape"] == [64, 96]
    assert main(["benchmark", str(run), "--sizes", "8"]) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:nncf.*")
def test_a_benchmark_quantises_the_network_where_8_bits_are_asked_for(run, pictures, capsys):
    pytest.importorskip("nncf")
    words = ["benchmark", str(run), "--sizes", "64", "96", "--seconds", "0.1", "--picture", str(pictures[2]), "--json"]
    rows = json.loads(printed([*words, "--engines", "torch", "openvino-int8"], capsys))
    assert [(row["engine"], row["size"]) for row in rows[1::2]] == [("openvino-int8", 64), ("openvino-int8", 96)]
    assert all(row["ms"] > 0 and row["ratio"] > 0 and row["detections"] > 0 for row in rows)
    assert not list(run.glob("model*"))


def test_without_nncf_the_row_in_8_bits_says_what_to_install(run, pictures, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nncf", None)
    words = ["benchmark", str(run), "--picture", str(pictures[0]), "--engines", "openvino-int8"]
    assert main(words) == 1
    assert "openvino-int8  96    this needs nncf, which is not installed: pip install 'foveal[int8]'" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
def test_where_memory_does_not_suffice_the_table_says_so(run, pictures):
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33)); "
        "from foveal.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["benchmark", str(run), "--sizes", "64", "--batch-size", "2000000", "--engines", "torch"]
    words += ["--picture", str(pictures[0])]
    told = subprocess.run([sys.executable, "-c", limited, *words], capture_output=True, text=True)
    assert told.returncode == 1, told.stderr  # nothing was measured
    assert "not enough memory; give smaller --sizes, or a smaller --batch-size" in told.stdout
    assert "should not happen" not in told.stderr
