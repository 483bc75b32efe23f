"""Which run is which: a key that changes when what is learnt may change, and only then.

It is made of the row's whole config with its seed, the labels, and the code of losses, matching and anchors. Comments,
docstrings and layout of the code do not count, nor do the settings that a resumed run may change. A row whose
detector is not Foveal's own has that detector's settings and code in its key besides.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from pathlib import Path

import foveal
from foveal.config import Config, flat_settings
from foveal.engine.preparation import MAY_DIFFER_ON_RESUME

PACKAGE = Path(foveal.__file__).resolve().parent
C_CODE = Path(__file__).resolve().parent.parent / "csrc"


def run_key(config: Config, data_fingerprint: str, code: str | None = None, method: str = "") -> str:
    """Twelve hex digits. `code` is `source_code()` unless a test says otherwise; `method` is the key of a row's."""
    settings = {name: value for name, value in flat_settings(config).items() if name not in MAY_DIFFER_ON_RESUME}
    parts = [json.dumps(settings, sort_keys=True), data_fingerprint, source_code() if code is None else code]
    parts += [method] if method else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def code_key() -> str:
    """Seven hex digits of that code as it is today; runs of different ones are told apart in results."""
    return hashlib.sha256(source_code().encode()).hexdigest()[:7]


@functools.cache
def source_code(package: Path = PACKAGE, c_code: Path = C_CODE) -> str:
    """The code that decides what a loss is: losses, matching and anchors, without comments and docstrings."""
    names = ("matching", "grid_matching", "compiled_matching", "reach", "anchors")
    assignment = [package / f"{name}.py" for name in names]
    files = [*sorted((package / "losses").glob("*.py")), *assignment]
    kernels = [c_code / name for name in ("kernels.h", "loss.c", "matching.c")]
    bare = {file: bare_code(file.read_text(encoding="utf-8")) for file in files}
    bare |= {file: bare_c(file.read_text(encoding="utf-8")) for file in kernels}
    return "\n".join(f"# {file.name}\n{code}" for file, code in bare.items())


def bare_c(text: str) -> str:
    """C code in one layout, without comments."""
    return " ".join(re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).split())


def bare_code(text: str) -> str:
    """Python code in one layout, without comments and without strings that stand alone."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_string(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
