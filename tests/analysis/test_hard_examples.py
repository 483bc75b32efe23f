"""Mining end to end on a tiny run: the lists, their order, their pixels; the files; training on with the hardest."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from foveal.analysis.hard_examples import REGIONS, Mined, mine, mine_table
from foveal.analysis.mined_files import as_text, summary, write_mined
from foveal.cli import main
from foveal.config import load_config
from foveal.data.detect import read_data
from foveal.data.scenes import write_scenes
from foveal.engine.checkpoint import read_tensors, save_tensors
from foveal.engine.predict import Detector, load
from foveal.engine.train import train
from foveal.engine.usable import oversampled
from foveal.errors import DataError, FovealError, UsageError

TINY = {
    "model": {
        "backbone": "resnet18", "weights": "none", "batch_norm": "trained", "levels": "3-5", "pyramid_channels": 16,
        "head_channels": 16, "head_depth": 1,
    },
    "anchors.sizes": [16, 28, 48],
    "data": {"size": 64, "max_size": 64, "workers": 0, "horizontal_flip": 0.0},
    "train": {"steps": 3, "batch_size": 4, "tensorboard": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, {"train": 10, "val": 4}, size=64, seed=3)
    return folder


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    return train(scenes, tmp_path_factory.mktemp("runs") / "tiny", settings=TINY).path


@pytest.fixture(scope="module")
def mined(run, scenes) -> Mined:
    return mine(run, scenes)


def test_every_picture_and_object_is_ranked_the_hardest_first(mined: Mined, scenes: Path):
    table = read_data(scenes, split="train")
    assert sorted(one.row for one in mined.pictures) == list(range(10))
    assert [one.loss for one in mined.pictures] == sorted((one.loss for one in mined.pictures), reverse=True)
    assert sum(one.objects for one in mined.pictures) == len(mined.objects) == table.num_boxes
    losses = [math.inf if math.isnan(one.loss) else one.loss for one in mined.objects]
    assert losses == sorted(losses, reverse=True)
    assert all((one.anchors == 0) == math.isnan(one.loss) for one in mined.objects)
    suspicions = [one.suspect.suspicion for one in mined.labels]
    assert suspicions == sorted(suspicions, reverse=True)
    assert 0 < len(mined.background) <= 10 * REGIONS


def test_boxes_are_in_the_pixels_of_the_original_picture(run: Path, tmp_path: Path):
    write_scenes(tmp_path, {"train": 4}, size=96, seed=5)  # the run shrinks them to 64
    table = read_data(tmp_path, split="train")
    found = mine(run, tmp_path)
    expected = sorted(tuple(box) for box in table.boxes.tolist())
    for one, other in zip(sorted(o.box for o in found.objects), expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    labelled = {one.suspect.box for one in found.labels if one.suspect.object >= 0}
    assert labelled <= {one.box for one in found.objects}


def test_batches_do_not_matter(run: Path, scenes: Path, mined: Mined):
    table = read_data(scenes, split="train")
    alone = mine_table(load(run), table, batch_size=1)
    losses = {one.row: one.loss for one in mined.pictures}
    assert {one.row: one.loss for one in alone.pictures} == pytest.approx(losses, rel=1e-4)


def test_a_perfect_and_an_inverted_opinion(run: Path, scenes: Path):
    """A network that says nothing at all doubts every label, and never misses one."""

    class Silent(torch.nn.Module):
        def __init__(self, model: torch.nn.Module):
            super().__init__()
            self.model = model

        def forward(self, images):
            said = self.model(images)
            return type(said)(tuple(torch.full_like(x, -20.0) for x in said.logits), said.deltas)

    detector = load(run)
    silent = Detector(Silent(detector.model), detector.config, detector.class_names)
    found = mine_table(silent, read_data(scenes, split="train"))
    assert {one.suspect.kind for one in found.labels} == {"label without object"}
    assert {one.suspect.suspicion for one in found.labels} == {1.0}
    assert len(found.labels) == len(found.objects)
    there = {one.label for one in found.objects}
    assert found.never_found == tuple(name for name in detector.class_names if name in there)
    assert summary(found)["never_found"] == list(found.never_found)
    assert f"WARNING: never found in this split: {', '.join(found.never_found)}" in as_text(found)


def test_tiles_bear_the_rank_that_the_table_has(mined: Mined, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    written = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, at, text, **k: written.append(text) or draw(self, at, text, **k)
    )
    write_mined(mined, tmp_path, sheet=3)
    ranked = list(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))[:3]
    captions = [text for text in written if text.startswith("#")]
    assert [caption.split()[:2] for caption in captions] == [
        [f"#{row['rank']}", f"{float(row['suspicion']):.2f}"] for row in ranked
    ]


def test_data_that_does_not_fit_is_refused(run: Path, scenes: Path, tmp_path: Path):
    (tmp_path / "train.csv").write_text(f"{scenes / 'images'}/x.png,1,1,9,9,cat\n")
    with pytest.raises(UsageError):
        mine(run, tmp_path)
    with pytest.raises(UsageError, match="test"):
        mine(run, scenes, split="test")


@pytest.mark.parametrize("head", ["class_head", "box_head"])
def test_a_run_whose_outputs_are_no_numbers_doubts_nothing(head: str, run: Path, scenes: Path, tmp_path: Path):
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    weights = read_tensors(broken / "best.safetensors")
    weights[f"{head}.predict.bias"][0] = torch.nan
    save_tensors(broken / "best.safetensors", weights)
    with pytest.raises(FovealError, match=r"train-0000\d\.jpg: the run's outputs are not finite"):
        mine(broken, scenes)


def reversed_classes(scenes: Path, folder: Path) -> Path:
    """The same data, its classes listed the other way round."""
    shutil.copytree(scenes, folder)
    for split in ("train", "val"):
        labels = json.loads((folder / f"{split}.json").read_text())
        last = len(labels["categories"]) + 1
        labels["categories"] = [{**one, "id": last - one["id"]} for one in reversed(labels["categories"])]
        for one in labels["annotations"]:
            one["category_id"] = last - one["category_id"]
        (folder / f"{split}.json").write_text(json.dumps(labels))
    return folder


def test_classes_in_another_order_are_the_same_classes(run: Path, scenes: Path, mined: Mined, tmp_path: Path, capsys):
    data = reversed_classes(scenes, tmp_path / "data")
    assert read_data(data, split="train").class_names == tuple("9876543210")
    found = mine(run, data)
    assert found.pictures == mined.pictures
    # As text: NaN, of a missing label's loss, is not equal to itself.
    assert str((found.objects, found.labels)) == str((mined.objects, mined.labels))
    again = tmp_path / "again"
    words = ["mine", str(run), str(data), "--out", str(tmp_path / "mined"), "--retrain", str(again), "--steps", "1"]
    assert main(words) == 0
    assert "class_head.predict" not in capsys.readouterr().err
    assert json.loads((again / "classes.json").read_text())[0]["name"] == "0"
    resumed = train(data, again, config=load_config(again / "config.yaml"), resume=True)
    assert resumed.class_names == tuple("0123456789")


def test_the_files_hold_what_was_found(mined: Mined, tmp_path: Path):
    folder = write_mined(mined, tmp_path / "out", top=3, sheet=4)
    rows = {file.stem: list(csv.DictReader(file.read_text().splitlines())) for file in folder.glob("*.csv")}
    assert {name: len(found) for name, found in rows.items()} == {
        "labels": len(mined.labels),
        "objects": len(mined.objects),
        "background": len(mined.background),
        "pictures": 10,
    }
    assert [row["rank"] for row in rows["pictures"]] == [str(rank) for rank in range(1, 11)]
    assert rows["pictures"][0]["picture"] == mined.pictures[0].picture
    assert (folder / "hardest.txt").read_text().splitlines() == [one.picture for one in mined.pictures[:3]]
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 320
    assert not list(folder.glob("*.part"))
    told = summary(mined)
    assert told["pictures"] == 10
    assert sum(told["doubtful"].values()) == sum(one.suspect.suspicion >= 0.5 for one in mined.labels)
    assert mined.pictures[0].picture in as_text(mined)


def test_a_sheet_of_an_earlier_look_does_not_stay(mined: Mined, tmp_path: Path):
    folder = write_mined(mined, tmp_path, sheet=4)
    assert (folder / "sheet.png").exists()
    write_mined(replace(mined, labels=[]), tmp_path, sheet=4)
    assert not (folder / "sheet.png").exists()


@pytest.mark.parametrize("flag", ["--top", "--sheet", "--steps"])
def test_numbers_below_0_are_misuse_before_anything_is_read(flag: str, tmp_path: Path, capsys):
    assert main(["mine", "no-run", "no-data", "--out", str(tmp_path / "out"), flag, "-3"]) == 2
    assert f"{flag} -3: give 0 or more" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out", "{file}"], "{file}: cannot be made a folder"),
        (["--retrain", "{file}"], "--retrain {file}: "),
        (["--retrain", "{file}/run"], "--retrain {file}/run: "),
        (["--retrain", "{run}"], "--retrain {run}: "),
        (["--retrain", "{new}", "--split", "val"], "--split train"),
        (["--retrain", "{new}", "--top", "0"], "--top 0"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    flags: list[str], said: str, run: Path, scenes: Path, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("foveal.analysis.hard_examples.load", lambda *_: pytest.fail("began"))
    (tmp_path / "file").write_text("mine")
    places = {"file": tmp_path / "file", "run": run, "new": tmp_path / "new"}
    assert main(["mine", str(run), str(scenes), *(flag.format(**places) for flag in flags)]) == 2
    assert said.format(**places) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_prints_one_json_object_and_trains_on(run: Path, scenes: Path, tmp_path: Path, capsys):
    again = tmp_path / "again"
    words = ["mine", str(run), str(scenes), "--out", str(tmp_path / "out"), "--json", "--top", "2", "--device", "cpu"]
    assert main([*words, "--retrain", str(again), "--steps", "2"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["pictures"] == 10
    assert "2 pictures are seen 3 times as often" in said.err + said.out
    config = load_config(again / "config.yaml")
    assert config.train.steps == 2
    assert config.data.oversample.endswith("hardest.txt")
    assert json.loads((again / "data.json").read_text())["images"] == 14


def test_oversampled_pictures_stand_at_the_end_with_their_objects(scenes: Path, tmp_path: Path):
    table = read_data(scenes, split="train")
    listed = tmp_path / "hardest.txt"
    listed.write_text(f"{table.relative_path(7)}\n\n{table.relative_path(2)}\n")
    data = load_config(_settings(tmp_path, listed)).data
    said: list[str] = []
    found = oversampled(table, data, said.append)
    assert [found.relative_path(row) for row in range(10, 14)] == [table.relative_path(row) for row in (2, 7, 2, 7)]
    assert torch.equal(found.objects(11).boxes, table.objects(7).boxes)
    assert said
    listed.write_text("nowhere.png\n")
    with pytest.raises(UsageError, match=r"no picture 'nowhere\.png'"):
        oversampled(table, data, said.append)
    listed.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        oversampled(table, data, said.append)


def _settings(folder: Path, listed: Path) -> Path:
    file = folder / "settings.yaml"
    file.write_text(f"data:\n  oversample: {listed}\n")
    return file


def test_faulty_labels_are_refused_since_places_would_shift(run: Path, scenes: Path, tmp_path: Path):
    faulty = tmp_path / "faulty"
    shutil.copytree(scenes, faulty)
    labels = json.loads((faulty / "train.json").read_text())
    labels["annotations"][0]["bbox"][2] = -5
    (faulty / "train.json").write_text(json.dumps(labels))
    with pytest.raises(DataError, match="would corrupt training"):
        mine(run, faulty)
