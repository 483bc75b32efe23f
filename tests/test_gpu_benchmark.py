"""The GPU's benchmark runs, says so where it cannot, and its CSV has a row for everything that it measures."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

from benchmarks import common, gpu
from benchmarks.gpu_step import NOT_INSTALLED

PATH = common.RESULTS / "gpu.csv"


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_every_row_runs_at_a_tiny_size_and_is_a_row_of_the_csv(tmp_path, monkeypatch, capsys):
    pytest.importorskip("triton", reason="Triton is Linux's; CUDA builds of torch bring it along")
    if torch.cuda.is_available():
        pytest.skip("the tiny run is one of Triton's interpreter, which must be chosen before Triton is imported")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu", "--unmeasured"])
    assert gpu.main() == 0
    with (tmp_path / "gpu.csv").open() as made, PATH.open() as kept:
        rows = [[(row["part"], row["case"], row["path"]) for row in csv.DictReader(file)] for file in (made, kept)]
    assert len(rows[0]) > 20
    # After a change of the rows: python -m benchmarks.gpu, or with --unmeasured where there is no card.
    assert rows[0] == rows[1]


def test_what_no_card_has_measured_says_so():
    with PATH.open() as file:
        for row in csv.DictReader(file):
            measured = row["median_ms"] not in (gpu.UNMEASURED, NOT_INSTALLED)
            assert measured == bool(row.get("runs"))
