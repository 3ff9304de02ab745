"""Winograd's transformed weights: stored as they are, in blocks; transformed when an artifact is loaded.

    U[chunk, p, c, b, lane] = float32(scale[p] * sum over k, l:  row[i, k] row[j, l] g[o, c, k, l])     p = (i, j)

G is a diagonal of scales times rows that are powers of the points, so that every coefficient of the sum is a dyadic
fraction of a few bits: its products with float32 weights are exact in float64, and the compiled code gives the bits
of `transform` whether or not it fuses multiplications and additions. The transform takes t*t/9 times the weights'
bytes (3x3); see `Derive` for where they live.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from ..compat import IRBuilder, T, tirx
from ..ops.lanes import lane_loop, once
from ..plan import memory_dtype
from ..template import Derive, Packed
from .bfloat16 import Narrow
from .emit import ALIGNMENT, Expr, PackedArg
from .winograd_points import Form, factors

_Terms = list[tuple[int, float]]


def packed_weight(position: int, form: Form, dims: tuple[int, int, int, int, int], dtype: str) -> PackedArg:
    """The kernel's argument, of shape `dims` = (chunks, points, channels, blocks of a chunk, lanes).

    It is float32 whatever the weight's `dtype`.
    """
    chunks, points, channels, blocks, lanes = dims
    stored = (chunks * blocks, channels, form.taps, lanes)
    derive = Derive(f"winograd of {points} points, {dtype}", _prepare(form, stored, dims, dtype), dims, "float32")
    return PackedArg(Packed(position, f"Oi{form.taps}o{lanes}", partial(store_blocks, stored), derive), dims, "float32")


def store_blocks(shape: tuple[int, int, int, int], weight: np.ndarray) -> np.ndarray:
    """[block, channel, tap, lane], zeros in the lanes past the output channels."""
    blocks, channels, taps, lanes = shape
    padded = np.zeros((blocks * lanes, channels, taps), weight.dtype)
    padded[: weight.shape[0]] = weight.reshape(-1, channels, taps)
    return np.ascontiguousarray(padded.reshape(blocks, lanes, channels, taps).transpose(0, 2, 3, 1))


def transform(form: Form, weight: np.ndarray) -> np.ndarray:
    """G g G^T of float32 weights [o, c, taps...], cast once: [points, o, c]. What the compiled code computes."""
    taps = weight.reshape(*weight.shape[:2], form.taps).astype(np.float64)
    made = []
    for terms, scale in _points(form):
        total = taps[..., terms[0][0]] * terms[0][1]
        for tap, factor in terms[1:]:
            total = total + taps[..., tap] * factor
        made.append((total * scale).astype(np.float32))
    return np.stack(made)


def _points(form: Form) -> list[tuple[_Terms, float]]:
    """For each p = (i, j): the terms (tap, coefficient) of its sum, and its scale."""
    made = []
    for row, scale in factors(form.height):
        for column, other in factors(form.width):
            values = {k * form.width.taps + n: a * b for k, a in enumerate(row) for n, b in enumerate(column)}
            made.append(([(tap, float(v)) for tap, v in values.items() if v], float(Fraction(scale * other))))
    return made


def _prepare(form: Form, stored: tuple[int, ...], dims: tuple[int, ...], dtype: str) -> Any:
    """The PrimFunc (stored, derived): parallel over chunks and channels, a vector of output channels at a time."""
    chunks, _, channels, blocks, lanes = dims
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        memory = T.match_buffer(T.arg("stored", T.handle()), stored, memory_dtype(dtype), align=ALIGNMENT)
        source = Narrow(memory, native=False) if dtype == "bfloat16" else memory
        made = T.match_buffer(T.arg("derived", T.handle()), dims, "float32", align=ALIGNMENT)
        with T.parallel(0, chunks * channels) as task, T.serial(0, blocks) as b:
            chunk, c = tirx.floordiv(task, channels), tirx.floormod(task, channels)
            with lane_loop(lanes) as v:
                taps = [once(tirx.Cast("float64", source[chunk * blocks + b, c, k, v])) for k in range(form.taps)]
                for p, (terms, scale) in enumerate(_points(form)):
                    value = _sum(terms, taps) * tirx.const(scale, "float64")
                    T.buffer_store(made, tirx.Cast("float32", value), [chunk, p, c, b, v])
    return builder.get()


def _sum(terms: _Terms, taps: list[Expr]) -> Expr:
    """From left to right, as `transform` adds."""
    total = taps[terms[0][0]] * tirx.const(terms[0][1], "float64")
    for tap, factor in terms[1:]:
        total = total + taps[tap] * tirx.const(factor, "float64")
    return total
