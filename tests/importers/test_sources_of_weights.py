"""Each source's names, its conventions and its settings; and runs that go out to a source and come back."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from their_names import MEAN, STD, exported, small_model, write_names
from torch import Tensor
from torch.testing import assert_close

import foveal
from foveal.engine.checkpoint import read_json
from foveal.errors import UsageError, WeightsError
from foveal.importers import detectron2, fizyr, mmdetection, yhenon
from foveal.importers.classes import COCO_CLASSES, classes_of
from foveal.importers.importing import import_run
from foveal.importers.weight_files import WeightFile

PICTURES = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

# Names as the projects' published files have them, and ours.
NAMES = [
    (detectron2, "backbone.bottom_up.stem.conv1.norm.running_var", "backbone.bn1.running_var"),
    (detectron2, "backbone.bottom_up.res4.5.conv2.norm.weight", "backbone.layer3.5.bn2.weight"),
    (detectron2, "backbone.bottom_up.res2.0.shortcut.weight", "backbone.layer1.0.downsample.0.weight"),
    (detectron2, "backbone.bottom_up.res5.0.shortcut.norm.bias", "backbone.layer4.0.downsample.1.bias"),
    (detectron2, "backbone.fpn_lateral3.bias", "pyramid.lateral.3.bias"),
    (detectron2, "backbone.top_block.p6.weight", "pyramid.extra.6.weight"),
    (detectron2, "head.cls_subnet.6.weight", "class_head.tower.6.weight"),
    (detectron2, "head.bbox_pred.bias", "box_head.predict.bias"),
    (detectron2, "anchor_generator.cell_anchors.0", ""),
    (mmdetection, "backbone.layer4.2.conv3.weight", "backbone.layer4.2.conv3.weight"),
    (mmdetection, "neck.lateral_convs.0.conv.weight", "pyramid.lateral.3.weight"),
    (mmdetection, "neck.fpn_convs.2.conv.bias", "pyramid.output.5.bias"),
    (mmdetection, "neck.fpn_convs.4.conv.weight", "pyramid.extra.7.weight"),
    (mmdetection, "bbox_head.reg_convs.3.conv.weight", "box_head.tower.6.weight"),
    (mmdetection, "bbox_head.retina_cls.bias", "class_head.predict.bias"),
    (yhenon, "layer2.0.downsample.1.running_mean", "backbone.layer2.0.downsample.1.running_mean"),
    (yhenon, "fpn.P4_1.weight", "pyramid.lateral.4.weight"),
    (yhenon, "fpn.P7_2.bias", "pyramid.extra.7.bias"),
    (yhenon, "regressionModel.conv4.weight", "box_head.tower.6.weight"),
    (yhenon, "classificationModel.output.weight", "class_head.predict.weight"),
    (fizyr, "bn_conv1/moving_variance", "backbone.bn1.running_var"),
    (fizyr, "res2a_branch2a/kernel", "backbone.layer1.0.conv1.weight"),
    (fizyr, "res4b22_branch2c/kernel", "backbone.layer3.22.conv3.weight"),
    (fizyr, "bn3d_branch2b/gamma", "backbone.layer2.3.bn2.weight"),
    (fizyr, "bn5a_branch1/beta", "backbone.layer4.0.downsample.1.bias"),
    (fizyr, "C5_reduced/kernel", "pyramid.lateral.5.weight"),
    (fizyr, "P4/bias", "pyramid.output.4.bias"),
    (fizyr, "P6/kernel", "pyramid.extra.6.weight"),
    (fizyr, "pyramid_regression_3/kernel", "box_head.tower.6.weight"),
    (fizyr, "pyramid_classification/bias", "class_head.predict.bias"),
]


@pytest.mark.parametrize(("module", "theirs", "ours"), NAMES, ids=[theirs for _, theirs, _ in NAMES])
def test_a_name_has_its_place(module, theirs, ours):
    assert module._name_of(theirs) == ours


@pytest.mark.parametrize("module", [detectron2, mmdetection, yhenon, fizyr])
def test_names_without_a_place_are_unknown(module):
    assert module._name_of("roi_heads.box_head.fc1.weight") == "?"


def as_file(folder: Path, source: str, weights: dict[str, Tensor]) -> Path:
    """The weights as the source publishes them: detectron2 as pickled arrays, the others by torch."""
    file = folder / f"{source}.{'pkl' if source == 'detectron2' else 'pth'}"
    if source == "detectron2":
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    elif source == "mmdetection":
        torch.save({"meta": {"CLASSES": ("cat", "dog")}, "state_dict": weights, "optimizer": {}}, file)
    elif source == "deepforest":
        torch.save({"state_dict": weights, "label_dict": {"dog": 1, "cat": 0}, "epoch": 3}, file)
    else:
        torch.save(weights, file)
    return file


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("torchvision", {"p6_from": "P5"}),
        ("torchvision", {"head_norm": "group"}),
        ("deepforest", {"p6_from": "P5"}),
        ("detectron2", {}),
        ("mmdetection", {"p6_from": "C5_linear"}),
        ("yhenon", {}),
    ],
    ids=lambda value: "".join(value.values()) if isinstance(value, dict) else value,
)
def test_a_run_that_goes_out_and_comes_back_answers_as_before(source, changes, tmp_path):
    model = small_model(**changes)
    names = None if source in ("mmdetection", "deepforest") else write_names(tmp_path, "cat", "dog")
    run = import_run(as_file(tmp_path, source, exported(source, model)), tmp_path / "run", names=names)
    assert read_json(run.path / "import.json")["source"] == source
    assert run.class_names == ("cat", "dog")
    with torch.no_grad():
        here, there = foveal.load(run, "cpu").model(PICTURES), model(PICTURES)
    assert_close(here.logits, there.logits, rtol=1e-4, atol=1e-4)
    assert_close(here.deltas, there.deltas, rtol=1e-4, atol=1e-4)
    assert max(level.std() for level in there.logits) > 0.1


def test_a_keras_detector_goes_out_and_comes_back(tmp_path, monkeypatch):
    """The one source without small networks. Its file is read elsewhere; here are the arrays that it holds."""
    model = small_model(backbone="resnet50_caffe")
    weights = exported("fizyr", model)
    monkeypatch.setattr("foveal.importers.importing.read_weight_file", lambda path: WeightFile(path, weights))
    (tmp_path / "snapshot.h5").touch()
    run = import_run(tmp_path / "snapshot.h5", tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    assert run.config.model.backbone == "resnet50_caffe"
    assert run.config.anchors == foveal.Config().anchors
    with torch.no_grad():
        here, there = foveal.load(run, "cpu").model(PICTURES), model(PICTURES)
    # The norm behind the first convolution does not see the rim, where the answers differ by what the mean's change is.
    assert_close(here.logits, there.logits, rtol=1e-2, atol=2e-2)
    assert_close(here.deltas, there.deltas, rtol=1e-2, atol=2e-2)
    assert "NOT the same detector" in " ".join(read_json(run.path / "import.json")["notes"])


SETTINGS: dict[str, dict[str, Any]] = {
    "torchvision": {
        "anchors": ("corner", True, "floor_of_padded"),
        "assignment": ("all", "background"),
        "loss": ("l1", "image"),
        "data": (800, 1333, 32),
        "inference": (0.05, 1000, 0.5, 300),
    },
    "detectron2": {
        "anchors": ("corner", False, "exact"),
        "assignment": ("all", "background"),
        "loss": ("l1", "batch"),
        "data": (800, 1333, 32),
        "inference": (0.05, 1000, 0.5, 100),
    },
    "mmdetection": {
        "anchors": ("corner", False, "exact"),
        "assignment": ("all", "background"),
        "loss": ("l1", "batch"),
        "data": (800, 1333, 32),
        "inference": (0.05, 1000, 0.5, 100),
    },
    "yhenon": {
        "anchors": ("centre", False, "exact"),
        "assignment": ("none", "background"),
        "loss": ("smooth_l1", "image"),
        "data": (608, 1024, 32),
        "inference": (0.05, 1000, 0.5, 300),
    },
    "deepforest": {
        "anchors": ("corner", True, "floor_of_padded"),
        "assignment": ("all", "background"),
        "loss": ("l1", "image"),
        "data": (800, 1333, 32),
        "inference": (0.1, 1000, 0.05, 300),
    },
}


@pytest.mark.parametrize("source", SETTINGS)
def test_a_sources_settings_are_the_runs(source, tmp_path):
    changes = {"p6_from": "P5"} if source in ("torchvision", "deepforest") else {}
    weights = exported(source, small_model(**changes))
    if source == "torchvision":  # version 1 counts no batches: its norms are frozen
        weights = {name: tensor for name, tensor in weights.items() if "num_batches" not in name}
    run = import_run(as_file(tmp_path, source, weights), tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    c = run.config
    assert {
        "anchors": (c.anchors.offset, c.anchors.round_sizes, c.anchors.stride),
        "assignment": (c.assignment.low_quality, c.assignment.padding),
        "loss": (c.loss.box, c.loss.normaliser),
        "data": (c.data.size, c.data.max_size, c.data.pad_multiple),
        "inference": (
            c.inference.score_threshold,
            c.inference.candidates_per_level,
            c.inference.nms_iou,
            c.inference.max_detections,
        ),
    } == SETTINGS[source]
    assert (c.loss.name, c.loss.alpha, c.loss.gamma) == ("focal", 0.25, 2.0)
    assert c.model.batch_norm == ("evaluating" if source in ("mmdetection", "yhenon") else "frozen")
    assert (c.model.pyramid_channels, c.model.head_channels, c.model.head_depth) == (8, 8, 4)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_detectron2s_pickle_of_any_protocol_is_read(protocol, tmp_path):
    weights = {name: t.numpy() for name, t in exported("detectron2", small_model()).items()}
    weights["head.cls_score.bias"] = np.asfortranarray(weights["head.cls_score.bias"].astype(">f8"))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": weights, "iteration": 5}, protocol))
    run = import_run(tmp_path / "a.pkl", tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    assert_close(
        foveal.load(run, "cpu").model.class_head.predict.bias.unflatten(0, (3, 3, 2)).transpose(0, 1).flatten(),
        torch.from_numpy(weights["head.cls_score.bias"].astype("f4")),
    )


def test_detectron2s_norms_without_statistics_are_scale_and_shift(tmp_path):
    weights = exported("detectron2", small_model())
    kept = {name: tensor for name, tensor in weights.items() if "running" not in name}
    file = as_file(tmp_path, "detectron2", kept)
    run = import_run(file, tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    norm = foveal.load(run, "cpu").model.backbone.layer2[1].bn2
    assert_close(norm.running_var, torch.ones(128))
    assert_close(norm.running_mean, torch.zeros(128))


def test_detectron2s_red_first_pixels_and_3x3_strides_are_told_by_the_file(tmp_path):
    model = small_model(backbone="resnet50")
    weights = exported("detectron2", model) | {"pixel_mean": MEAN[:, None, None], "pixel_std": STD[:, None, None]}
    weights["backbone.bottom_up.stem.conv1.weight"] = model.backbone.conv1.weight.detach()
    run = import_run(
        as_file(tmp_path, "detectron2", weights), tmp_path / "run", names=write_names(tmp_path, "cat", "dog")
    )
    assert run.config.model.backbone == "resnet50"
    assert "as pixel_std tells" in " ".join(read_json(run.path / "import.json")["notes"])
    assert_close(foveal.load(run, "cpu").model.backbone.conv1.weight, model.backbone.conv1.weight)
    del weights["pixel_std"], weights["pixel_mean"]
    zoo = import_run(as_file(tmp_path, "detectron2", weights), tmp_path / "zoo", names=tmp_path / "names.txt")
    assert zoo.config.model.backbone == "resnet50_caffe"
    notes = " ".join(read_json(zoo.path / "import.json")["notes"])
    assert "the file does not tell" in notes
    assert "as pixel_std tells" not in notes


def test_detectron2s_other_anchors_are_refused(tmp_path):
    weights = exported("detectron2", small_model())
    weights["anchor_generator.cell_anchors.0"] = torch.ones(9, 4)
    with pytest.raises(WeightsError, match="other anchors than RetinaNet's"):
        import_run(as_file(tmp_path, "detectron2", weights), tmp_path / "run")


def test_mmdetections_config_tells_style_pixels_and_classes(tmp_path):
    text = (
        "data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)\nstyle='caffe'"
    )
    model = small_model(backbone="resnet50_caffe", p6_from="C5_linear")
    weights = exported("mmdetection", model)
    weights["backbone.conv1.weight"] = exported("detectron2", model)["backbone.bottom_up.stem.conv1.weight"]
    meta = {"cfg": text, "dataset_meta": {"classes": ["cat", "dog"]}}
    torch.save({"meta": meta, "state_dict": weights}, tmp_path / "caffe.pth")
    run = import_run(tmp_path / "caffe.pth", tmp_path / "run")
    assert (run.config.model.backbone, run.class_names) == ("resnet50_caffe", ("cat", "dog"))
    assert_close(foveal.load(run, "cpu").model.backbone.conv1.weight, model.backbone.conv1.weight)


def test_a_single_class_of_deepforest_is_tree(tmp_path):
    torch.save(exported("deepforest", small_model(classes=1, p6_from="P5")), tmp_path / "NEON.pt")
    assert import_run(tmp_path / "NEON.pt", tmp_path / "run", source="deepforest").class_names == ("Tree",)


def test_a_lightning_wrapper_of_torchvisions_is_not_taken_for_deepforest(tmp_path):
    weights = exported("deepforest", small_model(classes=1, p6_from="P5"))
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "mine.ckpt")
    with pytest.raises(UsageError, match="does not name its 1 class"):
        import_run(tmp_path / "mine.ckpt", tmp_path / "run")
    names = write_names(tmp_path, "cell")
    for number, source in enumerate(("auto", "torchvision")):
        run = import_run(tmp_path / "mine.ckpt", tmp_path / f"run{number}", source=source, names=names)
        assert (run.class_names, run.config.inference.nms_iou) == (("cell",), 0.5)
        assert "--from deepforest" in " ".join(read_json(run.path / "import.json")["notes"])


def test_deepforest_is_known_by_its_labels_among_the_hyper_parameters(tmp_path):
    weights = exported("deepforest", small_model(classes=1, p6_from="P5"))
    torch.save({"state_dict": weights, "hyper_parameters": {"label_dict": {"Bird": 0}}}, tmp_path / "bird.ckpt")
    run = import_run(tmp_path / "bird.ckpt", tmp_path / "run")
    assert (run.class_names, run.config.inference.nms_iou) == (("Bird",), 0.05)


class HistoryBuffer:
    """Stands for mmengine's, which torch does not read."""


