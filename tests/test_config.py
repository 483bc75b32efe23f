import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.config import (
    PRESETS,
    Config,
    build_config,
    differences,
    field_names,
    load_config,
    nearest_name,
    preset,
)
from foveal.errors import ConfigError


def test_the_defaults_are_the_papers_numbers():
    c = Config()
    assert (c.loss.alpha, c.loss.gamma, c.model.prior) == (0.25, 2.0, 0.01)
    assert (c.assignment.positive_iou, c.assignment.background_iou) == (0.5, 0.4)
    assert c.anchor_sizes == (32, 64, 128, 256, 512)
    assert c.anchors.scales == pytest.approx((1, 1.2599210498948732, 1.5874010519681994))
    assert c.anchors.ratios == (0.5, 1.0, 2.0)
    assert (c.model.backbone, c.model.pyramid_channels, c.model.head_depth, c.model.levels) == (
        "resnet50",
        256,
        4,
        "3-7",
    )
    t = c.train
    assert (t.optimiser, t.lr, t.momentum, t.weight_decay, t.batch_size, t.steps) == (
        "sgd",
        0.01,
        0.9,
        1e-4,
        16,
        90_000,
    )
    assert [round(m * t.steps) for m in t.milestones] == [60_000, 80_000]
    assert (t.warmup, t.warmup_start) == (500, pytest.approx(1 / 3))
    i = c.inference
    assert (i.score_threshold, i.candidates_per_level, i.nms_iou, i.max_detections) == (0.05, 1000, 0.5, 100)
    assert (c.data.size, c.data.max_size, c.data.horizontal_flip) == (600, 1000, 0.5)
    assert preset("paper") == c


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_yaml(name, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(preset(name).to_yaml())
    assert load_config(file) == preset(name)


def test_a_file_changes_the_preset_and_a_dotted_name_is_a_nested_one(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train.steps: 7\nloss: {gamma: 1}\n")
    config = load_config(file, preset("light"))
    assert (config.train.steps, config.loss.gamma, config.model.backbone) == (7, 1.0, "mobilenet_v2")
    assert differences(preset("light"), config) == [
        ("loss.gamma", 2.0, 1.0),
        ("train.steps", PRESETS["light"]["train"]["steps"], 7),
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train": {"step": 5}}, ["train.step", "no such setting", "train.steps"]),
        ({"lose": {}}, ["lose", "no such setting", "loss"]),
        ({"train": {"steps": -1}}, ["train.steps", "greater than 0", "-1"]),
        ({"seed": "x"}, ["seed", "integer", "'x'"]),
        ({"loss": {"gamma": float("nan")}}, ["loss.gamma", "nan"]),
        ({"anchors": {"sizes": [1, 2]}}, ["anchors.sizes", "2 entries", "5 levels", "32 64 128 256 512"]),
        ({"model": {"levels": "7-3"}}, ["model.levels", "FIRST-LAST"]),
        ({"train": {"batch_size": 5, "accumulate": 2}}, ["train.batch_size 5", "train.accumulate 2"]),
        ({"assignment": {"background_iou": 0.6}}, ["background_iou 0.6", "positive_iou 0.5"]),
        ({"anchors": {"scales": []}}, ["anchors.scales", "at least 1"]),
        ({"data": {"val_split": "train"}}, ["data.train_split", "data.val_split", "'train'"]),
        ({"seed": 2**63}, ["seed", "less than"]),
        ({"model": {"backbone": "resnet51"}}, ["model.backbone", "did you mean resnet50?", "hf:NAME", "'resnet51'"]),
        ({"model": {"backbone": "hf:"}}, ["model.backbone", "no such backbone", "hf:microsoft/resnet-50"]),
        ({"model": {"backbone": "hf:a/b", "weights": "x.pth"}}, ["model.weights is x.pth", "hf:a/b", "hf:FOLDER"]),
        (
            {"model": {"batch_norm": "trained"}, "train": {"compile": True, "recompute_backbone": True}},
            ["train.compile", "train.recompute_backbone", "false"],
        ),
        ({"data": {"scale_jitter": [1.2, 0.8]}}, ["data.scale_jitter", "smaller factor first"]),
    ],
)
def test_a_wrong_setting_is_refused_by_name_value_and_fix(values, words):
    with pytest.raises(ConfigError) as caught:
        build_config(values)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["is not YAML"]),
        ("- a\n", ["list", "seed: 1"]),
        ("train: 3\n", ["train", "3"]),
        ("seed: 1\ninference:\n  max_detections: 2001-13-45\n", ["is not YAML", "month must be in 1..12", "line 3"]),
        (f"seed: {'9' * 5000}\n", ["is not YAML", "digits", "line 1"]),
        ("seed: !!timestamp x\n", ["is not YAML", "line 1"]),
        ("seed: !!bool x\n", ["is not YAML", "line 1"]),
        ("[" * 5000, ["is nested too deeply"]),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_name(tmp_path, text, words):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    for word in ["broken.yaml", *words]:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_missing_file_and_an_unknown_preset_are_refused():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_config("nowhere.yaml")
    with pytest.raises(ConfigError, match="paper, light"):
        preset("heavy")


def test_every_setting_says_what_it_is():
    for group in (Config, *(field.annotation for field in Config.model_fields.values())):
        for name, field in getattr(group, "model_fields", {}).items():
            assert field.description or hasattr(field.annotation, "model_fields"), f"{group.__name__}.{name}"


@given(st.sampled_from(field_names()), st.integers(0, 3))
def test_a_misspelt_setting_finds_its_name(name, cut):
    assert nearest_name(name) == name
    group, _, last = name.rpartition(".")
    if len(last) > 5 and name.count(".") == 1:
        misspelt = f"{group}.{last[:cut]}{last[cut + 1 :]}"
        assert nearest_name(misspelt) is not None


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet152_caffe", "hf:microsoft/resnet-50", "hf:/data/my net"])
def test_backbones_are_ours_or_anything_of_transformers(name):
    assert build_config({"model": {"backbone": name}}).model.backbone == name


def test_ohem_1_3_needs_four_anchors() -> None:
    one_to_three = {"loss.mining": "ohem_1_3", "loss.normaliser": "image"}
    assert build_config({}).with_changes({**one_to_three, "loss.mining_count": 4}).loss.mining_count == 4
    with pytest.raises(ConfigError, match=r"loss\.mining_count is 3"):
        build_config({}).with_changes({**one_to_three, "loss.mining_count": 3})
