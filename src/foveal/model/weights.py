"""Weight files: pretrained backbones by name or path, safe reading of files from strangers, partial copies.

No code of a file is run: .pth files go through `torch_files`, which looks at them before torch does.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import UsageError, WeightsError
from foveal.model.torch_files import read_torch_file, why_unreadable
from foveal.names import printable
from foveal.wording import counted

# torchvision's first ImageNet weights of each backbone; the hexadecimal ending is the file's checksum.
_URL = "https://download.pytorch.org/models/"
_IMAGENET = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
    "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
}

# Of a file from a stranger; no RetinaNet has more.
MAX_BYTES = 4 * 2**30
MAX_TENSORS = 10_000

log = logging.getLogger("foveal")


def load_backbone(backbone: nn.Module, weights: str, name: str) -> None:
    """Loads `weights` (`imagenet`, or a .pth or .safetensors path) into the backbone called `name`.

    A classifier in the file (fc.*, classifier.*) is passed over; any other difference in names or shapes is a
    WeightsError.
    """
    path = _imagenet(name) if weights == "imagenet" else Path(weights)
    tensors = {key: t for key, t in read_tensors(path).items() if key.split(".")[0] not in ("fc", "classifier")}
    wanted = backbone.state_dict()
    # Older files and frozen norms have no counter of batches.
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    unknown = [key for key in tensors if key not in wanted]
    other_shape = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if missing or unknown or other_shape:
        example = (missing or unknown or other_shape)[0]
        raise WeightsError(
            f"{path}: these are not {name} weights ({counted(len(missing), 'tensor')} missing, {len(unknown)} unknown, "
            f"{len(other_shape)} of another shape, such as {printable(example)}); set model.backbone to the network "
            "that the file was made for, or model.weights to a file of torchvision's state dict for it"
        )
    backbone.load_state_dict(tensors, strict=False)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, on the CPU; runs no code of the file.

    None is larger than what is there of it in the file. UsageError where there is no file, WeightsError where it is of
    no use.
    """
    path = Path(path)
    if not path.is_file():
        where = f", or fetch it from {_URL + path.name}" if path.name in _IMAGENET.values() else ""
        raise UsageError(f"{path}: there is no such weight file; give the path of a .safetensors or .pth file{where}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:
            raise WeightsError(f"{path}: {why_unreadable(error)}") from None
    if (size := path.stat().st_size) > MAX_BYTES:
        raise WeightsError(f"{path}: has {size:,} bytes, more than any network's; give its state dict alone")
    content = read_torch_file(path)
    if not isinstance(content, dict) or not are_named_tensors(content):
        held = f"entries {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise WeightsError(
            f"{path}: is not a state dict but holds {printable(held, 200)}; save the state dict alone: "
            "torch.save(model.state_dict(), path)"
        )
    check_tensors(path, content)
    return content


def are_named_tensors(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """WeightsError unless they are plain and lie in the file; sizes are looked at, numbers are not."""
    size = path.stat().st_size
    if len(tensors) > MAX_TENSORS:
        raise WeightsError(f"{path}: holds {len(tensors):,} tensors, more than any RetinaNet; give its weights alone")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
            raise WeightsError(f"{path}: {printable(name)} is no plain tensor; save the state dict in float32")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > size:
        raise WeightsError(
            f"{path}: its tensors claim {claimed:,} bytes and the file has {size:,}, so it is damaged or made to fill "
            "the memory; fetch it again"
        )


def copy_matching(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copies every tensor whose name and shape fit; returns the model's names that were not copied.

    For fine-tuning a run with other classes: its class head's last convolution stays as the model has it.
    """
    wanted = model.state_dict()
    fitting = {key: tensors[key] for key in wanted if key in tensors and tensors[key].shape == wanted[key].shape}
    model.load_state_dict(fitting, strict=False)
    return [key for key in wanted if key not in fitting]


def is_imagenet_file(file: str, backbone: str) -> bool:
    """Whether a file is called as torchvision's ImageNet weights of the backbone are."""
    return _IMAGENET.get(backbone) == file


def _imagenet(name: str) -> Path:
    """The file of a backbone's ImageNet weights in torch's cache, downloaded on first use."""
    if name not in _IMAGENET:
        raise WeightsError(
            f"model.weights imagenet: torchvision publishes none for {name}; set model.weights to a file, start from a "
            "run with --weights, or take one of the backbones that have them: " + ", ".join(_IMAGENET)
        )
    file = _IMAGENET[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if path.exists():
        return path
    log.info("downloading %s to %s", _URL + file, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum = file.rsplit("-", 1)[1].removesuffix(".pth")
        torch.hub.download_url_to_file(_URL + file, str(path), hash_prefix=checksum, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum is a RuntimeError
        raise WeightsError(
            f"{_URL + file}: cannot be downloaded ({error}); fetch it on another machine and set model.weights to its "
            "path, or start from random weights with model.weights none and model.batch_norm trained"
        ) from None
    return path
