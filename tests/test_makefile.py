"""What `make` would do on a fresh clone and after: each target sets up what it needs, and nothing twice."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    return tmp_path


def would_do(clone: Path, *targets: str) -> str:
    # `make test JOBS=3` hands its own words on to whatever it starts.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "JOBS"}
    command = ["make", "-n", *targets]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=True).stdout


def set_up(clone: Path, *targets: str) -> None:
    """Leaves the stamps that these targets leave, in their order, and installs nothing."""
    for line in would_do(clone, *targets).splitlines():
        if line.startswith("touch "):
            stamp = clone / line.removeprefix("touch ")
            stamp.parent.mkdir(exist_ok=True)
            stamp.touch()


@pytest.mark.parametrize("target", ["demo", "setup"])
def test_what_a_newcomer_runs_installs_the_package_alone(clone, target):
    lines = would_do(clone, target).splitlines()
    installed = [line for line in lines if "--editable" in line]
    assert len(installed) == 1
    assert installed[0].endswith("--constraint constraints.txt --editable .")


@pytest.mark.parametrize("target", ["test", "lint", "bench"])
def test_tests_and_measurements_add_what_they_need(clone, target):
    installed = [line for line in would_do(clone, target).splitlines() if "--editable" in line]
    assert [line.split("--editable ")[1] for line in installed] == [".", "'.[dev]'"]


@pytest.mark.parametrize(("first", "then"), [("test", "demo"), ("demo", "demo"), ("test", "test"), ("bench", "setup")])
def test_what_is_installed_is_not_installed_again(clone, first, then):
    set_up(clone, first)
    assert "pip install" not in would_do(clone, then)


def test_tests_after_the_demo_add_only_what_the_demo_had_no_need_of(clone):
    set_up(clone, "demo")
    told = would_do(clone, "test")
    assert "-m venv" not in told
    assert told.count("pip install") == 1
    assert "'.[dev]'" in told


@pytest.mark.parametrize("edited", ["constraints.txt", "csrc/loss.c", "setup.py"])
def test_other_versions_and_edited_kernels_are_installed_again(clone, edited):
    set_up(clone, "test")
    later = (clone / ".venv" / ".ready").stat().st_mtime + 10
    os.utime(clone / edited, (later, later))
    assert would_do(clone, "demo").count("--editable") == 1
    assert would_do(clone, "test").count("--editable") == 2


def test_tests_run_on_every_core_that_this_process_may_use(clone):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert f"-m pytest -n {cores}" in would_do(clone, "test").splitlines()[-1]
    assert "-m pytest -n 3" in would_do(clone, "test", "JOBS=3").splitlines()[-1]


def test_without_a_number_of_ones_own_cores_every_core_is_taken(clone, monkeypatch):
    """macOS does not say which cores a process may use."""
    (clone / "sitecustomize.py").write_text(
        "import os\nif hasattr(os, 'sched_getaffinity'): del os.sched_getaffinity\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(clone))
    assert f"-m pytest -n {os.cpu_count()} " in would_do(clone, "test").splitlines()[-1]


def test_the_table_of_benchmarks_has_every_one_that_make_bench_runs():
    [line] = [line for line in would_do(ROOT, "bench").splitlines() if line.startswith("for name in ")]
    names = line.removeprefix("for name in ").split(";")[0].split()
    document = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "loss" in names
    assert [name for name in names if f"| `python -m benchmarks.{name}` |" not in document] == []
