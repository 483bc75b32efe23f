"""Every study's rows: differences that build, the paper's numbers beside them, and runs that tables share."""

import csv
import importlib
import itertools
from pathlib import Path

import pytest
import torch

from foveal.anchors import Anchors
from foveal.config import Config, differences
from foveal.data.images import target_size
from foveal.errors import UsageError
from foveal.model.retinanet import build_model
from studies.scales import FOLDER, PAPER, SCENES, scale_and_data
from studies.study import Row, Study, paper_rows

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "table1a_alpha",
    "table1b_gamma",
    "table1c_anchors",
    "table1d_ohem",
    "table1e_depth_scale",
    "table2_stages",
    "table3_fl_star",
    "fig7_beta_gamma",
    "prior",
    "hinge",
    "alpha_gamma",
)
WITHOUT_ROWS_OF_THEIR_OWN = ("fig2_speed", "fig4_cdf")
STUDIES: dict[str, Study] = {name: importlib.import_module(f"studies.{name}.run").STUDY for name in NAMES}
COMPARED = {
    "table1e_depth_scale": ("model.backbone", "data.size", "data.max_size"),
    "table2_stages": ("loss.", "anchors.", "assignment."),
}
BACKBONES = {
    "table1d_ohem": {"resnet101"},
    "table1e_depth_scale": {"resnet50", "resnet101"},
    "table2_stages": {"resnet101"},
}
each_study = pytest.mark.parametrize("study", STUDIES.values(), ids=NAMES)
each_scale = pytest.mark.parametrize("scale", [SCENES, FOLDER, PAPER], ids=["scenes", "folder", "paper"])


def config_of(study: str, row: str, scale=SCENES) -> Config:
    [found] = STUDIES[study].chosen([row])
    return scale.config(STUDIES[study], found, seed=0)


@each_study
@each_scale
def test_rows_differ_from_one_another_in_the_compared_thing_only(study, scale):
    rows = study.chosen(None, scale.name)
    configs = [scale.config(study, row, seed=1) for row in rows]
    compared = COMPARED.get(study.name, ("loss.", "anchors.", "model.prior"))
    for row, config in zip(rows, configs, strict=True):
        assert set(row.changes) >= {name for name, _, _ in differences(configs[0], config)} - set(rows[0].changes)
        assert all(name.startswith(compared) for name in row.changes)
        assert config.seed == 1
    runs = [(config, row.method) for config, row in zip(configs, rows, strict=True)]
    assert all(runs[i] != runs[j] for i in range(len(runs)) for j in range(i))


@each_scale
def test_the_base_is_plain_sgd_with_the_papers_words(scale):
    config = config_of("table1b_gamma", "gamma 2", scale)
    assert (config.train.optimiser, config.train.schedule, config.train.lr) == ("sgd", "step", 0.01)
    assert (config.train.momentum, config.train.weight_decay) == (0.9, 1e-4)
    assert (config.train.ema, config.train.clip, config.train.patience) == (0, 0, 0)
    assert config.loss.normaliser == "image"
    assert config.data.horizontal_flip == (0 if scale is SCENES else 0.5)
    assert (config.data.crop, config.data.vertical_flip, config.data.colour_jitter) == (0, 0, 0)
    assert config.train.evaluate_every == config.train.steps


def test_gamma_2_at_the_papers_scale_is_the_preset_but_for_the_normaliser_and_what_is_kept():
    changed = {name for name, _, _ in differences(Config(), config_of("table1b_gamma", "gamma 2", PAPER))}
    assert changed == {"loss.normaliser", "train.tensorboard", "train.evaluate_every", "train.checkpoint_every"}


@each_study
def test_every_network_of_the_papers_scale_can_be_built(study):
    built = {}
    for row in study.chosen(None, "paper"):
        config = PAPER.config(study, row, seed=0)
        built.setdefault((config.model, config.anchors), (row, config))
    for _, config in built.values():
        with torch.device("meta"):
            model = build_model(config.with_changes({"model.channels_last": False}), 80, pretrained=False)
        anchors_of_a_cell = len(config.anchors.scales) * len(config.anchors.ratios)
        assert model.class_head.predict.out_channels == 80 * anchors_of_a_cell
    assert {config.model.backbone for _, config in built.values()} == BACKBONES.get(study.name, {"resnet50"})


