"""Studies that take seconds: a tiny net on tiny scenes, with the studies' own code."""

import dataclasses
import io
import shutil

from rich.console import Console

from foveal.engine.progress import Silent
from studies.command import Plan, run
from studies.scales import EVERY_STUDY
from studies.study import Scale, Study

TINY = EVERY_STUDY | {
    "model": {
        "backbone": "resnet18",
        "weights": "none",
        "batch_norm": "evaluating",
        "levels": "3-5",
        "pyramid_channels": 8,
        "head_channels": 8,
        "head_depth": 1,
    },
    "anchors.sizes": (16, 28, 48),
    "data": {"size": 64, "max_size": 64, "workers": 0, "horizontal_flip": 0.0},
    "train": {"steps": 2, "batch_size": 4, "evaluate_every": 2, "log_every": 1, "warmup": 0},
}


def tiny(**changes) -> Scale:
    base = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return Scale("small", base, "test", minutes=3.0, because="a guess")


def in_folder(study: Study, folder) -> Study:
    """The study with a folder of its own to write into."""
    folder.mkdir(exist_ok=True)
    shutil.copy(study.folder / "paper.csv", folder)
    return dataclasses.replace(study, folder=folder)


def quietly(plan: Plan, names=None):
    return run(plan, names, "cpu", Silent(), Console(file=io.StringIO(), width=200))
