import json

import numpy as np
import pytest
from PIL import Image

from foveal.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_run_is_pushed_and_predicts_from_the_hub(hub, trained, picture, tmp_path, capsys):
    assert main(["push", str(trained), "alice/cells", "--license", "mit"]) == 0
    said = capsys.readouterr()
    assert "hf://alice/cells: pushed; next: foveal predict hf://alice/cells" in said.out
    assert "HTTP" not in said.err
    words = ["predict", "hf://alice/cells", str(picture), "--min-score", "0.001", "--format", "labelstudio"]
    assert main([*words, "--out", str(tmp_path / "found")]) == 0
    [task] = json.loads((tmp_path / "found" / "labelstudio.json").read_text())
    assert task["data"]["image"] == f"/data/local-files/?d={picture}"
    assert {one["value"]["rectanglelabels"][0] for one in task["predictions"][0]["result"]} <= {"cat", "dog"}


def test_without_a_licence_the_command_says_so(hub, trained, capsys):
    assert main(["push", str(trained), "alice/cells"]) == 0
    assert "the licence is unknown; --license NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["push", "RUN", "cells"], 2, "no repository's name"),
        (["push", "/nonexistent", "alice/cells"], 2, "no such run folder"),
        (["push", "RUN", "bob/cells"], 1, "hf://bob/cells: the hub refuses your token"),
        (["predict", "hf://cells", "a.png", "--out", "x"], 2, "no repository's name"),
        (
            ["predict", "hf://alice/none", "a.png", "--out", "x"],
            1,
            "hf://alice/none: there is no such model repository",
        ),
        (["evaluate", "hf://alice/none", "data"], 1, "hf://alice/none: there is no such model repo"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(hub, trained, capsys, words, code, said):
    assert main([str(trained) if word == "RUN" else word for word in words]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("foveal: ")]) == 1
    assert said in lines[-1]