@each_study
def test_paper_csv_has_rows_of_the_study_and_the_baseline(study):
    paper, rows = paper_rows(study.folder), [row.name for row in study.rows]
    assert list(paper) == [name for name in rows if name in paper]
    assert study.at("paper").baseline in paper
    with (study.folder / "paper.csv").open(newline="") as file:
        assert next(csv.reader(file))[:4] == ["row", "AP", "AP50", "AP75"]


@pytest.mark.parametrize(
    ("study", "row", "expected"),
    [
        ("table1a_alpha", "alpha 0.75", (31.1, 49.4, 33.0)),
        ("table1a_alpha", "alpha 0.999", (25.1, 41.7, 26.1)),
        ("table1a_alpha", "alpha 0.1", (0.0, None, None)),
        ("table1b_gamma", "gamma 0.5", (32.9, 51.7, 35.2)),
        ("table1b_gamma", "gamma 2", (34.0, 52.5, 36.5)),
        ("table1c_anchors", "scales 2, ratios 3", (34.2, 53.1, 36.5)),
        ("table1d_ohem", "OHEM 512, NMS 0.5", (27.6, 42.0, 29.2)),
        ("table1d_ohem", "OHEM 1:3 256, NMS 0.5", (28.3, 42.4, 30.3)),
        ("table1d_ohem", "FL", (36.0, 54.9, 38.7)),
        ("table1d_ohem", "SSD 1:3", (None, None, None)),
        ("table1e_depth_scale", "ResNet-50, 700 px", (35.1, None, None)),
        ("table1e_depth_scale", "ResNet-101, 800 px", (37.8, None, None)),
        ("table2_stages", "one stage, FL", (39.1, 59.1, 42.3)),
        ("table2_stages", "two stages, 1:3 sampling", (36.2, 59.1, 39.0)),
        ("table2_stages", "one stage, SSD 1:3", (None, None, None)),
        ("table3_fl_star", "FL* gamma 4, beta 0", (33.9, 51.8, 36.4)),
        ("prior", "CE, pi 0.01", (30.2, 46.7, 32.8)),
        ("alpha_gamma", "gamma 1, alpha 0.25", (33.7, 52.0, 36.2)),
        ("alpha_gamma", "gamma 2, alpha 0.5", (33.6, None, None)),
        ("alpha_gamma", "gamma 1, alpha 0.75", (None, None, None)),
    ],
)
def test_the_papers_numbers(study, row, expected):
    found = paper_rows(STUDIES[study].folder)[row]
    assert (found.ap, found.ap50, found.ap75) == expected


def test_the_same_run_in_two_tables_has_the_same_numbers_of_the_paper():
    seen: dict[str, tuple] = {}
    for study in STUDIES.values():
        if study.name in ("table1e_depth_scale", "table2_stages"):  # their numbers are of test-dev
            continue
        paper = paper_rows(study.folder)
        for row in study.rows:
            if row.name in paper:
                numbers = (paper[row.name].ap, paper[row.name].ap50, paper[row.name].ap75)
                assert seen.setdefault(PAPER.config(study, row, seed=0).to_yaml(), numbers) == numbers


