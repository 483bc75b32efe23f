"""Two stages from the first step to the table: they learn, stop and go on, are done once, and find what is there."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from tiny_study import in_folder, quietly

from foveal.anchors import Anchors
from foveal.boxes import iou
from foveal.config import Config
from foveal.data.detect import read_data
from foveal.data.loader import TrainBatches
from foveal.detections import Batch, Objects
from foveal.engine.checkpoint import run_weights
from foveal.engine.progress import Silent
from foveal.engine.step import make_optimiser
from foveal.errors import Interrupted
from foveal.model.retinanet import build_model
from studies.command import Plan, run
from studies.keys import PACKAGE
from studies.results import read_results
from studies.runs import read_outcome
from studies.scales import EVERY_STUDY, PAPER, SCENES
from studies.study import Scale
from studies.table1b_gamma.run import STUDY as TABLE_1B
from studies.table1d_ohem.run import STUDY as TABLE_1D
from studies.table2_stages import training
from studies.table2_stages.detecting import TwoStageDetector
from studies.table2_stages.faster_rcnn import FasterRCNN
from studies.table2_stages.run import FIRST_STAGE, STUDY
from studies.table2_stages.settings import settings_of
from studies.table2_stages.two_stage_loss import two_stage_loss
from studies.table2_stages.two_stages import HERE, two_stage_code

TINY = EVERY_STUDY | {
    "model": {
        "backbone": "mobilenet_v2",
        "weights": "none",
        "batch_norm": "evaluating",
        "levels": "3-5",
        "pyramid_channels": 16,
        "head_channels": 8,
        "head_depth": 1,
        "head_norm": "group",
        "head_init": "scaled",
    },
    "anchors.sizes": (16, 28, 48),
    "data": {"size": 64, "max_size": 64, "workers": 0, "horizontal_flip": 0.0},
    "train": {"steps": 4, "batch_size": 4, "evaluate_every": 4, "checkpoint_every": 4, "log_every": 3, "warmup": 0},
}
TWO = ["two stages, 1:3 sampling", "two stages, OHEM"]
SETTINGS = settings_of("small", "random")
HARDEST = settings_of("small", "hardest")


def tiny(name: str = "small", **changes) -> Scale:
    base = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return Scale(name, base, "test", minutes=3.0, because="a guess")


@pytest.fixture
def plan(tmp_path, shared_runs, data) -> Plan:
    return Plan(in_folder(STUDY, tmp_path / "study"), tiny(), data, shared_runs, seeds=1)


def config(**changes) -> Config:
    [row] = STUDY.chosen(TWO[:1])
    return tiny(**changes).config(STUDY, row, seed=0)


def fresh(config: Config, width: int = 32, num_classes: int = 10) -> FasterRCNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FasterRCNN(config, num_classes, width).train()


def loss_of(model, batch, config, settings=SETTINGS, step=0):
    return two_stage_loss(model, batch, Anchors.from_config(config), config, settings, np.random.default_rng((0, step)))


# ---- learning


def test_with_one_seed_backbone_and_pyramid_start_as_those_of_one_stage():
    torch.manual_seed(0)
    one = build_model(config(), 10).state_dict()
    two = fresh(config()).state_dict()
    shared = [name for name in two if name.startswith(("backbone.", "pyramid."))]
    assert len(shared) > 100
    assert all(torch.equal(two[name], one[name]) for name in shared)


@pytest.mark.parametrize("settings", [SETTINGS, HARDEST], ids=["random", "hardest"])
def test_pictures_without_objects_are_learnt_from_as_background(settings):
    batch = Batch.pack([torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)] * 2, [Objects.empty()] * 2)
    model = fresh(config())
    sums = loss_of(model, batch, config(), settings)
    assert (float(sums.box.detach()), int(sums.positives)) == (0, 0)
    assert float(sums.classification.detach()) > 1
    (sums.classification + sums.box).backward()
    assert model.rpn.objectness.weight.grad.abs().sum() > 0
    assert model.box_head.first.weight.grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_both_stages_teach_the_backbone(data):
    table = read_data(data.folder, "train")
    [batch] = next(iter(TrainBatches(table, config())))
    model = fresh(config())
    sums = loss_of(model, batch, config())
    (sums.classification + sums.box).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # At this size every box is pooled from level 3, so that the output convolutions above serve the first stage alone.
    assert unused == []
    assert int(sums.positives) > 0


@pytest.mark.slow
def test_sixty_steps_on_four_pictures_learn_them_by_heart(data):
    table = read_data(data.folder, "train")
    settled = config(model__batch_norm="trained", train__lr=0.05, train__lr_batch=0)
    [batch] = next(iter(TrainBatches(table, settled)))
    assert torch.bincount(batch.image_index, minlength=4).tolist() == [0, 4, 3, 5]
    model = fresh(settled, width=64)
    optimiser = make_optimiser(model, settled.train)
    losses = []
    for step in range(60):
        sums = loss_of(model, batch, settled, step=step)
        loss = (sums.classification + sums.box) / len(batch)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.25 * sum(losses[:5])
    detector = TwoStageDetector(model, settled, SETTINGS, table.class_names)
    found = detector.predict_batch(batch, 0.2)
    assert len(found[0]) == 0
    for image in (1, 2, 3):
        objects = batch.objects_of(image)
        right_GD = (objects.labels[:, None] == found[image].labels) & (iou(objects.boxes, found[image].boxes) > 0.5)
        assert right_GD.any(1).all()


# ---- runs


def test_rows_of_two_stages_are_trained_once_and_stand_in_the_table(plan, monkeypatch):
    results = quietly(plan, TWO)
    assert list(results) == TWO
    lines = read_results(plan.study.folder / "result.csv")
    assert [(line["row"], line["steps"]) for line in lines] == [(row, "4") for row in TWO]
    assert all(0 <= float(line["AP"]) <= float(line["AP50"]) <= 100 for line in lines)
    assert lines[0]["loss"] != lines[1]["loss"]
    assert (plan.study.folder / "figure.png").stat().st_size > 5000
    monkeypatch.setattr(training, "train", lambda *a, **k: pytest.fail("trained again"))
    assert quietly(plan, TWO) == results
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        quietly(dataclasses.replace(plan, seeds=2), TWO)


class StopsAt(Silent):
    """Asks training to stop after a step, as Ctrl-C does."""

    def __init__(self, step: int):
        self.at = step

    def step(self, step, total, numbers):
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("row", TWO)
def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(plan, tmp_path, row):
    broken = dataclasses.replace(plan, runs=tmp_path / "runs")
    [work], [whole] = broken.work([row]), plan.work([row])
    with pytest.raises(Interrupted, match="step 2 of 4; go on with the same command"):
        run(broken, [row], "cpu", StopsAt(2))
    assert read_outcome(work.folder) is None
    resumed, unbroken = quietly(broken, [row])[row][0], quietly(plan, [row])[row][0]
    assert (resumed.ap, resumed.ap50, resumed.loss) == (unbroken.ap, unbroken.ap50, unbroken.loss)
    assert logged(work.folder) == logged(whole.folder)
    weights, expected = run_weights(work.folder, "last"), run_weights(whole.folder, "last")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("images_per_s", "time_s")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def test_a_run_that_diverges_is_a_result(plan):
    plan = dataclasses.replace(plan, scale=tiny(train__lr=1e30, train__log_every=1))
    outcome = quietly(plan, TWO[:1])[TWO[0]][0]
    assert (outcome.diverged, outcome.steps, outcome.ap) == (True, 2, 0)
    assert outcome.loss is not None


# ---- which run is which


def folder_of(plan: Plan, study, row: str):
    [work] = dataclasses.replace(plan, study=study).work([row])
    return work.folder


def test_one_stage_rows_are_runs_of_tables_1b_and_1d(plan):
    for scale in (SCENES, PAPER):
        here = dataclasses.replace(plan, scale=scale)
        assert folder_of(here, STUDY, "one stage, SSD 1:3") == folder_of(here, TABLE_1D, "SSD 1:3")
        assert folder_of(here, STUDY, "one stage, FL") == folder_of(here, TABLE_1D, "FL")
    here = dataclasses.replace(plan, scale=SCENES)
    assert folder_of(here, STUDY, "one stage, FL") == folder_of(here, TABLE_1B, "gamma 2")


def test_the_sampling_and_the_scales_name_make_other_runs(plan):
    first, second = (folder_of(plan, STUDY, row) for row in TWO)
    assert first != second
    renamed = dataclasses.replace(plan, scale=dataclasses.replace(plan.scale, name="paper"))
    study = dataclasses.replace(STUDY, at_paper_scale={})
    assert folder_of(renamed, study, TWO[0]) != first  # 512 RoIs, not 64


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("here/sampling.py", True),
        ("here/roi_align.py", True),
        ("here/training.py", True),
        ("here/run.py", False),
        ("here/__main__.py", False),
        ("package/nms.py", True),
        ("package/candidates.py", True),
        ("package/padded_decoding.py", True),
        ("package/decoding.py", True),
        ("package/drawing.py", False),
    ],
)
def test_the_code_of_two_stages_counts(tmp_path, file, counts):
    here, package = tmp_path / "here", tmp_path / "package"
    shutil.copytree(HERE, here, ignore=shutil.ignore_patterns("__pycache__"))
    package.mkdir()
    for source in PACKAGE.glob("*.py"):
        shutil.copy(source, package)
    before = two_stage_code.__wrapped__(here, package)
    changed = tmp_path / file
    changed.write_text(changed.read_text() + "\n# a comment\n")
    assert two_stage_code.__wrapped__(here, package) == before
    changed.write_text(changed.read_text() + "\nADDED = 1\n")
    assert (two_stage_code.__wrapped__(here, package) != before) == counts


def test_the_kernel_of_nms_counts_too(tmp_path):
    kernel = tmp_path / "nms.c"
    kernel.write_text("int f(void);")
    before = two_stage_code.__wrapped__(c_code=tmp_path)
    kernel.write_text("int f(void); /* a comment */")
    assert two_stage_code.__wrapped__(c_code=tmp_path) == before
    kernel.write_text("int g(void);")
    assert two_stage_code.__wrapped__(c_code=tmp_path) != before


def test_the_key_has_the_code_and_a_row_of_foveals_own_has_none_of_it(plan, monkeypatch):
    rows = [row.name for row in STUDY.rows]
    before = [folder_of(plan, STUDY, row) for row in rows]
    monkeypatch.setattr("studies.table2_stages.two_stages.two_stage_code", lambda: "other code")
    after = [folder_of(plan, STUDY, row) for row in rows]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, False]


# ---- finding


def test_pictures_together_are_found_in_what_they_are_found_in_alone():
    settled = config(model__backbone="resnet18")
    # In float64, so that no two scores change places by rounding.
    model = fresh(settled).double()
    with torch.no_grad():
        # A fresh head says 1 in 11 of everything: larger weights make scores and boxes that differ.
        for layer in (model.box_head.logits, model.box_head.deltas, model.rpn.objectness, model.rpn.deltas):
            layer.weight.mul_(10)
    detector = TwoStageDetector(model, settled, SETTINGS, tuple("abcdefghij"))
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 64), (64, 50), (40, 64)]
    pictures = [torch.randint(0, 255, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    together = detector(pictures, 0.2)
    assert [len(found) > 3 for found in together] == [True] * 3
    assert len({round(score, 4) for found in together for score in found.scores.tolist()}) > 20
    for picture, (height, width), found in zip(pictures, sizes, together, strict=True):
        alone = detector(picture, 0.2)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.labels, alone.labels)
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, [0, 2]] <= width).all()
        assert (found.boxes[:, [1, 3]] <= height).all()


def test_a_picture_with_nothing_above_the_score_has_no_detection():
    detector = TwoStageDetector(fresh(config()), config(), SETTINGS, tuple("abcdefghij"))
    assert len(detector(torch.zeros(3, 64, 64, dtype=torch.uint8), 0.9)) == 0


# ---- the scales


def test_a_small_scene_has_as_few_anchors_as_the_readme_says():
    [row] = STUDY.chosen(TWO[:1])
    assert Anchors.from_config(SCENES.config(STUDY, row, seed=0)).count(160, 160) == 1575
    assert "1,575 anchors" in (STUDY.folder / "README.md").read_text(encoding="utf-8")


def test_at_the_papers_scale_the_first_stage_has_three_anchors_a_cell_and_the_box_head_1024_outputs():
    [row] = STUDY.chosen(TWO[:1])
    at_paper = PAPER.config(STUDY, row, seed=0)
    assert (at_paper.assignment.positive_iou, at_paper.assignment.background_iou) == (0.7, 0.3)
    assert at_paper.model.backbone == "resnet101"
    assert set(row.changes) == set(FIRST_STAGE)
    with torch.device("meta"):
        settings = settings_of("paper", "random")
        built = FasterRCNN(at_paper.with_changes({"model.channels_last": False}), 80, settings.width, pretrained=False)
    assert built.rpn.objectness.out_channels == 3
    assert built.box_head.first.weight.shape == (1024, 7 * 7 * 256)
    assert (built.box_head.logits.out_features, built.box_head.deltas.out_features) == (81, 320)
    assert built.pooled == (3, 4, 5)
