"""`--help` of a benchmark tells what it does, and runs nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import benchmarks.common

FOLDER = Path(benchmarks.common.__file__).parent
COMMANDS = sorted(path.stem for path in FOLDER.glob("*.py") if "def main(" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_module_s_own_text(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as left:
        module.main()
    assert left.value.code == 0
    assert module.__doc__ is not None
    assert module.__doc__.split()[0] in capsys.readouterr().out
