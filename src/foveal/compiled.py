"""The compiled kernels (`csrc/`), where this installation has them: `KERNELS` is None where it has not.

They are built on installation where there is a C compiler, and come with the wheels. Whoever uses one says what it does
otherwise. FOVEAL_COMPILED=0 in the environment leaves them out.
"""

from __future__ import annotations

import os
from types import ModuleType

KERNELS: ModuleType | None = None

if os.environ.get("FOVEAL_COMPILED", "1") != "0":
    try:
        from foveal import _kernels

        KERNELS = _kernels
    except ImportError:
        pass
