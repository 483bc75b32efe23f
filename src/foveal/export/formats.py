"""Writes a model in each format, with its metadata."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from foveal.errors import ExportError
from foveal.model.retinanet import RetinaNet
from foveal.runtime.description import Description
from foveal.runtime.sessions import missing


class OnnxFile:
    """An ONNX file: everything inside."""

    def __init__(self, network: RetinaNet, told: Description):
        need("onnx")
        from foveal.export.assembly import assemble
        from foveal.export.graph import OPSET
        from foveal.export.network import as_onnx

        self.model = assemble(as_onnx(network, OPSET), told.config, len(told.class_names), told.resize, told.nms)

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        import onnx

        onnx.helper.set_model_props(self.model, dict(metadata))
        onnx.checker.check_model(self.model)
        onnx.save(self.model, path)


class OpenVinoFile:
    """An OpenVINO file, .xml and .bin, converted from the ONNX file; float32 until `quantising.py` changes `model`."""

    def __init__(self, onnx_file: OnnxFile, folder: Path):
        need("openvino")
        import openvino
        from openvino.passes import ConstantFolding, Manager

        source = folder / "source.onnx"
        onnx_file.write(source, {})
        # Read at once: OpenVINO would map the file for as long as the model lives.
        self.model = openvino.Core().read_model(model=source.read_bytes())
        source.unlink()
        # nncf must find the weights of grouped convolutions as they are used, not before a reshape: it would scale them
        # along a side of their kernels, which no runtime computes in whole numbers.
        passes = Manager()
        passes.register_pass(ConstantFolding())
        passes.run_passes(self.model)

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        import openvino

        for name, value in metadata.items():
            self.model.set_rt_info(value, ["foveal", name])
        openvino.save_model(self.model, path, compress_to_fp16=False)


class ProgramFile:
    """torch.export's program of the network alone; called with images [B, H, W, 3], it gives logits and offsets."""

    def __init__(self, network: RetinaNet, told: Description):
        from foveal.export.network import output_names, program

        self.program = program(network)
        self.names = output_names(told.config.model.level_numbers)

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        torch.export.save(self.program, path, extra_files={"foveal.json": json.dumps(dict(metadata))})


class ProgramSession:
    """A .pt2 file as a session, for the check of it; it runs code of the file, so only what we wrote is opened."""

    def __init__(self, path: Path, names: list[str]):
        files = {"foveal.json": ""}
        self._module = torch.export.load(path, extra_files=files).module()
        self.path = path
        self.inputs: tuple[str, ...] = ("images",)
        self.outputs = tuple(names)
        self.metadata: dict[str, str] = json.loads(files["foveal.json"])

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            with torch.no_grad():
                found = self._module(torch.from_numpy(inputs["images"]))
        except AssertionError as error:  # torch.export takes a level of a single cell for another network
            raise ExportError(
                f"torch.export's program does not take pictures of {inputs['images'].shape[2]} x "
                f"{inputs['images'].shape[1]} ({error}); give larger ones, or export as onnx"
            ) from None
        return {name: value.numpy() for name, value in zip(self.outputs, found, strict=True)}


def need(extra: str) -> None:
    """UsageError with the install line unless the packages of an extra are there."""
    packages = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "int8": ("nncf",)}
    for package in packages[extra]:
        try:
            importlib.import_module(package)
        except ImportError:
            raise missing(package, extra) from None
