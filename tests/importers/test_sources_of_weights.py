"""Each source's names, its conventions and its settings; and runs that go out to a source and come back."""

from __future__ import annotations

import argparse
import pickle
import re
import time
from pathlib import Path
from typing import Any

import h5py
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
from foveal.importers.importing import SOURCES, import_run
from foveal.importers.mmdetection_config import check_head
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
    """The weights as the source publishes them: detectron2 as pickled arrays, fizyr by Keras, the others by torch."""
    file = folder / f"{source}.{ {'detectron2': 'pkl', 'fizyr': 'h5'}.get(source, 'pth') }"
    if source == "fizyr":
        with h5py.File(file, "w") as keras:
            for name, tensor in weights.items():
                layer, variable = name.split("/")
                model = f"{layer.split('_')[1]}_submodel/" if layer.startswith("pyramid_") else f"{layer}/"
                keras[f"model_weights/{model}{layer}/{variable}:0"] = tensor.numpy()
            keras["optimizer_weights/iterations:0"] = np.int64(3)
    elif source == "detectron2":
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


@pytest.mark.parametrize(
    ("source", "theirs", "ours"),
    [
        ("torchvision", "backbone.body.conv1.weight", "backbone.conv1.weight"),
        ("torchvision", "head.classification_head.cls_logits.weight", "class_head.predict.weight"),
        ("deepforest", "model.backbone.body.conv1.weight", "backbone.conv1.weight"),
        ("detectron2", "backbone.bottom_up.stem.conv1.weight", "backbone.conv1.weight"),
        ("detectron2", "head.cls_score.weight", "class_head.predict.weight"),
        ("mmdetection", "bbox_head.retina_cls.weight", "class_head.predict.weight"),
        ("yhenon", "classificationModel.output.weight", "class_head.predict.weight"),
    ],
)
def test_of_a_file_without_one_tensor_it_is_said_which(source, theirs, ours, tmp_path):
    p6_from = {"torchvision": "P5", "deepforest": "P5", "mmdetection": "C5_linear"}
    weights = exported(source, small_model(p6_from=p6_from.get(source, "C5")))
    del weights[theirs]
    with pytest.raises(WeightsError, match=rf"{re.escape(ours)}( is missing)?\)"):
        import_run(as_file(tmp_path, source, weights), tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))


def test_a_keras_file_without_one_tensor_is_recognised():
    layers = ("conv1/kernel", "pyramid_classification/kernel", "pyramid_classification/bias")
    for missing in layers:
        there = {name: torch.zeros(1) for name in layers if name != missing}
        assert SOURCES["fizyr"].recognises(WeightFile(Path("a.h5"), there))


def test_a_keras_detector_goes_out_and_comes_back(tmp_path):
    """The one source without small networks, and so with a file of 94 MB."""
    model = small_model(backbone="resnet50_caffe")
    file = as_file(tmp_path, "fizyr", exported("fizyr", model))
    run = import_run(file, tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    assert run.config.model.backbone == "resnet50_caffe"
    assert run.config.anchors == foveal.Config().anchors
    assert_settings_of("fizyr", run.config)
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
    "fizyr": {
        "anchors": ("centre", False, "exact"),
        "assignment": ("none", "ignored"),
        "loss": ("smooth_l1", "batch"),
        "data": (800, 1333, 32),
        "inference": (0.05, 1000, 0.5, 300),
    },
}


