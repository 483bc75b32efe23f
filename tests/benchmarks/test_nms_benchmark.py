"""The comparison of NMS's paths, on few boxes, and where there is nothing to compare."""

from __future__ import annotations

import pytest

from benchmarks import nms
from foveal import compiled


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", nms.KINDS)
def test_both_paths_are_timed_after_a_look_that_they_agree(kind):
    rows = [row for row, _ in nms.compare(3, 200, kind, runs=2)]
    assert [(row["path"], row["boxes"], row["kind"]) for row in rows] == [("plain", 200, kind), ("fast", 200, kind)]
    assert rows[0]["stay"] == rows[1]["stay"] > 0
    assert all(row["median_ms"] > 0 for row in rows)


def test_without_kernels_it_says_so_and_writes_nothing(monkeypatch, capsys):
    def refuse(*_):
        raise AssertionError("written")

    monkeypatch.setattr("sys.argv", ["nms"])
    monkeypatch.setattr(compiled, "KERNELS", None)
    monkeypatch.setattr(nms, "write_rows", refuse)
    nms.main()  # `make bench` goes on with the others
    assert "there is nothing to compare" in capsys.readouterr().out
