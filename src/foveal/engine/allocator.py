"""Memory that is freed and soon wanted again stays with the process: each step, or picture, takes the same buffers.

glibc maps every block over 32 MB afresh and gives it back when it is freed, and gives back what is free at the end of
its heap. So a step over pictures takes tens of thousands of page faults, a quarter of its time on two cores, and a
picture of 608 pixels through `light` as many. The C library's own switches turn that off.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping

# malloc.h of glibc
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to reuse large blocks for the rest of this process; False where there is another malloc.

    The process then keeps its peak until it ends, so it is for one that repeats the same work: training, the commands.
    """
    return set_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: _NEVER})


def set_malloc(options: Mapping[int, int]) -> bool:
    """Sets glibc's switches, `M_...` above, for the rest of this process; False where there is another malloc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) for option, value in options.items())
