"""Weights are large and pytest keeps what tests wrote, so these tests take theirs away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for what the tests of a file share."""
    folder = tmp_path_factory.mktemp("imported")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