def test_tables_share_their_common_rows():
    gamma_2 = config_of("table1b_gamma", "gamma 2")
    for study, row in (
        ("table1c_anchors", "scales 3, ratios 3"),
        ("table1d_ohem", "FL"),
        ("table2_stages", "one stage, FL"),
        ("table3_fl_star", "FL"),
        ("prior", "FL, pi 0.01"),
        ("hinge", "FL"),
        ("table1e_depth_scale", "MobileNetV2, 160 px"),
        ("alpha_gamma", "gamma 2, alpha 0.25"),
    ):
        assert differences(gamma_2, config_of(study, row)) == []
    at_paper_scale = config_of("table1e_depth_scale", "ResNet-50, 600 px", PAPER)
    assert at_paper_scale == config_of("table1b_gamma", "gamma 2", PAPER)
    deeper = config_of("table1e_depth_scale", "ResNet-101, 600 px", PAPER)
    assert deeper == config_of("table1d_ohem", "FL", PAPER)
    balanced = config_of("table1a_alpha", "alpha 0.75")
    for study, row in (
        ("table1b_gamma", "gamma 0"),
        ("table3_fl_star", "CE"),
        ("fig7_beta_gamma", "CE"),
        ("hinge", "CE"),
    ):
        assert differences(balanced, config_of(study, row)) == []
    for alpha in ("0.25", "0.5", "0.75"):
        assert config_of("alpha_gamma", f"gamma 0, alpha {alpha}") == config_of("table1a_alpha", f"alpha {alpha}")
    assert config_of("alpha_gamma", "gamma 1, alpha 0.25") == config_of("table1b_gamma", "gamma 1")
    assert config_of("table1a_alpha", "alpha 0.5") == config_of("prior", "CE, pi 0.01")
    assert config_of("table3_fl_star", "FL* gamma 4, beta 0") == config_of("fig7_beta_gamma", "FL* gamma 4, beta 0")


def test_each_gamma_has_its_alphas_compared_with_one_another_once():
    study = STUDIES["alpha_gamma"]
    compared = {(row.name, study.baseline) for row in study.rows if row.name != study.baseline} | {*study.pairs}
    assert len(study.rows) == 9
    for gamma in ("0", "1", "2"):
        names = [f"gamma {gamma}, alpha {alpha}" for alpha in ("0.25", "0.5", "0.75")]
        both_ways = [((a, b) in compared, (b, a) in compared) for a, b in itertools.combinations(names, 2)]
        assert [sum(ways) for ways in both_ways] == [1, 1, 1]
    assert len(compared) == len(study.rows) - 1 + len(study.pairs)


def test_a_scale_has_its_own_rows_and_baseline():
    study = STUDIES["table1e_depth_scale"]
    small, paper = (study.chosen(None, scale) for scale in ("small", "paper"))
    assert [len(small), len(paper), len(study.rows)] == [9, 10, 19]
    assert study.at("small").baseline in [row.name for row in small]
    assert study.at("paper").baseline in [row.name for row in paper]
    assert all(study.at("paper") is study for study in STUDIES.values() if not study.paper_baseline)
    with pytest.raises(UsageError, match="has no row 'ResNet-50, 600 px' at the small scale: use some of 'MobileNetV2"):
        study.chosen(["ResNet-50, 600 px"], "small")
    assert study.chosen(["ResNet-50, 600 px"], "paper") == study.chosen(["ResNet-50, 600 px"])


@each_scale
def test_no_size_is_cut_by_the_longest_side(scale):
    study = STUDIES["table1e_depth_scale"]
    for row in study.chosen(None, scale.name):
        data = scale.config(study, row, seed=0).data
        assert target_size((480, 480), data.size, data.longest) == (row.changes["data.size"],) * 2


def test_the_paper_scales_longest_side_is_five_thirds_of_the_shorter_one():
    rows = STUDIES["table1e_depth_scale"].chosen(None, "paper")
    sides = [(row.changes["data.size"], row.changes["data.max_size"]) for row in rows[:5]]
    assert sides == [(400, 667), (500, 833), (600, 1000), (700, 1167), (800, 1333)]


def test_four_scales_are_quarter_octaves_and_one_ratio_is_a_square():
    assert config_of("table1c_anchors", "scales 4, ratios 3").anchors.scales == (1, 2**0.25, 2**0.5, 2**0.75)
    assert config_of("table1c_anchors", "scales 1, ratios 1").anchors.ratios == (1,)