@pytest.mark.parametrize("source", sorted(SETTINGS.keys() - {"fizyr"}))
def test_a_sources_settings_are_the_runs(source, tmp_path):
    changes = {"p6_from": "P5"} if source in ("torchvision", "deepforest") else {}
    weights = exported(source, small_model(**changes))
    if source == "torchvision":  # version 1 counts no batches: its norms are frozen
        weights = {name: tensor for name, tensor in weights.items() if "num_batches" not in name}
    run = import_run(as_file(tmp_path, source, weights), tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    assert_settings_of(source, run.config)


def assert_settings_of(source: str, c: foveal.Config) -> None:
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
    assert c.model.weights == "none"  # none of the backbone alone: the run's are the whole network's


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


# As mmdetection writes it into a checkpoint, cut to what matters.
CONFIG = """\
model = dict(
    type='RetinaNet',
    backbone=dict(type='ResNet', depth=50, num_stages=4, strides=(1, 2, 2, 2), style='pytorch'),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=80,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder',
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [dict(type='Resize', scale=(1000, 600), keep_ratio=True)]
test_pipeline = [dict(type='Resize', scale=(1333, 800), keep_ratio=True), dict(type='PackDetInputs')]
test_cfg = dict(type='TestLoop')
"""


def of_config(folder: Path, text: str, name: str = "run") -> foveal.Config:
    weights = exported("mmdetection", small_model(p6_from="C5_linear"))
    torch.save({"meta": {"cfg": text, "CLASSES": ["cat", "dog"]}, "state_dict": weights}, folder / "a.pth")
    return import_run(folder / "a.pth", folder / name).config


def test_mmdetections_thresholds_and_sizes_are_those_of_its_config(tmp_path):
    assert_settings_of("mmdetection", of_config(tmp_path, CONFIG, "usual"))
    changes = [
        ("nms_pre=1000", "nms_pre=2000"),
        ("score_thr=0.05", "score_thr=0.3"),
        ("iou_threshold=0.5", "iou_threshold=0.6"),
        ("max_per_img=100", "max_per_img=300"),
        ("(1333, 800)", "(640, 512)"),
    ]
    text = CONFIG
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    config = of_config(tmp_path, text, "changed")
    found = config.inference
    assert (found.candidates_per_level, found.score_threshold, found.nms_iou) == (2000, 0.3, 0.6)
    assert found.max_detections == 300
    assert (config.data.size, config.data.max_size) == (512, 640)
    older = CONFIG.replace("iou_threshold=", "iou_thr=").replace(
        "dict(type='Resize', scale=(1333, 800), keep_ratio=True)",
        "dict(type='MultiScaleFlipAug', img_scale=(512, 640), transforms=[dict(type='Resize', keep_ratio=True)])",
    )
    assert of_config(tmp_path, older, "older").data.size == 512


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("octave_base_scale=4", "octave_base_scale=3", "other anchors than RetinaNet's"),
        ("scales_per_octave=3", "scales_per_octave=1", "other anchors"),
        ("octave_base_scale=4", "scales=[8]", "other anchors"),
        ("ratios=[0.5, 1.0, 2.0]", "ratios=[0.2, 1.0, 5.0]", "other anchors"),
        ("strides=[8, 16, 32, 64, 128]", "strides=[4, 8, 16, 32, 64]", "other anchors"),
        ("strides=[8, 16, 32, 64, 128]", "strides=[8, 16, 32, 64, 128], center_offset=0.5", "other anchors"),
        ("strides=[8, 16, 32, 64, 128])", "strides=[8, 16, 32, 64, 128]", "other anchors"),
        ("target_stds=[1.0, 1.0, 1.0, 1.0]", "target_stds=[0.1, 0.1, 0.2, 0.2]", "decodes its boxes otherwise"),
        ("target_means=[0.0, 0.0, 0.0, 0.0]", "target_means=[0.0, 0.0, 0.0, 1.0]", "decodes its boxes otherwise"),
        ("DeltaXYWHBBoxCoder", "TBLRBBoxCoder", "decodes its boxes otherwise"),
        ("use_sigmoid=True", "use_sigmoid=False", "a softmax over the classes"),
        ("score_thr=0.05", "score_thr=7", "inference.score_threshold"),
        ("type='FocalLoss', use_sigmoid=True", "type='CrossEntropyLoss'", "a softmax over the classes"),
    ],
)
def test_what_mmdetections_config_does_otherwise_is_refused(tmp_path, old, new, said):
    assert CONFIG.count(old) == 1
    with pytest.raises(WeightsError, match=re.escape(said)):
        of_config(tmp_path, CONFIG.replace(old, new))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("told", ["1111111111," * 20 + "x", "1" + " " * 50_000 + "x"], ids=["digits", "spaces"])
