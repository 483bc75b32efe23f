"""torchvision's detectors, imported: they answer what torchvision answered, to the recordings' last detection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_torchvision import assert_relatively_close, filled, per_anchor, recording_of
from their_names import exported, small_model, write_names
from torch import Tensor
from torch.testing import assert_close

import foveal
from foveal.cli import main
from foveal.config import ModelConfig
from foveal.detections import Batch, Objects
from foveal.engine.predict import Detector
from foveal.importers import torchvision
from foveal.importers.importing import import_run
from foveal.losses.total import detector_loss
from foveal.matching import match
from foveal.model.retinanet import Outputs, RetinaNet


@dataclass(frozen=True)
class Answer:
    """A recording, the detector imported from the recording's weights, and what it answers to the picture."""

    recording: dict[str, np.ndarray]
    detector: Detector
    features: list[Tensor]
    outputs: Outputs
    batch: Batch


@pytest.fixture(scope="module", params=["v1", "v2"])
def answer(request: pytest.FixtureRequest, module_folder: Path) -> Answer:
    """Weights of torchvision's names and shapes, through a file and `foveal import`, as a detector."""
    recording, folder = recording_of(request.param), module_folder / request.param
    folder.mkdir()
    changes = {"v1": {"p6_from": "P5"}, "v2": {"head_norm": "group"}}[request.param]
    with torch.device("meta"):
        shapes = exported("torchvision", RetinaNet(ModelConfig(**changes), 7, 9))
    seed = int(recording["seed"])
    weights = {name: filled(name, t.shape, seed) for name, t in shapes.items() if t.is_floating_point()}
    if request.param == "v2":  # version 1 has norms that count no batches
        weights |= {name: torch.tensor(7) for name in shapes if name.endswith("num_batches_tracked")}
    torch.save(weights, folder / "torchvision.pth")
    names = write_names(folder, *"abcdefg")
    assert main(["import", str(folder / "torchvision.pth"), "--out", str(folder / "run"), "--names", str(names)]) == 0
    detector = foveal.load(folder / "run", device="cpu")
    objects = Objects.of(recording["gt_boxes"], recording["gt_labels"])
    batch = Batch.pack([torch.from_numpy(recording["image"])], [objects])
    with torch.no_grad():
        model = detector.model
        features = model.pyramid(model.backbone(model.normalise(batch.images)))
        return Answer(recording, detector, features, model(batch.images), batch)


@pytest.mark.slow
def test_features_are_torchvisions(answer):
    assert [list(f.shape[-2:]) for f in answer.features] == answer.recording["feature_shapes"].tolist()
    assert_relatively_close(torch.stack([f.mean() for f in answer.features]), answer.recording["feature_mean"])
    assert_relatively_close(torch.stack([f.std() for f in answer.features]), answer.recording["feature_std"])


@pytest.mark.slow
def test_logits_and_offsets_are_torchvisions(answer):
    logits_NK, deltas_N4 = per_anchor(answer.outputs.logits, 7), per_anchor(answer.outputs.deltas, 4)
    sampled = answer.recording["anchor_index"]
    assert len(logits_NK) == answer.recording["num_anchors"]
    assert_relatively_close(logits_NK[sampled], answer.recording["logits"])
    assert_relatively_close(deltas_N4[sampled], answer.recording["deltas"])
    assert_relatively_close(logits_NK.double().sum(), answer.recording["logits_sum"])
    assert_relatively_close(deltas_N4.double().abs().sum(), answer.recording["deltas_abs_sum"])


@pytest.mark.slow
def test_anchors_are_torchvisions_to_the_last_bit(answer):
    anchors = answer.detector.anchors.boxes(256, 320)
    assert torch.equal(anchors[answer.recording["anchor_index"]], torch.from_numpy(answer.recording["anchors"]))


@pytest.mark.slow
def test_assignments_are_torchvisions(answer):
    found = match(answer.detector.anchors, answer.batch, answer.detector.config.assignment)
    assert found.positive.tolist() == answer.recording["matched_index"].tolist()
    assert found.object.tolist() == answer.recording["matched_object"].tolist()
    assert found.ignored.tolist() == answer.recording["ignored_index"].tolist()


@pytest.mark.slow
def test_both_losses_are_torchvisions(answer):
    config, anchors = answer.detector.config, answer.detector.anchors
    found = match(anchors, answer.batch, config.assignment)
    sums = detector_loss(answer.outputs.logits, answer.outputs.deltas, anchors, found, answer.batch, config.loss)
    assert config.loss.normaliser == "image"
    divided = [part / sums.positives for part in (sums.classification, config.loss.box_weight * sums.box)]
    assert_relatively_close(divided[0].mean(), answer.recording["loss_classification"])
    assert_relatively_close(divided[1].mean(), answer.recording["loss_box"])


