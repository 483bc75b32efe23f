"""A whole run's losses: equal to computing every element, sound without objects, and the command."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.cells import cell_len

import foveal
from foveal.analysis.logit_counts import LogitCounts
from foveal.analysis.loss_distribution import OWN, count_logits, distribution_of, loss_distribution
from foveal.analysis.loss_figures import cdf_figure, write_files
from foveal.analysis.loss_shares import FRACTIONS, HARDEST
from foveal.cli import main
from foveal.config import Config
from foveal.data.detect import read_data
from foveal.data.loader import eval_batches
from foveal.data.scenes import write_scenes
from foveal.data.table import Table, TableBuilder
from foveal.engine.checkpoint import save_tensors, write_description
from foveal.engine.predict import load
from foveal.errors import FovealError, UsageError
from foveal.losses import Focal
from foveal.matching import match_image
from foveal.model.retinanet import build_model
from foveal.model.weights import read_tensors

TINY = Config().with_changes(
    {
        "model.backbone": "mobilenet_v2",
        "model.weights": "none",
        "model.batch_norm": "evaluating",
        "model.levels": "3-5",
        "model.pyramid_channels": 8,
        "model.head_channels": 8,
        "model.head_depth": 1,
        "model.head_init": "scaled",
        "anchors.sizes": (16, 28, 48),
        "data.size": 64,
        "data.max_size": 64,
        "data.workers": 0,
    }
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, {"val": 5, "test": 2}, size=64, seed=3)
    return folder


def make_run(folder: Path, table: Table, config: Config = TINY) -> Path:
    """A run whose class head says different things of different places, as after training."""
    torch.manual_seed(0)
    model = build_model(config, len(table.class_names), pretrained=False)
    model.class_head.predict.weight.data.mul_(4e4)
    write_description(folder, config, table.class_names, table.category_ids)
    save_tensors(folder / "best.safetensors", model.state_dict())
    return folder


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", read_data(scenes, "val"))


@pytest.fixture(scope="module")
def found(run, scenes):
    return loss_distribution(run, scenes, device="cpu", batch_size=2)


def every_element(run: Path, table: Table) -> dict[str, torch.Tensor]:
    """The logits of both sides, one picture and one matching at a time."""
    detector = load(run, "cpu")
    K = len(detector.class_names)
    sides: dict[str, list[torch.Tensor]] = {"positives": [], "background": []}
    for batch in eval_batches(table, detector.config, 1):
        with torch.no_grad():
            outputs = detector.model(batch.images).logits
        # [B, A*K, H, W] to [N, K]
        levels = [level[0].unflatten(0, (-1, K)).permute(2, 3, 0, 1).reshape(-1, K) for level in outputs]
        logits_NK = torch.cat(levels).double()
        height, width = batch.images.shape[-2:]
        anchors_N4 = detector.anchors.boxes(height, width)
        size = tuple(batch.sizes[0].tolist())
        object_N = match_image(anchors_N4, batch.boxes, batch.crowd, size, detector.config.assignment)
        positive_NK = torch.zeros_like(logits_NK, dtype=torch.bool)
        assigned = (object_N >= 0).nonzero().squeeze(1)
        positive_NK[assigned, batch.labels[object_N[assigned]]] = True
        sides["positives"].append(logits_NK[positive_NK])
        sides["background"].append(logits_NK[~positive_NK & (object_N != -2)[:, None]])
    return {side: torch.cat(parts) for side, parts in sides.items()}


# -- a run -------------------------------------------------------------------------------------------------------------


def test_shares_are_those_of_every_element_sorted(run, scenes, found):
    exact = every_element(run, read_data(scenes, "val"))
    for gamma in (0.0, 0.5, 1.0, 2.0):
        loss, part = Focal(0.25, gamma), found.overall[f"gamma {gamma:g}"]
        sums = {side: loss(logits, float(side == "positives")).sum() for side, logits in exact.items()}
        for side, logits in exact.items():
            loss_M, _ = loss(logits, float(side == "positives")).sort(descending=True)
            reached = np.arange(len(loss_M) + 1) / len(loss_M)
            held = np.concatenate([[0], loss_M.cumsum(0)]) / float(loss_M.sum())
            shares = part[side]
            assert shares.elements == len(logits)
            assert shares.of_all.loss == pytest.approx(float(sums[side] / sum(sums.values())), rel=1e-3)
            assert [shares.hardest[f].loss for f in HARDEST] == pytest.approx(
                np.interp(HARDEST, reached, held), abs=1e-3
            )
            curve = found.curves[f"gamma {gamma:g}"][side].loss
            assert curve == pytest.approx(1 - np.interp(1 - FRACTIONS, reached, held), abs=1e-3)


def test_the_runs_own_loss_is_measured_beside_the_gammas(found):
    assert list(found.losses) == ["gamma 0", "gamma 0.5", "gamma 1", "gamma 2", OWN]
    assert found.losses[OWN] == "Focal(alpha=0.25, gamma=2.0)"
    assert found.overall[OWN] == found.overall["gamma 2"]
    assert (found.run, found.split, found.pictures) == ("tiny", "val", 5)
    assert found.notes == ()


def test_levels_and_classes_add_up_to_everything(found):
    assert list(found.per_level) == [3, 4, 5]
    assert len(found.per_class) == 10
    for parts in (found.per_level, found.per_class):
        for name, whole in found.overall.items():
            for side in ("positives", "background"):
                mine = [part[name][side] for part in parts.values()]
                assert sum(one.elements for one in mine) == whole[side].elements
                assert sum(one.of_all.loss for one in mine) == pytest.approx(whole[side].of_all.loss)
                assert sum(one.of_all.gradient for one in mine) == pytest.approx(whole[side].of_all.gradient)
    assert found.elements("positives") > 0


def test_batch_size_does_not_matter(run, scenes):
    seen = []
    one, many = (
        loss_distribution(run, scenes, device="cpu", batch_size=n, progress=lambda *at: seen.append(at)) for n in (1, 5)
    )
    assert one.elements("background") == many.elements("background")
    for name in one.losses:
        for side in ("positives", "background"):
            # The same picture in another batch differs by what convolutions round.
            assert one.curves[name][side].loss == pytest.approx(many.curves[name][side].loss, abs=1e-4)
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (5, 5)]


def test_pictures_without_objects_are_all_background(run, scenes):
    table = read_data(scenes, "val")
    builder = TableBuilder(scenes, "empty", "coco")
    for row in range(2):
        builder.add_image(table.relative_path(row), (64, 64), row)
    empty = loss_distribution(run, builder.build(table.class_names), device="cpu", batch_size=2)
    shares = empty.overall["gamma 2"]
    assert shares["positives"].elements == 0
    assert shares["positives"].hardest[0.1].loss is None
    assert shares["background"].of_all.loss == pytest.approx(1, rel=1e-12)
    # 8^2 + 4^2 + 2^2 cells, 9 anchors each, 10 classes, 2 pictures.
    assert shares["background"].elements == 84 * 9 * 10 * 2
    assert "positives: 0 elements\n" in empty.table()
    assert cdf_figure(empty).axes[0].texts[0].get_text() == "no loss here"
    assert "positives" not in {row["side"] for row in csv.DictReader(empty.csv().splitlines())}


def test_classes_are_matched_by_name_and_strange_ones_left_out(run, scenes, found):
    table = read_data(scenes, "val")
    names = [*table.class_names[1:], table.class_names[0]]
    turned = _renamed(table, names, (table.labels - 1) % 10)
    assert loss_distribution(run, turned, device="cpu", batch_size=2).overall == found.overall
    label = int(table.labels[0])
    names = ["zebra" if place == label else name for place, name in enumerate(table.class_names)]
    strange = loss_distribution(run, _renamed(table, names, table.labels), device="cpu", batch_size=2)
    assert "does not know zebra" in strange.notes[0]
    assert strange.per_class[table.class_names[label]][OWN]["positives"].elements == 0
    # Their anchors are no background either.
    lost = found.elements("positives") - strange.elements("positives")
    assert found.elements("background") - strange.elements("background") == 9 * lost
    with pytest.raises(UsageError, match="no class in common"):
        loss_distribution(run, _renamed(table, [f"z{i}" for i in range(10)], table.labels), device="cpu")


def _renamed(table: Table, names: list[str], labels: torch.Tensor) -> Table:
    builder = TableBuilder(table.root, "val", "coco")
    for row in range(len(table)):
        builder.add_image(table.relative_path(row), tuple(table.sizes[row].tolist()), row)
        start, end = table.first_object[row], table.first_object[row + 1]
        for box, label in zip(table.boxes[start:end].tolist(), labels[start:end].tolist(), strict=True):
            builder.add_object(tuple(box), label)
    return builder.build(names)


@pytest.mark.parametrize(
    ("changes", "told", "note"),
    [
        ({"name": "cross_entropy", "mining": "ohem", "normaliser": "image"}, "CrossEntropy(alpha=None)", "ohem keeps"),
        ({"name": "quality_focal"}, "QualityFocal(gamma=2.0)", "IoU of the predicted box"),
        ({"label_smoothing": 0.1}, "Focal(alpha=0.25, gamma=2.0)", "label smoothing"),
    ],
)
def test_where_the_runs_own_loss_is_simplified_it_is_said(changes, told, note, scenes, tmp_path):
    table = read_data(scenes, "test")
    config = TINY.with_changes({f"loss.{name}": value for name, value in changes.items()})
    found = loss_distribution(make_run(tmp_path / "run", table, config), table, gammas=(2,), device="cpu")
    assert found.losses == {"gamma 2": "Focal(alpha=0.25, gamma=2)", OWN: told}
    assert note in " ".join(found.notes)
    assert note in " ".join(found.table().split())


def test_alphas_of_each_class_are_the_gammas_too(scenes, tmp_path):
    table = read_data(scenes, "test")
    config = TINY.with_changes({"loss.class_alpha": tuple(0.05 * (k + 1) for k in range(10))})
    found = loss_distribution(make_run(tmp_path / "run", table, config), table, device="cpu")
    assert found.overall[OWN] == found.overall["gamma 2"]
    assert found.overall[OWN] != loss_distribution(make_run(tmp_path / "one", table), table, device="cpu").overall[OWN]


def test_logits_that_are_not_finite_name_the_picture(run, scenes, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    weights = read_tensors(broken / "best.safetensors")
    weights["class_head.predict.bias"][0] = torch.nan
    save_tensors(broken / "best.safetensors", weights)
    with pytest.raises(FovealError, match=r"val-0000\d\.jpg: the run's outputs are not finite"):
        loss_distribution(broken, scenes, device="cpu")


def test_a_split_without_pictures_is_refused(run, scenes, tmp_path):
    labels = json.loads((scenes / "val.json").read_text())
    (tmp_path / "val.json").write_text(json.dumps({**labels, "images": [], "annotations": []}))
    with pytest.raises(UsageError, match="its split 'val' has no pictures"):
        loss_distribution(run, tmp_path, device="cpu")


@pytest.mark.parametrize("gamma", [-1.0, float("nan"), float("inf")])
def test_a_gamma_that_is_none_is_refused(gamma, run, scenes):
    with pytest.raises(UsageError, match="give 0"):
        loss_distribution(run, scenes, gammas=(2.0, gamma))


def test_the_counts_can_be_kept_and_measured_again(run, scenes, found):
    detector = load(run, "cpu")
    counts = count_logits(detector, read_data(scenes, "val"), range(10), batch_size=2)
    again = distribution_of(counts, {"five": Focal(0.25, 5.0)}, levels=(3, 4, 5), class_names=detector.class_names)
    assert again.elements("background") == found.elements("background")
    assert again.overall["five"]["background"].hardest[0.1].loss > 0.99


# -- what is shown and written -----------------------------------------------------------------------------------------


def test_json_has_numbers_only_and_the_table_80_columns(found):
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert set(told) == {"run", "split", "pictures", "losses", "overall", "per_level", "per_class", "notes"}
    background = told["overall"]["gamma 0"]["background"]
    assert set(background) == {"elements", "of_all", "hardest", "easy_elements", "easy", "easy_of_all"}
    assert set(background["hardest"]) == {"0.01", "0.1", "0.2"}
    assert set(told["per_level"]) == {"3", "4", "5"}
    assert max(cell_len(line) for line in found.table().splitlines()) <= 80
    assert str(found) == found.table()
    for name in found.losses:
        assert sum(line.startswith(f"{name} ") for line in found.table().splitlines()) == 2


def test_a_table_of_many_classes_with_long_names_stays_readable():
    names = [f"{place} [a very long name of a class] 상어" for place in range(50)]
    many = distribution_of(LogitCounts(1, 50), {OWN: Focal()}, levels=(3,), class_names=names, run="r")
    assert max(cell_len(line) for line in many.table().splitlines()) <= 80
    assert "and 10 more classes" in many.table()


def test_the_files_hold_what_was_found(found, tmp_path):
    folder = write_files(found, tmp_path / "deep" / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["cdf.csv", "cdf.png", "losses.json"]
    assert json.loads((folder / "losses.json").read_text()) == found.as_dict()
    rows = list(csv.DictReader((folder / "cdf.csv").read_text().splitlines()))
    assert len(rows) == 2 * 5 * len(FRACTIONS)
    mine = [row for row in rows if (row["side"], row["loss"]) == ("background", "gamma 1")]
    values = np.array([float(row["cumulative_loss"]) for row in mine])
    assert values == pytest.approx(found.curves["gamma 1"]["background"].loss, abs=1e-8)
    assert [mine[0]["fraction"], mine[-1]["fraction"]] == ["0", "1"]
    with Image.open(folder / "cdf.png") as picture:
        assert picture.size[0] > 2 * picture.size[1] > 800


def test_the_figure_names_the_run_its_axes_and_every_loss(found):
    figure = cdf_figure(found)
    assert figure.get_suptitle().startswith("tiny, val: ")
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_title() for axes in figure.axes)
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["gamma 0", "gamma 0.5", "gamma 1", "gamma 2", "own: Focal(alpha=0.25, gamma=2.0)"]
    for axes, side in zip(figure.axes, ("positives", "background"), strict=False):
        assert len(axes.lines) == 5
        assert (axes.lines[0].get_ydata() == found.curves["gamma 0"][side].loss).all()


def test_a_run_of_any_name_can_be_drawn(scenes, tmp_path):
    table = read_data(scenes, "test")
    run = make_run(tmp_path / "상어 $x^{", table)
    write_files(loss_distribution(run, table, gammas=(0,), device="cpu"), tmp_path / "out")
    assert (tmp_path / "out" / "cdf.png").stat().st_size > 10_000


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_tables_and_writes_nothing_unless_asked(run, scenes, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["losses", str(run), str(scenes), "--device", "cpu"]) == 0
    assert "gamma 0.5" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_one_json_object_and_writes_files(run, scenes, tmp_path, capsys):
    words = ["--split", "test", "--gammas", "0", "3", "--json", "--out", str(tmp_path / "out")]
    assert main(["losses", str(run), str(scenes), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["losses"]) == ["gamma 0", "gamma 3", OWN]
    assert told["pictures"] == 2
    assert json.loads((tmp_path / "out" / "losses.json").read_text()) == told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "exam"], "exam"),
        (["--gammas", "-1"], "gamma -1: give 0"),
        (["--batch-size", "0"], "batch size 0"),
    ],
)
def test_misuse_of_the_command_is_one_message_and_exit_code_2(words, said, run, scenes, capsys):
    assert main(["losses", str(run), str(scenes), *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_no_such_run_is_misuse_and_leaves_no_empty_folder(scenes, tmp_path, capsys):
    assert main(["losses", "/nonexistent", str(scenes), "--out", str(tmp_path / "out")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_there_stays_when_the_work_fails(scenes, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main(["losses", "/nonexistent", str(scenes), "--out", str(tmp_path / "out")]) == 2
    assert (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_work(run, scenes, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    words = ["--split", "test", "--out", str(tmp_path / "file" / "out")]
    monkeypatch.setattr("foveal.analysis.loss_distribution.loss_distribution", lambda *a, **k: 1 // 0)
    assert main(["losses", str(run), str(scenes), *words]) == 2
    assert "cannot be made a folder" in capsys.readouterr().err


def test_a_trained_run_is_measured_from_python_too(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 4, "val": 2}, size=64, seed=3)
    config = TINY.with_changes({"train.steps": 1, "train.batch_size": 2, "train.tensorboard": False})
    trained = foveal.train(data, out=tmp_path / "run", config=config, device="cpu")
    found = foveal.loss_distribution(trained, data, device="cpu")
    assert isinstance(found, foveal.LossDistribution)
    assert found.pictures == 2
    # Nothing is learnt yet: every class has a probability near .01, and cross entropy is nearly all background's.
    assert found.overall["gamma 0"]["background"].of_all.loss > 0.5
