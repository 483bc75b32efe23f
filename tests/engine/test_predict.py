import json

import numpy as np
import pytest
import torch
from PIL import Image
from rectangles import NAMES, RectangleNet, config, detector, picture, save

from foveal.data.table import TableBuilder
from foveal.detections import Batch, Objects
from foveal.engine.checkpoint import save_tensors, write_description, write_json
from foveal.engine.predict import Detector, detect_table, load, pick_device
from foveal.engine.run_numbers import evaluation_at
from foveal.errors import CheckpointError, ImageError, UsageError
from foveal.model.retinanet import build_model

RED_AND_BLUE = picture(64, 64, (0, (8, 8, 40, 40)), (2, (44, 20, 60, 52)))
TINY = {
    "model.backbone": "mobilenet_v2",
    "model.pyramid_channels": 8,
    "model.head_channels": 8,
    "model.head_depth": 1,
    "model.prior": 0.5,
}


def tiny() -> Detector:
    torch.manual_seed(3)
    settings = config(**TINY)
    model = build_model(settings, 3, pretrained=False)
    torch.nn.init.normal_(model.class_head.predict.weight, std=2.0)
    return Detector(model, settings, NAMES, threshold=0.3)


def test_boxes_labels_and_names_of_a_picture_at_network_size():
    found = detector()(RED_AND_BLUE)
    assert sorted(found.names) == ["blue", "red"]
    by_name = {name: box for box, _, name in found}
    assert by_name["red"] == pytest.approx([8, 8, 40, 40], abs=1e-3)
    assert by_name["blue"] == pytest.approx([44, 20, 60, 52], abs=1e-3)


def test_boxes_come_back_in_the_original_pixels():
    # 256 x 512 becomes 53 x 107 (longest side 5/3 of 64), so one network pixel is 4.8 of the original's.
    found = detector()(picture(256, 512, (1, (100, 40, 300, 200))))
    assert found.names == ["green"]
    assert found.boxes[0].tolist() == pytest.approx([100, 40, 300, 200], abs=5)


def test_boxes_are_clipped_to_the_original():
    found = detector()(picture(70, 90, (0, (50, 30, 90, 70))))
    assert found.boxes[0, 2] == 90
    assert found.boxes[0, 3] == 70


def test_every_kind_of_picture_gives_the_same(tmp_path):
    detect = detector()
    expected = detect(RED_AND_BLUE)
    path = save(tmp_path / "a.png", RED_AND_BLUE)
    kinds = [str(path), path, Image.fromarray(RED_AND_BLUE), torch.from_numpy(RED_AND_BLUE).permute(2, 0, 1)]
    for kind in kinds:
        torch.testing.assert_close(detect(kind).boxes, expected.boxes)


def test_a_grey_array_is_a_picture():
    assert len(detector()(np.full((64, 64), 200, dtype=np.uint8))) == 0


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((64, 64, 3), dtype=np.float32), "float32 is ambiguous"),
        (np.zeros((64, 64, 4), dtype=np.uint8), r"shape \[64, 64, 4\]"),
        (np.zeros((0, 64, 3), dtype=np.uint8), r"shape \[0, 64, 3\]"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), r"give \[3, H, W\]"),
        (3.5, "a float is no picture"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_to_give(image, words):
    with pytest.raises(ImageError, match=words):
        detector()(image)


def test_a_list_of_pictures_gives_a_list_in_its_order():
    shapes = [(64, 64), (64, 100), (100, 64), (64, 64), (64, 100)]
    images = [picture(h, w, (i % 3, (4, 4, 30 + 4 * i, 40))) for i, (h, w) in enumerate(shapes)]
    detect = detector()
    together = detect(images)
    assert [len(shape) and shape[0] for shape in detect.model.calls] == [2, 2, 1]
    for found, image in zip(together, images, strict=True):
        alone = detect(image)
        torch.testing.assert_close(found.boxes, alone.boxes)
        assert found.names == alone.names


def test_an_empty_list_gives_an_empty_list():
    assert detector()([]) == []


def test_batched_equals_single_with_a_real_network():
    detect = tiny()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (80, 100, 3), dtype=np.uint8) for _ in range(3)]
    together = detect(images, min_score=0.2)
    assert all(len(found) for found in together)
    for found, image in zip(together, images, strict=True):
        alone = detect(image, min_score=0.2)
        torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-2, rtol=0)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=0)


def test_scores_below_the_asked_one_are_left_out():
    # Logits 2 + 100/64 and 2 + 255/64: scores .972 and .997.
    image = np.maximum(picture(64, 64, (0, (8, 8, 40, 40))), picture(64, 64, (2, (44, 20, 60, 52)), value=110))
    assert detector()(image, min_score=0.5).names == ["red", "blue"]
    assert detector()(image, min_score=0.99).names == ["red"]
    assert len(detector()(image, min_score=1.0)) == 0


def test_the_default_score_is_the_runs_threshold_or_the_configs():
    assert detector().threshold == 0.5
    assert detector(**{"inference.show_threshold": 0.7}).threshold == 0.7
    dim = picture(64, 64, (0, (8, 8, 40, 40)), value=110)
    assert len(detector(threshold=0.99)(dim)) == 0
    assert len(detector(threshold=0.9)(dim)) == 1


