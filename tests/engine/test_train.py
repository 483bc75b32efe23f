"""Training as a user meets it: whole runs of a tiny net on tiny scenes."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from foveal.config import Config, preset
from foveal.data.detect import read_data
from foveal.data.scenes import write_scenes
from foveal.engine.budget import Plan
from foveal.engine.checkpoint import Progress, read_run, run_weights
from foveal.engine.preparation import settled_config
from foveal.engine.progress import Silent
from foveal.engine.train import train
from foveal.errors import CheckpointError, DataError, Interrupted, TrainingError, UsageError
from foveal.model.weights import read_tensors

TINY = {
    "model": {
        "weights": "none",
        "batch_norm": "evaluating",
        "levels": "3-5",
        "pyramid_channels": 8,
        "head_channels": 8,
        "head_depth": 1,
    },
    "anchors": {"sizes": [16, 28, 48]},
    "data": {"size": 64, "max_size": 64, "workers": 0},
    "train": {
        "steps": 6,
        "batch_size": 4,
        "lr_batch": 4,
        "evaluate_every": 3,
        "log_every": 1,
        "warmup": 0,
        "tensorboard": False,
    },
}


class Notes(Silent):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, step: int, total: int, numbers: dict[str, float]) -> None:
        self.steps.append(step)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, {"train": 16, "val": 4, "test": 4}, size=64, seed=1)
    return folder


def tiny(**changes) -> Config:
    return preset("light").with_changes(TINY).with_changes({name.replace("__", "."): v for name, v in changes.items()})


def run_tiny(data: Path, out: Path, config: Config | None = None, **arguments):
    return train(data, out, config=config or tiny(), device="cpu", reporter=Silent(), **arguments)


def metrics(out: Path) -> list[dict]:
    """The lines of metrics.jsonl without the two entries that depend on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_s", "time_s")} for line in lines]


def test_a_run_leaves_everything_needed_to_use_and_repeat_it(scenes, tmp_path):
    run = run_tiny(scenes, tmp_path / "run")
    left = {path.name for path in run.path.iterdir()}
    assert left >= {
        "config.yaml", "classes.json", "environment.json", "data.json", "metrics.jsonl",
        "checkpoints", "last.safetensors", "best.safetensors", "result.json",
    }  # fmt: skip
    assert read_run(run.path).config == tiny()
    assert run.class_names == tuple("0123456789")
    assert json.loads((run.path / "data.json").read_text())["fingerprint"]
    assert [line["step"] for line in metrics(run.path) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in metrics(run.path) if "AP" in line] == [3, 6]
    # Six steps find nothing, so there may be no threshold to recommend; the key is there all the same.
    assert "threshold" in json.loads((run.path / "result.json").read_text())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(scenes, tmp_path):
    one, two = run_tiny(scenes, tmp_path / "1"), run_tiny(scenes, tmp_path / "2")
    other = run_tiny(scenes, tmp_path / "3", tiny(seed=1))
    assert (one.path / "last.safetensors").read_bytes() == (two.path / "last.safetensors").read_bytes()
    assert metrics(one.path) == metrics(two.path)
    assert (one.path / "last.safetensors").read_bytes() != (other.path / "last.safetensors").read_bytes()


def test_a_second_run_does_not_overwrite_the_first(scenes, tmp_path):
    run_tiny(scenes, tmp_path / "run")
    with pytest.raises(UsageError, match=r"already holds a run at step 6.*--resume"):
        run_tiny(scenes, tmp_path / "run")


def test_resuming_a_finished_run_does_nothing_and_an_absent_one_starts(scenes, tmp_path):
    out = tmp_path / "run"
    run_tiny(scenes, out, resume=True)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    notes = Notes()
    train(scenes, out, config=tiny(), device="cpu", reporter=notes, resume=True)
    assert any("finished" in line for line in notes.lines)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_finished_run_can_be_scored_again_after_its_result_was_lost(scenes, tmp_path):
    run = run_tiny(scenes, tmp_path / "run")
    (run.path / "result.json").unlink()
    assert run_tiny(scenes, run.path, resume=True).threshold == run.threshold


