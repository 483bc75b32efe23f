"""The compiled kernels (`csrc/`), where this installation has them: `KERNELS` is None where it has not.

They are built on installation where there is a C compiler, and come with the wheels. Whoever uses one says what it does
otherwise. FOVEAL_COMPILED=0 in the environment leaves them out.
"""

from __future__ import annotations

import os
import warnings
import zlib
from pathlib import Path
from types import ModuleType

KERNELS: ModuleType | None = None

CSRC = Path(__file__).resolve().parents[2] / "csrc"
"""Where the sources lie beside an editable installation."""

_WANTED = os.environ.get("FOVEAL_COMPILED", "1") != "0"
_MISSING = (
    "there was no C compiler, or not Python's header files, when this was installed: loss, matching and NMS on a CPU "
    "are right, but slower; install a compiler (and python3-dev or python3-devel), then Foveal again"
)
_OUTDATED = "they were built of other sources than csrc/ has now; until Foveal is installed again slower code runs"
_why_not = _MISSING if _WANTED else "FOVEAL_COMPILED=0 leaves them out"


def is_outdated(sources: int) -> bool:
    """Whether kernels of this checksum are not of the sources in CSRC; no where there are none."""
    files = sorted(CSRC.glob("*.[ch]"))
    return bool(files) and zlib.crc32(b"".join(path.read_bytes() for path in files)) >> 1 != sources


if _WANTED:
    try:
        from foveal import _kernels
    except ImportError:
        pass
    else:
        if is_outdated(getattr(_kernels, "SOURCES", 0)):
            _why_not = _OUTDATED
            warnings.warn(f"no compiled kernels: {_OUTDATED}", stacklevel=2)
        else:
            KERNELS = _kernels


def said_of_kernels() -> str:
    """Whether there are any, and if not, why, in words."""
    return "yes" if KERNELS is not None else f"no, {_why_not}"
