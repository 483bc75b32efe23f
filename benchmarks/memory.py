"""How much memory a piece of work takes at its peak, above what was there before it."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from foveal.engine.allocator import M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, set_malloc

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler tells of every start and stop otherwise


def give_freed_memory_back() -> bool:
    """From now on what is freed leaves this process, in blocks of 64 kB; False where there is another malloc.

    So that `whole_peak_bytes` sees what compiled code takes. Times measured afterwards are worth nothing.
    """
    return set_malloc({M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**16, M_TRIM_THRESHOLD: 0})


def whole_peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes that a run took, whoever took them: what torch tells, or what the system does if that is more.

    After `give_freed_memory_back`, and after a run that does not count: it may load code and fill caches.
    """
    work()
    return max(peak_bytes(work), min((_trimmed(work) or 0) for _ in range(3)))


def _trimmed(work: Callable[[], Any]) -> int | None:
    """`resident_bytes`, where no page that was freed earlier is there to be taken again."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes(work)


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
