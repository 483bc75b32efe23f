"""Two stages as a method of a row: how a run of it is trained, scored and told from others."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from foveal.config import Config
from foveal.engine.progress import Reporter
from studies.keys import C_CODE, PACKAGE, bare_c, bare_code
from studies.table2_stages import detecting, training
from studies.table2_stages.settings import Sampling, settings_of

HERE = Path(__file__).resolve().parent
# What names rows and is no part of a run.
NO_PART = ("run.py", "__main__.py")
# The second stage learns from what these find; one stage only looks for objects with them.
ALSO_LEARNT_WITH = ("boxes.py", "nms.py", "candidates.py", "padded_decoding.py", "decoding.py")


@dataclass(frozen=True)
class TwoStages:
    """Faster R-CNN; `sampling` says which RoIs its second stage learns from."""

    sampling: Sampling

    def key(self, scale: str) -> str:
        """The settings at this scale, and the code of this folder and of what proposals are made with."""
        return json.dumps(asdict(settings_of(scale, self.sampling)), sort_keys=True) + "\n" + two_stage_code()

    def train(
        self, data: Path, folder: Path, config: Config, scale: str, device: str, reporter: Reporter | None
    ) -> None:
        training.train(data, folder, config, settings_of(scale, self.sampling), device, reporter)

    def score(self, data: Path, folder: Path, split: str, scale: str, device: str) -> Mapping[str, float | None]:
        return detecting.score(folder, data, split, settings_of(scale, self.sampling), device)


@functools.cache
def two_stage_code(here: Path = HERE, package: Path = PACKAGE, c_code: Path = C_CODE) -> str:
    """The code that the two-stage rows have besides, without comments and docstrings."""
    files = [file for file in sorted(here.glob("*.py")) if file.name not in NO_PART]
    files += [package / name for name in ALSO_LEARNT_WITH]
    bare = {file: bare_code(file.read_text(encoding="utf-8")) for file in files}
    kernel = c_code / "nms.c"
    bare[kernel] = bare_c(kernel.read_text(encoding="utf-8"))
    return "\n".join(f"# {file.name}\n{code}" for file, code in bare.items())
