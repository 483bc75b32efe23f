import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from rectangles import NAMES

import foveal.export.quantising as quantising
from foveal.cli import main
from foveal.data.arrays import to_array
from foveal.data.detect import read_data
from foveal.data.scenes import write_scenes
from foveal.engine.checkpoint import read_run, save_tensors, write_json
from foveal.engine.predict import load
from foveal.errors import UsageError
from foveal.export.benchmarking import write_files
from foveal.export.exporting import export_run
from foveal.export.formats import OpenVinoFile
from foveal.export.quantising import LADDER, NETWORK, Attempt, Int8, Quantised, in_8_bits, material
from foveal.runtime.exported import open_detector

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:nncf.*")


def test_what_is_lost_is_counted_from_the_file_that_is_left():
    tried = (Attempt((), 66.0), Attempt(("the predicting convolutions",), 67.5))
    result = Quantised("val", 300, 0, 1.0, 68.4, tried)
    assert result.drop == pytest.approx(0.9)
    assert result.passed
    assert not Quantised("val", 300, 0, 0.5, 68.4, tried).passed
    assert result.as_dict()["AP_after"] == 67.5
    assert str(result) == (
        "INT8 with 300 pictures: on val AP 68.4 before, after: AP 66.0; AP 67.5, the predicting convolutions in float32"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--int8"], "--int8 makes a file of format openvino, not onnx; add --format openvino"),
        (["--int8", "--format", "torch"], "--int8 makes a file of format openvino, not torch; add --format openvino"),
        (["--data", "somewhere"], "are for a file in 8 bits; add --int8, or leave them out"),
        (["--calibration", "10"], "are for a file in 8 bits; add --int8, or leave them out"),
        (["--max-drop", "0"], "are for a file in 8 bits; add --int8, or leave them out"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(run, words, told, capsys):
    assert main(["export", str(run), *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings", [{"pictures": 0}, {"max_drop": -1.0}, {"max_drop": float("nan")}, {"max_drop": float("inf")}]
)
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(UsageError, match="give one or more"):
        Int8(**settings)


def test_without_nncf_the_line_that_installs_it_is_told(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert main(["export", str(run), "--format", "openvino", "--int8"]) == 2
    assert "needs nncf, which is not installed: pip install 'foveal[int8]'" in capsys.readouterr().err


def test_without_data_there_is_nothing_to_quantise_on(run, tmp_path, capsys):
    pytest.importorskip("nncf")
    words = ["export", str(run), "--format", "openvino", "--int8"]
    assert main(words) == 2
    assert "no data to quantise on, since it does not say what it was trained on; give it with --data FOLDER" in (
        capsys.readouterr().err
    )
    assert main([*words, "--data", str(tmp_path / "gone")]) == 2
    assert str(tmp_path / "gone") in capsys.readouterr().err


def test_a_split_that_is_not_there_is_refused_before_the_work(run, tmp_path, capsys):
    pytest.importorskip("nncf")
    data = write_scenes(tmp_path / "scenes", {"train": 2, "val": 2}, size=96)
    words = ["export", str(run), "--format", "openvino", "--int8", "--data", str(data)]
    assert main([*words, "--split", "other"]) == 2
    assert "other" in capsys.readouterr().err


def test_data_where_no_ap_can_be_measured_is_refused_before_the_work(run, tmp_path, capsys):
    pytest.importorskip("nncf")
    data = write_scenes(tmp_path / "scenes", {"train": 2, "val": 2}, size=96)
    words = ["export", str(run), "--format", "openvino", "--int8", "--data", str(data)]
    assert main(words) == 2
    assert "no class in common" in capsys.readouterr().err

    for split in ("train", "val"):
        labels = json.loads((data / f"{split}.json").read_text())
        for number, category in enumerate(labels["categories"]):
            category["name"] = [*NAMES, *(f"digit {n}" for n in range(10))][number]
        labels["annotations"] = [{**one, "iscrowd": 1} for one in labels["annotations"]]
        (data / f"{split}.json").write_text(json.dumps(labels))
    assert main(words) == 2
    assert "no object in split 'val' to measure AP on (crowds do not count)" in capsys.readouterr().err


def test_labels_of_another_folder_are_read_in_their_own_format_and_faulty_ones_left_out(run, tmp_path):
    data = write_scenes(tmp_path / "scenes", {"train": 3, "val": 2}, size=96)
    for split in ("train", "val"):
        labels = json.loads((data / f"{split}.json").read_text())
        for number, category in enumerate(labels["categories"]):
            category["name"] = [*NAMES, *(f"digit {n}" for n in range(10))][number]
        for one in labels["annotations"]:
            one["category_id"] = labels["categories"][0]["id"]
        labels["annotations"][0]["bbox"] = [10, 10, -5, -5]
        (data / f"{split}.json").write_text(json.dumps(labels))
    info = read_run(run)
    info = replace(info, config=info.config.with_changes({"data.format": "voc"}))
    found = material(info, Int8(data=data, pictures=2), data)
    assert len(found.calibration) == 2
    assert len(found.measured) == 2
    assert found.notes == (
        "val: skipped 1 faulty label and 0 unreadable pictures",
        "train: skipped 1 faulty label and 0 unreadable pictures",
    )


class OneGroupedConvolution:
    """Stands for an `OnnxFile`: 4 groups, as ONNX writes them, [4, 1, 3, 3]."""

    def write(self, path, metadata):
        images, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in "xy")
        weights = numpy_helper.from_array(np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3) - 18, "w")
        convolution = helper.make_node("Conv", ["x", "w"], ["c"], f"{NETWORK}conv", group=4, pads=[1, 1, 1, 1])
        graph = helper.make_graph(
            [convolution, helper.make_node("Relu", ["c"], ["y"])], "g", [images], [found], [weights]
        )
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def test_grouped_convolutions_get_whole_numbers_with_a_scale_for_each_group(tmp_path):
    pytest.importorskip("nncf")
    model = OpenVinoFile(OneGroupedConvolution(), tmp_path).model
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)
    written = in_8_bits(model, [noise], lambda picture: {"x": picture})
    (layer,) = (one for one in written.get_ordered_ops() if one.get_type_name() == "GroupConvolution")
    scaled = layer.input_value(1).get_node()
    whole = scaled.input_value(0).get_node().input_value(0)
    assert whole.get_element_type() == openvino.Type.i8
    assert list(scaled.input_value(1).get_shape()) == [4, 1, 1, 1, 1]


def quantised(path):
    """How many convolutions and matrix products of a file take numbers of 8 bits."""
    model = openvino.Core().read_model(path)
    fed = [
        layer
        for layer in model.get_ordered_ops()
        if layer.get_type_name() in ("Convolution", "MatMul")
        and layer.input_value(0).get_node().get_type_name() == "FakeQuantize"
    ]
    return {kind: sum(layer.get_type_name() == kind for layer in fed) for kind in ("Convolution", "MatMul")}


@pytest.mark.slow
@pytest.mark.usefixtures("exporter_ran_once")
def test_a_small_network_in_8_bits(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("nncf")
    data = write_scenes(tmp_path / "scenes", {"train": 6, "val": 4}, size=96)
    relabel(data)
    write_json(run / "data.json", {"root": str(data)})
    before = open_detector(run)[1](str(read_data(data, "val").path(0)))

    words = ["export", str(run), "--format", "openvino", "--int8", "--calibration", "4", "--max-drop", "100"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "INT8 with 4 pictures: on val AP" in told
    assert "Statistics" not in told
    assert sorted(path.name for path in run.glob("model*")) == ["model-int8.bin", "model-int8.xml"]
    info, detector = open_detector(run / "model-int8.xml")
    assert info.class_names == NAMES
    stored = detector.engine.description.int8
    assert (stored["split"], stored["pictures"], stored["seed"]) == ("val", 4, 0)
    assert stored["AP_after"] == stored["attempts"][-1]["AP"]
    assert len(detector(str(read_data(data, "val").path(0)))) > 0 < len(before)
    kinds = quantised(run / "model-int8.xml")
    assert kinds["Convolution"] > 20
    assert kinds["MatMul"] == 0  # the resize stays exact

    # Each step loses more than is allowed until the predicting layers are float32 again.
    aps = iter([50.0, 40.0, 49.5])
    monkeypatch.setattr(quantising, "_ap", lambda *_: next(aps))
    exported = export_run(run, "openvino", tmp_path / "kept.xml", int8=Int8(pictures=4))
    assert [attempt.float32 for attempt in exported.int8.attempts] == [(), (LADDER[1],)]
    assert quantised(tmp_path / "kept.xml")["Convolution"] == kinds["Convolution"] - 2 * 5

    # A benchmark times what the run's own file has: the same layers in float32, as long as it is of the run's weights.
    image = to_array(read_data(data, "val").path(0), 10**6)
    info = read_run(run)

    def timed() -> int:
        return quantised(write_files(info, ["openvino-int8"], image, tmp_path)["openvino-int8"])["Convolution"]

    assert timed() == kinds["Convolution"]
    for suffix in (".xml", ".bin"):
        shutil.copy(tmp_path / f"kept{suffix}", run / f"model-int8{suffix}")
    assert timed() == kinds["Convolution"] - 2 * 5
    weights = load(run).model.state_dict()
    save_tensors(run / "best.safetensors", {name: value + 1 for name, value in weights.items()})
    assert timed() == kinds["Convolution"]
    save_tensors(run / "best.safetensors", weights)

    # And where nothing helps, no file is left, and the file of before stays.
    monkeypatch.setattr(quantising, "LADDER", ("",))
    monkeypatch.setattr(quantising, "in_8_bits", lambda model, *_: model)
    aps = iter([50.0, 40.0])
    stamp = (run / "model-int8.xml").read_bytes()
    assert main(words[:-2]) == 1
    assert "INT8 loses 10.0 AP or more, 1 are allowed" in capsys.readouterr().err
    assert (run / "model-int8.xml").read_bytes() == stamp
    assert not list(run.glob(".model*"))


def relabel(data):
    """The scenes' ten digits as the run's three classes."""
    for split in ("train", "val"):
        (file,) = data.glob(f"**/*{split}*.json")
        labels = json.loads(file.read_text())
        first = labels["categories"][0]["id"]
        labels["categories"] = [{"id": first + k, "name": name} for k, name in enumerate(NAMES)]
        for box in labels["annotations"]:
            box["category_id"] = first + box["category_id"] % 3
        file.write_text(json.dumps(labels))
