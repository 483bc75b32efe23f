"""Weight files: pretrained backbones by name or path, safe reading of files from strangers, partial copies.

Nothing is unpickled: .pth files go through torch's `weights_only` reader, which builds only tensors and containers.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from foveal.errors import WeightsError

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

log = logging.getLogger("foveal")


def load_backbone(backbone: nn.Module, weights: str, name: str) -> None:
    """Loads `weights` (`imagenet`, or a .pth or .safetensors path) into the backbone called `name`.

    A classifier in the file (fc.*, classifier.*) is passed over; any other difference in names or shapes is a
    WeightsError.
    """
    tensors = _imagenet(name) if weights == "imagenet" else read_tensors(weights)
    tensors = {key: t for key, t in tensors.items() if key.split(".")[0] not in ("fc", "classifier")}
    wanted = backbone.state_dict()
    # Older files and frozen norms have no counter of batches.
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    unknown = [key for key in tensors if key not in wanted]
    other_shape = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if missing or unknown or other_shape:
        example = (missing or unknown or other_shape)[0]
        raise WeightsError(
            f"{weights}: these are not {name} weights ({len(missing)} tensors missing, {len(unknown)} unknown, "
            f"{len(other_shape)} of another shape, such as {example}); set model.backbone to the network that the file "
            "was made for, or model.weights to a file of torchvision's state dict for it"
        )
    backbone.load_state_dict(tensors, strict=False)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, on the CPU; raises WeightsError, runs no code of the file."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weight file; give the path of a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: holds more than tensors and is not opened, because that could run a stranger's code; save its "
            "state dict alone, as .safetensors or with torch.save(model.state_dict(), path)"
        ) from None
    except Exception as error:
        raise WeightsError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); fetch it again") from None
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise WeightsError(f"{path}: is not a state dict; save it with torch.save(model.state_dict(), path)")
    return content


def copy_matching(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copies every tensor whose name and shape fit; returns the model's names that were not copied.

    For fine-tuning a run with other classes: its class head's last convolution stays as the model has it.
    """
    wanted = model.state_dict()
    fitting = {key: tensors[key] for key in wanted if key in tensors and tensors[key].shape == wanted[key].shape}
    model.load_state_dict(fitting, strict=False)
    return [key for key in wanted if key not in fitting]


def _imagenet(name: str) -> dict[str, Tensor]:
    url = _URL + _IMAGENET[name]
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"{url}: cannot be downloaded ({error}); fetch it by another way and set model.weights to its path, or set "
            "model.weights to none and model.batch_norm to trained"
        ) from None
