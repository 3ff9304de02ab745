"""The table of `planish::` integer operators: schema, reference, shape. Importing this module registers them, once.

    torch.ops.planish.requantize.default(torch.ops.planish.convolution.default(x, w, b, ...), ...)

Products and sums give int32; `requantize`, `add`, `lookup`, `curve`, softmax and norms give codes. The reference on the
CPU is the specification of compiled kernels, bit for bit. Moves of elements, `clamp` within the dtype, `cat` of values
of one scale and pads with the zero point are ATen's own operators, which do with integers what they do with floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import accumulate, pointwise, rows, windows

aten = torch.ops.aten


@dataclass(frozen=True)
class Operator:
    """One operator: its schema, what it computes, and an empty tensor of the result's shape and dtype."""

    schema: str
    reference: Callable[..., Tensor]
    shape: Callable[..., Tensor]

    @property
    def name(self) -> str:
        """The name before the arguments."""
        return self.schema.partition("(")[0]

    def compute(self, *args: Any) -> Tensor:
        """The reference's result, laid out as the shape function says."""
        return self.reference(*args).contiguous()


def _empty(shaped: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(shaped.shape, dtype=dtype, device=shaped.device)


def _like_first(x: Tensor, *rest: Any) -> Tensor:
    """x's shape, the dtype that is the last argument."""
    return _empty(x, rest[-1])


def _broadcast(a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """Both shapes broadcast; the last argument as dtype, int32 where it is none."""
    dtype = rest[-1] if isinstance(rest[-1], torch.dtype) else torch.int32
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape), dtype=dtype)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, x_zero: int, *geometry: Any) -> Tensor:
    floats = (None if t is None else _empty(t, torch.float32) for t in (x, weight, bias))
    return _empty(aten.convolution.default(*floats, *geometry), torch.int32)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, x_zero: int) -> Tensor:
    return _empty(torch.matmul(_empty(x, torch.float32), _empty(weight, torch.float32).T), torch.int32)


def _matmul(a: Tensor, b: Tensor, a_zero: int) -> Tensor:
    return _empty(torch.matmul(_empty(a, torch.float32), _empty(b, torch.float32)), torch.int32)


def _sum(x: Tensor, dim: Sequence[int], keepdim: bool, x_zero: int) -> Tensor:
    return _empty(_empty(x, torch.float32).sum(list(dim), keepdim), torch.int32)


def _sum_pool(x: Tensor, x_zero: int, *geometry: Any) -> Tensor:
    return _empty(windows.AVERAGE[len(geometry[0])](_empty(x, torch.float32), *geometry), torch.int32)


def _max_pool(x: Tensor, *geometry: Any) -> Tensor:
    return _empty(windows.MAXIMUM[len(geometry[0])](_empty(x, torch.float32), *geometry), x.dtype)


def _resize(x: Tensor, places: Tensor, weights: Tensor, dim: int, x_zero: int) -> Tensor:
    return x.new_empty([*x.shape[:dim], places.shape[1], *x.shape[dim + 1 :]], dtype=torch.int32)


def _lookup(x: Tensor, table: Tensor) -> Tensor:
    return _empty(x, table.dtype)


_RANGE = "int zero, int low, int high, ScalarType dtype"
_WINDOW = "int[] kernel, int[] stride, int[] padding"
_NORM = f"(Tensor x, Tensor weight, Tensor bias, int dims, int x_zero, int eps, int shift, {_RANGE}) -> Tensor"

OPERATORS: tuple[Operator, ...] = (
    Operator(f"quantize(Tensor x, float scale, {_RANGE}) -> Tensor", pointwise.quantize, _like_first),
    Operator(
        "dequantize(Tensor x, Tensor scale, int zero) -> Tensor",
        pointwise.dequantize,
        lambda x, scale, zero: _empty(x, torch.float32),
    ),
    Operator(
        f"requantize(Tensor x, Tensor multiplier, Tensor shift, int x_zero, {_RANGE}) -> Tensor",
        pointwise.requantize,
        _like_first,
    ),
    Operator(
        "convolution(Tensor x, Tensor weight, Tensor? bias, int x_zero, int[] stride, int[] padding, int[] dilation, "
        "bool transposed, int[] output_padding, int groups) -> Tensor",
        accumulate.convolution,
        _convolution,
    ),
    Operator("linear(Tensor x, Tensor weight, Tensor? bias, int x_zero) -> Tensor", accumulate.linear, _linear),
    Operator("matmul(Tensor a, Tensor b, int a_zero) -> Tensor", accumulate.matmul, _matmul),
    Operator("mul(Tensor a, Tensor b, int a_zero, int b_zero) -> Tensor", accumulate.mul, _broadcast),
    Operator(
        "add(Tensor a, Tensor b, Tensor a_multiplier, Tensor b_multiplier, Tensor shift, int a_zero, int b_zero, "
        f"{_RANGE}) -> Tensor",
        pointwise.add,
        _broadcast,
    ),
    Operator("sum(Tensor x, int[] dim, bool keepdim, int x_zero) -> Tensor", accumulate.reduce_sum, _sum),
    Operator(f"sum_pool(Tensor x, int x_zero, {_WINDOW}, bool ceil_mode) -> Tensor", windows.sum_pool, _sum_pool),
    Operator(f"max_pool(Tensor x, {_WINDOW}, int[] dilation, bool ceil_mode) -> Tensor", windows.max_pool, _max_pool),
    Operator("resize(Tensor x, Tensor places, Tensor weights, int dim, int x_zero) -> Tensor", windows.resize, _resize),
    Operator("lookup(Tensor x, Tensor table) -> Tensor", pointwise.lookup, _lookup),
    Operator(
        "curve(Tensor x, Tensor coefficients, int shift, int low, int high, ScalarType dtype) -> Tensor",
        pointwise.curve,
        _like_first,
    ),
    Operator(
        "softmax(Tensor x, Tensor? mask, int multiplier, int shift, int dim, int bits, ScalarType dtype) -> Tensor",
        rows.softmax,
        _like_first,
    ),
    Operator(f"layer_norm{_NORM}", rows.layer_norm, _like_first),
    Operator(f"rms_norm{_NORM}", rows.rms_norm, _like_first),
)

FLOATING: tuple[Operator, ...] = (
    Operator(
        "masked_softmax(Tensor x, Tensor seen, int dim) -> Tensor",
        rows.masked_softmax,
        lambda x, seen, dim: _empty(x, x.dtype),
    ),
    Operator(
        "rounded(Tensor x, float scale, int zero, int low, int high) -> Tensor",
        pointwise.rounded,
        lambda x, *codes: _empty(x, x.dtype),
    ),
)
"""What a float program says so that it can be calibrated: it has no scores of -inf; and which values of it stand on
codes of uint8 that others chose. Not for kernels."""

_LIBRARY = torch.library.Library("planish", "DEF")
for _operator in (*OPERATORS, *FLOATING):
    _LIBRARY.define(_operator.schema)
    _LIBRARY.impl(_operator.name, _operator.compute, "CPU")
    torch.library.register_fake(f"planish::{_operator.name}", _operator.shape, lib=_LIBRARY)

ROUNDED = torch.ops.planish.rounded.default
"""The second of these."""
