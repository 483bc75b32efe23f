import os
import subprocess
import sys

import pytest

from foveal.export.placing import files_of, folder_beside, publish

KILLED = """
import os, pathlib, sys
from foveal.export.placing import folder_beside
with folder_beside(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half a file")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_export_left_goes_with_the_next_one_to_the_same_place(tmp_path):
    target = tmp_path / "model.onnx"
    for name in ("model.onnx", "other.onnx"):
        assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)]).returncode == -9
    (left,) = tmp_path.glob(".model.onnx-*")
    assert (left / "half").exists()
    foreign = tmp_path / f".model.onnx-another_machine-{left.name.split('-')[-2]}-abcdefgh"
    foreign.mkdir()
    with folder_beside(target) as mine, folder_beside(target):  # two exports at a time leave each other alone
        assert not left.exists()
        assert mine.is_dir()
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == [".model.onnx", ".other.onnx"]
    assert foreign.exists()


def test_the_folder_goes_with_an_error_too(tmp_path):
    with pytest.raises(OSError), folder_beside(tmp_path / "deep" / "model.onnx"):
        raise OSError
    assert list((tmp_path / "deep").iterdir()) == []


def test_of_two_files_both_are_moved(tmp_path):
    target = tmp_path / "model.xml"
    for file in files_of(target):
        file.write_text("old")
    with folder_beside(target) as folder:
        for file in files_of(folder / target.name):
            file.write_text("new")
        publish(folder / target.name, target)
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml"]
    assert {file.read_text() for file in files_of(target)} == {"new"}
