"""The whole way in one call: write the embedded data set, train on it from scratch, evaluate, draw what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveal.config import preset
from foveal.data.detect import read_data
from foveal.data.scenes import write_scenes
from foveal.drawing import contact_sheet
from foveal.engine.checkpoint import pointed_at, read_run, write_json
from foveal.engine.evaluate import evaluate
from foveal.engine.predict import load
from foveal.engine.progress import ConsoleReporter, Reporter
from foveal.engine.train import train
from foveal.errors import UsageError

PICTURES = {"train": 1200, "val": 100, "test": 200}
SIDE = 160
DRAWN = 12

# What makes a small net learn from nothing within minutes: batch norm that is trained, subnets with group norm, no
# random turn (digits have an upright), and digits large enough for levels 3 to 5.
RECIPE: dict[str, Any] = {
    "model": {
        "backbone": "resnet18",
        "weights": "none",
        "batch_norm": "trained",
        "levels": "3-5",
        "pyramid_channels": 64,
        "head_channels": 64,
    },
    "anchors": {"sizes": [20, 36, 64]},
    "data": {"size": SIDE, "max_size": SIDE, "horizontal_flip": 0.0, "workers": 1},
    # Eight pictures a step: on a slow machine more steps teach more than larger ones.
    "train": {"batch_size": 8, "lr_batch": 16, "lr": 2e-3, "backbone_lr": 1.0, "ema": 0.99},
}


def demo(out: Path, minutes: float = 4.5, seed: int = 0, reporter: Reporter | None = None) -> str:
    """Runs it all into `out` and returns the table and the list of what lies where."""
    reporter = reporter or ConsoleReporter()
    data = out / "data"
    _refuse_another(out, minutes, seed)
    reporter.say(f"writing {sum(PICTURES.values())} pictures of handwritten digits into {data}")
    write_scenes(data, PICTURES, size=SIDE, seed=seed)
    config = preset("light").with_changes(RECIPE).with_changes({"train.minutes": minutes, "seed": seed})
    train(data, out, config=config, resume=True, reporter=reporter)
    evaluation = evaluate(out, data, split="test")
    write_json(out / "evaluation.json", evaluation.as_dict())
    sheet = _draw(out, data)
    return (
        f"{evaluation}\n\n"
        f"pictures with what was found   {sheet} and {sheet.parent}\n"
        f"numbers                        {out / 'evaluation.json'}\n"
        f"the detector                   {out / 'best.safetensors'}, with its settings in {out / 'config.yaml'}\n"
        f"the data set                   {data}\n"
        f"try it:  foveal predict {out} {data / 'images'} --out found --draw"
    )


def _refuse_another(out: Path, minutes: float, seed: int) -> None:
    """UsageError where a demo is half done or done that began otherwise: its steps are fixed."""
    if pointed_at(out, "last") is None:
        return
    began = read_run(out).config
    if (began.train.minutes, began.seed) != (minutes, seed):
        raise UsageError(
            f"{out}: holds a demo that began with --minutes {began.train.minutes:g} --seed {began.seed}; give the same "
            "to go on with it, or another folder with --out to start one"
        )


def _draw(out: Path, data: Path) -> Path:
    table = read_data(data, split="test")
    detector = load(out)
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for row in range(min(DRAWN, len(table))):
        picture = detector(table.path(row)).draw(table.path(row))
        picture.save(folder / f"{table.path(row).stem}.png")
        drawn.append(picture)
    sheet = folder / "sheet.png"
    contact_sheet(drawn, columns=4).save(sheet)
    return sheet
