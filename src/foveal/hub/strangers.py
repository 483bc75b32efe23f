"""Is what lies in a stranger's folder a run that is safe to load? Sizes and shapes are looked at before numbers.

Only YAML, JSON and safetensors are read; nothing of them is code. A network is made only once every name and shape of
its config is known to be in the file of weights, so that it takes no more memory than the file has bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import yaml
from safetensors import safe_open

from foveal.anchors import Anchors
from foveal.config import Config, flat_settings, load_config
from foveal.errors import CheckpointError, ConfigError, WeightsError
from foveal.model.retinanet import RetinaNet
from foveal.model.weights import MAX_BYTES, MAX_TENSORS
from foveal.names import MAX_CLASS_NAME, is_class_name, printable
from foveal.wording import counted

DESCRIPTION = ("config.yaml", "classes.json")
OPTIONAL = ("result.json",)
WEIGHTS = ("best.safetensors", "last.safetensors")
MAX_TEXT_BYTES = 2**20
# A nest of brackets takes PyYAML a time that grows with the square of its depth; settings have a few.
MAX_BRACKETS = 200

# What a network does with a picture is bounded by these alone.
_MOST = {
    "data.size": 8192,
    "data.max_size": 8192,
    "data.longest": 8192,
    "data.pad_multiple": 1024,
    "data.max_pixels": Config().data.max_pixels,
    "inference.candidates_per_level": 100_000,
    "inference.max_detections": 100_000,
}


class _Class(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    name: str


class _Result(msgspec.Struct):
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


def check_listing(name: str, sizes: Mapping[str, int | None]) -> list[str]:
    """Which of the files of a repository called `name` make the run; sizes in bytes, None where they are not known.

    CheckpointError where they make none, WeightsError where they are larger than any run.
    """
    missing = [file for file in DESCRIPTION if file not in sizes]
    weights = [file for file in WEIGHTS if file in sizes]
    if missing or not weights:
        absent = ", ".join(missing or [" or ".join(WEIGHTS)])
        raise CheckpointError(f"{name}: holds no run of Foveal: it has no {absent}; check the name")
    files = [*DESCRIPTION, *(file for file in OPTIONAL if file in sizes), *weights]
    for file in files:
        size, most = sizes[file] or 0, MAX_BYTES if file in WEIGHTS else MAX_TEXT_BYTES
        if size > most:
            raise WeightsError(f"{name}: {file} has {size:,} bytes, more than any run's ({most:,}); it is not read")
    return files


def check_run(folder: Path, name: str) -> None:
    """Raises for whatever makes a stranger's folder unsafe to load, and calls it `name`; no memory is taken before."""
    files = check_listing(name, {path.name: path.stat().st_size for path in folder.iterdir()})
    config = _config(folder / "config.yaml", name)
    classes = _json(folder / "classes.json", list[_Class], name)
    if not classes or len({one.name for one in classes}) < len(classes):
        raise CheckpointError(f"{name}: classes.json names no class, or one twice; it is not read")
    for place, one in enumerate(classes):
        if not is_class_name(one.name):
            raise CheckpointError(
                f"{name}: classes.json: class {place} is called '{printable(one.name)}', and a name has 1 to "
                f"{MAX_CLASS_NAME} characters and no control characters; it is not read"
            )
    if "result.json" in files:
        _json(folder / "result.json", _Result, name)
    for file in WEIGHTS:
        if file in files:
            _check_weights(folder / file, name, config, len(classes))


def _config(path: Path, name: str) -> Config:
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MAX_TEXT_BYTES // 8 or text.count("[") + text.count("{") > MAX_BRACKETS:
            raise ConfigError("it is longer, or has more brackets, than settings have")
        # An alias stands for a whole part of the file, and aliases of aliases for any number of them.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ConfigError("it refers to its own parts (&, *), which settings never do")
        config = load_config(path)
    except (ConfigError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = printable(" ".join(str(error).replace(f"{path}: ", "").split()), 300)
        raise CheckpointError(f"{name}: its config.yaml is not read: {reason}") from None
    # Its network would be made of a stranger's description, or of whatever lies where its name leads.
    if config.model.backbone.startswith("hf:"):
        raise CheckpointError(
            f"{name}: its backbone is one of transformers ({printable(config.model.backbone)}), which is not "
            "loaded from a stranger; download the run with its folder backbone, look at both, and give the folder if "
            "you trust it"
        )
    if beyond := beyond_limits(config):
        raise CheckpointError(
            f"{name}: {beyond}; download it, look at config.yaml, and give the folder if you trust it"
        )
    return config


def beyond_limits(config: Config, apart: str = "") -> str:
    """What is said of the first setting with which a picture could take any amount of memory; empty if there is none.

    apart: a setting that may have any value.
    """
    # Where max_size is 0, the longer side follows from size.
    settings = {**flat_settings(config), "data.longest": config.data.longest}
    for setting, most in _MOST.items():
        if setting != apart and settings[setting] > most:
            return (
                f"its {setting} is {printable(settings[setting])}, more than the {most} that is allowed to a stranger"
            )
    return ""


def _json(path: Path, kind: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{name}: its {path.name} is not read: {printable(str(error).replace('`', ''), 200)}"
        ) from None


def _check_weights(path: Path, name: str, config: Config, num_classes: int) -> None:
    """Header against config, on the meta device; then whether every weight is a number."""
    what = f"{name}: {path.name}"
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            if len(keys) > MAX_TENSORS:
                raise WeightsError(f"{what} holds {len(keys):,} tensors, more than any RetinaNet; it is not read")
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
            _check_shapes(what, shapes, config, num_classes)
            _check_numbers(what, keys, file.get_tensor)
    except WeightsError:
        raise
    except Exception as error:  # whatever safetensors finds in damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{what} cannot be read as safetensors ({reason}); it may be cut off") from None


def _check_shapes(what: str, shapes: Mapping[str, tuple[int, ...]], config: Config, num_classes: int) -> None:
    model = config.model
    depth = sum(len(shape) == 4 for key, shape in shapes.items() if key.startswith("class_head.tower."))
    wanted: dict[str, tuple[int, ...]] = {}
    if model.head_depth == depth:  # else making the layers, even of no size, could take for ever
        try:
            with torch.device("meta"):
                net = RetinaNet(model, num_classes, Anchors.from_config(config).per_cell)
            wanted = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
        except RuntimeError:  # a number of channels that torch cannot count to
            wanted = {}
    missing = [key for key in wanted if key not in shapes]
    unknown = [key for key in shapes if key not in wanted]
    other = [key for key in wanted if key in shapes and shapes[key] != wanted[key]]
    if wrong := missing or unknown or other:
        raise WeightsError(
            f"{what} does not fit its config.yaml, a RetinaNet with {model.backbone} ("
            f"{counted(len(missing), 'tensor')} missing, {len(unknown)} unknown, "
            f"{len(other)} of another shape, such as {printable(wrong[0])})"
        )


def _check_numbers(what: str, keys: list[str], tensor_of: Callable[[str], torch.Tensor]) -> None:
    for key in keys:
        tensor = tensor_of(key)
        if tensor.is_complex() or not (tensor.is_floating_point() or key.endswith("num_batches_tracked")):
            raise WeightsError(
                f"{what}: {printable(key)} is of {tensor.dtype}, and weights are floats; it is not loaded"
            )
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise WeightsError(f"{what}: {printable(key)} holds what is no finite number; it is not loaded")
