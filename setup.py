"""The compiled kernels: built where there is a C compiler, left out where there is none. All else: pyproject.toml."""

import sysconfig
import zlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Python 3.11's, which every later one has. Free-threaded ones have none before 3.15.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

# `foveal/compiled.py` compares it with the sources that lie beside an editable installation.
SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path("csrc").glob("*.[ch]")))) >> 1


class Build(build_ext):
    """Flags by the kind of compiler."""

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc":
            flags = ["/O2", "/std:c11", "/fp:precise"]
        else:
            # Boxes are compared bit by bit, so no multiplication and addition become one.
            flags = "-O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp-simd".split()
        for extension in self.extensions:
            extension.extra_compile_args = flags
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "foveal._kernels",
            sources=["csrc/module.c", "csrc/loss.c", "csrc/matching.c", "csrc/nms.c"],
            depends=["setup.py", "csrc/kernels.h"],
            define_macros=[("SOURCES", str(SOURCES)), *([("Py_LIMITED_API", "0x030B0000")] if STABLE_ABI else [])],
            py_limited_api=STABLE_ABI,
            optional=True,
        )
    ],
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {},
)
