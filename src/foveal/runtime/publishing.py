"""What a run that is pushed, or a file that is exported, tells: settings without paths."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from foveal.config import Config
from foveal.model.weights import is_imagenet_file


def publishable(config: Config) -> Config:
    """The config without paths: of a file of weights and of a backbone's folder the name stays, of a list nothing.

    What depends on the machine goes back to its default.
    """
    weights, backbone = config.model.weights, config.model.backbone
    if weights not in ("imagenet", "none"):
        name = name_of(weights)
        weights = "imagenet" if is_imagenet_file(name, backbone) else name
    path = backbone.removeprefix("hf:")
    if path != backbone and _is_path(path):
        backbone = f"hf:{name_of(path)}"
    default = Config().data
    return config.with_changes(
        {
            "model.weights": weights,
            "model.backbone": backbone,
            "data.oversample": "",
            "data.workers": default.workers,
            "data.max_pixels": default.max_pixels,
        }
    )


def name_of(path: str) -> str:
    """The last part of a path of any system."""
    return PureWindowsPath(path).name  # knows both kinds of slashes


def _is_path(name: str) -> bool:
    """Whether a backbone's name is a folder's; a model of the hub is called name or owner/name."""
    return (
        name.count("/") > 1
        or "\\" in name
        or name.startswith(("/", ".", "~"))
        or name.endswith("/")
        or Path(name).is_dir()
    )
