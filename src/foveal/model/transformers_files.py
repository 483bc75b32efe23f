"""What is kept and read of a backbone of the transformers library: its configuration, its pixels, its weights.

`hf:NAME` is a model of the Hugging Face hub or, where such a folder exists, a path. A run keeps a copy of the
configuration and the pixels in its folder `backbone`, in transformers' own files, so that it loads without a network
and whatever later becomes of the model on the hub. No code of a model repository is run.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from foveal.errors import UsageError, WeightsError
from foveal.free_memory import free_bytes
from foveal.model.backbone import IMAGE_MEAN, IMAGE_STD
from foveal.model.weights import read_tensors
from foveal.names import printable

log = logging.getLogger("foveal")

PREFIX = "hf:"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
MOST_LAYERS = 1000
"""In a configuration that may be a stranger's: a thousand million layers take for ever even without any memory."""
MOST_MISSING = 0.25
"""Of the tensors; a norm or two that only detection needs may be missing, another model's file has nearly none."""


@dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation of red, green and blue, in 0 .. 1, that a backbone was trained with."""

    mean: tuple[float, ...] = IMAGE_MEAN
    std: tuple[float, ...] = IMAGE_STD


@dataclass(frozen=True)
class Description:
    """A transformers configuration that has a backbone class, and the pixels that the backbone wants."""

    name: str
    config: Any
    pixels: Pixels

    def files(self) -> dict[str, dict[str, Any]]:
        """What a run keeps, as file stem and JSON value: config and preprocessor_config."""
        config = json.loads(self.config.to_json_string(use_diff=False))
        for private in ("_name_or_path", "architectures"):
            config.pop(private, None)
        pixels = {"do_normalize": True, "image_mean": list(self.pixels.mean), "image_std": list(self.pixels.std)}
        return {"config": config, "preprocessor_config": {"do_rescale": True, "rescale_factor": 1 / 255, **pixels}}


def describe(name: str, kept_in: Path | None = None) -> Description:
    """The backbone `hf:NAME` of a setting, read from a run's folder `kept_in` where there is one.

    Raises UsageError without transformers; WeightsError if there is no such model, no way to reach it, or nothing in it
    that gives feature maps.
    """
    transformers = _transformers(name)
    source = _source(name) if kept_in is None else str(kept_in)
    if kept_in is not None and not (kept_in / "config.json").is_file():
        raise WeightsError(f"{kept_in}: the run's description of its backbone {name} (config.json) is gone; restore it")
    if not Path(source).is_dir():
        log.info("%s: asking the Hugging Face hub", name)
    with _quiet():
        try:
            _check_layers(transformers.PretrainedConfig.get_config_dict(source)[0])
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            pixels = _pixels(_processor(source))
        except Exception as error:  # of transformers or the hub, about a name or a stranger's file
            raise WeightsError(f"model.backbone {name}: {_why(error)}") from None
    if type(config) not in transformers.MODEL_FOR_BACKBONE_MAPPING:
        raise WeightsError(
            f"model.backbone {name}: transformers has no backbone for a {config.model_type!r} model, so it gives no "
            "feature maps; take a model of a kind that has one, such as resnet, convnext, swin or dinov2"
        )
    # Whatever is drawn at random comes from (seed, epoch, picture) here, and a resumed run must see the same.
    for setting, value in config.to_dict().items():
        if "drop" in setting and isinstance(value, float):
            setattr(config, setting, 0.0)
    return Description(name, config, pixels)


def check_memory(name: str, network: Any) -> None:
    """WeightsError where a network, given on the meta device, has more numbers than there is free memory for."""
    count = sum(tensor.numel() for tensor in network.state_dict().values())
    needed, free = 4 * count, free_bytes()
    if needed > free:
        raise WeightsError(
            f"model.backbone {name}: has {count:,} parameters, which take {needed / 2**30:,.0f} GB, and "
            f"{free / 2**30:.1f} GB are free; take a smaller model"
        )


def build(config: Any, device: str = "cpu") -> Any:
    """The backbone of a configuration with random weights in float32; on `meta` it has shapes only."""
    transformers = _transformers()
    with _quiet(), torch.device(device):
        return transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)]._from_config(config, dtype=torch.float32)


def published_weights(name: str, config: Any) -> dict[str, Tensor]:
    """The tensors that `hf:NAME` publishes, under the names of `build(config)`; WeightsError if they do not fit.

    Norms of single stages, which a classifier's file does not have, are left as they start. The files are read here,
    since transformers would hand whatever they are, or whatever the configuration names, to torch.
    """
    kind = _transformers().MODEL_FOR_BACKBONE_MAPPING[type(config)]
    source = _source(name)
    log.info("%s: loading its weights", name)
    published: dict[str, Tensor] = {}
    with _quiet():
        try:
            for path in _weight_files(source):
                published |= read_tensors(path)
            model, told = kind.from_pretrained(
                None, config=config, state_dict=published, dtype=torch.float32, output_loading_info=True
            )
        except WeightsError as error:
            other = "" if path.suffix == ".safetensors" else ", or take a model that publishes model.safetensors"
            raise WeightsError(f"model.weights imagenet: {name}: {error}{other}") from None
        except Exception as error:  # of transformers or the hub, about a stranger's file
            raise WeightsError(f"model.weights imagenet: {name}: {_why(error)}") from None
    tensors: dict[str, Tensor] = model.state_dict()
    missing = sorted(told["missing_keys"])
    if len(missing) > MOST_MISSING * len(tensors):
        raise WeightsError(
            f"model.weights imagenet: the weights of {name} are not those of its config.json ({len(missing)} of "
            f"{len(tensors)} tensors missing, such as {missing[0]}); take another model, or model.weights none"
        )
    return {key: value for key, value in tensors.items() if key not in missing}


def _transformers(name: str = PREFIX) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UsageError(
            f'model.backbone {name} needs transformers, which is not installed: pip install "foveal[transformers]"'
        ) from None


def _source(name: str) -> str:
    """Folder or name on the hub; what can only be a folder must be there."""
    source = name.removeprefix(PREFIX)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder)
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or folder.exists():
        raise WeightsError(
            f"model.backbone {name}: there is no such folder; give one that holds config.json, or hf:OWNER/NAME"
        )
    return source


def _file(source: str, name: str) -> Path | None:
    """A file of a folder or of a model on the hub; None if there is none. Not being able to ask is an OSError."""
    from huggingface_hub import try_to_load_from_cache
    from transformers.utils import cached_file

    try:
        path = cached_file(source, name)
    except OSError as error:
        # A network's or a hub's error has a cause; a file that is merely not there has none. That it was not there
        # when the network was is in the cache, as an object that is neither a path nor None.
        absent = error.__cause__ is None or not isinstance(try_to_load_from_cache(source, name), str | None)
        if not absent:
            raise
        return None
    return None if path is None else Path(path)


def _weight_files(source: str) -> list[Path]:
    """The files that hold a model's weights, as safetensors where there are such; ValueError if there are none."""
    for name in WEIGHT_FILES:
        if (file := _file(source, name)) is not None:
            return [file]
        if (index := _file(source, f"{name}.index.json")) is not None:
            return [_part(source, part) for part in _parts(index)]
    raise ValueError(f"publishes no {' and no '.join(WEIGHT_FILES)}")


