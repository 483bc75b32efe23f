"""The runs behind the rows: trained once, kept under their key, shared by all tables, resumed where they stopped."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import commit, machine
from foveal.config import Config
from foveal.engine.checkpoint import read_json, write_json
from foveal.engine.evaluate import evaluate
from foveal.engine.progress import Reporter
from foveal.engine.train import train
from foveal.errors import TrainingError
from studies.keys import code_key
from studies.scales import Data
from studies.study import Method, Scale

OUTCOME = "outcome.json"
LEFT_BY_NON_FINITE = "non-finite-step-*.safetensors"


@dataclass(frozen=True)
class Outcome:
    """What came of a run. A run whose loss was not finite has diverged: its APs are 0, and it is not tried again.

    ap, ap50, ap75: percent, on the test split, with the last weights. loss: mean over the last logged steps, which
    tells of an explosion that stayed finite; None where nothing was logged. minutes: of training, all legs together.
    code: `keys.code_key()` of what it was trained by; empty in files that older versions wrote.
    """

    key: str
    scale: str
    data: str
    seed: int
    ap: float
    ap50: float
    ap75: float
    diverged: bool
    loss: float | None
    steps: int
    minutes: float
    commit: str
    machine: str
    date: str
    code: str = ""


@dataclass(frozen=True)
class Finished:
    """A run that is done, with where it is and what it was made of.

    row: its name in the study that asks. folder: the run's. data: the data set's folder. split: the one that counts.
    device: auto or cpu, for whoever looks at the run again.
    """

    row: str
    outcome: Outcome
    config: Config
    folder: Path
    data: Path
    split: str
    device: str


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of the run in this folder; None if it is not finished."""
    file = folder / OUTCOME
    return Outcome(**read_json(file)) if file.exists() else None


def finish(
    config: Config,
    scale: Scale,
    data: Data,
    folder: Path,
    device: str = "auto",
    reporter: Reporter | None = None,
    method: Method | None = None,
) -> Outcome:
    """The outcome of the run in `folder`, which is named by its key: read, or trained from where it stands.

    method: what trains and scores it, where that is not Foveal's own detector.
    Raises Interrupted after Ctrl-C, with everything saved; calling again goes on.
    """
    known = read_outcome(folder)
    if known is not None:
        return known
    data.prepare()
    for file in folder.glob(LEFT_BY_NON_FINITE):
        file.unlink()
    try:
        if method:
            method.train(data.folder, folder, config, scale.name, device, reporter)
        else:
            train(data.folder, folder, config=config, resume=True, device=device, reporter=reporter)
    except TrainingError:
        left = list(folder.glob(LEFT_BY_NON_FINITE))
        if not left:  # too little memory says nothing about the loss
            raise
        aps, diverged = (0.0, 0.0, 0.0), True
        steps = int(left[0].name.split("-")[3].split(".")[0])
    else:
        if method:
            found = method.score(data.folder, folder, scale.test_split, scale.name, device)
        else:
            found = evaluate(folder, data.folder, scale.test_split, which="last", device=device).numbers
        aps, diverged = (_percent(found["AP"]), _percent(found["AP50"]), _percent(found["AP75"])), False
        steps = int(read_json(folder / "result.json")["steps"])
    last = last_line(folder)
    outcome = Outcome(
        key=folder.name,
        scale=scale.label,
        data=data.name,
        seed=config.seed,
        ap=aps[0],
        ap50=aps[1],
        ap75=aps[2],
        diverged=diverged,
        loss=last.get("loss"),
        steps=steps,
        minutes=round(last.get("time_s", 0.0) / 60, 2),
        commit=commit(),
        machine=machine(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        code=code_key(),
    )
    write_json(folder / OUTCOME, asdict(outcome))
    return outcome


def last_line(folder: Path) -> Mapping[str, Any]:
    """The last line that training wrote into metrics.jsonl; empty if there is none."""
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    trained = [line for line in map(json.loads, lines) if "loss" in line]
    return trained[-1] if trained else {}


def expected_minutes(runs: Path, scale: Scale, data: Data) -> tuple[float, str]:
    """Of one run, and where that is from: the median of those that finished at this scale on these data."""
    outcomes = [read_outcome(file.parent) for file in sorted(runs.glob(f"*/{OUTCOME}"))]
    known = [o.minutes for o in outcomes if o and not o.diverged and (o.scale, o.data) == (scale.label, data.name)]
    if known:
        return statistics.median(known), f"median of {len(known)} that finished"
    return scale.minutes, scale.because


def _percent(share: float | None) -> float:
    return round(100 * (share or 0.0), 2)
