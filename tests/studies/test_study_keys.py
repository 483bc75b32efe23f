"""Which run is which: the key changes when what is learnt may change, and only then."""

import shutil

import pytest

from foveal.config import Config
from studies.keys import C_CODE, PACKAGE, bare_code, run_key, source_code
from studies.scales import SCENE_SETTINGS, Data

KEY = run_key(Config(), "labels", "code")


def test_the_same_run_has_the_same_key():
    assert run_key(Config().with_changes({}), "labels", "code") == KEY
    assert len(KEY) == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1),
        ("loss.gamma", 1.0),
        ("anchors.ratios", (1.0,)),
        ("model.prior", 0.1),
        ("train.steps", 10),
        ("assignment.positive_iou", 0.6),
        ("data.size", 320),
    ],
)
def test_another_setting_is_another_run(name, value):
    assert run_key(Config().with_changes({name: value}), "labels", "code") != KEY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.workers", 0),
        ("train.tensorboard", False),
        ("data.max_pixels", 1_000_000),
        ("train.recompute_backbone", True),
        ("train.compile", True),
    ],
)
def test_what_a_resumed_run_may_change_is_the_same_run(name, value):
    assert run_key(Config().with_changes({name: value}), "labels", "code") == KEY


def test_other_labels_and_other_code_are_other_runs():
    assert run_key(Config(), "other labels", "code") != KEY
    assert run_key(Config(), "labels", "other code") != KEY
    assert run_key(Config(), "labels") == run_key(Config(), "labels", source_code())


def test_comments_docstrings_and_layout_are_not_code():
    plain = "X = 1\n\ndef f(x):\n    return x + 1\n\nclass A:\n    pass\n"
    told = '"""About."""\nX = 1  # one\n"""The X."""\n\n\ndef f(x):\n    """Adds."""\n    return (x +\n        1)\n'
    told += 'class A:\n    """An A."""\n'
    assert bare_code(told) == bare_code(plain)
    assert bare_code(plain.replace("+ 1", "+ 2")) != bare_code(plain)


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("losses/classification.py", True),
        ("losses/mining.py", True),
        ("matching.py", True),
        ("grid_matching.py", True),
        ("compiled_matching.py", True),
        ("reach.py", True),
        ("anchors.py", True),
        ("drawing.py", False),
        ("engine/train.py", False),
    ],
)
def test_the_code_that_counts_is_that_of_losses_matching_and_anchors(tmp_path, file, counts):
    package = shutil.copytree(PACKAGE, tmp_path / "foveal", ignore=shutil.ignore_patterns("__pycache__"))
    before = source_code.__wrapped__(package)
    changed = package / file
    changed.write_text(changed.read_text() + "\n# a comment\n")
    assert source_code.__wrapped__(package) == before
    changed.write_text(changed.read_text() + "\nADDED = 1\n")
    assert (source_code.__wrapped__(package) != before) == counts


@pytest.mark.parametrize(
    ("file", "counts"), [("loss.c", True), ("matching.c", True), ("kernels.h", True), ("nms.c", False)]
)
def test_the_kernels_of_losses_and_matching_count_too(tmp_path, file, counts):
    kernels = shutil.copytree(C_CODE, tmp_path / "csrc")
    before = source_code.__wrapped__(c_code=kernels)
    changed = kernels / file
    changed.write_text(changed.read_text() + "\n/* a comment,\n * of two lines */\n")
    assert source_code.__wrapped__(c_code=kernels) == before
    changed.write_text(changed.read_text() + "\nint added = 1;\n")
    assert (source_code.__wrapped__(c_code=kernels) != before) == counts


def test_scenes_are_known_by_how_they_are_drawn_without_being_written(tmp_path):
    scenes = Data("scenes", tmp_path / "a", SCENE_SETTINGS)
    assert scenes.fingerprint(["train"]) == Data("x", tmp_path / "b", dict(SCENE_SETTINGS)).fingerprint(["train"])
    assert scenes.fingerprint(["train"]) != Data("x", tmp_path, SCENE_SETTINGS | {"seed": 1}).fingerprint(["train"])
    assert not (tmp_path / "a").exists()


def test_a_folder_is_known_by_its_labels_wherever_it_lies(tmp_path):
    first = Data("first", tmp_path / "first", {"counts": {"train": 2, "test": 1}, "size": 64})
    first.prepare()
    shutil.copytree(first.folder, tmp_path / "second")
    splits = ["train", "test"]
    known = Data("first", first.folder).fingerprint(splits)
    assert Data("second", tmp_path / "second").fingerprint(splits) == known
    labels = tmp_path / "second" / "test.json"
    labels.write_text(labels.read_text().replace('"category_id": ', '"category_id": 1'))
    assert Data("second", tmp_path / "second").fingerprint(splits) != known
