"""The compiled kernels (`csrc/`), where this installation has them: `KERNELS` is None where it has not.

They are built on installation where there is a C compiler, and come with the wheels. Whoever uses one says what it does
otherwise. FOVEAL_COMPILED=0 in the environment leaves them out.
"""

from __future__ import annotations

import os
from types import ModuleType

KERNELS: ModuleType | None = None

_WANTED = os.environ.get("FOVEAL_COMPILED", "1") != "0"

if _WANTED:
    try:
        from foveal import _kernels

        KERNELS = _kernels
    except ImportError:
        pass


def said_of_kernels() -> str:
    """Whether there are any, and if not, why, in words."""
    if KERNELS is not None:
        return "yes"
    if not _WANTED:
        return "no, FOVEAL_COMPILED=0 leaves them out"
    return (
        "no, there was no C compiler, or not Python's header files, when this was installed: loss, matching and NMS on "
        "a CPU are right, but slower; install a compiler (and python3-dev or python3-devel), then Foveal again"
    )
