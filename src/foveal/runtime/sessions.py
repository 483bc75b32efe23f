"""The runtimes themselves: a file in, a function from arrays to arrays out. Neither is installed with Foveal.

A session is called with the file's inputs by name and gives its outputs by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from foveal.errors import UsageError, WeightsError
from foveal.names import printable

EngineName = Literal["onnxruntime", "openvino"]


class Session(Protocol):
    """An opened file. metadata: text by name, as `Description.as_metadata` wrote it. inputs, outputs: their names."""

    path: Path
    metadata: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; WeightsError where the runtime cannot compute them."""
        ...


def open_session(file: Path, engine: EngineName) -> Session:
    """Opens an exported file on the CPU; OpenVINO reads .xml and .onnx, ONNX Runtime .onnx."""
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file; check the path, or make it with foveal export")
    if engine == "openvino":
        return OpenVinoSession(file)
    if file.suffix != ".onnx":
        raise UsageError(f"{file}: ONNX Runtime reads .onnx files; use --engine openvino, or export with --format onnx")
    return OnnxRuntimeSession(file)


class OnnxRuntimeSession:
    """ONNX Runtime on the CPU, float32."""

    def __init__(self, file: Path):
        try:
            import onnxruntime
        except ImportError:
            raise missing("onnxruntime", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone: its warnings speak of its own optimisations
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class but this
            raise _unusable(file, "ONNX Runtime", "open", error) from None
        self.path = file
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.inputs = tuple(one.name for one in self._session.get_inputs())
        self.outputs = tuple(one.name for one in self._session.get_outputs())

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            found = self._session.run(self.outputs, inputs)
        except Exception as error:
            raise _unusable(self.path, "ONNX Runtime", "run", error) from None
        return dict(zip(self.outputs, found, strict=True))


class OpenVinoSession:
    """OpenVINO on the CPU, float32 even where the processor would offer bfloat16."""

    def __init__(self, file: Path):
        try:
            import openvino
        except ImportError:
            raise missing("openvino", "openvino") from None
        try:
            model = openvino.Core().read_model(file)
            compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except Exception as error:  # its exceptions share no base class but this
            raise _unusable(file, "OpenVINO", "open", error) from None
        self.path = file
        # Of a converted file they are under one key, of an ONNX file OpenVINO keeps them under its own.
        self.metadata = _rt_info(model, "foveal") or _rt_info(model, "framework")
        self.inputs = tuple(one.any_name for one in model.inputs)
        self.outputs = tuple(one.any_name for one in model.outputs)  # the compiled model's have inner names too
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            found = self._request.infer(inputs)
        except Exception as error:
            raise _unusable(self.path, "OpenVINO", "run", error) from None
        return {name: np.array(found[index]) for index, name in enumerate(self.outputs)}


def missing(package: str, extra: str) -> UsageError:
    """What to say where an optional package is not installed."""
    return UsageError(f"this needs {package}, which is not installed: pip install 'foveal[{extra}]'")


def _rt_info(model: Any, key: str) -> dict[str, str]:
    entry = model.rt_info[key] if model.has_rt_info([key]) else {}
    values = entry if isinstance(entry, dict) else entry.value
    return {name: str(value.value) for name, value in values.items()}


def _unusable(file: Path, runtime: str, verb: str, error: Exception) -> WeightsError:
    reason = printable(" ".join(str(error).split()), 400) or type(error).__name__
    return WeightsError(f"{file}: {runtime} cannot {verb} it ({reason}); export the run again")
