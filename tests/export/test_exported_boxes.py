"""What an exported file makes of a network's outputs is what `decoding.py` makes of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from rectangles import config
from torch.testing import assert_close

from foveal.anchors import Anchors
from foveal.config import Config
from foveal.decoding import Found, decode
from foveal.export.assembly import assemble
from foveal.export.graph import FLOAT, IR_VERSION, OPSET
from foveal.model.retinanet import Outputs
from foveal.runtime.exported import listed
from foveal.runtime.sessions import EngineName, open_session

SHAPE = (64, 96)


def that_says(outputs: Outputs) -> onnx.ModelProto:
    """A network that says this of every picture."""
    values = [value.numpy() for value in (*outputs.logits, *outputs.deltas)]
    known = [numpy_helper.from_array(value, f"value{i}") for i, value in enumerate(values)]
    nodes = [helper.make_node("Identity", [f"value{i}"], [f"out{i}"]) for i in range(len(values))]
    results = [helper.make_tensor_value_info(f"out{i}", FLOAT, value.shape) for i, value in enumerate(values)]
    image = helper.make_tensor_value_info("images", FLOAT, ["B", 3, "H", "W"])
    graph = helper.make_graph(nodes, "says", [image], results, known)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def outputs_of(settings: Config, batch: int, classes: int, seed: int, steps: float = 0.0) -> Outputs:
    """Random outputs for SHAPE; logits are multiples of `steps`, so that many are equal."""
    rng = np.random.default_rng(seed)
    anchors = Anchors.from_config(settings)
    logits, deltas = [], []
    for rows, columns in anchors.feature_shapes(*SHAPE):
        value = rng.normal(-2, 2, (batch, anchors.per_cell * classes, rows, columns)).astype(np.float32)
        logits.append(torch.from_numpy(np.round(value / steps) * np.float32(steps) if steps else value))
        value = rng.normal(0, 0.7, (batch, anchors.per_cell * 4, rows, columns)).astype(np.float32)
        deltas.append(torch.from_numpy(value))
    return Outputs(tuple(logits), tuple(deltas))


def both(
    settings: Config, outputs: Outputs, sizes: list[list[int]], folder: Path, engine: EngineName = "onnxruntime"
) -> tuple[list[Found], list[Found]]:
    """(decoding.py's, the file's)."""
    anchors, inference = Anchors.from_config(settings), settings.inference
    classes = outputs.logits[0].shape[1] // anchors.per_cell
    answers = settings.assignment.padding == "background"
    expected = decode(outputs, anchors, SHAPE, torch.tensor(sizes), inference, padding_answers=answers)
    file = folder / "boxes.onnx"
    model = assemble(that_says(outputs), settings, classes, resize=False, nms=True)
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())
    images = np.zeros((len(sizes), *SHAPE, 3), dtype=np.uint8)
    found = open_session(file, engine)({"images": images, "sizes": np.array(sizes)})
    return expected, listed(found, 0.0)


def assert_same(expected: list[Found], found: list[Found]) -> None:
    for ours, theirs in zip(expected, found, strict=True):
        assert ours[2].tolist() == theirs[2].tolist()
        assert_close(theirs[0], ours[0], atol=1e-3, rtol=1e-5)
        assert_close(theirs[1], ours[1], atol=1e-6, rtol=1e-5)


def test_one_anchor_that_is_sure_is_one_box_clipped_to_its_picture(tmp_path):
    settings = config(**{"anchors.scales": (1.0,), "anchors.ratios": (1.0,), "model.levels": "3-5"})
    outputs = outputs_of(settings, 1, 2, 0)
    for level in (*outputs.logits, *outputs.deltas):
        level.fill_(0 if level.shape[1] == 4 else -10)
    outputs.logits[1][0, 1, 2, 3] = 3.0  # class 1 of the cell at row 2, column 3 of the level with stride 16
    _, found = both(settings, outputs, [[64, 80]], tmp_path)
    boxes, scores, labels = found[0]
    # Centre (3.5 * 16, 2.5 * 16) = (56, 40), side 64: (24, 8) to (88, 72), in a picture 80 wide and 64 high.
    assert boxes.tolist() == [[24, 8, 80, 64]]
    assert scores.tolist() == pytest.approx([1 / (1 + np.exp(-3))])
    assert labels.tolist() == [1]


def test_nothing_above_the_threshold_is_no_detection(tmp_path):
    settings = config()
    outputs = outputs_of(settings, 2, 3, 0)
    for level in outputs.logits:
        level.fill_(-9)
    expected, found = both(settings, outputs, [list(SHAPE)] * 2, tmp_path)
    assert [len(one[0]) for one in expected] == [len(one[0]) for one in found] == [0, 0]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"inference.candidates_per_level": 7, "inference.max_detections": 5},
        {"anchors.stride": "floor_of_padded", "anchors.offset": "corner", "anchors.round_sizes": True},
        {"assignment.padding": "background", "model.levels": "2-6", "inference.nms_iou": 0.3},
    ],
    ids=["paper", "few", "torchvision", "other"],
)
def test_random_outputs_of_three_pictures(tmp_path, changes, engine):
    settings = config(**changes)
    sizes = [[64, 96], [50, 96], [33, 70]]
    expected, found = both(settings, outputs_of(settings, 3, 3, 1), sizes, tmp_path, engine)
    assert min(len(one[0]) for one in expected) >= 5
    assert_same(expected, found)


def test_equal_scores_go_to_the_lower_index_as_ours_do_in_onnx_runtime(tmp_path):
    settings = config(**{"inference.candidates_per_level": 50})
    expected, found = both(settings, outputs_of(settings, 2, 3, 2, steps=1.0), [[64, 96]] * 2, tmp_path)
    assert len(expected[0][1].unique()) < len(expected[0][1]) // 4
    assert_same(expected, found)


@examples(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(1, 5),
    size=st.tuples(st.integers(1, 64), st.integers(1, 96)),
    steps=st.sampled_from([0.0, 0.5]),
    most=st.sampled_from([1, 10, 100]),
)
def test_any_outputs(tmp_path_factory, seed, classes, size, steps, most):
    settings = config(**{"inference.max_detections": most, "model.levels": "4-6"})
    outputs = outputs_of(settings, 1, classes, seed, steps)
    assert_same(*both(settings, outputs, [list(size)], tmp_path_factory.getbasetemp()))