def _parts(index: Path) -> list[str]:
    """The names of the files that an index of weights spreads them over."""
    said = json.loads(index.read_text(encoding="utf-8"))
    place = said.get("weight_map") if isinstance(said, dict) else None
    parts = sorted(set(map(str, place.values()))) if isinstance(place, dict) else []
    if not parts or any(PureWindowsPath(part).name != part for part in parts):  # which knows both kinds of slashes
        raise ValueError(f"its {index.name} names no weight files beside it")
    return parts


def _part(source: str, name: str) -> Path:
    if (file := _file(source, name)) is None:
        raise ValueError(f"its {printable(name, 60)} is not there")
    return file


def _processor(source: str) -> dict[str, Any] | None:
    """What preprocessor_config.json says; None if the model has none. Not being able to ask is an OSError."""
    if (file := _file(source, "preprocessor_config.json")) is None:
        log.info("%s: has no preprocessor_config.json, so ImageNet's mean and deviation are taken", source)
        return None
    said = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise ValueError("its preprocessor_config.json is not a JSON object")
    return said


def _check_layers(said: Any) -> None:
    """ValueError where a configuration, as it stands in its file, asks for more layers than any network has."""
    waiting = [said]
    while waiting:
        for key, value in waiting.pop().items():
            if key in ("label2id", "id2label"):  # whose keys are a stranger's classes: "player" has a layer in it
                continue
            if isinstance(value, dict):
                waiting.append(value)
            counts = [one for one in (value if isinstance(value, list) else [value]) if type(one) is int]
            most = max(len(counts), *counts, 0)
            if any(word in key for word in ("layer", "depth", "block", "stage")) and most > MOST_LAYERS:
                raise ValueError(f"its {key} asks for {most:,} layers")


def _pixels(said: dict[str, Any] | None) -> Pixels:
    """Statistics in 0 .. 1, whatever the scale they are meant for; ImageNet's where nothing is said."""
    if said is None:
        return Pixels()
    factor = 255 * float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 255.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if said.get("do_normalize", True):
        mean, std = _three(said.get("image_mean", IMAGE_MEAN)), _three(said.get("image_std", IMAGE_STD))
    if factor <= 0 or min(std) <= 0:
        raise ValueError(f"its preprocessor_config.json divides by {std}, times {factor / 255:g}")
    return Pixels(tuple(m / factor for m in mean), tuple(s / factor for s in std))


def _three(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),) * 3


def _why(error: Exception) -> str:
    """What went wrong, in one line: transformers' own words where there are none of ours."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error.__cause__, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return (
            "the Hugging Face hub cannot be reached, and the model is not in its cache here; save the model with "
            "save_pretrained where there is a network, bring the folder, and set model.backbone to hf:FOLDER"
        )
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason:
        return "it needs code of its own repository, which is not run; take a model that transformers itself knows"
    return (printable(reason, 300) or type(error).__name__) + "; check the name, or take another model"


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws progress bars, warns of unused classifiers, and its hub of each new try; not here."""
    from transformers.utils import logging as theirs

    hub = logging.getLogger("huggingface_hub")
    levels, bars = (theirs.get_verbosity(), hub.level), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(levels[0])
        hub.setLevel(levels[1])
        if bars:
            theirs.enable_progress_bar()
