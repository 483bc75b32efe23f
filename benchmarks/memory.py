"""How much memory a piece of work takes at its peak, above what was there before it."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes that torch's allocator on the CPU gave out and had not yet got back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = work()
    del kept
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def array_bytes(work: Callable[[], Any]) -> int:
    """The same of numpy's arrays and Python's objects."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident_bytes(work: Callable[[], Any]) -> int | None:
    """By how many bytes the process grew at its peak, whoever took them; None where the system does not tell.

    It says nothing where freed memory stays with the process, since work then grows into what is there.
    """
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = _status("VmRSS")
    except OSError:
        return None
    kept = work()
    grown = _status("VmHWM") - before
    del kept
    return max(0, grown)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
