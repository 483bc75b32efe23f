"""The runtimes themselves: a file in, a function from arrays to arrays out. Neither is installed with Foveal.

A session is called with the file's inputs by name and gives its outputs by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from foveal.errors import UsageError, WeightsError

EngineName = Literal["onnxruntime", "openvino"]


class Session(Protocol):
    """An opened file. metadata: text by name, as `Description.as_metadata` wrote it."""

    metadata: dict[str, str]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


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
            raise _unreadable(file, "ONNX Runtime", error) from None
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))


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
            raise _unreadable(file, "OpenVINO", error) from None
        # Of a converted file they are under one key, of an ONNX file OpenVINO keeps them under its own.
        self.metadata = _rt_info(model, "foveal") or _rt_info(model, "framework")
        self._names = [output.any_name for output in model.outputs]  # the compiled model's have inner names too
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self._request.infer(inputs)
        return {name: np.array(found[index]) for index, name in enumerate(self._names)}


def missing(package: str, extra: str) -> UsageError:
    """What to say where an optional package is not installed."""
    return UsageError(f"this needs {package}, which is not installed: pip install 'foveal[{extra}]'")


def _rt_info(model: Any, key: str) -> dict[str, str]:
    entry = model.rt_info[key] if model.has_rt_info([key]) else {}
    values = entry if isinstance(entry, dict) else entry.value
    return {name: str(value.value) for name, value in values.items()}


def _unreadable(file: Path, runtime: str, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return WeightsError(f"{file}: {runtime} cannot open it ({reason}); export the run again")
