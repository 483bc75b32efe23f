"""Foveal's tensors as other projects would have saved them: their names, their order, their units.

Written the other way round than the importers, from the projects' own code: what is folded on the way in is unfolded
here, so that a run that is exported and imported again must answer as before.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from golden_torchvision import torchvision_name, with_block_numbers
from torch import Tensor

from foveal.config import ModelConfig
from foveal.model.retinanet import IMAGE_MEAN, IMAGE_STD, RetinaNet

MEAN, STD = 255 * torch.tensor(IMAGE_MEAN), 255 * torch.tensor(IMAGE_STD)


def small_model(classes: int = 2, **changes: Any) -> RetinaNet:
    """A RetinaNet of eight channels whose every number is drawn, statistics of the norms too."""
    torch.manual_seed(0)
    small = {"backbone": "resnet18", "weights": "none", "batch_norm": "trained", "pyramid_channels": 8}
    model = RetinaNet(ModelConfig(**{**small, "head_channels": 8, "head_init": "scaled", **changes}), classes, 9)
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("bias") or "running_mean" in name:
            tensor.normal_(0, 0.1)
        elif ".predict." in name:
            tensor.normal_(0, 0.2)
    return model.eval()


def exported(source: str, model: RetinaNet) -> dict[str, Tensor]:
    """The model's state dict as `source` would have it."""
    return _EXPORTERS[source](dict(model.state_dict()))


def write_names(folder: Path, *names: str) -> Path:
    file = folder / "names.txt"
    file.write_text("\n".join(names) + "\n")
    return file


def _torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    layers = 3 if "class_head.tower.1.weight" in state else 2
    return {with_block_numbers(torchvision_name(ours), layers): tensor for ours, tensor in state.items()}


def _deepforest(state: dict[str, Tensor]) -> dict[str, Tensor]:
    frozen = {name: tensor for name, tensor in _torchvision(state).items() if "num_batches" not in name}
    return {f"model.{name}": tensor for name, tensor in frozen.items()}


def _detectron2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = _with_blue_first(state)
    for head in ("class_head", "box_head"):
        for part in ("weight", "bias"):
            name = f"{head}.predict.{part}"
            # [ratio, size, ...] becomes [size, ratio, ...]
            state[name] = state[name].unflatten(0, (3, 3, -1)).transpose(0, 1).flatten(0, 2)
    return {_detectron2_name(ours): tensor for ours, tensor in state.items() if "num_batches" not in ours}


def _detectron2_name(ours: str) -> str:
    part, _, rest = ours.partition(".")
    if part == "backbone":
        rest = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", rest)
        rest = rest.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        if rest.startswith("conv1."):
            return f"backbone.bottom_up.stem.{rest}"
        return "backbone.bottom_up." + re.sub(r"layer(\d)", lambda found: f"res{int(found[1]) + 1}", rest)
    if part == "pyramid":
        kind, level, parameter = rest.split(".")
        return (
            f"backbone.top_block.p{level}.{parameter}" if kind == "extra" else f"backbone.fpn_{kind}{level}.{parameter}"
        )
    subnet, predict = {"class_head": ("cls_subnet", "cls_score"), "box_head": ("bbox_subnet", "bbox_pred")}[part]
    return "head." + rest.replace("tower", subnet).replace("predict", predict)


def _mmdetection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_mmdetection_name(ours): tensor for ours, tensor in state.items()}


def _mmdetection_name(ours: str) -> str:
    part, _, rest = ours.partition(".")
    if part == "pyramid":
        kind, level, parameter = rest.split(".")
        return f"neck.{'lateral' if kind == 'lateral' else 'fpn'}_convs.{int(level) - 3}.conv.{parameter}"
    if part in ("class_head", "box_head"):
        convs, predict = {"class_head": ("cls_convs", "retina_cls"), "box_head": ("reg_convs", "retina_reg")}[part]
        rest = re.sub(r"tower\.(\d)", lambda found: f"{convs}.{int(found[1]) // 2}.conv", rest)
        return "bbox_head." + rest.replace("predict", predict)
    return ours


def _yhenon(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state)
    std = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(9)
    state["box_head.predict.weight"] = state["box_head.predict.weight"] / std[:, None, None, None]
    state["box_head.predict.bias"] = state["box_head.predict.bias"] / std
    return {_yhenon_name(ours): tensor for ours, tensor in state.items()}


def _yhenon_name(ours: str) -> str:
    part, _, rest = ours.partition(".")
    if part == "pyramid":
        kind, level, parameter = rest.split(".")
        return f"fpn.P{level}{ {'lateral': '_1', 'output': '_2'}.get(kind, '_2' if level == '7' else '') }.{parameter}"
    if part in ("class_head", "box_head"):
        rest = re.sub(r"tower\.(\d)", lambda found: f"conv{int(found[1]) // 2 + 1}", rest).replace("predict", "output")
        return f"{'classification' if part == 'class_head' else 'regression'}Model.{rest}"
    return rest


def _fizyr(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = _with_blue_first(state)
    caffe = torch.tensor([123.68, 116.779, 103.939])
    constant = (state["backbone.conv1.weight"].flip(1) * (MEAN - caffe)[:, None, None]).sum((1, 2, 3))
    state["backbone.bn1.running_mean"] = state["backbone.bn1.running_mean"] + constant
    # Shift and growth back to what both corners move by, in fifths of the sides.
    corners = torch.tensor([[5, 0, -2.5, 0], [0, 5, 0, -2.5], [5, 0, 2.5, 0], [0, 5, 0, 2.5]])
    for part in ("weight", "bias"):
        rows = state[f"box_head.predict.{part}"].unflatten(0, (9, 4))
        state[f"box_head.predict.{part}"] = torch.einsum("ij,aj...->ai...", corners, rows).flatten(0, 1)
    return {
        _fizyr_name(ours): tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor
        for ours, tensor in state.items()
        if "num_batches" not in ours
    }


def _fizyr_name(ours: str) -> str:
    place, _, parameter = ours.rpartition(".")
    norm = re.search(r"\.(bn\d|downsample\.1)$", place) is not None
    variables = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    variables |= {"weight": "gamma", "bias": "beta"} if norm else {"weight": "kernel", "bias": "bias"}
    if found := re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.(?:(?:conv|bn)(\d)|downsample\.\d)", place):
        branch = f"2{'abc'[int(found[3]) - 1]}" if found[3] else "1"
        layer = f"{'bn' if norm else 'res'}{int(found[1]) + 1}{'abcdef'[int(found[2])]}_branch{branch}"
    elif place.startswith("backbone."):
        layer = "bn_conv1" if norm else "conv1"
    elif found := re.fullmatch(r"pyramid\.(\w+)\.(\d)", place):
        layer = f"C{found[2]}_reduced" if found[1] == "lateral" else f"P{found[2]}"
    else:
        head, _, rest = place.partition(".")
        layer = f"pyramid_{'classification' if head == 'class_head' else 'regression'}"
        layer += f"_{int(rest.split('.')[1]) // 2}" if rest.startswith("tower") else ""
    return f"{layer}/{variables[parameter]}"


def _with_blue_first(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution for pixels of 0 to 255 less the mean, blue first."""
    return {**state, "backbone.conv1.weight": (state["backbone.conv1.weight"] / STD[:, None, None]).flip(1)}


_EXPORTERS = {
    "torchvision": _torchvision,
    "deepforest": _deepforest,
    "detectron2": _detectron2,
    "mmdetection": _mmdetection,
    "yhenon": _yhenon,
    "fizyr": _fizyr,
}
