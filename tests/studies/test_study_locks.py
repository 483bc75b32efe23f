"""Several studies at a time: a run is trained by one process, lines are not lost, scenes are written once."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_study import in_folder, quietly, tiny

from foveal.engine.progress import Silent
from foveal.errors import Interrupted
from studies import command
from studies.command import finish_all
from studies.locks import alone, if_free
from studies.results import read_results, write_results
from studies.runs import finish, read_outcome
from studies.scales import Data
from studies.table1b_gamma.run import STUDY as TABLE_1B

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from pathlib import Path
from studies.locks import alone

with alone(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""
RUNNER = """
import json, sys
from pathlib import Path
import torch
from tiny_study import in_folder, quietly
from studies import runs
from studies.command import Plan
from studies.scales import Data
from studies.study import Scale
from studies.table1b_gamma.run import STUDY

torch.set_num_threads(1)
folder, data, base = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
train, trained = runs.train, []
runs.train = lambda data, out, **named: (trained.append(out.name), train(data, out, **named))[1]
study = in_folder(STUDY, folder / "study")
scale = Scale("small", base, "test", minutes=3.0, because="a guess")
plan = Plan(study, scale, Data("tiny", data), folder / "runs", seeds=2)
found = quietly(plan, json.loads(sys.argv[4]))
aps = {row: {seed: outcome.ap for seed, outcome in seeds.items()} for row, seeds in found.items()}
print(json.dumps({"trained": trained, "APs": aps}))
"""


def process(code: str, *arguments: str) -> subprocess.Popen:
    paths = [str(ROOT), str(ROOT / "src"), str(ROOT / "tests" / "studies"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_one_holds_a_lock_and_gives_it_back(tmp_path):
    with if_free(tmp_path / "run") as first, if_free(tmp_path / "run") as second, if_free(tmp_path / "other") as other:
        assert (first, second, other) == (True, False, True)
    with if_free(tmp_path / "run") as again:
        assert again
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyError), if_free(tmp_path / "run"):
        raise KeyError
    with if_free(tmp_path / "run") as again:
        assert again


def test_a_process_that_is_killed_holds_nothing(tmp_path):
    holder = process(HOLDER, str(tmp_path / "run"))
    assert holder.stdout.readline() == "held\n"
    with if_free(tmp_path / "run") as free:
        assert not free
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with if_free(tmp_path / "run") as free:
        assert free


def test_one_after_the_other_counts_to_the_end(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count(_):
        with alone(counter):
            seen = int(counter.read_text())
            threading.Event().wait(0.002)
            counter.write_text(str(seen + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(24)))
    assert counter.read_text() == "24"


def test_lines_that_are_written_at_once_are_all_there(tmp_path):
    file, rows = tmp_path / "result.csv", [f"row {number}" for number in range(24)]
    line = {"seed": 0, "scale": "small", "data": "scenes"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: write_results(file, [{"row": row, **line}], rows), rows))
    assert [line["row"] for line in read_results(file)] == rows


def test_scenes_that_two_want_at_once_are_drawn_once(tmp_path, monkeypatch):
    from foveal.data import scenes

    drawn, draw = [], scenes.draw_scene
    monkeypatch.setattr(scenes, "draw_scene", lambda *about: (drawn.append(about[:2]), draw(*about))[1])
    both = Data("tiny", tmp_path / "scenes", {"counts": {"train": 6, "test": 2}, "size": 64})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: both.prepare(), range(2)))
    assert len(drawn) == len(set(drawn)) == 8
    assert len(list((tmp_path / "scenes" / "images").iterdir())) == 8


class Heard(Silent):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def fresh(plan, tmp_path):
    """Two runs, gamma 0 and gamma 2 with seed 0, in a folder of their own."""
    return dataclasses.replace(plan, runs=tmp_path / "runs", seeds=1)


def test_a_held_run_is_left_until_all_others_are_done_and_then_read(fresh, monkeypatch):
    names, heard, done, pauses = ["gamma 0", "gamma 2"], Heard(), [], []
    held = fresh.work(["gamma 0"])[0]
    lock = if_free(held.folder)
    assert lock.__enter__()

    def the_other_ends():
        assert [run.row for run in done] == ["gamma 2"]
        pauses.append(1)
        if len(pauses) == 2:
            finish(held.config, fresh.scale, fresh.data, held.folder, "cpu", Silent())
            monkeypatch.setattr("studies.runs.train", lambda *a, **k: pytest.fail("trained again"))
            lock.__exit__(None, None, None)

    monkeypatch.setattr(command, "_pause", the_other_ends)
    finish_all(fresh, names, "cpu", heard, done.append)
    assert [run.row for run in done] == names[::-1]
    assert done[1].outcome == read_outcome(held.folder)
    assert [said for said in heard.said if "waiting" in said] == [
        "another process is training 1 of these runs; waiting for it"
    ]


def test_a_run_that_another_process_left_unfinished_is_taken_up(fresh, monkeypatch):
    [held], done = fresh.work(["gamma 0"]), []
    lock = if_free(held.folder)
    assert lock.__enter__()
    monkeypatch.setattr(command, "_pause", lambda: lock.__exit__(None, None, None))
    finish_all(fresh, ["gamma 0"], "cpu", Silent(), done.append)
    assert [run.outcome.steps for run in done] == [2]


def test_a_finished_run_is_read_though_somebody_holds_it(fresh, monkeypatch):
    first = quietly(fresh, ["gamma 2"])
    monkeypatch.setattr(command, "_pause", lambda: pytest.fail("waited"))
    done = []
    with if_free(fresh.work(["gamma 2"])[0].folder):
        finish_all(fresh, ["gamma 2"], "cpu", Silent(), done.append)
    assert done[0].outcome == first["gamma 2"][0]


def test_ctrl_c_while_waiting_stops_with_a_word(fresh, monkeypatch):
    def pressed(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("studies.command.time.sleep", pressed)
    with if_free(fresh.work(["gamma 2"])[0].folder), pytest.raises(Interrupted, match="the same command goes on"):
        finish_all(fresh, ["gamma 2"], "cpu", Silent())


@pytest.mark.slow
def test_two_processes_share_the_runs_and_train_each_once(tmp_path, data):
    in_folder(TABLE_1B, tmp_path / "study")
    rows = ["gamma 0", "gamma 1", "gamma 2"]
    base = tiny().base
    both = [process(RUNNER, str(tmp_path), str(data.folder), json.dumps(base), json.dumps(rows)) for _ in range(2)]
    found = [json.loads(one.communicate(timeout=120)[0].splitlines()[-1]) for one in both]
    trained = [key for one in found for key in one["trained"]]
    assert len(trained) == len(set(trained)) == 6
    assert found[0]["APs"] == found[1]["APs"]
    lines = read_results(tmp_path / "study" / "result.csv")
    assert [(line["row"], line["seed"]) for line in lines] == [(row, seed) for row in rows for seed in "01"]
