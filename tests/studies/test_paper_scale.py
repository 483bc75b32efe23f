"""The paper-scale commands, for their first 2 steps: `python -m studies.NAME --scale paper --data COCO` as it is typed.

The folder is laid out as COCO's is, and the network is the paper's. What a CPU cannot do is smaller: pictures, batches,
steps. Weights are random, since nothing is downloaded, and so batch norm is trained: with fixed statistics a random
ResNet-101 makes features so large that two stages diverge.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator

import pytest
from tiny_study import in_folder

from foveal.config import differences, load_config
from foveal.data.scenes import write_scenes
from studies import scales
from studies.alpha_gamma.run import STUDY as ALPHA_GAMMA
from studies.command import main
from studies.fig2_speed import run as fig2
from studies.fig4_cdf import run as fig4
from studies.fig7_beta_gamma.run import STUDY as FIGURE_7
from studies.hinge.run import STUDY as HINGE
from studies.prior.run import STUDY as PRIOR
from studies.results import read_results
from studies.runs import last_line
from studies.scales import PAPER
from studies.study import Study, paper_rows
from studies.table1a_alpha.run import STUDY as TABLE_1A
from studies.table1b_gamma.run import STUDY as TABLE_1B
from studies.table1c_anchors.run import STUDY as TABLE_1C
from studies.table1d_ohem.run import STUDY as TABLE_1D
from studies.table1e_depth_scale import speed
from studies.table1e_depth_scale.run import STUDY as TABLE_1E
from studies.table2_stages.run import STUDY as TABLE_2
from studies.table3_fl_star.run import STUDY as TABLE_3

pytestmark = pytest.mark.slow

SHRUNK = {
    "model.weights": "none",
    "model.batch_norm": "trained",
    "data.size": 64,
    "data.max_size": 64,
    "data.workers": 0,
    "train.steps": 2,
    "train.batch_size": 1,
    "train.evaluate_every": 2,
    "train.checkpoint_every": 2,
    "train.log_every": 1,
}
ROWS = [
    (TABLE_1A, "alpha 0.999"),
    (TABLE_1B, "gamma 2"),
    (TABLE_1C, "scales 4, ratios 3"),
    (TABLE_1D, "OHEM 1:3 128, NMS 0.5"),
    (TABLE_1E, "ResNet-50, 400 px"),
    (TABLE_2, "two stages, 1:3 sampling"),
    (TABLE_2, "two stages, OHEM"),
    (TABLE_3, "FL* gamma 4, beta 0"),
    (FIGURE_7, "FL* gamma 1, beta -1"),
    (PRIOR, "CE, pi 0.01"),
    (HINGE, "hinge"),
    (ALPHA_GAMMA, "gamma 1, alpha 0.5"),
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Scenes as COCO's folder: annotations/instances_SPLIT2017.json, SPLIT2017/, category ids with gaps, no test."""
    root = tmp_path_factory.mktemp("coco")
    scenes = write_scenes(root / "scenes", {"train": 4, "val": 2}, size=96)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        labels = json.loads((scenes / f"{split}.json").read_text())
        (root / f"{split}2017").mkdir()
        for image in labels["images"]:
            name = image["file_name"].split("/")[-1]
            shutil.move(scenes / "images" / name, root / f"{split}2017" / name)
            image["file_name"] = name
        for category in labels["categories"]:
            category["id"] = 3 * category["id"] + 1
        for annotation in labels["annotations"]:
            annotation["category_id"] = 3 * annotation["category_id"] + 1
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(labels))
    shutil.rmtree(scenes)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator:
    """Runs of half a gigabyte each, which are not left lying about."""
    folder = tmp_path_factory.mktemp("paper-runs")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _shrunk(monkeypatch):
    monkeypatch.setattr(speed, "PICTURES", 1)
    monkeypatch.setattr(speed, "TIMES", 1)
    monkeypatch.setattr(scales, "PAPER", dataclasses.replace(PAPER, base=PAPER.base | SHRUNK))


def typed(coco, runs, row: str) -> list[str]:
    about = ["--seeds", "1", "--runs", str(runs), "--device", "cpu"]
    return ["--scale", "paper", "--data", str(coco), "--rows", row, *about]


def test_every_study_that_trains_is_tried():
    folders = {path.parent.name for path in TABLE_1A.folder.parent.glob("*/paper.csv")}
    assert {study.name for study, _ in ROWS} == folders - {"fig4_cdf"}


@pytest.mark.parametrize(("study", "row"), ROWS, ids=[f"{study.name} {row}" for study, row in ROWS])
def test_the_first_two_steps_of_the_papers_recipe(study: Study, row: str, coco, runs, tmp_path, capsys):
    study = in_folder(study, tmp_path / study.name)
    assert main(study, typed(coco, runs, row)) == 0
    line = {line["row"]: line for line in read_results(study.folder / "result.csv")}[row]
    assert (line["scale"], line["data"], line["steps"], line["diverged"]) == ("paper", line["data"], "2", "no")
    assert re.fullmatch(rf"{coco.name} [0-9a-f]{{6}}", line["data"])
    folder = runs / line["config"]
    assert last_line(folder)["step"] == 2
    # But for what was made smaller, it is the paper's config of this row.
    [wanted] = study.chosen([row], "paper")
    changed = {name for name, _, _ in differences(PAPER.config(study, wanted, 0), load_config(folder / "config.yaml"))}
    assert changed <= SHRUNK.keys() - wanted.changes.keys()
    ap = paper_rows(study.folder)[row].ap if row in paper_rows(study.folder) else None
    assert ap is None or f"{ap:.1f} / " in capsys.readouterr().out
    assert (study.folder / "figure.png").exists()


def test_figure_2_reads_the_run_of_table_1e(coco, runs, tmp_path):
    study = in_folder(dataclasses.replace(fig2.STUDY, folder=TABLE_1E.folder), tmp_path / "fig2")
    assert main(study, typed(coco, runs, "ResNet-50, 400 px"), act=fig2.run) == 0
    [line] = read_results(study.folder / "result.csv")
    assert (line["row"], line["scale"], line["front"]) == ("ResNet-50, 400 px", "paper", "yes")


def test_figure_4_reads_the_run_of_table_1b(coco, runs, tmp_path):
    study = in_folder(fig4.STUDY, tmp_path / "fig4")
    assert main(study, typed(coco, runs, "gamma 2"), act=fig4.run, usual=fig4.USUAL) == 0
    lines = read_results(study.folder / "result.csv")
    assert {(line["row"], line["scale"]) for line in lines} == {("gamma 2", "paper")}
    assert len(lines) == 8