@pytest.mark.slow
def test_detections_are_torchvisions_in_the_same_order(answer):
    threshold = answer.detector.config.inference.score_threshold
    (found,) = answer.detector.predict_batch(answer.batch, threshold)
    theirs = {name: torch.from_numpy(answer.recording[f"det_{name}"]) for name in ("boxes", "scores", "labels")}
    # Which of theirs each of ours is: by all four corners, to the pixel's hundredth.
    same = torch.cdist(found.boxes, theirs["boxes"], p=torch.inf) + 1000 * (found.labels[:, None] != theirs["labels"])
    partner = same.argmin(1)
    assert len(found) == len(partner.unique()) == len(theirs["boxes"]) == 300
    assert_relatively_close(found.boxes, theirs["boxes"][partner])
    assert_relatively_close(found.scores, theirs["scores"][partner])
    assert torch.equal(found.labels, theirs["labels"][partner])
    # One pair of the two recordings' 600 has scores 6e-8 apart, which float32 does not keep in order.
    moved = (partner != torch.arange(300)).nonzero().squeeze(1)
    assert len(moved) <= 2
    assert (theirs["scores"][partner[moved]] - theirs["scores"][moved]).abs().le(1e-7).all()
    assert found.names[0] == "abcdefg"[found.labels[0]]


def saved(folder: Path, weights: object) -> Path:
    torch.save(weights, folder / "weights.pth")
    return folder / "weights.pth"


def as_before_013(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of version 1 as its published file has them: flat towers, pyramid layers without a block."""
    old = {}
    for name, tensor in weights.items():
        head, conv, rest = name.partition(".conv.")
        if head.startswith("head.") and conv:
            number, _, parameter = rest.split(".")
            name = f"{head}.conv.{2 * int(number)}.{parameter}"
        old[
            name.replace("_blocks.0.0.", "_blocks.0.")
            .replace("_blocks.1.0.", "_blocks.1.")
            .replace("_blocks.2.0.", "_blocks.2.")
        ] = tensor
    return old


def test_old_and_new_names_of_layers_are_the_same_detector(tmp_path):
    weights = exported("torchvision", small_model(p6_from="P5"))
    names = write_names(tmp_path, "cat", "dog")
    import_run(saved(tmp_path, as_before_013(weights)), tmp_path / "old", names=names)
    import_run(saved(tmp_path, weights), tmp_path / "new", names=names)
    old, new = (foveal.load(tmp_path / run, "cpu").model.state_dict() for run in ("old", "new"))
    assert "head.classification_head.conv.6.weight" in as_before_013(weights)
    assert "backbone.fpn.layer_blocks.2.bias" in as_before_013(weights)
    assert_close(dict(old), dict(new), atol=0, rtol=0)


def test_of_91_outputs_those_without_a_name_are_dropped_and_the_others_stay(tmp_path):
    model = small_model(classes=91, p6_from="P5")
    import_run(saved(tmp_path, {"model": exported("torchvision", model), "epoch": 3}), tmp_path / "run")
    detector = foveal.load(tmp_path / "run", "cpu")
    assert len(detector.class_names) == 80
    assert (detector.class_names[0], detector.category_ids[0]) == ("person", 1)
    assert (detector.class_names[-1], detector.category_ids[-1]) == ("toothbrush", 90)
    assert not {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & set(detector.category_ids)
    x = torch.randn(1, 8, 3, 3)
    theirs = model.class_head(x).unflatten(1, (9, 91))[:, :, list(detector.category_ids)]
    assert_close(detector.model.class_head(x).unflatten(1, (9, 80)), theirs)


def test_the_published_weights_have_their_epsilon_of_0_folded_in(tmp_path, monkeypatch):
    model = small_model(p6_from="P5")
    model.backbone.bn1.running_var.fill_(1e-5)  # as small as the epsilon, so that it matters
    weights = {name: t for name, t in exported("torchvision", model).items() if "num_batches" not in name}
    file, names = saved(tmp_path, weights), write_names(tmp_path, "cat", "dog")
    monkeypatch.setattr(torchvision, "PUBLISHED_V1", torchvision.checksum(file)[:8])
    import_run(file, tmp_path / "published", names=names)
    bn = foveal.load(tmp_path / "published", "cpu").model.backbone.bn1
    x = torch.randn(1, 64, 2, 2)
    without = (x - bn.running_mean[:, None, None]) / 1e-5**0.5 * bn.weight[:, None, None] + bn.bias[:, None, None]
    assert_close(bn(x), without, rtol=1e-4, atol=1e-3)
    monkeypatch.setattr(torchvision, "PUBLISHED_V1", "another")
    import_run(file, tmp_path / "other", names=names)
    assert foveal.load(tmp_path / "other", "cpu").model.backbone.bn1.running_var[0] == torch.tensor(1e-5)
    notes = [json.loads((tmp_path / run / "import.json").read_text())["notes"] for run in ("published", "other")]
    assert ["epsilon" in " ".join(note) for note in notes] == [True, False]
