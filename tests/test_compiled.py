"""Where the compiled kernels are found, and what is said where they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import foveal
from foveal import compiled

ROOT = Path(__file__).resolve().parents[1]


def version_with(**environment: str) -> str:
    command = [sys.executable, "-c", "from foveal.cli import main; main(['--version'])"]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("kernels")
def test_the_version_says_whether_there_are_kernels_and_the_environment_leaves_them_out() -> None:
    assert version_with() == f"foveal {foveal.__version__}\ncompiled kernels: yes\n"
    assert version_with(FOVEAL_COMPILED="0").endswith("compiled kernels: no, FOVEAL_COMPILED=0 leaves them out\n")


def test_without_a_compiler_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "KERNELS", None)
    if os.environ.get("FOVEAL_COMPILED") == "0":
        pytest.skip("FOVEAL_COMPILED=0 is another reason")
    assert "install a compiler (and python3-dev or python3-devel), then Foveal again" in compiled.said_of_kernels()


@pytest.mark.slow
def test_an_installation_without_a_compiler_has_everything_but_the_kernels(tmp_path: Path) -> None:
    """The build that a source installation runs; a compiler that fails is as good as none."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(tmp_path), "--build-temp"]
    built = []
    for compiler in ("false", None):
        environment = {**os.environ, **({"CC": compiler} if compiler else {})}
        done = subprocess.run([*command, str(tmp_path / "temp")], cwd=ROOT, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        built.append(sorted(path.suffix for path in tmp_path.rglob("_kernels*")))
    assert built[0] == []
    if compiled.KERNELS is not None:
        assert built[1] == [Path(str(compiled.KERNELS.__file__)).suffix]


def test_a_python_without_its_lock_can_make_a_wheel() -> None:
    """It has no stable ABI before 3.15, and setuptools refuses one that is asked for."""
    program = (
        "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1\n"
        "import setuptools; from distutils.core import run_setup\n"
        "run_setup('setup.py', stop_after='config').get_command_obj('bdist_wheel').ensure_finalized()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("kernels")
def test_kernels_of_other_sources_than_those_beside_them_are_left_out(tmp_path: Path) -> None:
    """An editable installation whose C changed since: the arguments may be others by now, or a mistake mended."""
    shutil.copytree(Path(foveal.__file__).parent, tmp_path / "src" / "foveal")
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    assert version_with(PYTHONPATH=str(tmp_path / "src")).endswith("compiled kernels: yes\n")
    with (tmp_path / "csrc" / "nms.c").open("a") as file:
        file.write("/* Changed. */")
    assert "no, they were built of other sources" in version_with(PYTHONPATH=str(tmp_path / "src"))


@pytest.mark.usefixtures("kernels")
def test_an_installation_without_sources_takes_the_kernels_it_has(tmp_path: Path) -> None:
    shutil.copytree(Path(foveal.__file__).parent, tmp_path / "src" / "foveal")
    assert version_with(PYTHONPATH=str(tmp_path / "src")).endswith("compiled kernels: yes\n")
