"""The driver of `make bench-peers` with two real processes that stand in for Foveal and torchvision."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys

import pytest

from benchmarks.peers.__main__ import Pool, compare
from benchmarks.peers.driver import Worker, WorkerError, contest, prepared
from benchmarks.peers.worker import Job, Side, serve
from benchmarks.peers.works import AS_RUN, FRESH, GROUPS, QUICK, REUSED, WORKS, Work

FAST, SLOW = "tests.benchmarks.stand_in", "tests.benchmarks.slow_stand_in"


@pytest.fixture
def worker():
    with Worker("ours", sys.executable, FAST) as started:
        yield started


def test_a_prepared_job_answers_and_is_timed(worker):
    assert prepared([worker], "nms", {"seconds": 0.02}, 20) == [{"answer": {"kept": [1, 2, 3]}, "note": "asleep"}]
    seconds = worker.ask("round", 20, runs=2)["seconds"]
    assert len(seconds) == 2
    assert min(seconds) >= 0.02


def test_what_a_library_prints_is_no_answer(worker):
    prepared([worker], "nms", {"seconds": 0}, 20)
    assert set(worker.ask("round", 20, runs=3)) == {"seconds"}


def test_a_failing_job_is_an_error_that_says_why_and_the_worker_lives(worker):
    with pytest.raises(WorkerError, match="ours: ValueError: no such shape"):
        prepared([worker], "fail", {}, 20)
    assert prepared([worker], "nms", {"seconds": 0}, 20)


def test_a_dead_worker_is_an_error_with_its_exit_code(worker):
    with pytest.raises(WorkerError, match="ended with code 3"):
        prepared([worker], "die", {}, 20)


def test_a_worker_that_takes_too_long_is_ended(worker):
    prepared([worker], "nms", {"seconds": 30}, 20)
    with pytest.raises(WorkerError, match=r"ours: no answer to 'round' within 0\.2 s"):
        worker.ask("round", 0.2, runs=1)
    assert worker.process.poll() is not None


def test_closing_ends_a_process_that_works(worker):
    worker.close()
    assert worker.process.poll() is not None


@pytest.mark.parametrize(("reused", "expected"), [(False, None), (True, "0")])
def test_reused_memory_is_the_processes_environment(reused, expected, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    with Worker("ours", sys.executable, FAST, reused=reused) as started:
        [said] = prepared([started], "environment", {}, 20)
    assert said["answer"]["mmap_max"] == expected
    assert os.environ["MALLOC_MMAP_MAX_"] == "7"


def test_the_ratio_is_how_many_times_faster_the_first_is(worker):
    with Worker("theirs", sys.executable, SLOW) as other:
        prepared([worker, other], "nms", {"seconds": 0.03}, 20)
        result = contest(worker, other, rounds=3, limit_s=5)
    ours, theirs = result.timings
    assert ours.runs == theirs.runs == result.ratio.runs == 3
    assert 0.03 <= ours.min_s <= ours.median_s < theirs.median_s
    # Sleeping 3 times as long; what a busy machine adds makes it less.
    assert 1 < result.ratio.median_s < 3.2


def test_three_rounds_are_run_however_short_the_limit_and_no_more():
    asked = []

    class Counting:
        def ask(self, do, timeout_s, **arguments):
            asked.append((self, arguments["runs"]))
            return {"seconds": [0.5] * arguments["runs"]}

    first, second = Counting(), Counting()
    result = contest(first, second, rounds=9, limit_s=0)
    assert result.ratio.runs == 3
    # One round each that does not count, then the side that begins changes.
    assert [one is first for one, _ in asked] == [True, False, True, False, False, True, True, False]
    assert {runs for _, runs in asked} == {1}


def test_short_work_is_repeated_within_a_round():
    class Quick:
        runs = 0

        def ask(self, do, timeout_s, **arguments):
            self.runs = arguments["runs"]
            return {"seconds": [0.001] * arguments["runs"]}

    first, second = Quick(), Quick()
    contest(first, second, rounds=3, limit_s=5)
    assert first.runs == second.runs == 20


@pytest.fixture
def chosen():
    return argparse.Namespace(rounds=3, limit=1.0)


def test_a_row_has_agreement_times_ratio_and_both_versions(chosen, capsys):
    with Pool(sys.executable, sys.executable, 0, sides=(FAST, SLOW)) as pool:
        row = compare(Work("nms", "nms", "a nap", {"seconds": 0.02}), REUSED, pool, chosen)
    assert row["agreement"] == "all 3 kept boxes"
    assert row["ours_median_ms"] >= 20
    assert row["peer_median_ms"] > row["ours_median_ms"]
    assert row["times_faster_min"] <= row["times_faster"] <= row["times_faster_max"]
    assert row["versions"] == "stand-in 1; slow stand-in 2"
    assert "nms a nap reused" in capsys.readouterr().out


def test_a_side_that_fails_leaves_a_row_without_times_and_the_next_work_is_done(chosen):
    with Pool(sys.executable, sys.executable, 0, sides=(FAST, SLOW)) as pool:
        failed = compare(Work("nms", "fail", "a fault"), REUSED, pool, chosen)
        done = compare(Work("nms", "nms", "a nap", {"seconds": 0.0}), REUSED, pool, chosen)
    assert failed["agreement"] == "WorkerError: slow_stand_in: ValueError: no such shape"
    assert "times_faster" not in failed
    assert done["times_faster"] > 0


@pytest.mark.parametrize(("memory", "kept"), [(FRESH, [None, None]), (REUSED, ["0", "0"]), (AS_RUN, ["0", None])])
def test_who_keeps_freed_memory(memory, kept):
    with Pool(sys.executable, sys.executable, 0, sides=(FAST, SLOW)) as pool:
        told = prepared(pool.both(memory), "environment", {}, 60)
    assert [side["answer"]["mmap_max"] for side in told] == kept


@pytest.mark.parametrize(("memory", "asked"), [(REUSED, "False"), (AS_RUN, "True")])
def test_as_run_the_sides_are_asked_as_they_come(memory, asked, chosen, monkeypatch):
    from benchmarks.peers import __main__ as command

    monkeypatch.setitem(command.RULES, "as it comes", command.RULES["nms"])
    with Pool(sys.executable, sys.executable, 0, sides=(FAST, SLOW)) as pool:
        row = compare(Work("nms", "as it comes", "a nap"), memory, pool, chosen)
    assert row["peer_note"] == asked


def test_two_sides_that_disagree_are_not_timed(chosen, monkeypatch):
    from benchmarks.peers import __main__ as command

    def refuse(ours, theirs):
        raise command.DisagreementError("3 kept boxes differ")

    monkeypatch.setitem(command.RULES, "nms", refuse)
    with Pool(sys.executable, sys.executable, 0, sides=(FAST, SLOW)) as pool:
        row = compare(Work("nms", "nms", "a nap", {"seconds": 0.0}), REUSED, pool, chosen)
    assert row["agreement"] == "DisagreementError: 3 kept boxes differ"
    assert "times_faster" not in row


def test_requests_are_answered_in_order_until_there_are_none():
    side = Side({"nms": lambda settings: Job(lambda: None, lambda: settings)}, lambda: "none")
    requests = [{"do": "prepare", "job": "nms", "settings": {"a": 1}}, {"do": "round", "runs": 2}, {"do": "nothing"}]
    answers = io.StringIO()
    serve(side, io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers)
    first, second, third = map(json.loads, answers.getvalue().splitlines())
    assert first == {"answer": {"a": 1}, "note": ""}
    assert len(second["seconds"]) == 2
    assert third["error"].startswith("AttributeError")


def test_every_group_has_works_and_only_the_long_training_is_left_out_by_default():
    assert {work.group for work in WORKS} == set(GROUPS)
    assert set(GROUPS) - set(QUICK) == {"training_608"}
    assert len({(work.group, work.case) for work in WORKS}) == len(WORKS)
