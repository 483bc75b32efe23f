"""Free memory is what the machine, the control groups around a process and its neighbours leave it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import foveal.free_memory
from foveal.free_memory import free_bytes

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine with 8 GiB free and no control groups yet; the folder is where they are described."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    monkeypatch.setattr(foveal.free_memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(foveal.free_memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return tmp_path


def group(machine: Path, path: str, limit: int | str, used: int, of_files: int = 0, old: bool = False) -> None:
    """A control group as Linux describes it, in version 2, or 1 where it is `old`."""
    folder = machine / "groups" / ("memory" if old else "") / path
    folder.mkdir(parents=True, exist_ok=True)
    names = ("limit_in_bytes", "usage_in_bytes", "total_inactive_file") if old else ("max", "current", "inactive_file")
    (folder / f"memory.{names[0]}").write_text(f"{limit}\n")
    (folder / f"memory.{names[1]}").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {of_files}\n")


def test_without_control_groups_it_is_the_machines(machine):
    assert free_bytes() == 8 * GIB


@pytest.mark.parametrize("own", ["0::/\n", "0::/machine/not-shown-in-here\n"])
def test_a_containers_limit_is_kept(machine, own):
    (machine / "own").write_text(own)
    group(machine, ".", 4 * GIB, 1 * GIB)
    assert free_bytes() == 3 * GIB


def test_groups_of_the_first_version_are_known(machine):
    (machine / "own").write_text("5:cpu,cpuacct:/\n4:hugetlb,memory:/jobs/mine\n0::/\n")
    group(machine, "jobs/mine", 2 * GIB, GIB // 2, old=True)
    assert free_bytes() == 3 * GIB // 2


def test_the_limit_of_a_group_around_it_counts_too(machine):
    (machine / "own").write_text("0::/jobs/mine\n")
    group(machine, "jobs/mine", "max", 1 * GIB)
    group(machine, "jobs", 5 * GIB, 4 * GIB)
    assert free_bytes() == 1 * GIB


def test_files_that_linux_merely_remembers_do_not_fill_a_group(machine):
    (machine / "own").write_text("0::/\n")
    group(machine, ".", 4 * GIB, 4 * GIB, of_files=3 * GIB)
    assert free_bytes() == 3 * GIB


def test_a_group_that_is_full_has_nothing_and_one_without_a_limit_says_nothing(machine):
    (machine / "own").write_text("0::/\n")
    group(machine, ".", 4 * GIB, 5 * GIB)
    assert free_bytes() == 0
    group(machine, ".", "max", 5 * GIB)
    assert free_bytes() == 8 * GIB


def test_processes_of_one_machine_share_it(machine, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes() == 2 * GIB


def test_a_gpu_has_memory_of_its_own(machine, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (5 * GIB, 16 * GIB))
    assert free_bytes("cuda:1") == 5 * GIB
    assert asked == [torch.device("cuda:1")]
