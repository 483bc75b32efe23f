"""Labels from a run: what becomes a label, what is ignored, what is left alone; whole on the disk or not there."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from foveal.analysis import bootstrapping
from foveal.analysis.bootstrapping import bootstrap, class_thresholds, train_on
from foveal.cli import main
from foveal.config import load_config
from foveal.data.detect import read_data
from foveal.data.scenes import write_scenes
from foveal.engine.checkpoint import read_run, read_tensors, save_tensors
from foveal.engine.evaluate import evaluate
from foveal.engine.predict import load
from foveal.engine.train import train
from foveal.errors import DataError, FovealError, UsageError

TINY = {
    "model": {
        "backbone": "resnet18", "weights": "none", "batch_norm": "trained", "levels": "3-5", "pyramid_channels": 16,
        "head_channels": 16, "head_depth": 1,
    },
    "anchors.sizes": [16, 28, 48],
    "data": {"size": 64, "max_size": 64, "workers": 0, "horizontal_flip": 0.0},
    "train": {"steps": 3, "batch_size": 4, "tensorboard": False, "backbone_lr": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, {"train": 8, "val": 4, "test": 3}, size=64, seed=3)
    return folder


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("more")
    write_scenes(folder / "set", {"train": 5}, size=64, seed=9)
    return folder / "set" / "images"


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    return train(scenes, tmp_path_factory.mktemp("runs") / "tiny", settings=TINY).path


def scores(run: Path, pictures: Path) -> torch.Tensor:
    """Of everything that the run finds there, best first: thresholds are put between them."""
    found = load(run)(sorted(pictures.iterdir()), min_score=0.001)
    return torch.cat([one.scores for one in found]).sort(descending=True).values


def widest_gap(ranked: torch.Tensor, first: int, last: int) -> int:
    """The number of detections, within these bounds, after which scores fall the most."""
    return first + int((ranked[first - 1 : last - 1] - ranked[first:last]).argmax())


def with_threshold(monkeypatch, threshold: float) -> None:
    monkeypatch.setattr(bootstrapping, "class_thresholds", lambda info, *_: dict.fromkeys(info.class_names, threshold))


def test_sure_detections_become_labels_and_doubtful_ones_regions(run, scenes, unlabelled, tmp_path, monkeypatch):
    ranked = scores(run, unlabelled)
    labels, regions = widest_gap(ranked, 5, 20), widest_gap(ranked, 25, 50)
    sure = float(ranked[labels - 1 : labels + 1].mean())
    share = float(ranked[regions - 1 : regions + 1].mean()) / sure
    with_threshold(monkeypatch, sure)
    done = bootstrap(run, [unlabelled], tmp_path / "more", doubtful=share)
    assert (done.labelled_pictures, done.added_pictures, done.unreadable) == (8, 5, 0)
    table = read_data(tmp_path / "more", split="train")
    assert not table.problems
    old = read_data(scenes, split="train")
    assert len(table) == 13
    assert torch.equal(table.boxes[: old.num_boxes], old.boxes)
    assert torch.equal(table.labels[: old.num_boxes], old.labels)
    added = table.crowd[old.num_boxes :]
    assert (int((~added).sum()), int(added.sum())) == (done.added_boxes, done.doubtful_boxes)
    assert done.added_boxes == labels
    assert done.doubtful_boxes == regions - labels
    assert json.loads((tmp_path / "more" / "bootstrap.json").read_text())["added_boxes"] == labels
    assert not list(tmp_path.glob(".*"))


def test_other_splits_and_classes_are_taken_over(run, scenes, unlabelled, tmp_path):
    bootstrap(run, [unlabelled], tmp_path / "more")
    for split in ("val", "test"):
        old, new = read_data(scenes, split=split), read_data(tmp_path / "more", split=split)
        assert torch.equal(old.boxes, new.boxes)
        assert torch.equal(old.labels, new.labels)
        assert old.class_names == new.class_names
        assert old.category_ids == new.category_ids
        assert new.path(0).read_bytes() == old.path(0).read_bytes()


def test_classes_in_another_order_are_the_same_classes(run, scenes, unlabelled, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    for split in ("train", "val", "test"):
        labels = json.loads((data / f"{split}.json").read_text())
        last = len(labels["categories"]) + 1
        labels["categories"] = [{**one, "id": last - one["id"]} for one in reversed(labels["categories"])]
        for one in labels["annotations"]:
            one["category_id"] = last - one["category_id"]
        (data / f"{split}.json").write_text(json.dumps(labels))
    counted: list[tuple[int, int]] = []
    old = bootstrap(run, [unlabelled], tmp_path / "old", scenes, progress=lambda *done: counted.append(done))
    assert counted[0] == (4, 4)  # the validation split, whose thresholds come first
    assert counted[-1] == (5, 0)
    new = bootstrap(run, [unlabelled], tmp_path / "new", data)
    assert (new.added_boxes, new.doubtful_boxes) == (old.added_boxes, old.doubtful_boxes)
    assert new.thresholds == old.thresholds
    named = []
    for folder in ("old", "new"):
        table = read_data(tmp_path / folder, split="train")
        named.append([table.class_names[label] for label in table.labels.tolist()])
    assert named[0] == named[1]


def test_labelled_and_broken_pictures_are_passed_over(run, scenes, unlabelled, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    done = bootstrap(run, [unlabelled, scenes / "images", broken], tmp_path / "more")
    assert (done.added_pictures, done.already_labelled, done.unreadable) == (5, 15, 1)


def test_a_picture_in_which_nothing_is_found_is_background_and_it_is_said(run, scenes, tmp_path, monkeypatch, caplog):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    with_threshold(monkeypatch, 1.0)
    done = bootstrap(run, [tmp_path / "black.png"], tmp_path / "more", doubtful=1.0)
    assert (done.added_pictures, done.pictures_without_boxes, done.added_boxes) == (1, 1, 0)
    assert len(read_data(tmp_path / "more", split="train").objects(8).boxes) == 0
    assert "nothing was found in any of the pictures" in caplog.text


@pytest.mark.parametrize("split", ["val", "no such split"])
def test_a_run_whose_outputs_are_no_numbers_labels_nothing(split, run, scenes, unlabelled, tmp_path):
    """Whether it is found out on the validation split or, without one, on the new pictures."""
    broken = shutil.copytree(run, tmp_path / "broken")
    config = load_config(broken / "config.yaml").with_changes({"data.val_split": split})
    (broken / "config.yaml").write_text(config.to_yaml())
    weights = read_tensors(broken / "best.safetensors")
    weights["class_head.predict.bias"][0] = torch.nan
    save_tensors(broken / "best.safetensors", weights)
    with pytest.raises(FovealError, match="broken: the run's outputs are not finite"):
        bootstrap(broken, [unlabelled], tmp_path / "more")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_thresholds_are_the_best_f1_of_each_class_on_validation(run, scenes, monkeypatch):
    info = read_run(run)
    found = class_thresholds(info, load(run), scenes)
    assert set(found) == set(info.class_names)
    evaluated = evaluate(info, scenes, "val").per_class
    for name, threshold in found.items():
        best = evaluated[name].recommended_threshold
        assert threshold == (best if best is not None else info.threshold or info.config.inference.show_threshold)


def test_what_does_not_fit_is_refused_and_leaves_nothing(run, scenes, unlabelled, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(UsageError, match="new folder"):
        bootstrap(run, [unlabelled], tmp_path / "full")
    with pytest.raises(UsageError, match="share above 0"):
        bootstrap(run, [unlabelled], tmp_path / "more", doubtful=0)
    with pytest.raises(UsageError, match="no such file"):
        bootstrap(run, [unlabelled], tmp_path / "more", tmp_path / "nowhere")
    other = tmp_path / "other"
    write_scenes(other, {"train": 2}, size=64, seed=1)
    labels = json.loads((other / "train.json").read_text())
    labels["categories"] = [{**one, "name": f"digit {one['name']}"} for one in labels["categories"]]
    (other / "train.json").write_text(json.dumps(labels))
    with pytest.raises(UsageError, match="classes are not the run's"):
        bootstrap(run, [unlabelled], tmp_path / "more", other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "other"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [(["nope"], "nope: there is no such file"), (["a*.png", "empty"], "a*.png: no file matches")],
)
def test_inputs_without_a_picture_are_misuse_before_anything_is_read(inputs, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["bootstrap", "no-run", *inputs, "--into", "more"]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_nothing_to_add_is_misuse_and_the_corrected_command_works(run, scenes, unlabelled, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    words = ["bootstrap", str(run), "--into", str(tmp_path / "more")]
    assert main([*words, str(scenes / "images"), str(tmp_path / "broken.png")]) == 2
    assert "15 labelled already, 1 unreadable" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.png"]
    assert main([*words, str(unlabelled), str(tmp_path / "nope"), "--device", "cpu"]) == 0
    assert "5 added with" in capsys.readouterr().out


def test_the_command_trains_on_what_it_wrote(run, unlabelled, tmp_path, capsys):
    words = [
        "bootstrap",
        str(run),
        str(unlabelled),
        "--into",
        str(tmp_path / "more"),
        "--retrain",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    assert "5 added with" in capsys.readouterr().out
    assert read_run(tmp_path / "run").class_names == read_run(run).class_names
    assert main(words) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(words[:-2]) == 2
    assert "new folder" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["file", "file/run", "a run"])
def test_a_run_that_cannot_be_made_is_told_before_the_work(where, run, unlabelled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bootstrapping, "load", lambda *_: pytest.fail("began"))
    (tmp_path / "file").write_text("mine")
    new = str(run) if where == "a run" else str(tmp_path / where)
    assert main(["bootstrap", str(run), str(unlabelled), "--into", str(tmp_path / "more"), "--retrain", new]) == 2
    assert f"--retrain {new}: " in capsys.readouterr().err
    assert main(["bootstrap", str(run), str(unlabelled), "--into", str(tmp_path / "file" / "more")]) == 2
    assert "new folder with --into" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_that_is_printed_makes_the_run_that_retrain_makes(run, unlabelled, tmp_path, capsys):
    other = Path(shutil.copytree(run, tmp_path / "my run"))
    config = load_config(other / "config.yaml").with_changes(
        {
            "anchors.auto": True,
            "loss.balance": "inverse_frequency",
            "data.format": "coco",
            "data.oversample": "gone.txt",
        }
    )
    (other / "config.yaml").write_text(config.to_yaml())
    assert main(["bootstrap", str(other), str(unlabelled), "--into", str(tmp_path / "more")]) == 0
    program, *words = shlex.split(capsys.readouterr().out.split("next: ")[1])
    assert program == "foveal"
    assert main([str(tmp_path / "again") if word == "RUN2" else word for word in words]) == 0
    trained = train_on(other, tmp_path / "more", tmp_path / "retrained")
    assert read_run(tmp_path / "again").config == trained.config


def test_faulty_labels_are_refused_not_dropped(run, scenes, unlabelled, tmp_path):
    faulty = tmp_path / "faulty"
    shutil.copytree(scenes, faulty)
    labels = json.loads((faulty / "train.json").read_text())
    labels["annotations"][0]["bbox"][2] = -5
    (faulty / "train.json").write_text(json.dumps(labels))
    with pytest.raises(DataError, match="would corrupt training"):
        bootstrap(run, [unlabelled], tmp_path / "more", faulty)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faulty"]


def test_what_belonged_to_the_old_labels_is_not_asked_of_the_new_ones(run, unlabelled, tmp_path):
    bootstrap(run, [unlabelled], tmp_path / "more")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = load_config(other / "config.yaml").with_changes({"data.format": "csv", "data.oversample": "gone.txt"})
    (other / "config.yaml").write_text(config.to_yaml())
    trained = train_on(other, tmp_path / "more", tmp_path / "again")
    assert (trained.config.data.format, trained.config.data.oversample) == ("auto", "")
