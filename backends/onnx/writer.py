"""What writes an ONNX graph: nodes that are named after layers, constants by content, and values of the program.

    writer.op("Conv", [x, w], pads=[1, 1, 1, 1]) = the name of a tensor

A value of an integer program is either `Stored`, a tensor with these very elements, or a `Sum`: a float tensor t that
stands for int32 sums, t = unit · sum, because ONNX says products of codes as products of the reals they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, fx

TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.int8: onnx.TensorProto.INT8,
    torch.int16: onnx.TensorProto.INT16,
    torch.int32: onnx.TensorProto.INT32,
    torch.int64: onnx.TensorProto.INT64,
    torch.bool: onnx.TensorProto.BOOL,
}
"""What ONNX calls a dtype."""


@dataclass(frozen=True)
class Stored:
    """A tensor that has the elements of the program's value; `scale` is what a code stands for."""

    name: str
    dtype: torch.dtype
    scale: float = 1.0


@dataclass(frozen=True)
class Sum:
    """A float tensor t for sums s: t = unit · s, `unit` in float64, one or shaped to broadcast to them."""

    name: str
    unit: Tensor


Value = Stored | Sum


class Writer:
    """The nodes and constants written so far."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._names: dict[str, int] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._node = ""
        self._layer = ""

    def begin(self, node: fx.Node) -> None:
        """What follows stands for this node."""
        self._node = node.name
        origins = node.meta.get("origins", ())
        self._layer = next((origin.layer for origin in origins if origin.layer), "")

    def op(self, kind: str, inputs: Sequence[str], result: str | None = None, **attributes: Any) -> str:
        """A node with one result, which is made once for the same inputs unless it is named."""
        key = (kind, tuple(inputs), repr(sorted(attributes.items())))
        if result is None and key in self._known:
            return self._known[key]
        made = result or self.unique(f"{self._node}.{kind}")
        label = self.unique("/".join(part for part in (self._layer, self._node, kind) if part))
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [made], name=label, **attributes))
        return self._known.setdefault(key, made)

    def unique(self, wish: str) -> str:
        """A name that nothing else has."""
        count = self._names.get(wish, 0)
        self._names[wish] = count + 1
        return wish if not count else self.unique(f"{wish}_{count}")

    def array(self, values: NDArray[Any], suffix: str) -> str:
        """A constant by its content."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = self.own(values, suffix)
        return self._known[key]

    def own(self, values: NDArray[Any], suffix: str) -> str:
        """A constant that nothing else reads."""
        name = self.unique(f"{self._node}.{suffix}")
        self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def tensor(self, values: Tensor, suffix: str, dtype: torch.dtype | None = None) -> str:
        """A constant of a torch tensor."""
        held = values.detach().to(dtype or values.dtype).contiguous().numpy()
        return self.array(held, suffix)

    def integers(self, *values: int) -> str:
        """A list of places or extents, as ONNX takes them."""
        return self.array(np.asarray(values, dtype=np.int64), "extents")

    def floats(self, values: Tensor | float) -> str:
        """Numbers in float32, a scalar or a tensor."""
        return self.tensor(torch.as_tensor(values, dtype=torch.float64), "number", torch.float32)

    def dequantize(self, value: Stored, zero: int) -> str:
        """Codes as the reals they stand for: scale · (code - zero)."""
        held = [value.name, self.floats(value.scale)]
        if value.dtype is not torch.int32:
            held.append(self.tensor(torch.tensor(zero, dtype=value.dtype), "zero"))
        return self.op("DequantizeLinear", held)

    def dequantize_channels(self, codes: Tensor, scales: Tensor, axis: int, suffix: str) -> str:
        """Constant codes with one scale for all (a tensor of one) or one a channel."""
        scales = scales.flatten() if scales.numel() > 1 else scales.reshape(())
        held = [self.tensor(codes, suffix), self.floats(scales)]
        if codes.dtype is not torch.int32:  # ONNX Runtime makes weights unsigned on request, and each zero only once
            held.append(self.own(np.zeros(tuple(scales.shape), dtype=np.int8), "zero"))
        attributes: dict[str, Any] = {"axis": axis} if scales.numel() > 1 else {}
        return self.op("DequantizeLinear", held, **attributes)

    def times(self, name: str, factor: Tensor) -> str:
        """A float tensor times float64 numbers."""
        return self.op("Mul", [name, self.floats(factor)])

    def cast(self, name: str, dtype: torch.dtype) -> str:
        """The same numbers in another dtype."""
        return self.op("Cast", [name], to=TYPES[dtype])
