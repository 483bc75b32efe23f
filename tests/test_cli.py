"""The command line as a newcomer meets it: help, exit codes, messages, and the whole way on a tiny set."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foveal.cli import main
from foveal.commands import COMMANDS
from foveal.config import load_config
from foveal.data.scenes import write_scenes
from foveal.errors import FovealError

TINY_FLAGS = [
    "--model.weights=none", "--model.batch-norm=evaluating", "--model.levels=3-5", "--model.pyramid-channels=8",
    "--model.head-channels=8", "--model.head-depth=1", "--anchors.sizes", "16", "28", "48", "--data.size=64",
    "--data.max-size=64", "--data.workers=0", "--train.steps=2", "--train.batch-size=4", "--train.no-tensorboard",
    "--device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, {"train": 8, "val": 4, "test": 4}, size=64, seed=3)
    return folder


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", str(scenes), "--out", str(folder), *TINY_FLAGS]) == 0
    return folder


def test_help_answers_without_importing_torch():
    program = (
        "import sys; from foveal.cli import main; code = main(['--help']); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "inspect", "train", "evaluate", "predict"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_speaks_of_no_python_values(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"]) == 0
    assert "None" not in capsys.readouterr().out


def test_help_of_a_command_shows_the_presets_values(capsys):
    assert main(["train", "--help", "--preset", "paper"]) == 0
    said = capsys.readouterr().out
    assert "--train.steps" in said
    assert "(default: 90000)" in said


def test_help_of_train_names_the_short_forms_and_nothing_that_cannot_be_set(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--minutes for short" in said
    assert "--skip-bad for short" in said
    assert "--version" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean train?"),
        (["train", "DATA"], "--out"),
        (["train", "DATA", "--out", "x", "--train.step", "5"], "--train.steps"),
        (["train", "DATA", "--out", "x", "--train.steps", "-5"], "foveal: train.steps: input should be greater than 0"),
        (["train", "DATA", "--out", "x", "--model.levels", "8"], "foveal: model.levels: write FIRST-LAST"),
        (["train", "DATA", "--out", "x", "--model.backbone", "resnet51"], "foveal: model.backbone: there is no such"),
        (["train", "DATA", "--out", "x", "--anchors.sizes", "8"], "1 entry for the 5 levels 3-7"),
        (["train", "DATA", "--out", "x", "--preset", "heavy"], "paper, light"),
        (["train", "/nonexistent", "--out", "x"], "/nonexistent"),
        (["inspect", "/nonexistent"], "/nonexistent"),
        (["evaluate", "/nonexistent", "/nonexistent"], "no such run folder"),
        (["evaluate"], "give RUN and DATA, or --results and --annotations"),
        (["evaluate", "--results", "a.json"], "--results and --annotations go together"),
        (["predict", "/nonexistent", "a.jpg", "--out", "x"], "no such run folder"),
        (["predict", "/nonexistent", "a.jpg", "--out", "x", "--device", "abacus"], "device abacus: cannot be used"),
        (["evaluate", "/nonexistent", "/nonexistent", "--device", "abacus"], "device abacus: cannot be used"),
        (["import", "/nonexistent.pth", "--out", "x"], "no such weight file"),
    ],
)
def test_misuse_is_one_message_and_exit_code_2(words, said, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in " ".join((captured.err + captured.out).split())
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "DATA", "--out", "x", "--stesp", "20"], "there is no option --stesp; did you mean --train.steps?"),
        (["train", "DATA", "--ouut", "x"], "there is no option --ouut; did you mean --out?"),
        (["train", "DATA", "--out", "x", "--minuts=5", "--sede", "1"], "--minuts; did you mean --minutes?"),
        (["train", "DATA", "--out", "x", "--minuts=5", "--sede", "1"], "--sede; did you mean --seed?"),
        (["evaluate", "RUN", "DATA", "--spilt", "test"], "there is no option --spilt; did you mean --split?"),
        (["train", "DATA", "--out", "x", "--train.batch_size", "-5"], "train.batch_size: input should be greater"),
        (["train", "DATA", "--out", "x", "--preset", "ligth"], "did you mean light?"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_one_that_exists(words, said, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in " ".join((captured.err + captured.out).split())


def test_a_folder_without_data_is_misuse(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_split_that_does_not_exist_names_those_that_do(run, scenes, capsys):
    assert main(["evaluate", str(run), str(scenes), "--split", "exam"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("exam", "train", "val", "test"))


def test_no_arguments_show_the_help_and_say_that_it_was_no_call(capsys):
    assert main([]) == 2
    assert "usage: foveal COMMAND" in capsys.readouterr().out


def test_inspect_answers_0_without_problems_and_1_with(scenes, tmp_path, capsys):
    assert main(["inspect", str(scenes), "--json", "--data.size=64"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"images", "boxes", "classes", "coverage", "imbalance", "problems"}
    assert found["problems"] == []
    data = tmp_path / "data"
    write_scenes(data, {"train": 4}, size=64, seed=3)
    (data / "images" / "train-00001.jpg").write_bytes(b"")
    assert main(["inspect", str(data), "--json", "--data.size=64"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert set(problem) >= {"file", "where", "field", "value", "problem", "fix"}
    assert "train-00001.jpg" in problem["file"]


def test_evaluate_prints_one_json_object_with_the_named_keys(run, scenes, capsys):
    assert main(["evaluate", str(run), str(scenes), "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    named = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}
    assert set(found) >= named | {"per_class", "threshold"}


def test_of_two_formats_in_a_folder_evaluate_reads_the_named_one(run, scenes, tmp_path, capsys):
    shutil.copytree(scenes, tmp_path / "both")
    (tmp_path / "both" / "test.csv").write_text("test-00000.jpg,1,1,20,20,3\n")
    assert main(["evaluate", str(run), str(tmp_path / "both"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    assert main(["evaluate", str(run), str(tmp_path / "both"), "--json", "--data.format", "csv"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1


def test_evaluate_skips_unreadable_pictures_only_when_asked(run, scenes, tmp_path, capsys):
    shutil.copytree(scenes, tmp_path / "cut")
    picture = tmp_path / "cut" / "images" / "test-00001.jpg"
    picture.write_bytes(picture.read_bytes()[:200])
    assert main(["evaluate", str(run), str(tmp_path / "cut")]) == 1
    assert "test-00001.jpg" in capsys.readouterr().err
    assert main(["evaluate", str(run), str(tmp_path / "cut"), "--json", "--skip-bad"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 3
    assert any("1 unreadable picture" in note for note in found["notes"])


def test_a_weight_file_that_is_missing_is_misuse_and_torchvisions_are_told_where_to_get(scenes, tmp_path, capsys):
    words = ["train", str(scenes), "--out", str(tmp_path / "run"), "--data.size=64"]
    assert main([*words, "--model.weights", "mobilenet_v2-b0353104.pth"]) == 2
    assert "fetch it from https://download.pytorch.org/models/mobilenet_v2-b0353104.pth" in capsys.readouterr().err
    assert main([*words, "--model.weights", "nowhere.pth"]) == 2
    assert "nowhere.pth: there is no such weight file" in capsys.readouterr().err


def test_predict_passes_over_a_bad_picture_and_answers_1(run, scenes, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    inputs = [str(scenes / "images" / "test-00000.jpg"), str(bad), str(scenes / "images" / "test-00001.jpg")]
    out = tmp_path / "found"
    assert main(["predict", str(run), *inputs, "--out", str(out), "--min-score", "0.01", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "bad.jpg" in captured.out + captured.err
    (table,) = out.glob("*.jsonl")
    assert "test-00001.jpg" in table.read_text()


def test_a_broken_video_is_told_in_one_message_and_no_drawing_is_claimed(run, tmp_path):
    video = tmp_path / "bad.mp4"
    video.write_bytes(b"no video\n")
    program = "import sys; from foveal.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["predict", str(run), str(video), "--out", str(tmp_path / "found"), "--draw"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert "drawn" not in done.stdout
    assert done.stderr.splitlines() == [
        f"WARNING: {video}: no frame of the video can be decoded; convert it to .mp4 or replace it"
    ]


def test_a_finished_run_resumes_to_nothing_and_a_second_start_is_refused(run, scenes, capsys):
    assert main(["train", str(scenes), "--out", str(run), *TINY_FLAGS]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", str(scenes), "--out", str(run), *TINY_FLAGS, "--resume"]) == 0


def test_resume_alone_takes_the_settings_of_the_run(run, scenes, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    words = ["train", str(scenes), "--out", str(out), "--device=cpu", "--resume"]
    assert main(words) == 0
    assert main([*words, "--train.batch-size", "4", "--data.workers", "1"]) == 0
    capsys.readouterr()
    assert main([*words, "--train.batch-size", "2", "--data.size=320"]) == 1
    said = capsys.readouterr().err
    assert "train.batch_size 2 (was 4)" in said
    assert "data.size 320 (was 64)" in said
    assert "leave them out" in said
    (tmp_path / "mine.yaml").write_text("train: {steps: 7}")
    assert main([*words, "--config", str(tmp_path / "mine.yaml")]) == 1
    assert "train.steps 7 (was 2)" in capsys.readouterr().err
    assert main([*words, "--preset", "paper"]) == 1
    assert "model.backbone 'resnet50' (was 'mobilenet_v2')" in capsys.readouterr().err
    new = tmp_path / "new"
    assert main(["train", str(scenes), "--out", str(new), *TINY_FLAGS, "--resume"]) == 0
    assert load_config(new / "config.yaml") == load_config(run / "config.yaml")


def test_a_file_of_settings_lies_between_preset_and_flags(scenes, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {steps: 1, lr: 0.5}\nloss: {gamma: 1.5}\n")
    out = tmp_path / "run"
    flags = [flag for flag in TINY_FLAGS if "steps" not in flag]
    assert main(["train", str(scenes), "--out", str(out), "--config", str(file), *flags, "--train.lr", "0.25"]) == 0
    from foveal.engine.checkpoint import read_run

    config = read_run(out).config
    assert (config.train.steps, config.train.lr, config.loss.gamma, config.model.backbone) == (
        1,
        0.25,
        1.5,
        "mobilenet_v2",
    )


def test_short_names_stand_for_settings(scenes, tmp_path):
    out = tmp_path / "run"
    assert main(["train", str(scenes), "--out", str(out), *TINY_FLAGS, "--skip-bad", "--minutes=0.02"]) == 0
    from foveal.engine.checkpoint import read_run

    config = read_run(out).config
    assert (config.data.skip_bad, config.train.minutes) == (True, 0.02)


def test_a_failure_shows_a_traceback_only_when_asked(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("FOVEAL_TRACEBACK", raising=False)
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    monkeypatch.setenv("FOVEAL_TRACEBACK", "1")
    with pytest.raises(FovealError):
        main(["inspect", str(tmp_path / "nothing")])


def test_an_output_that_cannot_be_written_is_one_message_and_exit_code_1(scenes, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", str(scenes), "--out", str(tmp_path / "file" / "run"), *TINY_FLAGS]) == 1
    said = capsys.readouterr().err
    assert "Not a directory" in said
    assert "Traceback" not in said


def test_a_bug_is_told_as_one_and_answers_1(monkeypatch, scenes, capsys):
    monkeypatch.delenv("FOVEAL_TRACEBACK", raising=False)
    monkeypatch.setattr("foveal.engine.inspect.inspect", lambda *a, **k: 1 // 0)
    assert main(["inspect", str(scenes)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_demo_has_minutes_of_its_own(monkeypatch, tmp_path, capsys):
    asked = {}
    monkeypatch.setattr("foveal.engine.demo.demo", lambda out, minutes, seed: asked.update(minutes=minutes) or "done")
    assert main(["demo", "--out", str(tmp_path / "demo"), "--minutes", "1"]) == 0
    assert asked == {"minutes": 1.0}


def test_a_demo_of_other_minutes_is_refused_in_the_demos_own_words(scenes, run, tmp_path, capsys):
    out = tmp_path / "demo"
    shutil.copytree(run, out)
    assert main(["demo", "--out", str(out), "--minutes", "4.5"]) == 2
    said = capsys.readouterr().err
    assert f"{out}: holds a demo that began with --minutes 0 --seed 0" in said
    assert "--weights" not in said
    assert not (out / "data").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--loss.name", "focal_star", "--loss.gamma", "4", "--loss.beta", "0"],
        ["--loss.name", "hinge", "--loss.margin", "0.9", "--loss.box", "giou"],
        ["--loss.name", "varifocal", "--loss.alpha", "0.75", "--loss.box", "l1"],
        ["--loss.name", "cross_entropy", "--loss.mining", "ohem", "--loss.normaliser", "image"],
        ["--loss.name", "cross_entropy", "--loss.mining", "ssd"],
    ],
    ids=lambda flags: " ".join(flags),
)
def test_any_loss_is_a_matter_of_flags(flags, scenes, tmp_path):
    assert main(["train", str(scenes), "--out", str(tmp_path / "run"), *TINY_FLAGS, *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss_classification"] > 0 for line in lines if "loss_classification" in line)


def test_balanced_alphas_are_fitted_once_and_stored_in_the_run(scenes, tmp_path):
    flags = [*TINY_FLAGS, "--loss.balance", "inverse_frequency"]
    assert main(["train", str(scenes), "--out", str(tmp_path / "run"), *flags]) == 0
    stored = load_config(tmp_path / "run" / "config.yaml").loss.class_alpha
    assert len(stored) == 10
    assert len(set(stored)) > 1
    assert main(["train", str(scenes), "--out", str(tmp_path / "run"), *flags, "--resume"]) == 0


def test_alphas_for_another_number_of_classes_are_refused(scenes, tmp_path, capsys):
    words = ["train", str(scenes), "--out", str(tmp_path / "run"), *TINY_FLAGS, "--loss.class-alpha", "0.2", "0.5"]
    assert main(words) == 2
    assert "loss.class_alpha has 2 numbers for 10 classes" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