def test_a_study_says_what_its_rows_may_change(tmp_path):
    rows = (Row("a", {}), Row("b", {"data.size": 320}))
    assert Study(folder=tmp_path, title="t", rows=rows, baseline="a", compares=("data.size",)).rows == rows
    with pytest.raises(AssertionError, match="the same for all"):
        Study(folder=tmp_path, title="t", rows=rows, baseline="a")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loss.gama": 1.0}, "are no settings"),
        ({"train.lr": 1.0}, "the same for all"),
        ({"seed": 3}, "the same for all"),
    ],
)
def test_a_row_that_changes_something_else_is_refused(tmp_path, changes, told):
    with pytest.raises(AssertionError, match=told):
        Study(folder=tmp_path, title="t", rows=(Row("a", {}), Row("b", changes)), baseline="a")


def test_two_rows_of_one_name_and_a_baseline_that_is_no_row_are_refused(tmp_path):
    with pytest.raises(AssertionError, match="one name"):
        Study(folder=tmp_path, title="t", rows=(Row("a", {}), Row("a", {})), baseline="a")
    with pytest.raises(AssertionError, match="no row is called b"):
        Study(folder=tmp_path, title="t", rows=(Row("a", {}),), baseline="b")
    with pytest.raises(AssertionError, match="no row is called b"):
        Study(folder=tmp_path, title="t", rows=(Row("a", {}),), baseline="a", paper_baseline="b")
    with pytest.raises(AssertionError, match="no row is called b"):
        Study(folder=tmp_path, title="t", rows=(Row("a", {}),), baseline="a", pairs=(("a", "b"),))


def test_a_small_scene_has_as_few_anchors_as_the_readme_of_table_1d_says():
    anchors = Anchors.from_config(config_of("table1d_ohem", "FL"))
    assert anchors.count(160, 160) == 4725
    assert "4,725 anchors" in (STUDIES["table1d_ohem"].folder / "README.md").read_text(encoding="utf-8")


def test_a_row_that_is_asked_for_must_exist():
    with pytest.raises(UsageError, match="has no row 'gamma 3': use some of 'gamma 0'"):
        STUDIES["table1b_gamma"].chosen(["gamma 3"])


def test_the_papers_scale_needs_data_and_the_small_one_draws_its_own(tmp_path):
    with pytest.raises(UsageError, match="--data"):
        scale_and_data("paper", None, tmp_path)
    scale, data = scale_and_data("small", None, tmp_path)
    assert (scale, data.folder) == (SCENES, tmp_path / "scenes")
    assert scale_and_data("small", tmp_path / "cells", tmp_path)[1].name == "cells"


def test_each_study_is_a_command_with_a_description():
    folders = sorted(path.parent.name for path in ROOT.glob("studies/*/__main__.py"))
    assert folders == sorted([*NAMES, *WITHOUT_ROWS_OF_THEIR_OWN, "fig1_curves", "fig5_6_variants"])
    listed = (ROOT / "studies" / "README.md").read_text(encoding="utf-8")
    for name in folders:
        assert f"`python -m studies.{name}`" in listed
        assert f"python -m studies.{name}" in (ROOT / "studies" / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*NAMES, *WITHOUT_ROWS_OF_THEIR_OWN])
def test_a_study_without_result_says_so(name):
    folder = ROOT / "studies" / name
    assert (folder / "result.csv").exists() or "Not run yet" in (folder / "README.md").read_text(encoding="utf-8")


def test_other_steps_change_the_length_alone_and_are_filed_apart():
    longer = SCENES.with_steps(3600)
    usual, changed = (config_of("table1b_gamma", "gamma 2", scale) for scale in (SCENES, longer))
    assert {name for name, _, _ in differences(usual, changed)} == {"train.steps", "train.evaluate_every"}
    assert (changed.train.steps, changed.train.evaluate_every) == (3600, 3600)
    assert (SCENES.label, longer.label, longer.name) == ("small", "small 3600 steps", "small")
    assert longer.minutes == pytest.approx(4 * SCENES.minutes)
    assert SCENES.with_steps(900) is SCENES
