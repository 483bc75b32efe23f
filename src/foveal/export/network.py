"""The network as torch.export sees it, with any number of pictures of any size, and as ONNX."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from foveal.model.retinanet import RetinaNet

if TYPE_CHECKING:
    import onnx

_ANY = 2**40
_SOURCES = ("stack_trace", "source_fn_stack", "from_node", "custom")
_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")


class ChannelsLastInput(nn.Module):
    """Pictures [B, H, W, 3] uint8 to the logits of every level, then the offsets of every level."""

    def __init__(self, network: RetinaNet):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(images.permute(0, 3, 1, 2))
        return (*outputs.logits, *outputs.deltas)


class _Flat(nn.Module):
    def __init__(self, network: RetinaNet):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(images)
        return (*outputs.logits, *outputs.deltas)


def program(network: RetinaNet) -> ExportedProgram:
    """torch.export's program of uint8 pictures [B, H, W, 3]."""
    any_size = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    # No side of the example equals another length, else the two are taken for one.
    example = torch.zeros(2, 352, 416, 3, dtype=torch.uint8)
    with _quiet():
        exported = torch.export.export(ChannelsLastInput(_still(network)), (example,), dynamic_shapes=(any_size,))
    for module in exported.graph_module.modules():  # where in whose source a node came from is nothing to publish
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for name in _SOURCES:
                    node.meta.pop(name, None)
    return exported


def as_onnx(network: RetinaNet, opset: int) -> onnx.ModelProto:
    """The network of float32 pictures [B, 3, H, W] in whole levels; its results are L logits, then L deltas."""
    from onnxscript import optimizer

    any_size = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with _quiet():
        written = torch.onnx.export(
            _Flat(_still(network)),
            (torch.zeros(2, 3, 352, 416),),
            dynamo=True,
            dynamic_shapes=(any_size,),
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
        assert written is not None
        # Its own limits would leave the batch norms of the larger convolutions unfolded.
        optimizer.optimize(written.model, input_size_limit=_ANY, output_size_limit=_ANY)
    model = written.model_proto
    for node in model.graph.node:  # where in whose source a node came from is nothing to publish
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    return model


def output_names(levels: tuple[int, ...]) -> list[str]:
    """What the network's results are called in files of raw outputs."""
    return [f"{what}_P{level}" for what in ("logits", "deltas") for level in levels]


def _still(network: RetinaNet) -> RetinaNet:
    """A copy on the CPU in evaluation mode that wants no gradient, its weights in plain order."""
    still = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    for parameter in still.parameters():
        parameter.data = parameter.data.contiguous()
    return still


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says about itself: deprecated names that it uses, torchvision that is not there."""
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