def test_predicting_leaves_every_module_in_its_mode_and_draws_no_random_number():
    detect = tiny()
    detect.model.train()
    detect.model.backbone.eval()
    modes = [module.training for module in detect.model.modules()]
    state = torch.get_rng_state()
    statistics = {name: value.clone() for name, value in detect.model.named_buffers()}
    detect(RED_AND_BLUE)
    assert [module.training for module in detect.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in detect.model.named_buffers():
        assert torch.equal(value, statistics[name])


def test_boxes_may_be_changed_in_place():
    found = tiny()(RED_AND_BLUE, min_score=0.0)
    found.boxes.add_(1)
    assert not found.boxes.requires_grad


def test_a_batch_with_sizes_gives_boxes_of_the_originals():
    pixels = torch.from_numpy(RED_AND_BLUE).permute(2, 0, 1)
    batch = Batch.pack([pixels], [Objects.empty()], shape=(96, 96), original_sizes=[(128, 640)])
    by_name = {name: box for box, _, name in detector().predict_batch(batch)[0]}
    assert by_name["red"] == pytest.approx([80, 16, 400, 80], abs=1e-2)


def test_a_table_is_detected_whole_and_each_row_once(tmp_path):
    builder = TableBuilder(tmp_path, "test", "csv")
    for row in range(5):
        height, width = (64, 64) if row % 2 else (64, 96)
        save(tmp_path / f"{row}.png", picture(height, width, (row % 3, (8, 8, 40, 40))))
        builder.add_image(f"{row}.png", (height, width))
    save(tmp_path / "empty.png", picture(64, 64))
    builder.add_image("empty.png", (64, 64))
    counts = []
    state = torch.get_rng_state()
    found = detect_table(
        detector(),
        builder.build(NAMES),
        batch_size=2,
        workers=0,
        progress=lambda done, total: counts.append((done, total)),
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(zip(found.rows.tolist(), found.labels.tolist(), strict=True)) == [(row, row % 3) for row in range(5)]
    assert counts[-1] == (6, 6)
    torch.testing.assert_close(found.boxes, torch.tensor([[8.0, 8, 40, 40]]).expand(5, 4), atol=1e-3, rtol=0)


def test_a_table_is_scored_from_the_evaluation_threshold(tmp_path):
    save(tmp_path / "a.png", picture(64, 64, (0, (8, 8, 40, 40)), value=110))
    builder = TableBuilder(tmp_path, "test", "csv")
    builder.add_image("a.png", (64, 64))
    assert len(detect_table(detector(threshold=0.99), builder.build(NAMES), workers=0)) == 1


def write_run(folder, settings, model):
    write_description(folder, settings, NAMES, (10, 20, 30), result={"threshold": 0.35})
    save_tensors(folder / "best.safetensors", model.state_dict())


def test_a_loaded_run_answers_as_the_detector_that_was_saved(tmp_path):
    detect = tiny()
    write_run(tmp_path / "run", detect.config, detect.model)
    loaded = load(tmp_path / "run", device="cpu")
    assert (loaded.threshold, loaded.class_names, loaded.category_ids) == (0.35, NAMES, (10, 20, 30))
    expected, found = detect(RED_AND_BLUE, min_score=0.2), loaded(RED_AND_BLUE, min_score=0.2)
    assert len(expected)
    torch.testing.assert_close(found.boxes, expected.boxes)


def run_of_two(folder):
    """A run whose best weights are those of step 40, and whose last ones of step 50."""
    detect = tiny()
    write_run(folder, detect.config, detect.model)
    save_tensors(folder / "last.safetensors", detect.model.state_dict())
    write_json(folder / "result.json", {"steps": 50, "best_step": 40, "AP": 0.5, "threshold": 0.35})
    return folder


def test_the_last_weights_are_shown_from_their_own_threshold(tmp_path, caplog):
    run = run_of_two(tmp_path / "run")
    lines = [
        {"step": 40, "AP": 0.5, "recommended_threshold": 0.35},
        {"step": 50, "AP": 0.4, "recommended_threshold": 0.2},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load(run, "cpu").threshold == 0.35
    last = load(run, "cpu", "last")
    assert (last.threshold, last.recommended) == (0.2, 0.2)
    assert not caplog.records


def test_lines_of_metrics_that_are_no_objects_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 50, "AP": 0.4}\n[50]\n7\nnull\n"step"\n')
    assert evaluation_at(tmp_path, 50) == {"AP": 0.4}


def test_last_weights_without_a_threshold_say_what_stands_in(tmp_path, caplog):
    run = run_of_two(tmp_path / "run")
    last = load(run, "cpu", "last")
    assert (last.threshold, last.recommended) == (0.5, None)
    [said] = caplog.messages
    assert "run: no threshold was recorded for its last weights" in said
    assert "what they find is shown from 0.5 (inference.show_threshold)" in said


def test_a_run_that_was_published_with_its_last_weights_alone_keeps_their_threshold(tmp_path):
    run = run_of_two(tmp_path / "run")
    (run / "best.safetensors").unlink()
    write_json(run / "result.json", {"steps": 50, "AP": 0.4, "threshold": 0.2})
    assert load(run, "cpu").threshold == load(run, "cpu", "last").threshold == 0.2


def test_weights_that_do_not_fit_are_refused_by_the_runs_name(tmp_path):
    detect = tiny()
    write_run(tmp_path / "run", detect.config.with_changes({"model.head_channels": 16}), detect.model)
    with pytest.raises(CheckpointError, match=r"run: its weights do not fit its config.yaml"):
        load(tmp_path / "run", device="cpu")


@pytest.mark.parametrize("device", ["nonsense", "hpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UsageError, match=rf"device {device}: cannot be used \(.+\); use auto or cpu"):
        pick_device(device)
    assert pick_device("cpu").type == "cpu"


def test_the_stub_network_is_a_module_with_the_networks_layout():
    outputs = RectangleNet(config())(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert outputs.logits[0].shape == (2, 27, 8, 12)
    assert outputs.deltas[0].shape == (2, 36, 8, 12)
