"""Growth: slopes by hand, the pieces on small sizes, and the figures from the committed numbers."""

from __future__ import annotations

import multiprocessing
import platform
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from benchmarks.common import RESULTS, read_rows
from benchmarks.growth import GROWTH, PIECES, Size, draw, measured, peak_of, slope, time_of, works
from benchmarks.memory import give_freed_memory_back, peak_bytes, resident_bytes, whole_peak_bytes


def test_a_slope_is_the_power_by_which_the_upper_half_grows():
    values = [1, 10, 100, 1000]
    assert slope(values, [7, 7, 70, 700]) == pytest.approx(1)
    assert slope(values, [50, 9, 7, 7]) == pytest.approx(0)
    assert slope(values, [0, 0, 1, 100]) == pytest.approx(2)


@pytest.mark.parametrize("size", [Size(1, 1, 64), Size(40, 3, 96)])
def test_every_piece_runs_and_has_a_gradient_or_an_answer(size):
    made = works(size, boxes=size.objects)
    assert tuple(made) == PIECES
    assert all(torch.isfinite(gradient).all() for gradient in made["loss"]())
    assert len(made["matching"]().positive) >= 1
    [(boxes, scores, labels)] = made["decoding"]()
    assert len(boxes) == len(scores) == len(labels) > 0
    assert 1 <= len(made["NMS"]()) <= size.objects


def test_a_row_tells_quantity_value_piece_time_and_memory():
    times, peaks = (list(measured(what, "side", (64,))) for what in (time_of, peak_of))
    for rows in (times, peaks):
        assert [(row["growing"], row["value"], row["piece"]) for row in rows] == [("side", 64, p) for p in PIECES]
    assert all(row["median_ms"] > 0 for row in times)
    assert all(row["peak_MB"] >= 0 for row in peaks)


def test_the_figures_are_drawn_from_the_committed_numbers(tmp_path):
    rows = read_rows(RESULTS / "growth.csv")
    assert {(row["growing"], row["piece"]) for row in rows} == {(q, p) for q in GROWTH for p in PIECES}
    drawn = draw(rows, tmp_path)
    assert [path.name for path in drawn] == ["growth-time.png", "growth-memory.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def peaks() -> tuple[int, int | None]:
    mebibyte = 2**20

    def work() -> torch.Tensor:
        for _ in range(3):
            first = torch.ones(32 * mebibyte, dtype=torch.uint8)
            del first
        return torch.ones(8 * mebibyte, dtype=torch.uint8)

    return peak_bytes(work), resident_bytes(work)


def peak_of_what_torch_does_not_see() -> int:
    """Of 16 MB, after a heap of 32 MB of small things was freed but for the last of them."""
    if platform.libc_ver()[0] != "glibc":
        return 16 * 2**20
    small = [np.ones(2**15, dtype=np.uint8) for _ in range(2**10)]
    del small[:-1]
    assert give_freed_memory_back()
    return whole_peak_bytes(lambda: [np.ones(2**15, dtype=np.uint8) for _ in range(2**9)])


def test_the_whole_peak_is_the_process_s_though_it_freed_as_much_before():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert 15 * 2**20 < pool.submit(peak_of_what_torch_does_not_see).result() < 18 * 2**20


def test_peaks_are_what_was_held_at_once():
    """In a process of its own: one that has trained keeps freed memory, and does not grow."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        held, grown_by = pool.submit(peaks).result()
    mebibyte = 2**20
    assert 32 * mebibyte <= held < 33 * mebibyte
    if grown_by is not None:
        assert 24 * mebibyte < grown_by < 60 * mebibyte
