"""Freed memory that stays: seen in the page faults of a process that takes and frees the same block."""

import json
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from foveal.engine.allocator import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
elif "command" in sys.argv:
    from foveal.cli import main
    sys.stdout, shown = sys.stderr, sys.stdout
    assert main(["evaluate", "--results", sys.argv[2], "--annotations", sys.argv[3]]) == 0
    sys.stdout = shown
blocks = lambda: torch.ones(16 * 2**20)  # 64 MiB
for _ in range(20):
    blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments: str) -> int:
    told = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has this switch")
def test_a_freed_block_is_taken_again_without_page_faults():
    # A page of 4 KiB makes 16384 faults a block; with huge pages 32, and the kept block none in either case.
    assert page_faults() >= 5 * 32
    assert page_faults("keep") < 32


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has this switch")
def test_every_command_keeps_what_it_freed(tmp_path):
    annotations, results = tmp_path / "gt.json", tmp_path / "found.json"
    box = {"image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 8]}
    annotations.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 20}],
                "categories": [{"id": 1, "name": "cell"}],
                "annotations": [{"id": 1, "area": 64, "iscrowd": 0, **box}],
            }
        )
    )
    results.write_text(json.dumps([{**box, "score": 0.9}]))
    assert page_faults("command", str(results), str(annotations)) < 32


def test_another_c_library_is_left_alone(monkeypatch):
    from foveal.engine import allocator

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False
