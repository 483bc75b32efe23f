"""torchvision's side: its RetinaNet's own loss, matcher, post-processing and training step, called as it calls them.

Where memory layouts differ in speed, both are tried and the faster one is taken, but where it is asked as it comes.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import _utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetClassificationHead
from torchvision.ops import batched_nms, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.peers import inputs
from benchmarks.peers.worker import Job, Numbers

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def versions() -> str:
    return f"python {platform.python_version()} torch {torch.__version__} torchvision {version('torchvision')}"


def loss(settings: Numbers) -> Job:
    """The class loss as the head computes it, one-hot targets included, and its gradient."""
    given = inputs.loss_inputs(settings["height"], settings["width"], settings["classes"])
    head = RetinaNetClassificationHead(8, inputs.PER_CELL, settings["classes"])
    matched = torch.full((len(given.logits),), -1)
    matched[given.positive], matched[given.ignored] = given.object, -2
    targets = [{"labels": given.labels}]

    def run() -> tuple[Tensor, Tensor]:
        logits = given.logits.detach().requires_grad_()
        value = head.compute_loss(targets, {"cls_logits": logits[None]}, [matched])
        value.backward()
        assert logits.grad is not None
        return value.detach(), logits.grad

    def answer() -> Numbers:
        value, gradient = run()
        positives = len(given.positive)  # the head divides by them
        return {"value": float(value) * positives, "gradient": inputs.digest(gradient * positives)}

    return Job(run, answer)


def matching(settings: Numbers) -> Job:
    """IoU of every object and anchor, then the matcher."""
    height, width = settings["height"], settings["width"]
    boxes = inputs.objects_in(settings["objects"], height, width, spread=3, least=2.5)
    anchors = _anchors(height, width)()
    matcher = _utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)

    def run() -> Tensor:
        return matcher(box_iou(boxes, anchors))

    def answer() -> Numbers:
        matched = run()
        positive, ignored = (matched >= 0).nonzero().squeeze(1), (matched == -2).nonzero().squeeze(1)
        return inputs.assignment(positive, matched[positive], ignored)

    return Job(run, answer)


def decoding(settings: Numbers) -> Job:
    """Head outputs of one picture to detections."""
    height, width = settings["height"], settings["width"]
    logits, deltas = inputs.head_outputs(height, width, settings["kind"])
    counts = inputs.anchor_count(height, width)
    detector = RetinaNet(_NoBackbone(), inputs.CLASSES, score_thresh=0.05).eval()
    outputs = {
        "cls_logits": list(logits[None].split(counts, 1)),
        "bbox_regression": list(deltas[None].split(counts, 1)),
    }
    anchors = [list(_anchors(height, width)().split(counts))]

    @torch.no_grad()
    def run() -> dict[str, Tensor]:
        return detector.postprocess_detections(outputs, anchors, [(height, width)])[0]

    return Job(run, lambda: inputs.found(**run()))


def nms(settings: Numbers) -> Job:
    """NMS class by class, as `batched_nms` chooses to do it."""
    boxes, scores, labels = inputs.boxes_to_suppress(settings["boxes"], settings["kind"])

    def run() -> Tensor:
        return batched_nms(boxes, scores, labels, 0.5)

    return Job(run, lambda: {"kept": run().tolist()})


def anchors(settings: Numbers) -> Job:
    run = _anchors(settings["side"], settings["side"])
    return Job(run, lambda: inputs.digest(run()))


def image(settings: Numbers) -> Job:
    """One picture through the detector, with normalising and post-processing, in its best layout or as it comes."""
    side = settings["side"]
    picture = inputs.pictures(1, side)[0].float() / 255
    layout = "contiguous"
    if not settings.get("as_it_comes"):
        layout = _fastest(f"image {side}", lambda chosen: _detector(side, chosen).eval(), lambda m: _ask(m, picture))
    detector = _detector(side, layout).eval()
    _write_weights(detector, Path(settings["folder"]))
    return Job(lambda: _ask(detector, picture), lambda: inputs.found(**_ask(detector, picture)), layout)


def training(settings: Numbers) -> Job:
    """One SGD step on two pictures; all of ResNet-50 learns but its batch norm, which is frozen."""
    side, count = settings["side"], settings["objects"]
    pictures = [picture.float() / 255 for picture in inputs.pictures(settings["batch"], side)]
    labels = torch.arange(count) % inputs.CLASSES
    targets = [
        {"boxes": inputs.objects_in(count, side, side, 2.2, 2.8, seed), "labels": labels}
        for seed in range(len(pictures))
    ]

    def learner(layout: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = _detector(side, layout).train()
        return model, torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True)

    def step(learning: tuple[nn.Module, torch.optim.Optimizer]) -> dict[str, Tensor]:
        model, optimiser = learning
        losses = model(pictures, [dict(target) for target in targets])
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
        return losses

    layout = _fastest(f"training {side}", learner, step)
    learning = learner(layout)
    _write_weights(learning[0], Path(settings["folder"]))

    def answer() -> Numbers:
        losses = step(learning)
        return {"classification": losses["classification"].item(), "box": losses["bbox_regression"].item()}

    return Job(lambda: step(learning), answer, layout)


JOBS: dict[str, Callable[[Numbers], Job]] = {
    "loss": loss,
    "matching": matching,
    "decoding": decoding,
    "nms": nms,
    "anchors": anchors,
    "image": image,
    "training": training,
}


class _NoBackbone(nn.Module):
    """Stands where a detector wants a backbone that is not asked."""

    out_channels = 8


def _anchor_generator() -> AnchorGenerator:
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))


def _anchors(height: int, width: int) -> Callable[[], Tensor]:
    """What lays the anchors of a picture, each time anew, as the detector does for each batch."""
    generator = _anchor_generator()
    features = [torch.zeros(1, 1, -(-height // stride), -(-width // stride)) for stride in inputs.STRIDES]
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    return lambda: generator(images, features)[0]


def _detector(side: int, layout: str) -> RetinaNet:
    """Version 1 with frozen batch norm, from seed 0; its class scores are spread as those of a trained one."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    for name, buffer in backbone.named_buffers():
        if name.endswith("bn3.weight"):
            buffer.fill_(0.25)  # or 16 blocks would double the signal 16 times
    detector = RetinaNet(backbone, inputs.CLASSES, min_size=side, max_size=side)
    predict = detector.head.classification_head.cls_logits
    with torch.no_grad():
        logits = detector.head.classification_head(list(backbone(torch.randn(1, 3, 256, 256)).values()))
        predict.weight *= 0.8 / logits.std()
    return detector.to(memory_format=LAYOUTS[layout])


@torch.no_grad()
def _ask(detector: nn.Module, picture: Tensor) -> dict[str, Tensor]:
    return detector([picture])[0]


_fastest_layout: dict[str, str] = {}


def _fastest(name: str, make: Callable[[str], Any], work: Callable[[Any], Any]) -> str:
    """The layout in which the best of three runs of `work` on what `make` gives is faster, after one that warms up.

    Found once a name and process.
    """
    if name not in _fastest_layout:
        took = {}
        for layout in LAYOUTS:
            made, seconds = make(layout), []
            for _ in range(4):
                began = time.perf_counter()
                work(made)
                seconds.append(time.perf_counter() - began)
            took[layout] = min(seconds[1:])
        _fastest_layout[name] = min(took, key=lambda layout: took[layout])
    return _fastest_layout[name]


def _write_weights(detector: nn.Module, folder: Path) -> None:
    """Leaves the weights for the other side, which imports them."""
    torch.save(detector.state_dict(), folder / "detector.pth")