def test_other_settings_on_resume_are_refused_by_name(scenes, tmp_path):
    run_tiny(scenes, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"train\.lr 0\.5 \(was 0\.002\), seed 3 \(was 0\)"):
        run_tiny(scenes, tmp_path / "run", tiny(train__lr=0.5, seed=3), resume=True)


def test_resume_without_settings_takes_those_of_the_run(scenes, tmp_path):
    began = run_tiny(scenes, tmp_path / "run")
    again = train(scenes, tmp_path / "run", device="cpu", reporter=Silent(), resume=True)
    assert again.config == began.config


def test_another_worker_count_on_resume_is_fine(scenes, tmp_path):
    run_tiny(scenes, tmp_path / "run")
    run_tiny(scenes, tmp_path / "run", tiny(data__workers=1), resume=True)


def test_changed_labels_on_resume_are_refused(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 8, "val": 2}, size=64, seed=1)
    run_tiny(data, tmp_path / "run")
    labels = json.loads((data / "train.json").read_text())
    labels["annotations"].pop()
    (data / "train.json").write_text(json.dumps(labels))
    with pytest.raises(CheckpointError, match="'train' changed"):
        run_tiny(data, tmp_path / "run", resume=True)


def test_stopping_saves_and_resuming_ends_with_the_same_bits(scenes, tmp_path):
    whole = run_tiny(scenes, tmp_path / "whole")

    class StopsAfterTwo(Silent):
        def step(self, step: int, total: int, numbers: dict[str, float]) -> None:
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"saved at step 2 of 6.*--resume"):
        train(scenes, tmp_path / "broken", config=tiny(), device="cpu", reporter=StopsAfterTwo())
    broken = run_tiny(scenes, tmp_path / "broken", resume=True)
    assert (broken.path / "last.safetensors").read_bytes() == (whole.path / "last.safetensors").read_bytes()
    assert metrics(broken.path) == metrics(whole.path)


def test_pictures_without_any_object_train(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 8}, size=64, seed=1)
    labels = json.loads((data / "train.json").read_text())
    labels["annotations"] = []
    (data / "train.json").write_text(json.dumps(labels))
    run = run_tiny(data, tmp_path / "run")
    lines = [line for line in metrics(run.path) if "loss" in line]
    assert all(math.isfinite(line["loss"]) and line["positives"] == 0 and line["loss_box"] == 0 for line in lines)


def test_a_set_without_validation_split_trains_and_its_last_weights_are_the_best(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 8}, size=64, seed=1)
    run = run_tiny(data, tmp_path / "run")
    assert run.threshold is None
    for name, tensor in run_weights(run.path, "last").items():
        assert torch.equal(tensor, run_weights(run.path, "best")[name])


def test_fine_tuning_keeps_the_class_head_for_the_same_classes_and_replaces_it_for_others(scenes, tmp_path):
    run = run_tiny(scenes, tmp_path / "run")
    notes = Notes()
    config = tiny(train__steps=1, train__lr=1e-12)
    again = train(scenes, tmp_path / "same", config=config, device="cpu", reporter=notes, weights=run.path)
    assert not any("replaced" in line for line in notes.lines)
    old, new = run_weights(run.path), run_weights(again.path, "last")
    torch.testing.assert_close(new["class_head.predict.weight"], old["class_head.predict.weight"], atol=1e-6, rtol=0)

    data = tmp_path / "letters"
    write_scenes(data, {"train": 8}, size=64, seed=1)
    labels = json.loads((data / "train.json").read_text())
    labels["categories"] = [{**c, "name": f"digit {c['name']}"} for c in labels["categories"]]
    (data / "train.json").write_text(json.dumps(labels))
    other = train(data, tmp_path / "other", config=config, device="cpu", reporter=notes, weights=run.path)
    assert any("replaced" in line and "class_head.predict" in line for line in notes.lines)
    new = run_weights(other.path, "last")
    assert not torch.allclose(new["class_head.predict.weight"], old["class_head.predict.weight"], atol=1e-4)
    torch.testing.assert_close(new["box_head.predict.weight"], old["box_head.predict.weight"], atol=1e-6, rtol=0)


