"""The scales that studies run at, and the data they run on.

`small` is for a laptop: a MobileNetV2 that learns in minutes, on the embedded scenes or on a folder of your own.
`paper` is the paper's own recipe on COCO.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.data.detect import read_data
from foveal.data.scenes import DRAWING_VERSION, write_scenes
from foveal.engine.demo import SIDE
from foveal.errors import UsageError
from studies.locks import alone
from studies.study import Scale

# A network that learns in minutes on a CPU: ImageNet's MobileNetV2 with frozen batch norm, as the paper's ResNet, and
# narrow subnets, which need group norm. Optimiser, rate and schedule are the paper's. From scratch, the paper's rate
# brought nothing in that time.
SMALL: dict[str, Any] = {
    "model.backbone": "mobilenet_v2",
    "model.pyramid_channels": 64,
    "model.head_channels": 64,
    "model.head_depth": 2,
    "model.head_norm": "group",
    "model.head_init": "scaled",
    "train.batch_size": 8,
    "data.workers": 1,
}
# The last weights count: nothing is chosen on a validation split, so that one evaluation, at the end, is enough.
EVERY_STUDY: dict[str, Any] = {"loss.normaliser": "image", "train.tensorboard": False}

SCENES = Scale(
    name="small",
    # Digits have an upright, so there is no flip. Sizes and levels are those of the demo.
    base=EVERY_STUDY
    | SMALL
    | {
        "model.levels": "3-5",
        "anchors.sizes": (20, 36, 64),
        "data.size": SIDE,
        "data.max_size": SIDE,
        "data.horizontal_flip": 0.0,
        "train.steps": 900,
        "train.evaluate_every": 900,
        "train.checkpoint_every": 150,
        "train.log_every": 10,
    },
    test_split="test",
    minutes=4.0,
    because="from one run on one of 2 cores, another run on the other",
)
FOLDER = Scale(
    name="small",
    base=EVERY_STUDY
    | SMALL
    | {
        "model.levels": "3-6",
        "data.size": 240,
        "data.max_size": 400,
        "train.steps": 600,
        "train.evaluate_every": 600,
        "train.checkpoint_every": 100,
        "train.log_every": 10,
    },
    test_split="test",
    minutes=6.0,
    because="from the pixels of a step, held against those of the scenes",
)
PAPER = Scale(
    name="paper",
    base=EVERY_STUDY | {"train.evaluate_every": 90_000, "train.checkpoint_every": 2_000},
    # COCO's own test labels are not public; tables 1 and 3 of the paper are on its val ("minival").
    test_split="val",
    minutes=90_000 * 16 / 2 * 4.95 / 60,
    because="from 4.95 s for 2 pictures on 2 cores (benchmarks/results/paper_preset.csv); a GPU has not been timed",
)

SCENE_SETTINGS: dict[str, Any] = {
    "counts": {"train": 1200, "val": 100, "test": 400},
    "size": SIDE,
    "seed": 0,
    "difficulty": "easy",
}


@dataclass(frozen=True)
class Data:
    """What is trained on: a folder of the user's, or the scenes that `scenes` describes, written on first use."""

    name: str
    folder: Path
    scenes: Mapping[str, Any] | None = None

    def prepare(self) -> None:
        """Writes the scenes if they are not there; two processes that begin at once write them once."""
        if self.scenes is not None:
            with alone(self.folder):
                write_scenes(self.folder, **self.scenes)

    def fingerprint(self, splits: list[str]) -> str:
        """Changes when labels do, or for scenes the way they are drawn; the same wherever the folder lies."""
        if self.scenes is not None:
            seen: Any = {"drawing": DRAWING_VERSION, **self.scenes}
        else:
            seen = {split: read_data(self.folder, split=split).fingerprint() for split in splits}
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def scale_and_data(name: str, folder: Path | None, runs: Path) -> tuple[Scale, Data]:
    """What `--scale` and `--data` mean together."""
    if name == "paper":
        if folder is None:
            raise UsageError("the paper's scale needs COCO: give its folder with --data")
        return PAPER, Data(folder.resolve().name, folder)
    if folder is not None:
        return FOLDER, Data(folder.resolve().name, folder)
    return SCENES, Data("scenes", runs / "scenes", SCENE_SETTINGS)
