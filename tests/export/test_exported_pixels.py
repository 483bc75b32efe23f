"""The resize and the padding of exported files are those of training."""

from pathlib import Path

import numpy as np
import pytest
from rectangles import config

from foveal.data.images import padded_shape, resize, target_size
from foveal.export.graph import FLOAT, UINT8, Graph
from foveal.export.pixels import channels_first, padded, resized
from foveal.runtime.sessions import EngineName, OnnxRuntimeSession, Session, open_session

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")


def pixels_of(folder: Path, size: int, engine: EngineName) -> Session:
    data = config(size).data
    graph = Graph()
    images = channels_first(graph, graph.input("images", UINT8, ["B", "H", "W", 3]))
    images, after, _ = resized(graph, images, data)
    graph.output("resized", images, FLOAT, ["B", 3, "h", "w"])
    graph.output("padded", padded(graph, images, after, data.pad_multiple), FLOAT, ["B", 3, "H", "W"])
    file = folder / f"{size}.onnx"
    file.write_bytes(graph.model("").SerializeToString())
    return open_session(file, engine)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("network_size", [64, 200])
def test_noise_is_resized_to_the_same_levels(tmp_path, network_size, engine):
    session, data = pixels_of(tmp_path, network_size, engine), config(network_size).data
    # Smaller and larger; the longer side decides; one pixel high; the size it has already.
    for height, width in ((300, 211), (47, 63), (100, 900), (1, 7), (network_size, network_size + 9)):
        image = noise(height, width)
        expected = resize(image, target_size((height, width), data.size, data.longest)).transpose(2, 0, 1)
        found = session({"images": image[None]})["resized"][0]
        assert found.shape == expected.shape
        difference = np.abs(found - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-4


def test_two_columns_become_one_of_their_mean(tmp_path):
    # 2 x 4 to 1 x 2 at size 1: each new column reaches over 2 old ones to each side of its centre.
    image = np.zeros((2, 4, 3), dtype=np.uint8)
    image[:, :2] = 200
    session = pixels_of(tmp_path, 1, "onnxruntime")
    found = session({"images": image[None]})["resized"][0, 0]
    # longest is 5/3 of 1, so 2: weights of the left column are 3/8, 3/8, 1/8 before normalisation to 7.
    assert found.tolist() == [[round(200 * 6 / 7), round(200 * 1 / 7)]]


def test_padding_holds_the_mean_colour_right_and_below(tmp_path):
    image = noise(57, 100)
    found = pixels_of(tmp_path, 40, "onnxruntime")({"images": image[None]})
    # 57 x 100 at size 40 becomes 40 x 70 and then 64 x 96.
    assert found["resized"].shape == (1, 3, 40, 70)
    assert found["padded"].shape == (1, 3, *padded_shape((40, 70), 32))
    assert found["padded"].shape[2:] == (64, 96)
    np.testing.assert_array_equal(found["padded"][:, :, :40, :70], found["resized"])
    for part in (found["padded"][0, :, 40:].reshape(3, -1), found["padded"][0, :, :, 70:].reshape(3, -1)):
        np.testing.assert_array_equal(part, np.broadcast_to([[124.0], [116.0], [104.0]], part.shape))


def test_a_batch_equals_its_pictures(tmp_path):
    images = np.stack([noise(90, 120), noise(90, 120)[::-1]])
    session = pixels_of(tmp_path, 64, "onnxruntime")
    assert isinstance(session, OnnxRuntimeSession)
    together = session({"images": images})["padded"]
    alone = [session({"images": image[None]})["padded"] for image in images]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_sizes_are_those_of_target_size(tmp_path):
    session, data = pixels_of(tmp_path, 16, "onnxruntime"), config(16).data
    for height in range(1, 40, 3):
        for width in range(1, 60, 7):
            found = session({"images": np.zeros((1, height, width, 3), dtype=np.uint8)})["resized"]
            assert found.shape[2:] == target_size((height, width), data.size, data.longest)
