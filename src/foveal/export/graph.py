"""A graph of ONNX nodes, written one call a node: what surrounds the exported network.

Values are the names of tensors, as in ONNX itself. `graph("Mul", a, b)` adds a node and gives the name of its result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
"""Of the files we write: ONNX 1.16 (March 2024) and all later readers know it."""
IR_VERSION = 10

FLOAT, INT32, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8


class Graph:
    """Nodes in the order of their calls; constants are kept once each."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one result."""
        return self.several(operator, 1, *inputs, **attributes)[0]

    def several(self, operator: str, results: int, *inputs: str, **attributes: Any) -> list[str]:
        """Adds a node of several results; an input "" is an optional one that is left out."""
        self._count += 1
        names = [f"{operator}_{self._count}" + (f"_{i}" if results > 1 else "") for i in range(results)]
        name = f"{operator}_{self._count}"
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return names

    def input(self, name: str, kind: int, shape: list[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, kind: int, shape: list[int | str]) -> None:
        """Makes a value a result of the file, under this name."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"to_{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, value: Any, dtype: Any) -> str:
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A list of whole numbers (axes, shapes), int64."""
        return self.constant(values, np.int64)

    def cast(self, value: str, kind: int) -> str:
        return self("Cast", value, to=kind)

    def side(self, value: str, axis: int) -> str:
        """The length of an axis, int64 [1]."""
        return self("Shape", value, start=axis, end=axis + 1)

    def scalar(self, value: str) -> str:
        """[1] to []."""
        return self("Squeeze", value, self.ints(0))

    def columns(self, value: str, number: int) -> list[str]:
        """[..., n] to n of [...]."""
        parts = self.several("Split", number, value, axis=-1, num_outputs=number)
        return [self("Squeeze", part, self.ints(-1)) for part in parts]

    def stacked(self, *values: str) -> str:
        """n of [...] to [..., n]."""
        return self("Concat", *(self("Unsqueeze", value, self.ints(-1)) for value in values), axis=-1)

    def range(self, length: str, kind: int) -> str:
        """0 .. length - 1 of an int64 [1], as [length]."""
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        return self.cast(self("Range", zero, self.scalar(length), one), kind)

    def embed(self, model: onnx.ModelProto, prefix: str, image: str) -> list[str]:
        """Adds another model's nodes, its one input being `image`; gives the names of its results."""
        inner = onnx.compose.add_prefix(model, prefix).graph
        self.nodes.append(helper.make_node("Identity", [image], [inner.input[0].name], name=f"to_{prefix}"))
        self.nodes.extend(inner.node)
        self.initializers.extend(inner.initializer)
        return [value.name for value in inner.output]

    def model(self, doc: str) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "foveal", self.inputs, self.outputs, self.initializers, doc_string=doc)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="foveal")
