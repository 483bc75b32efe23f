"""Foveal: RetinaNet with the focal loss, exact and clear.

    import foveal
    run = foveal.train("data/bloodcells", out="runs/cells", preset="light")
    print(foveal.evaluate(run, "data/bloodcells", split="test"))
    detector = foveal.load("runs/cells")
    found = detector("smear.jpg", min_score=0.5)
    found.draw("smear.jpg").save("smear-found.png")

Names are imported when they are first used, so that `foveal --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveal.analysis.bootstrapping import bootstrap
    from foveal.analysis.hard_examples import mine
    from foveal.analysis.loss_distribution import LossDistribution, loss_distribution
    from foveal.config import Config, load_config, preset
    from foveal.data.detect import read_data
    from foveal.detections import Batch, Detections, Objects
    from foveal.engine.evaluate import Evaluation, evaluate
    from foveal.engine.inspect import inspect
    from foveal.engine.predict import Detector, load
    from foveal.engine.train import train
    from foveal.errors import FovealError
    from foveal.export.exporting import export_run
    from foveal.hub.pushing import push
    from foveal.importers.importing import import_run
    from foveal.runtime.exported import open_detector

__version__ = "0.1.0"

_HOMES = {
    "Batch": "foveal.detections",
    "Config": "foveal.config",
    "Detections": "foveal.detections",
    "Detector": "foveal.engine.predict",
    "Evaluation": "foveal.engine.evaluate",
    "FovealError": "foveal.errors",
    "LossDistribution": "foveal.analysis.loss_distribution",
    "Objects": "foveal.detections",
    "bootstrap": "foveal.analysis.bootstrapping",
    "evaluate": "foveal.engine.evaluate",
    "export_run": "foveal.export.exporting",
    "import_run": "foveal.importers.importing",
    "inspect": "foveal.engine.inspect",
    "load": "foveal.engine.predict",
    "load_config": "foveal.config",
    "loss_distribution": "foveal.analysis.loss_distribution",
    "mine": "foveal.analysis.hard_examples",
    "open_detector": "foveal.runtime.exported",
    "preset": "foveal.config",
    "push": "foveal.hub.pushing",
    "read_data": "foveal.data.detect",
    "train": "foveal.engine.train",
}

__all__ = [
    "Batch",
    "Config",
    "Detections",
    "Detector",
    "Evaluation",
    "FovealError",
    "LossDistribution",
    "Objects",
    "bootstrap",
    "evaluate",
    "export_run",
    "import_run",
    "inspect",
    "load",
    "load_config",
    "loss_distribution",
    "mine",
    "open_detector",
    "preset",
    "push",
    "read_data",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'foveal' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
