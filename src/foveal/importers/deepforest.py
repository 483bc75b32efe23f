"""DeepForest's tree crowns, birds and other detectors: torchvision's version 1 underneath, with thresholds of its own.

Read are Lightning checkpoints (.ckpt, .pl), which name their classes, and bare state dicts, old (.pt) and from the
Hugging Face hub (.safetensors). A bare state dict is told from one of torchvision's in any other Lightning module by
nothing, so it needs --from deepforest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foveal.importers import torchvision
from foveal.importers.converted import Converted
from foveal.importers.weight_files import WeightFile


def recognises(file: WeightFile) -> bool:
    return file.has("model.backbone.body.") and _labels(file) is not None


def convert(file: WeightFile) -> Converted:
    """A checkpoint of DeepForest; a single class without a name is Tree."""
    theirs = torchvision.convert(replace(file, tensors=torchvision.unwrapped(file.tensors)))
    settings = {
        **theirs.settings,
        "model.batch_norm": "frozen",
        "inference.score_threshold": 0.1,
        "inference.show_threshold": 0.1,
        "inference.nms_iou": 0.05,
    }
    notes = (
        *theirs.notes,
        "DeepForest looks at patches of 400 pixels enlarged to 800: predict with --tile 400 to do the same",
    )
    return replace(theirs, settings=settings, class_names=_class_names(file), notes=notes)


def _labels(file: WeightFile) -> Any:
    """DeepForest's numbers by name, which its checkpoints keep beside the weights or among the hyper-parameters."""
    hyper = file.beside.get("hyper_parameters")
    places = [file.beside, hyper] if isinstance(hyper, dict) else [file.beside]
    return next((place["label_dict"] for place in places if place.get("label_dict") is not None), None)


def _class_names(file: WeightFile) -> tuple[str, ...]:
    """The names in the order of their numbers; none where the file does not tell, or not plainly."""
    labels = _labels(file)
    if isinstance(labels, dict) and sorted(map(str, labels.values())) == sorted(map(str, range(len(labels)))):
        return tuple(str(name) for name, _ in sorted(labels.items(), key=lambda entry: int(entry[1])))
    scores = [tensor for name, tensor in file.tensors.items() if name.endswith("cls_logits.bias")]
    offsets = [tensor for name, tensor in file.tensors.items() if name.endswith("bbox_reg.bias")]
    one_class = len(scores) == len(offsets) == 1 and 4 * scores[0].numel() == offsets[0].numel()
    return ("Tree",) if one_class else ()
