"""Opens a stranger's checkpoint: which kind of file it is, its tensors by name, and what else it says in plain values.

No code of a file is run. .pth files go through `model/torch_files.py`, .pkl files through `array_pickle`, .safetensors
and .h5 files through their libraries. A file must hold, byte for byte, the numbers that it claims: nothing is unpacked,
and no tensor is larger than what is there of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.errors import UsageError, WeightsError
from foveal.importers.array_pickle import RefusedPickleError, read_array_pickle
from foveal.model.torch_files import BEFORE_ZIP, read_torch_file
from foveal.model.weights import MAX_BYTES, MAX_TENSORS, are_named_tensors, check_tensors, read_tensors
from foveal.names import printable

# Where training scripts put the state dict beside other things: mmdetection and Lightning, detectron2 and torchvision.
_PLACES = ("state_dict", "model", "model_state_dict")
_IF_MORE = (
    "if you trust the file, save what is needed of it: c = torch.load(FILE, weights_only=False), then "
    'torch.save({k: c[k] for k in ("state_dict", "model", "meta", "label_dict") if k in c}, NEW), or, where c is a '
    "whole model, torch.save(c.state_dict(), NEW)"
)
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class WeightFile:
    """A checkpoint as it was found. tensors: by the source's names. beside: what else lies beside the state dict."""

    path: Path
    tensors: dict[str, Tensor]
    beside: dict[str, Any] = field(default_factory=dict)

    def has(self, *starts: str) -> bool:
        """Whether each of `starts` begins the name of some tensor: one that is missing is no other project's file."""
        return all(any(name.startswith(start) for name in self.tensors) for start in starts)


def read_weight_file(path: Path) -> WeightFile:
    """The tensors of a checkpoint, on the CPU; WeightsError, in one sentence, for whatever is no such file.

    UsageError where there is none.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: there is no such weight file; give the path of a .pth, .pkl, .safetensors or .h5 file"
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{path}: has {size:,} bytes, more than any RetinaNet; give its state dict alone")
    with open(path, "rb") as file:
        start = file.read(len(BEFORE_ZIP))
    if start.startswith(_HDF5):
        return _checked(WeightFile(path, _keras_layers(path)))
    # By name, and before the others: it starts with a length, which may be any bytes.
    if path.suffix == ".safetensors":
        content: Any = read_tensors(path)
    elif start.startswith(b"PK") or start == BEFORE_ZIP:
        content = read_torch_file(path, _IF_MORE)
    elif start.startswith(b"\x80"):
        content = _pickled_content(path)
    elif start.startswith((b"(d", b"(l", b"}q")):
        raise WeightsError(
            f"{path}: is a pickle of protocol 0 or 1, which is not read; if you trust the file, write it anew: "
            "pickle.dump(pickle.load(open(FILE, 'rb')), open(NEW, 'wb'), protocol=4)"
        )
    else:
        raise WeightsError(f"{path}: is no weight file that is known (.pth, .pkl, .safetensors, .h5); fetch it again")
    return _checked(_state_dict(path, content))


def checksum(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pickled_content(path: Path) -> dict[str, Any]:
    try:
        content = read_array_pickle(path.read_bytes())
    except RefusedPickleError as error:
        raise WeightsError(f"{path}: {error}") from None
    return {  # two levels, as many as the reader lets through
        str(key): {str(name): _tensor(inner) for name, inner in value.items()}
        if isinstance(value, dict)
        else _tensor(value)
        for key, value in content.items()
    }


def _tensor(value: Any) -> Any:
    """An array as a tensor; anything else as it is."""
    if not hasattr(value, "dtype"):
        return value
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))  # a copy, which torch may write to


def _state_dict(path: Path, content: Any) -> WeightFile:
    """The mapping of names to tensors, wherever in `content` it lies."""
    beside: dict[str, Any] = {}
    if isinstance(content, Mapping):
        place = next((place for place in _PLACES if isinstance(content.get(place), Mapping)), None)
        if place is not None:
            beside = {key: value for key, value in content.items() if isinstance(key, str) and key != place}
            content = content[place]
    if not isinstance(content, Mapping) or not content or not are_named_tensors(content):
        raise WeightsError(
            f"{path}: holds no state dict, that is, no dictionary of tensors; save it alone: "
            "torch.save(model.state_dict(), path)"
        )
    tensors = {name: tensor.detach() for name, tensor in content.items()}
    if all(name.startswith("module.") for name in tensors):  # a model that was trained on several GPUs
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return WeightFile(path, tensors, beside)


def _checked(file: WeightFile) -> WeightFile:
    check_tensors(file.path, file.tensors)
    return file


def _keras_layers(path: Path) -> dict[str, Tensor]:
    """The weights of a Keras file as LAYER/VARIABLE: conv1/kernel, bn_conv1/gamma; an optimiser's are passed over."""
    try:
        import h5py
    except ImportError:
        raise UsageError(
            f'{path}: Keras files are read by h5py, which is not installed: pip install "foveal[keras]"'
        ) from None
    found: dict[str, Any] = {}
    left, steps = path.stat().st_size, 0
    visited: set[int] = set()
    not_plain = WeightsError(f"{path}: is no plain Keras file (links, or too many weights) and is not read")

    def visit(group: Any, depth: int) -> None:
        nonlocal left, steps
        address = h5py.h5o.get_info(group.id).addr
        if address in visited:
            raise not_plain
        visited.add(address)
        for key in group:
            steps += 1
            # Links may lead to other files, in circles, or to one group again and again.
            if not isinstance(group.get(key, getlink=True), h5py.HardLink) or depth > 8 or steps > 4 * MAX_TENSORS:
                raise not_plain
            item = group[key]
            if isinstance(item, h5py.Group):
                if key != "optimizer_weights":
                    visit(item, depth + 1)
                continue
            left -= item.size * item.dtype.itemsize
            if left < 0 or item.chunks or item.external or item.is_virtual or item.dtype.kind not in "fiu":
                raise WeightsError(f"{path}: {printable(item.name)} is no plain array in this file and is not read")
            found["/".join(item.name.split("/")[-2:]).removesuffix(":0")] = item[()]

    try:
        with h5py.File(path, "r") as file:
            visit(file, 0)
    except WeightsError:
        raise
    except Exception as error:  # whatever HDF5 finds in damaged bytes
        raise WeightsError(
            f"{path}: is damaged or cut off ({printable(' '.join(str(error).split()))}); fetch it again"
        ) from None
    return {name: _tensor(array) for name, array in found.items()}
