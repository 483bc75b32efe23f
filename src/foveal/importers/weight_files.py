"""Opens a stranger's checkpoint: which kind of file it is, its tensors by name, and what else it says in plain values.

No code of a file is run. .pth files are walked by `torch_pickle` before torch's `weights_only` reader gets them, .pkl
files go through `array_pickle`, .safetensors and .h5 files through their libraries. A file must hold, byte for byte,
the numbers that it claims: nothing is unpacked, and no tensor is larger than what is there of it.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.errors import UsageError, WeightsError
from foveal.importers.array_pickle import RefusedPickleError, read_array_pickle
from foveal.importers.torch_pickle import RefusedTorchPickleError, check_torch_pickle
from foveal.model.weights import MAX_BYTES, MAX_TENSORS, read_tensors, why_unreadable

MAX_STRUCTURE_BYTES = 16 * 2**20
"""Of what torch.save pickles beside the tensors' numbers: names, shapes, an optimiser's state."""

# Where training scripts put the state dict beside other things: mmdetection and Lightning, detectron2 and torchvision.
_PLACES = ("state_dict", "model", "model_state_dict")
_TORCH_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class WeightFile:
    """A checkpoint as it was found. tensors: by the source's names. beside: what else lies beside the state dict."""

    path: Path
    tensors: dict[str, Tensor]
    beside: dict[str, Any] = field(default_factory=dict)