def test_a_list_that_is_hardly_one_is_refused_at_once(told, tmp_path):
    start = time.process_time()  # of the processor: what else the machine does says nothing
    with pytest.raises(WeightsError, match="other anchors"):
        check_head(tmp_path, f"anchor_generator=dict(ratios=[{told}])")
    assert time.process_time() - start < 1


def test_numbers_may_be_written_in_any_way():
    text = "anchor_generator=dict(ratios=( .5,\n 1.,\n 20E-1, ), octave_base_scale=4.0)"
    check_head(Path("a.pth"), text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("scale=(1333, 800)", "scale=(99999, 99999)", "data.size is 99999, more than the 8192"),
        ("scale=(1333, 800)", "scale=(9000, 800)", "data.max_size is 9000, more than the 8192"),
        (
            "nms_pre=1000",
            "nms_pre=999999999999",
            "inference.candidates_per_level is 999999999999, more than the 100000",
        ),
        ("max_per_img=100", "max_per_img=100001", "inference.max_detections is 100001, more than the 100000"),
    ],
)
def test_sizes_with_which_a_picture_could_take_any_memory_are_refused(old, new, said, tmp_path):
    assert CONFIG.count(old) == 1
    with pytest.raises(WeightsError, match=re.escape(said)):
        of_config(tmp_path, CONFIG.replace(old, new))
    assert not (tmp_path / "run").exists()


def test_what_a_config_does_otherwise_afterwards_is_said(tmp_path):
    text = CONFIG.replace("scale=(1333, 800), keep_ratio=True", "scale=(512, 512), keep_ratio=False")
    of_config(tmp_path, text.replace("type='nms'", "type='soft_nms'"))
    notes = " ".join(read_json(tmp_path / "run" / "import.json")["notes"])
    assert "the shape of pictures" in notes
    assert "boxes compete by soft_nms there" in notes


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
    follow_the_advice(tmp_path / "epoch_12.pth", tmp_path / "new.pth")
    assert import_run(tmp_path / "new.pth", tmp_path / "run").class_names == ("cat", "dog")


def follow_the_advice(file: Path, new: Path) -> None:
    """Runs the lines that the refusal of a file gives to those who trust it."""
    with pytest.raises(WeightsError, match="if you trust the file") as caught:
        import_run(file, new.parent / "never")
    told = re.search(
        r"(c = torch\.load.*\)), then (torch\.save\(.*, NEW\)), or, where c is a whole model, (.*)", str(caught.value)
    )
    assert told is not None
    load, of_checkpoint, of_model = told.groups()
    names = {"torch": torch, "FILE": file, "NEW": new}
    exec(load, names)
    exec(of_model if isinstance(names["c"], torch.nn.Module) else of_checkpoint, names)


def test_torchvisions_reference_checkpoint_says_how_its_weights_are_kept(tmp_path):
    weights = exported("torchvision", small_model(p6_from="P5"))
    args = argparse.Namespace(epochs=26, data_path="/data/coco")
    torch.save({"model": weights, "optimizer": {"state": {}}, "args": args, "epoch": 25}, tmp_path / "model_25.pth")
    follow_the_advice(tmp_path / "model_25.pth", tmp_path / "new.pth")
    run = import_run(tmp_path / "new.pth", tmp_path / "run", names=write_names(tmp_path, "cat", "dog"))
    assert run.config.anchors.round_sizes


def test_a_whole_pickled_model_says_how_its_weights_are_kept(tmp_path):
    """As pytorch-retinanet saves its own."""
    model = small_model()
    torch.save(model, tmp_path / "model_final.pt")
    follow_the_advice(tmp_path / "model_final.pt", tmp_path / "new.pth")
    assert torch.load(tmp_path / "new.pth", weights_only=True).keys() == model.state_dict().keys()


@pytest.mark.parametrize("place", ["model", "state_dict", "model_state_dict"])
def test_a_state_dict_beside_other_values_is_found(place, tmp_path):
    torch.save({"epoch": 3, place: exported("yhenon", small_model())}, tmp_path / "a.pth")
    names = write_names(tmp_path, "cat", "dog")
    assert import_run(tmp_path / "a.pth", tmp_path / "run", names=names).class_names == ("cat", "dog")


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
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


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