def test_mmengines_checkpoint_says_how_its_classes_are_kept(tmp_path):
    weights = exported("mmdetection", small_model(p6_from="C5_linear"))
    content = {"state_dict": weights, "meta": {"dataset_meta": {"classes": ("cat", "dog")}}}
    torch.save({**content, "message_hub": {"loss": HistoryBuffer()}}, tmp_path / "epoch_12.pth")
    with pytest.raises(WeightsError) as caught:
        import_run(tmp_path / "epoch_12.pth", tmp_path / "run")
    assert 'torch.save({"state_dict": c["state_dict"], "meta": c["meta"]}, NEW)' in str(caught.value)
    assert "if you trust the file" in str(caught.value)
    torch.save(content, tmp_path / "new.pth")
    assert import_run(tmp_path / "new.pth", tmp_path / "run").class_names == ("cat", "dog")


@pytest.mark.parametrize("by", ["file", "names"])
def test_cocos_names_have_cocos_ids(by, tmp_path):
    coco = tuple(COCO_CLASSES.values())
    names = write_names(tmp_path, *coco) if by == "names" else None
    classes = classes_of(tmp_path / "a.pth", 80, coco if by == "file" else (), names)
    assert (classes.names, classes.ids, classes.outputs) == (coco, tuple(COCO_CLASSES), tuple(range(80)))


