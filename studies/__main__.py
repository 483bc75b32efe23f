"""`python -m studies`: which studies there are, a line each."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

HERE = Path(__file__).resolve().parent


def listing() -> str:
    """All commands with the first sentence of what their run.py says, without importing any."""
    names = sorted(path.parent.name for path in HERE.glob("*/__main__.py"))
    width = max(map(len, names))
    lines = [f"  python -m studies.{name:<{width}}  {_first_sentence(HERE / name / 'run.py')}" for name in names]
    return "\n".join(["The paper's tables and figures; each takes --help. studies/README.md tells more.", "", *lines])


def _first_sentence(file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return said.split(". ")[0].splitlines()[0].rstrip(".")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m studies", description=listing(), formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print(listing())
