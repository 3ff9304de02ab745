"""Every builder of the generic scheduler against eager PyTorch and float64: shapes, attributes, dtypes, layouts.

All cases are compiled as one module. Inputs in blocked layouts hold NaN in the lanes past their channels, and
outputs start as NaN, so that a lane that leaks or an element that is forgotten is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import kernel_case
import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from kernel_case import Built, make_task

from planish.backends.tvm.compat import tvm
from planish.backends.tvm.generic.builders import BUILDERS
from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.template import Refused

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(7)


@dataclass(frozen=True)
class Case:
    """A function of ATen calls and its inputs; `layouts` and `options` are make_task's."""

    fn: Callable[..., Any]
    inputs: Sequence[torch.Tensor]
    layouts: dict[int, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def r(*shape: int) -> torch.Tensor:
    """Normal float32 numbers."""
    return torch.randn(shape, generator=GENERATOR)


def ints(*shape: int, low: int = -9, high: int = 10, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Small integers."""
    return torch.randint(low, high, shape, generator=GENERATOR).to(dtype)


def odd(*shape: int) -> torch.Tensor:
    """Numbers with NaN and infinities among them."""
    x = r(*shape)
    flat = x.view(-1)
    flat[:: max(1, flat.numel() // 5)] = torch.tensor([float("nan"), float("inf"), -float("inf")]).repeat(99)[
        : len(flat[:: max(1, flat.numel() // 5)])
    ]
    return x


def call(op: Any, *rest: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """x -> op(x, *rest)."""
    return lambda x: op(x, *rest, **kwargs)


def affine(op: Any, before: Any, *after: Any) -> Callable[[Any, Any, Any], Any]:
    """(x, w, b) -> op(x, before, w, b, *after)."""
    return lambda x, w, b: op(x, before, w, b, *after)


def scaled(op: Any, before: Any, *after: Any) -> Callable[[Any, Any], Any]:
    """(x, w) -> op(x, before, w, *after)."""
    return lambda x, w: op(x, before, w, *after)


def joined(dim: int) -> Callable[[Any, Any, Any], Any]:
    """cat of three."""
    return lambda a, b, c: aten.cat.default([a, b, c], dim)


def relu_of(op: Any, *rest: Any) -> Callable[[Any], Any]:
    """x -> relu(op(x, *rest))."""
    return lambda x: aten.relu.default(op(x, *rest))


SHAPES = ((5,), (1, 7), (3, 1, 5), (4, 33, 2), (2, 17, 5, 3), (2, 3, 64, 64))


def reduce_cases() -> dict[str, Case]:
    """Aggregates over every axis, several, and all."""
    found: dict[str, Case] = {}
    for shape in SHAPES:
        for dims in [[d] for d in range(len(shape))] + [[0, len(shape) - 1]] * (len(shape) > 1):
            for keep in (False, True):
                found[f"sum {shape} {dims} {keep}"] = Case(call(aten.sum.dim_IntList, dims, keep), [r(*shape) + 1])
        found[f"mean {shape}"] = Case(call(aten.mean.dim, [-1], True), [r(*shape)])
        for op in (aten.amax.default, aten.amin.default):
            found[f"{op} {shape}"] = Case(call(op, [0], False), [odd(*shape)])
        found[f"sum all {shape}"] = Case(call(aten.sum.dim_IntList, list(range(len(shape))), False), [r(*shape) + 1])
        for op in (aten.argmax.default, aten.argmin.default):
            found[f"{op} {shape}"] = Case(call(op, len(shape) - 1, True), [odd(*shape)])
            found[f"{op} all {shape}"] = Case(call(op, None, False), [r(*shape)])
            found[f"{op} ties {shape}"] = Case(call(op, 0, False), [ints(*shape, low=0, high=2)])
        found[f"logsumexp {shape}"] = Case(call(aten.logsumexp.default, [-1], True), [r(*shape) * 50])
        found[f"cumsum {shape}"] = Case(call(aten.cumsum.default, len(shape) - 1), [r(*shape)])
        found[f"cumsum first {shape}"] = Case(call(aten.cumsum.default, 0), [r(*shape)])
    return found | whole_cases()


def whole_cases() -> dict[str, Case]:
    """Other dtypes, whole tensors, aggregates within larger regions."""
    found: dict[str, Case] = {}
    x = ints(4, 37)
    found["sum int"] = Case(call(aten.sum.dim_IntList, [1], False), [x])
    found["sum int32"] = Case(call(aten.sum.dim_IntList, [1], False), [x.int()])
    found["sum bool"] = Case(call(aten.sum.dim_IntList, [0], False), [x > 0])
    found["prod"] = Case(call(aten.prod.dim_int, 1, False), [r(4, 9)])
    found["amax int8"] = Case(call(aten.amax.default, [1], False), [x.to(torch.int8)])
    found["amin uint8"] = Case(call(aten.amin.default, [0, 1], False), [x.abs().to(torch.uint8)])
    found["cumsum int"] = Case(call(aten.cumsum.default, 1), [x])
    found["cumsum bool"] = Case(call(aten.cumsum.default, 0), [x > 0])
    found["cumprod"] = Case(call(aten.cumprod.default, 1), [r(3, 5, 40)])
    for op in (aten.any.dim, aten.all.dim):
        for data in (x > 0, x, r(3, 50), torch.zeros(3, 19), odd(2, 17)):
            found[f"{op} {data.dtype} {tuple(data.shape)} {len(found)}"] = Case(call(op, 1, False), [data])
    for order in (1, 2, float("inf"), -float("inf"), 0):
        found[f"norm {order}"] = Case(call(aten.linalg_vector_norm.default, order, [1], True), [r(5, 70)])
    for op in (aten.sum, aten.mean, aten.max, aten.min, aten.prod, aten.any, aten.all):
        found[f"{op} whole"] = Case(call(op.default), [r(3, 7, 5) + 1])
    for op in (aten.any.dims, aten.all.dims):
        found[f"{op}"] = Case(call(op, [0, 2], True), [ints(3, 4, 5, low=0, high=3)])
    found["sum long"] = Case(call(aten.sum.dim_IntList, [0], False), [r(100_003)])
    found["mean float64"] = Case(call(aten.mean.dim, [0, 1], False), [r(130, 70).double()])
    found["sum of product"] = Case(
        lambda a, b: aten.sum.dim_IntList(aten.mul.Tensor(a, b), [1], False), [r(9, 65), r(9, 1)]
    )
    found["sum then exp"] = Case(lambda a: aten.exp.default(aten.sum.dim_IntList(a, [1], True)), [r(9, 65)])
    found["minus mean"] = Case(lambda a: aten.sub.Tensor(a, aten.mean.dim(a, [1], True)), [r(9, 65)])
    found["two sums"] = Case(
        lambda a: aten.sum.dim_IntList(aten.exp.default(aten.sum.dim_IntList(a, [2], False)), [0], False), [r(3, 40, 5)]
    )
    return found


def norm_cases() -> dict[str, Case]:
    """Normalizations and softmax."""
    found: dict[str, Case] = {}
    for shape in SHAPES:
        for op in (aten._softmax.default, aten._log_softmax.default):
            for dim in range(len(shape)):
                found[f"{op} {shape} {dim}"] = Case(call(op, dim, False), [r(*shape) * 5])
        found[f"softmax -inf {shape}"] = Case(call(aten._softmax.default, len(shape) - 1, False), [odd(*shape)])
        w, b = r(shape[-1]), r(shape[-1])
        n, rms = [shape[-1]], aten.rms_norm.default
        found[f"layer {shape}"] = Case(affine(aten.layer_norm.default, n, 1e-5, False), [r(*shape), w, b])
        found[f"layer plain {shape}"] = Case(call(aten.layer_norm.default, n, None, None, 1e-6, False), [r(*shape)])
        found[f"rms {shape}"] = Case(scaled(rms, n, 1e-6), [r(*shape), w])
        found[f"rms none {shape}"] = Case(call(rms, n, None, None), [r(*shape)])
    found["layer two axes"] = Case(
        lambda x, w: aten.layer_norm.default(x, [5, 7], w, None, 1e-5, False), [r(3, 4, 5, 7), r(5, 7)]
    )
    found["layer far mean"] = Case(call(aten.layer_norm.default, [96], None, None, 1e-5, False), [r(7, 96) + 1000])
    group = aten.group_norm.default
    for shape, groups in (((2, 6, 5, 5), 3), ((1, 32, 9), 8), ((2, 6, 4, 4), 1), ((2, 6, 4, 4), 6), ((3, 4), 2)):
        w, b = r(shape[1]), r(shape[1])
        found[f"group {shape} {groups}"] = Case(affine(group, groups, 1e-5, False), [r(*shape), w, b])
        found[f"group plain {shape} {groups}"] = Case(call(group, groups, None, None, 1e-5, False), [r(*shape)])
    for dims, correction in (([1], 1), ([0, 2], 0), (None, 1), ([2], 2)):
        for op in (aten.var.correction, aten.std.correction):
            found[f"{op} {dims} {correction}"] = Case(call(op, dims, correction=correction, keepdim=True), [r(4, 9, 6)])
    found["channels-first layer norm"] = Case(
        lambda x, w, b: aten.permute.default(
            aten.layer_norm.default(aten.permute.default(x, [0, 2, 3, 1]), [24], w, b, 1e-6, False), [0, 3, 1, 2]
        ),
        [r(2, 24, 7, 5), r(24), r(24)],
    )
    return found


def view_cases() -> dict[str, Case]:
    """Ops that move elements."""
    found: dict[str, Case] = {}
    x = r(2, 6, 5, 4)

    def add(name: str, fn: Callable[..., Any], *inputs: torch.Tensor) -> None:
        found[name] = Case(fn, inputs)

    for dims in ([0, 2, 3, 1], [0, 3, 1, 2], [3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 3, 2], [2, 0, 3, 1]):
        add(f"permute {dims}", call(aten.permute.default, dims), x)
        add(f"permute then relu {dims}", relu_of(aten.permute.default, dims), x)
    for size in ([60, 4], [240], [2, 3, 2, 5, 4], [1, 240, 1], [4, 60], [5, 6, 8]):
        add(f"reshape {size}", call(aten.reshape.default, size), x)
    add("reshape permute", lambda t: aten.reshape.default(aten.permute.default(t, [0, 2, 3, 1]), [2, 20, 6]), x)
    add("heads", lambda t: aten.permute.default(aten.reshape.default(t, [2, 9, 3, 4, 5]), [2, 0, 3, 1, 4]), r(2, 9, 60))
    add("windows", lambda t: aten.reshape.default(
        aten.permute.default(aten.reshape.default(t, [1, 2, 7, 2, 7, 5]), [0, 1, 3, 2, 4, 5]), [4, 49, 5]
    ), r(1, 14, 14, 5))  # fmt: skip
    add("pixel shuffle", lambda t: aten.reshape.default(
        aten.permute.default(aten.reshape.default(t, [2, 3, 2, 2, 5, 7]), [0, 1, 4, 2, 5, 3]), [2, 3, 10, 14]
    ), r(2, 12, 5, 7))  # fmt: skip
    add("expand", call(aten.expand.default, [3, 5, 7]), r(3, 1, 7))
    add("expand new", call(aten.expand.default, [2, 3, 5]), r(5))
    for a in ((1, 1, 5, 2), (0, 0, 1, 1), (3, 1, 4, 3), (2, 2, 5, 1)):
        add(f"slice {a}", call(aten.slice.Tensor, *a), x)
    add("flip", call(aten.flip.default, [1, 3]), x)
    add("roll", call(aten.roll.default, [2, -3], [1, 2]), x)
    for dim in range(4):
        parts = [r(*(e if d != dim else k for d, e in enumerate((2, 3, 5, 4)))) for k in (1, 4, 2)]
        add(f"cat {dim}", joined(dim), *parts)
    add("cat exp", lambda a, b: aten.cat.default([aten.exp.default(a), aten.tanh.default(b)], 1), r(3, 5), r(3, 30))
    add("cat int", lambda a, b: aten.cat.default([a, b], 0), ints(3, 5), ints(2, 5))
    add("pad", call(aten.constant_pad_nd.default, [1, 2, 3, 0], 0.5), x)
    add("pad cut", call(aten.constant_pad_nd.default, [-1, 2, 0, -2], -1.0), x)
    add("pad bool", call(aten.constant_pad_nd.default, [1, 2], True), r(3, 5) > 0)
    add("reflect", call(aten.pad.default, [2, 1, 3, 2], "reflect"), x)
    add("replicate", call(aten.pad.default, [2, 1, 3, 2], "replicate"), x)
    for k in (-2, 0, 1):
        add(f"tril {k}", call(aten.tril.default, k), odd(2, 5, 7))
        add(f"triu {k}", call(aten.triu.default, k), r(7, 5))
    return found | gather_cases()


def gather_cases() -> dict[str, Case]:
    """Reads at places that are data."""
    table = r(11, 37)
    found = {
        "embedding": Case(lambda w, i: aten.embedding.default(w, i), [table, ints(3, 5, low=0, high=11)]),
        "embedding int32": Case(lambda w, i: aten.embedding.default(w, i), [table, ints(4, low=0, high=11).int()]),
        "index_select 0": Case(lambda x, i: aten.index_select.default(x, 0, i), [table, ints(6, low=0, high=11)]),
        "index_select 1": Case(lambda x, i: aten.index_select.default(x, 1, i), [table, ints(6, low=0, high=37)]),
        "gather 1": Case(lambda x, i: aten.gather.default(x, 1, i), [table, ints(11, 4, low=0, high=37)]),
        "gather 0": Case(lambda x, i: aten.gather.default(x, 0, i), [table, ints(3, 30, low=0, high=11)]),
    }
    x, i, j = r(4, 5, 6, 7), ints(3, low=-4, high=4), ints(2, 3, low=-5, high=5)
    index = aten.index.Tensor
    found["index first"] = Case(lambda x, i: index(x, [i]), [x, i])
    found["index second"] = Case(lambda x, j: index(x, [None, j]), [x, j])
    found["index both"] = Case(lambda x, i, j: index(x, [i, j]), [x, i, j])
    found["index apart"] = Case(lambda x, i, j: index(x, [i, None, j]), [x, i, j])
    found["index scalar"] = Case(lambda x, i: index(x, [None, i]), [x, torch.tensor(-2)])
    return found


def window_cases() -> dict[str, Case]:
    """Pools."""
    found: dict[str, Case] = {}
    for n, op in ((1, aten.max_pool1d.default), (2, aten.max_pool2d.default), (3, aten.max_pool3d.default)):
        x = odd(2, 5, *(11, 9, 7)[:n])
        for k, s, p, d, ceil in ((3, 2, 1, 1, False), (2, 2, 0, 1, True), (3, 1, 1, 2, False), (3, 2, 0, 1, True)):
            if d == 2 and n == 3:
                continue
            found[f"max{n} {k} {s} {p} {d} {ceil}"] = Case(call(op, [k] * n, [s] * n, [p] * n, [d] * n, ceil), [x])
    pools = ((1, aten.avg_pool1d.default), (2, aten.avg_pool2d.default), (3, aten.avg_pool3d.default))
    for n, op in pools:
        x = r(2, 5, *(11, 9, 7)[:n])
        for k, s, p, ceil, count in ((3, 2, 1, False, True), (3, 2, 1, True, False), (2, 2, 0, True, True)):
            rest = () if n == 1 else (None,)
            found[f"avg{n} {k} {s} {p} {ceil} {count}"] = Case(
                call(op, [k] * n, [s] * n, [p] * n, ceil, count, *rest), [x]
            )
    found["avg divisor"] = Case(call(aten.avg_pool2d.default, [3, 3], [1, 2], [1, 0], False, True, 7), [r(1, 3, 8, 9)])
    for size in ([3, 4], [1, 1], [11, 9], [7, 5]):
        found[f"adaptive {size}"] = Case(call(aten.adaptive_avg_pool2d.default, size), [r(2, 5, 11, 9)])
    found["adaptive3 whole"] = Case(call(aten.adaptive_avg_pool3d.default, [2, 3, 2]), [r(2, 3, 5, 7, 6)])
    found["adaptive3"] = Case(call(aten._adaptive_avg_pool3d.default, [2, 3, 2]), [r(2, 3, 5, 7, 6)])
    found["adaptive1"] = Case(call(aten.adaptive_avg_pool1d.default, [4]), [r(2, 5, 11)])
    found["max float64"] = Case(
        call(aten.max_pool2d.default, [2, 2], [2, 2], [0, 0], [1, 1], False), [r(1, 3, 8, 8).double()]
    )
    return found


def contract_cases() -> dict[str, Case]:
    """Sums of products."""
    found: dict[str, Case] = {}
    conv = aten.convolution.default

    def add(name: str, x: torch.Tensor, w: torch.Tensor, *rest: Any, bias: bool = True) -> None:
        groups, transposed = rest[-1], rest[-3]
        out = w.shape[1] * groups if transposed else w.shape[0]
        tail = ints(out, dtype=x.dtype) if not x.is_floating_point() else r(out).to(x.dtype)
        if bias:
            found[name] = Case(lambda x, w, b: conv(x, w, b, *rest), [x, w, tail])
        else:
            found[name] = Case(lambda x, w: conv(x, w, None, *rest), [x, w])

    no = (False, [0, 0], 1)
    add("conv", r(2, 3, 9, 8), r(5, 3, 3, 3), [1, 1], [1, 1], [1, 1], *no)
    add("conv stride", r(1, 4, 9, 8), r(6, 4, 3, 2), [2, 3], [2, 0], [1, 1], *no, bias=False)
    add("conv dilated", r(1, 4, 11, 12), r(3, 4, 3, 3), [1, 2], [2, 1], [2, 3], *no)
    add("conv groups", r(2, 6, 7, 7), r(9, 2, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 3)
    add("conv depthwise", r(1, 5, 7, 7), r(10, 1, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 5)
    add("conv1d", r(2, 3, 20), r(4, 3, 5), [2], [2], [1], False, [0], 1)
    add("conv3d", r(1, 2, 5, 6, 7), r(3, 2, 3, 3, 3), [1, 1, 2], [1, 0, 1], [1, 1, 1], False, [0, 0, 0], 1)
    add("conv float64", r(1, 3, 6, 6).double(), r(4, 3, 3, 3).double(), [1, 1], [0, 0], [1, 1], *no)
    add("transposed", r(2, 4, 5, 6), r(4, 3, 3, 3), [2, 2], [1, 1], [1, 1], True, [1, 1], 1)
    add("transposed groups", r(1, 6, 5, 4), r(6, 2, 4, 3), [2, 1], [1, 0], [1, 1], True, [0, 0], 3)
    add("transposed dilated", r(1, 2, 5, 4), r(2, 3, 3, 2), [3, 2], [2, 1], [2, 3], True, [1, 1], 1)
    add("transposed1d", r(1, 4, 9), r(4, 6, 4), [2], [1], [1], True, [0], 1)
    add("transposed3d", r(1, 2, 3, 4, 3), r(2, 3, 2, 2, 2), [2, 2, 2], [0, 0, 0], [1, 1, 1], True, [0, 0, 0], 1)
    linear = aten.linear.default
    found["linear"] = Case(lambda x, w, b: linear(x, w, b), [r(3, 7, 33), r(19, 33), r(19)])
    found["linear vector"] = Case(lambda x, w: linear(x, w), [r(33), r(19, 33)])
    found["linear float64"] = Case(lambda x, w, b: linear(x, w, b), [r(5, 9).double(), r(4, 9).double(), r(4).double()])
    for a, b in (((3, 5, 7), (7, 4)), ((5, 7), (7, 4)), ((7,), (7,)), ((7,), (7, 4)), ((3, 5, 7), (7,)),
                 ((2, 1, 5, 7), (3, 7, 40)), ((1, 3), (3, 1))):  # fmt: skip
        found[f"matmul {a} {b}"] = Case(lambda x, y: aten.matmul.default(x, y), [r(*a), r(*b)])
    found["mm"] = Case(lambda x, y: aten.mm.default(x, y), [r(3, 9), r(9, 5)])
    found["bmm"] = Case(lambda x, y: aten.bmm.default(x, y), [r(4, 3, 9), r(4, 9, 5)])
    found["matmul int"] = Case(lambda x, y: aten.matmul.default(x, y), [ints(3, 9), ints(9, 5)])
    return found | attention_cases()


def attention_cases() -> dict[str, Case]:
    """Attention with masks and scales."""
    sdpa = aten.scaled_dot_product_attention.default
    q, k, v = r(2, 3, 9, 8), r(2, 3, 11, 8), r(2, 3, 11, 5)
    mask = torch.rand(9, 11, generator=GENERATOR) > 0.4
    mask[2] = True
    return {
        "attention": Case(lambda q, k, v: sdpa(q, k, v, None, 0.0, False), [q, k, v]),
        "attention scale": Case(lambda q, k, v: sdpa(q, k, v, None, 0.0, False, scale=0.5), [q, k, v]),
        "attention causal": Case(lambda q, k, v: sdpa(q, k, v, None, 0.0, True), [q, k, v]),
        "attention bool": Case(lambda q, k, v, m: sdpa(q, k, v, m, 0.0, False), [q, k, v, mask]),
        "attention float": Case(lambda q, k, v, m: sdpa(q, k, v, m, 0.0, False), [q, k, v, r(2, 1, 9, 11)]),
        "attention 3d": Case(lambda q, k, v: sdpa(q, k, v, None, 0.0, False), [q[0], k[0], v[0]]),
        "attention float64": Case(
            lambda q, k, v: sdpa(q, k, v, None, 0.0, False), [q.double(), k.double(), v.double()]
        ),
    }


def pointwise_cases() -> dict[str, Case]:
    """Broadcasts, chains, dtypes, ranks from 0 up."""
    add, mul, exp = aten.add.Tensor, aten.mul.Tensor, aten.exp.default
    found = {
        f"add {a} {b}": Case(lambda x, y: add(x, y), [r(*a), r(*b)])
        for a, b in (((), ()), ((), (3, 4)), ((5, 1), (1, 7)), ((2, 3, 37), (37,)), ((4, 1, 5), (3, 1)), ((1,), (1, 1)))
    }

    def chain(x: Any) -> Any:
        for _ in range(5):
            y = aten.tanh.default(x)
            x = add(mul(x, y), aten.sigmoid.default(y))
        return x

    found["chain"] = Case(chain, [r(9, 70)])
    found["large"] = Case(lambda x, y: aten.relu.default(add(x, y)), [r(3, 100, 67), r(100, 1)])
    found["where"] = Case(lambda c, x: aten.where.self(aten.gt.Scalar(c, 0), x, exp(x)), [r(7, 33), r(33)])
    found["compare"] = Case(lambda x: aten.logical_not.default(aten.lt.Scalar(x, 0.0)), [odd(130)])
    found["int"] = Case(lambda x, y: aten.floor_divide.default(x, y), [ints(9, 33), ints(33, low=1)])
    found["cast"] = Case(lambda x: aten._to_copy.default(x, dtype=torch.int32), [r(5, 37) * 9])
    found["empty"] = Case(lambda x: exp(x), [r(3, 0, 5)])
    return found


def tokens(channels: int) -> Callable[[Any], Any]:
    """From an image to a row of vectors."""
    return lambda a: aten.permute.default(aten.reshape.default(a, [2, channels, 35]), [0, 2, 1])


def blocked_cases() -> dict[str, Case]:
    """Inputs and outputs in blocked layouts, channels that fill whole blocks and channels that do not."""
    found: dict[str, Case] = {}
    block = f"c{kernel_case.HOST.block}"
    for c in (32, 21, 5):
        x, y = r(2, c, 5, 7), r(2, c, 5, 7)

        def put(
            name: str, fn: Any, *inputs: torch.Tensor, at: Sequence[int] = (0,), c: int = c, **options: Any
        ) -> None:
            for hint in ("plain", block):
                settings = {**options, "hint": hint}
                found[f"{name} {inputs[0].shape[1]} to {hint}"] = Case(fn, inputs, dict.fromkeys(at, block), settings)

        put("add", lambda a, b: aten.add.Tensor(a, b), x, y, at=(0, 1), kind="pointwise")
        put("mixed", lambda a, b: aten.add.Tensor(aten.tanh.default(a), b), x, y, kind="pointwise")
        put("gate", lambda a, g: aten.mul.Tensor(a, aten.sigmoid.default(g)), x, r(2, c, 1, 1), kind="pointwise")
        put("gate blocked", lambda a, g: aten.mul.Tensor(a, g), x, r(2, c, 1, 1), at=(0, 1), kind="pointwise")
        put("scale", lambda a, w: aten.mul.Tensor(a, w), x, r(c, 1, 1), kind="pointwise", constants=(1,))
        put("place", lambda a, w: aten.mul.Tensor(a, w), x, r(2, 1, 5, 7), kind="pointwise")
        put("sum places", lambda a: aten.sum.dim_IntList(a, [2, 3], True), x, kind="reduce")
        put("sum channels", lambda a: aten.sum.dim_IntList(a, [1], True), x, kind="reduce")
        put("amax channels", lambda a: aten.amax.default(a, [1], True), x, kind="reduce")
        put("softmax channels", lambda a: aten._softmax.default(a, 1, False), x, kind="softmax")
        put("group", lambda a: aten.group_norm.default(a, 1, None, None, 1e-5, False), x, kind="normalize")
        put("permute", lambda a: aten.permute.default(a, [0, 2, 3, 1]), x, kind="pointwise")
        put("tokens", tokens(c), x)
        put("slice", lambda a: aten.slice.Tensor(a, 1, 1, 4, 1), x)
        put("pool", lambda a: aten.max_pool2d.default(a, [3, 3], [2, 2], [1, 1], [1, 1], False), x, kind="pool")
        put("average", lambda a: aten.avg_pool2d.default(a, [3, 3], [1, 1], [1, 1], False, False, None), x)
        put("cat", lambda a, b: aten.cat.default([a, b], 1), x, y, at=(0,))
        put("pad", lambda a: aten.constant_pad_nd.default(a, [1, 0, 2, 1, 1, 3], 0.5), x)
        put("conv1d", lambda a: aten.relu.default(a), r(2, c, 9), kind="pointwise")
        put("conv3d", lambda a: aten.relu.default(a), r(1, c, 3, 4, 5), kind="pointwise")
    return found


CASES: dict[str, Case] = {
    **reduce_cases(),
    **norm_cases(),
    **view_cases(),
    **window_cases(),
    **contract_cases(),
    **pointwise_cases(),
    **blocked_cases(),
}


def _lower(name: str) -> Built | str:
    """The case's kernel, not compiled yet; or why it was refused."""
    case = CASES[name]
    options = dict(case.options)
    task = make_task(case.fn, case.inputs, options.pop("constants", ()), layouts=case.layouts, **options)
    wants = Generic().wants(task)
    if isinstance(wants, Refused):
        return wants.reason
    return Built(task, Generic().emit(task), None)


@pytest.fixture(scope="module")
def built() -> dict[str, Built | str]:
    """All kernels, compiled as one module."""
    kernels = {f"k{i}": _lower(name) for i, name in enumerate(CASES)}
    functions = {s: k.lowered.func.with_attr("global_symbol", s) for s, k in kernels.items() if isinstance(k, Built)}
    library = tvm.compile(tvm.IRModule(functions), target=kernel_case.HOST.tvm_target())
    for symbol, kernel in kernels.items():
        if isinstance(kernel, Built):
            kernel.module = {"main": library[symbol]}
    return dict(zip(CASES, kernels.values(), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(built: dict[str, Built | str], name: str) -> None:
    case, kernel = CASES[name], built[name]
    assert isinstance(kernel, Built), kernel
    wide = [t.double() if t.is_floating_point() else t for t in case.inputs]
    actual = kernel.run(case.inputs)
    assert_close_to_reference(actual, case.fn(*wide), case.fn(*case.inputs))


def test_every_builder_is_tested() -> None:
    called: set[Any] = set()
    for case in CASES.values():
        task = make_task(case.fn, case.inputs, layouts=case.layouts)
        called |= {n.target for n in task.region.body.nodes if n.op == "call_function"}
    assert {op for op in BUILDERS if op not in called} == set()


def test_numbers_do_not_depend_on_padding_lanes(built: dict[str, Built | str]) -> None:
    """The inputs' padding lanes are NaN in `run`: no result that eager makes finite may be NaN."""
    for name in blocked_cases():
        kernel = built[name]
        assert isinstance(kernel, Built)
        assert np.isfinite(kernel.run(CASES[name].inputs)).all(), name