def test_faulty_labels_stop_training_unless_told_to_skip_them(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 8}, size=64, seed=1)
    labels = json.loads((data / "train.json").read_text())
    labels["annotations"][0]["bbox"] = [float("nan"), 0, 5, 5]
    (data / "train.json").write_text(json.dumps(labels))
    with pytest.raises(DataError, match="--skip-bad") as caught:
        run_tiny(data, tmp_path / "run")
    assert len(caught.value.problems) == 1
    notes = Notes()
    config = tiny(data__skip_bad=True, train__steps=1)
    train(data, tmp_path / "run", config=config, device="cpu", reporter=notes)
    assert any("skipped 1 faulty label and 0 unreadable pictures" in line for line in notes.lines)


def test_a_validation_split_that_cannot_be_read_stops_training_unless_told_to_skip_it(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 8}, size=64, seed=1)
    (data / "val.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"val\.json"):
        run_tiny(data, tmp_path / "run")
    notes = Notes()
    train(data, tmp_path / "run", config=tiny(data__skip_bad=True, train__steps=1), device="cpu", reporter=notes)
    assert any("no pictures in split 'val'" in line for line in notes.lines)


def test_a_training_split_without_any_class_is_refused(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 2}, size=64, seed=1)
    (data / "train.json").unlink()
    (data / "train.csv").write_text("train-00000.jpg,,,,,\ntrain-00001.jpg,,,,,\n")
    with pytest.raises(UsageError, match="no class: label something first"):
        run_tiny(data, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_with_step_level_term_and_pictures(scenes, tmp_path):
    with pytest.raises(TrainingError) as caught:
        run_tiny(scenes, tmp_path / "run", tiny(train__lr=1e30, train__clip=0.0, train__optimiser="sgd"))
    message = str(caught.value)
    assert "step " in message
    assert "loss on level P" in message or "the gradient" in message
    assert str(scenes / "images") in message
    assert "--train.lr" in message
    (saved,) = (tmp_path / "run").glob("non-finite-step-*.safetensors")
    assert read_tensors(saved)["0.images"].shape == (4, 3, 64, 64)


def test_a_step_too_large_for_memory_is_refused_before_it_starts(scenes, tmp_path, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    with pytest.raises(TrainingError, match=r"4 pictures of 64 x 64 needs about .* GiB.*--train\.accumulate 2"):
        run_tiny(scenes, tmp_path / "run")


class Clock:
    """Stands for the module `time` where a budget is measured: `tick` seconds go by from one look to the next."""

    def __init__(self, tick: float) -> None:
        self.tick, self.now = tick, 0.0

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def test_a_time_budget_fixes_the_steps_once_and_a_resumed_run_keeps_them(scenes, tmp_path, monkeypatch):
    def on_a_machine_whose_steps_take(seconds: float) -> None:
        clock = Clock(seconds)
        for module in ("train", "budget"):
            monkeypatch.setattr(f"foveal.engine.{module}.time", clock)

    config = tiny(train__minutes=0.05, train__evaluate_every=1000, train__steps=2, train__checkpoint_every=1)

    class Stops(Notes):
        def step(self, step: int, total: int, numbers: dict[str, float]) -> None:
            super().step(step, total, numbers)
            self.total = total
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    first, second = Stops(), Stops()
    on_a_machine_whose_steps_take(0.2)
    with pytest.raises(Interrupted):
        train(scenes, tmp_path / "run", config=config, device="cpu", reporter=first)
    # Of 3 s, .2 went before, six timed steps took 1.2 and an evaluation .2; of the other 1.4 s, 3 % are kept back.
    assert first.total == 6
    on_a_machine_whose_steps_take(0.5)
    train(scenes, tmp_path / "run", config=config, device="cpu", reporter=second, resume=True)
    assert second.total == first.total
    assert second.steps == list(range(4, first.total + 1))


def test_fewer_evaluations_of_a_short_budget_outlive_a_stop(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.engine.train.plan_within", lambda *_: Plan(6, 0.1, 2, 9.0))
    config = tiny(train__minutes=1.0, train__evaluate_every=0, train__checkpoint_every=1)

    class Stops(Notes):
        def step(self, step: int, total: int, numbers: dict[str, float]) -> None:
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    notes = Stops()
    with pytest.raises(Interrupted):
        train(scenes, tmp_path / "run", config=config, device="cpu", reporter=notes)
    assert "1 minutes are 6 steps at 0.10 s each, and 2 evaluations at 9.0 s each" in notes.lines
    assert "WARNING: 6 steps teach little; give more time with --minutes" in notes.lines
    run = run_tiny(scenes, tmp_path / "run", config, resume=True)
    assert [line["step"] for line in metrics(run.path) if "AP" in line] == [3, 6]


def test_timing_a_budget_leaves_trained_batch_norm_as_it_was(scenes, tmp_path):
    budget = {"train__evaluate_every": 1000, "model__batch_norm": "trained", "train__lr": 1e-12}
    timed = run_tiny(scenes, tmp_path / "timed", tiny(**budget, train__minutes=0.02))
    steps = json.loads((timed.path / "result.json").read_text())["steps"]
    plain = run_tiny(scenes, tmp_path / "plain", tiny(**budget, train__steps=steps))
    for name, tensor in run_weights(plain.path, "last").items():
        if "running" in name:
            torch.testing.assert_close(run_weights(timed.path, "last")[name], tensor)


def test_fine_tuning_takes_the_network_over_from_the_run(scenes, tmp_path):
    run = run_tiny(scenes, tmp_path / "run")
    notes = Notes()
    config = preset("light").with_changes({"data": TINY["data"], "train": {**TINY["train"], "steps": 1}})
    again = train(scenes, tmp_path / "again", config=config, device="cpu", reporter=notes, weights=run.path)
    assert again.config.model.pyramid_channels == 8
    assert again.config.anchors == run.config.anchors
    assert any("model.pyramid_channels 8" in line for line in notes.lines)
    assert not any("replaced" in line for line in notes.lines)


def test_a_run_whose_checkpoints_are_gone_is_not_overwritten(scenes, tmp_path):
    run = run_tiny(scenes, tmp_path / "run")
    shutil.rmtree(run.path / "checkpoints")
    for resume in (False, True):
        with pytest.raises(UsageError, match="checkpoints are gone"):
            run_tiny(scenes, run.path, resume=resume)


def test_a_missing_picture_is_told_before_the_first_step(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 8}, size=64, seed=1)
    (data / "images" / "train-00003.jpg").unlink()
    with pytest.raises(DataError, match=r"train-00003\.jpg"):
        run_tiny(data, tmp_path / "run")
    notes = Notes()
    config = tiny(data__skip_bad=True, train__steps=1)
    train(data, tmp_path / "run", config=config, device="cpu", reporter=notes)
    assert any("skipped 0 faulty labels and 1 unreadable picture" in line for line in notes.lines)


def test_pictures_that_are_none_and_pictures_cut_off_are_told_and_counted_alike(scenes, tmp_path):
    """In CSV the first is met by the reader, which wants its size, the second where pixels are decoded."""
    data = tmp_path / "data"
    write_scenes(data, {"train": 6}, size=64, seed=1)
    (data / "train.json").unlink()
    pictures = sorted((data / "images").iterdir())
    (data / "train.csv").write_text("".join(f"{picture.name},1,1,20,20,cell\n" for picture in pictures))
    pictures[0].write_bytes(b"hello")
    pictures[1].write_bytes(pictures[1].read_bytes()[:-200])
    with pytest.raises(DataError) as caught:
        run_tiny(data, tmp_path / "run")
    assert [Path(problem.file).name for problem in caught.value.problems] == [pictures[0].name, pictures[1].name]
    notes = Notes()
    train(data, tmp_path / "run", config=tiny(data__skip_bad=True, train__steps=1), device="cpu", reporter=notes)
    assert any("skipped 0 faulty labels and 2 unreadable pictures" in line for line in notes.lines)


def test_a_validation_split_that_is_asked_for_by_name_must_exist(scenes, tmp_path):
    with pytest.raises(UsageError, match="exam"):
        run_tiny(scenes, tmp_path / "run", tiny(data__val_split="exam"))


def test_changed_validation_labels_on_resume_are_refused(scenes, tmp_path):
    data = tmp_path / "data"
    write_scenes(data, {"train": 8, "val": 4}, size=64, seed=1)
    run_tiny(data, tmp_path / "run")
    labels = json.loads((data / "val.json").read_text())
    labels["annotations"].pop()
    (data / "val.json").write_text(json.dumps(labels))
    with pytest.raises(CheckpointError, match="'val' changed"):
        run_tiny(data, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("aps", "best", "stopped"),
    [
        ([None, None, None, None], 4, False),
        ([0.0, 0.0, 0.0], 3, False),
        ([0.1, 0.3, 0.2, 0.25], 2, True),
        ([0.0, 0.1, 0.0], 2, False),
        ([0.2, 0.2, 0.2], 1, True),
    ],
)
def test_the_best_weights_are_those_of_the_highest_ap_or_the_newest_while_nothing_is_found(aps, best, stopped):
    progress = Progress(total=100)
    for step, ap in enumerate(aps, start=1):
        progress.step = step
        progress.note_evaluation(ap, 0.5, patience=2)
    assert (progress.best_step, progress.stopped_early) == (best, stopped)


def test_training_stops_early_when_ap_no_longer_rises(scenes, tmp_path):
    data = tmp_path / "one-class"
    shutil.copytree(scenes, data)
    for split in ("train", "val"):
        labels = json.loads((data / f"{split}.json").read_text())
        labels["categories"] = [{"id": 1, "name": "digit"}]
        labels["annotations"] = [{**a, "category_id": 1} for a in labels["annotations"]]
        (data / f"{split}.json").write_text(json.dumps(labels))
    quick = {"train__optimiser": "adamw", "train__lr": 5e-3, "train__ema": 0.0, "train__evaluate_every": 150}
    learnt = run_tiny(data, tmp_path / "learnt", tiny(**quick, train__steps=150))
    assert json.loads((learnt.path / "result.json").read_text())["AP"] > 0
    notes = Notes()
    config = tiny(train__patience=2, train__evaluate_every=1, train__lr=1e-12, train__steps=50)
    train(data, tmp_path / "run", config=config, device="cpu", reporter=notes, weights=learnt.path)
    assert any("stopped early" in line for line in notes.lines)
    assert notes.steps[-1] < 50


def test_the_average_of_the_weights_is_what_is_saved_for_use(scenes, tmp_path):
    run = run_tiny(scenes, tmp_path / "run", tiny(train__ema=0.9))
    checkpoint = run.path / "checkpoints" / (run.path / "checkpoints" / "last").read_text()
    used, raw = run_weights(run.path, "last"), read_tensors(checkpoint / "model.safetensors")
    averaged = read_tensors(checkpoint / "ema.safetensors")
    name = "class_head.predict.weight"
    assert torch.equal(used[name], averaged[name])
    assert not torch.equal(used[name], raw[name])


# -- whole processes --

PROGRAM = """
import os, signal, sys, torch
torch.set_num_threads(1)
from foveal.config import load_config
from foveal.engine.progress import Silent
from foveal.engine.train import train
data, out, config, die_at = sys.argv[1:5]
if die_at != "never":
    left, rename = int(die_at), os.replace
    def deadly(*a, **k):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*a, **k)
    os.replace = deadly
settings = {"data.workers": int(sys.argv[5])} if len(sys.argv) > 5 else {}
train(data, out, config=load_config(config), settings=settings, device="cpu", reporter=Silent(), resume=True)
"""


def start(data: Path, out: Path, config: Path, die_at: str = "never", workers: int = 0, processes: int = 1):
    program = out.parent / "program.py"
    program.write_text(PROGRAM)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, str(program), str(data), str(out), str(config), die_at, str(workers)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


def wait_for_lines(process: subprocess.Popen, file: Path, count: int) -> None:
    """Returns once `count` lines were added to the file after it was last cut back."""
    least = None
    while process.poll() is None:
        lines = file.read_bytes().count(b"\n") if file.exists() else 0
        least = lines if least is None else min(least, lines)
        if lines >= least + count:
            return
        time.sleep(0.005)


@pytest.mark.slow
def test_a_run_killed_at_twelve_random_moments_ends_with_the_same_bits(scenes, tmp_path):
    settings = tiny(train__steps=240, train__evaluate_every=80, train__checkpoint_every=4, train__ema=0.9)
    config = tmp_path / "config.yaml"
    config.write_text(settings.to_yaml())
    run_tiny(scenes, tmp_path / "whole", settings)
    moments = random.Random(7)
    for kill in range(12):
        workers = kill % 3
        if kill % 4 == 3:  # inside a write: the n-th rename is never reached
            process = start(scenes, tmp_path / "broken", config, die_at=str(moments.randint(1, 25)), workers=workers)
        else:
            process = start(scenes, tmp_path / "broken", config, workers=workers)
            wait_for_lines(process, tmp_path / "broken/metrics.jsonl", moments.randint(1, 10))
            time.sleep(moments.uniform(0, 0.05))
            os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, f"kill {kill} met a run that was no longer running: {said}"
    run_tiny(scenes, tmp_path / "broken", settings, resume=True)
    assert (tmp_path / "broken/last.safetensors").read_bytes() == (tmp_path / "whole/last.safetensors").read_bytes()
    assert (tmp_path / "broken/best.safetensors").read_bytes() == (tmp_path / "whole/best.safetensors").read_bytes()
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("normaliser", ["batch", "image"])
def test_one_process_two_processes_and_micro_batches_learn_the_same(scenes, tmp_path, normaliser):
    common = {
        "loss__normaliser": normaliser,
        "train__steps": 10,
        "train__batch_size": 8,
        "train__optimiser": "sgd",
        "train__lr": 0.01,
        "train__backbone_lr": 1.0,
        "train__evaluate_every": 10,
    }
    plain = tmp_path / "plain.yaml"
    plain.write_text(tiny(**common).to_yaml())
    run_tiny(scenes, tmp_path / "one", tiny(**common))
    finish(start(scenes, tmp_path / "two", plain, processes=2))
    run_tiny(scenes, tmp_path / "accumulated", tiny(**common, train__accumulate=2))
    one = run_weights(tmp_path / "one", "last")
    moved = max(float((one[n] - t).abs().max()) for n, t in _fresh_weights(plain).items() if "predict" in n)
    assert moved > 1e-3
    for other in ("two", "accumulated"):
        for name, tensor in run_weights(tmp_path / other, "last").items():
            torch.testing.assert_close(tensor, one[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def _fresh_weights(config: Path) -> dict[str, torch.Tensor]:
    from foveal.config import load_config
    from foveal.model.retinanet import build_model

    settings = load_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return build_model(settings, 10).state_dict()


def test_a_backbone_from_nothing_that_is_held_back_is_told(scenes, tmp_path):
    notes, full = Notes(), Notes()
    config = tiny(train__steps=1, train__evaluate_every=1)
    train(scenes, tmp_path / "run", config=config, device="cpu", reporter=notes)
    assert any("the backbone starts from nothing, yet learns at 0.2 of the rate" in line for line in notes.lines)
    config = config.with_changes({"train.backbone_lr": 1.0})
    train(scenes, tmp_path / "full", config=config, device="cpu", reporter=full)
    assert not any("from nothing" in line for line in full.lines)


def test_given_alphas_that_are_fitted_anew_are_told_and_a_runs_own_are_not(scenes: Path, tmp_path: Path) -> None:
    table, notes = read_data(scenes, "train"), Notes()
    balanced = tiny().with_changes({"loss.balance": "inverse_frequency"})
    fitted = settled_config(balanced, tmp_path, False, table, None, notes)
    assert settled_config(fitted, tmp_path, False, table, None, notes) == fitted
    assert notes.lines == []
    given = balanced.with_changes({"loss.class_alpha": (0.5,) * 10})
    assert settled_config(given, tmp_path, False, table, None, notes) == fitted
    [said] = notes.lines
    assert "loss.class_alpha 0.5 0.5 0.5" in said
    assert " ".join(f"{alpha:g}" for alpha in fitted.loss.class_alpha) in said