def read_weight_file(path: Path) -> WeightFile:
    """The tensors of a checkpoint, on the CPU; WeightsError, in one sentence, for whatever is no such file."""
    if not path.is_file():
        raise WeightsError(
            f"{path}: there is no such weight file; give the path of a .pth, .pkl, .safetensors or .h5 file"
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{path}: has {size:,} bytes, more than any RetinaNet; give its state dict alone")
    with open(path, "rb") as file:
        start = file.read(len(_TORCH_BEFORE_ZIP))
    if start.startswith(_HDF5):
        return _checked(WeightFile(path, _keras_layers(path)), size)
    # By name, and before the others: it starts with a length, which may be any bytes.
    if path.suffix == ".safetensors":
        content: Any = read_tensors(path)
    elif start.startswith(b"PK") or start == _TORCH_BEFORE_ZIP:
        content = _torch_content(path, size, zipped=start.startswith(b"PK"))
    elif start.startswith(b"\x80"):
        content = _pickled_content(path)
    else:
        raise WeightsError(f"{path}: is no weight file that is known (.pth, .pkl, .safetensors, .h5); fetch it again")
    return _checked(_state_dict(path, content), size)


def checksum(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _torch_content(path: Path, size: int, zipped: bool) -> Any:
    """What torch.save wrote. Zipped files are mapped, not read, so that nothing is allocated for them at all."""
    if zipped:
        _check_archive(path, size)
    try:
        _walk(path, size, zipped)
    except RefusedTorchPickleError as error:
        raise WeightsError(f"{path}: {_holds_more(str(error)) if error.whole else error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which are no concern of the user's
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        raise WeightsError(f"{path}: {why_unreadable(error)}") from None


def _check_archive(path: Path, size: int) -> None:
    """torch stores tensors as they are; an archive that would grow when it is unpacked was not written by it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # whatever damaged bytes lead to
        raise WeightsError(f"{path}: is damaged or cut off ({error}); fetch it again") from None
    structure = sum(entry.file_size for entry in entries if _is_structure(entry))
    if structure > MAX_STRUCTURE_BYTES:
        raise WeightsError(f"{path}: holds {structure:,} bytes beside its tensors; give its state dict alone")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(
            f"{path}: would unpack to {unpacked:,} bytes from {size:,} and is not opened; torch.save packs nothing, so "
            "fetch it from where it was published"
        )


def _walk(path: Path, size: int, zipped: bool) -> None:
    """Every pickle that torch would read, before it does."""
    if not zipped:
        with open(path, "rb") as file:
            start = io.BytesIO(file.read(MAX_STRUCTURE_BYTES))
        try:
            for _ in range(5):  # torch's mark, its version, the machine, the state dict, the order of the storages
                check_torch_pickle(start, size)
        except RefusedTorchPickleError as error:
            if not error.whole and start.tell() == MAX_STRUCTURE_BYTES < size:
                raise RefusedTorchPickleError(
                    f"holds more than {MAX_STRUCTURE_BYTES:,} bytes beside its tensors; give its state dict alone"
                ) from None
            raise
        return
    try:
        structures = [torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")]  # as torch.load will find it
        with zipfile.ZipFile(path) as archive:
            structures += [archive.read(entry) for entry in archive.infolist() if _is_structure(entry)]
    except Exception as error:  # whatever damaged bytes lead to
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise WeightsError(f"{path}: is damaged or no weight file ({reason}); fetch it again") from None
    for structure in dict.fromkeys(structures):
        check_torch_pickle(io.BytesIO(structure), size)


def _is_structure(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.lower().endswith("data.pkl")  # torch looks for it in any case


def _holds_more(why: str) -> str:
    """What the file is refused with, and how its tensors are taken out of it with the names of their classes."""
    return (
        f"holds more than tensors ({why}) and is not opened; if you trust the file, save what is needed of it: "
        'c = torch.load(FILE, weights_only=False), then torch.save({"state_dict": c["state_dict"], "meta": c["meta"]}, '
        "NEW) for mmdetection, label_dict in place of meta for DeepForest, else the state dict alone"
    )


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
    if not isinstance(content, Mapping) or not content or not _are_named_tensors(content):
        raise WeightsError(
            f"{path}: holds no state dict, that is, no dictionary of tensors; save it alone: "
            "torch.save(model.state_dict(), path)"
        )
    tensors = {name: tensor.detach() for name, tensor in content.items()}
    if all(name.startswith("module.") for name in tensors):  # a model that was trained on several GPUs
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return WeightFile(path, tensors, beside)


def _are_named_tensors(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())


def _checked(file: WeightFile, size: int) -> WeightFile:
    """The file, if its tensors are plain numbers that lie in it; sizes are looked at, numbers are not."""
    tensors = file.tensors
    if len(tensors) > MAX_TENSORS:
        raise WeightsError(
            f"{file.path}: holds {len(tensors):,} tensors, more than any RetinaNet; give its weights alone"
        )
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
            raise WeightsError(f"{file.path}: {name[:100]} is no plain tensor; save the state dict in float32")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > size:
        raise WeightsError(
            f"{file.path}: its tensors claim {claimed:,} bytes and the file has {size:,}, so it is damaged or made to "
            "fill the memory; fetch it again"
        )
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
    left = path.stat().st_size

    def visit(group: Any, depth: int) -> None:
        nonlocal left
        for key in group:
            # Links may lead to other files or in circles; only what lies here is looked at.
            if not isinstance(group.get(key, getlink=True), h5py.HardLink) or depth > 8 or len(found) > MAX_TENSORS:
                raise WeightsError(f"{path}: is no plain Keras file (links, or too many weights) and is not read")
            item = group[key]
            if isinstance(item, h5py.Group):
                if key != "optimizer_weights":
                    visit(item, depth + 1)
                continue
            left -= item.size * item.dtype.itemsize
            if left < 0 or item.chunks or item.external or item.is_virtual or item.dtype.kind not in "fiu":
                raise WeightsError(f"{path}: {item.name[:100]} is no plain array in this file and is not read")
            found["/".join(item.name.split("/")[-2:]).removesuffix(":0")] = item[()]

    try:
        with h5py.File(path, "r") as file:
            visit(file, 0)
    except WeightsError:
        raise
    except Exception as error:  # whatever HDF5 finds in damaged bytes
        raise WeightsError(
            f"{path}: is damaged or cut off ({' '.join(str(error).split())[:100]}); fetch it again"
        ) from None
    return {name: _tensor(array) for name, array in found.items()}
