"""Memory that is freed and soon wanted again stays with the process: a training step takes the same buffers each time.

glibc maps every block over 32 MB afresh and gives it back when it is freed, so a step over pictures takes tens of
thousands of page faults: a quarter of its time on two cores. The C library's own switch turns that off.
"""

from __future__ import annotations

import ctypes
import platform

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to reuse large blocks for the rest of this process; False where there is another malloc.

    The process then keeps its peak until it ends, so it is for one that repeats the same work: training.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
