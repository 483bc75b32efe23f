"""Tiny scenes, a folder of runs and a plan, for all tests of studies that train."""

import pytest
from tiny_study import in_folder, tiny

from studies.command import Plan
from studies.scales import Data
from studies.table1b_gamma.run import STUDY as TABLE_1B


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    counts = {"train": 16, "val": 4, "test": 4}
    made = Data("tiny", tmp_path_factory.mktemp("scenes") / "tiny", {"counts": counts, "size": 64, "seed": 1})
    made.prepare()
    return made


@pytest.fixture
def plan(tmp_path, shared_runs, data) -> Plan:
    return Plan(in_folder(TABLE_1B, tmp_path / "study"), tiny(), data, shared_runs, seeds=2)