def test_names_that_a_file_tells_twice_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="names cat twice; give the right names with --names FILE"):
        classes_of(tmp_path / "a.pth", 3, ("cat", "dog", "cat"), None)


def test_a_run_is_imported_into_the_folder_where_one_is(tmp_path, monkeypatch):
    weights = exported("yhenon", small_model())
    torch.save(weights, tmp_path / "a.pt")
    names = write_names(tmp_path, "cat", "dog")
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert import_run(tmp_path / "a.pt", ".", names=names).class_names == ("cat", "dog")
    assert {file.name for file in Path(".").iterdir()} >= {"config.yaml", "last.safetensors", "import.json"}
    assert not list(tmp_path.glob(".*.part"))


def test_80_outputs_are_cocos_classes(tmp_path):
    torch.save(exported("yhenon", small_model(classes=80)), tmp_path / "coco.pt")
    run = import_run(tmp_path / "coco.pt", tmp_path / "run")
    assert (run.class_names[11], run.category_ids[11]) == ("stop sign", 13)
    assert "taken for COCO's 80" in " ".join(read_json(run.path / "import.json")["notes"])


def test_a_model_trained_on_several_gpus_is_read(tmp_path):
    weights = {f"module.{name}": tensor.half() for name, tensor in exported("yhenon", small_model()).items()}
    torch.save(weights, tmp_path / "parallel.pt")
    run = import_run(tmp_path / "parallel.pt", tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    assert foveal.load(run, "cpu").model.backbone.conv1.weight.dtype == torch.float32
