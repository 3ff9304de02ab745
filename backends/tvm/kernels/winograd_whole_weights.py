"""Winograd's transformed weights in whole numbers: stored as codes, in blocks; transformed when an artifact is loaded.

    U[chunk, p, c/2, b, lane] = two int16, for channels c and c + 1:  sum over k, l:  G[i, k] G[j, l] g[o, c, k, l]

They take t·t/9 times two bytes for each byte of a 3x3 kernel; see `template.Derive` for where they live.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..compat import IRBuilder, T, tirx
from ..ops.lanes import lane_loop, once
from ..template import Derive, Packed
from .dot import joined
from .emit import ALIGNMENT, Expr, PackedArg, const
from .winograd_points import Form
from .winograd_weights import store_blocks
from .winograd_whole import whole

_Terms = list[tuple[int, int]]


def packed_codes(position: int, form: Form, channels: int, dims: tuple[int, int, int, int, int]) -> PackedArg:
    """The kernel's argument, of shape `dims` = (chunks, points, pairs of channels, blocks of a chunk, lanes)."""
    chunks, points, _, blocks, lanes = dims
    stored = (chunks * blocks, channels, form.taps, lanes)
    derive = Derive(f"whole winograd of {points} points", _prepare(form, stored, dims), dims, "int32")
    key = f"Oi{form.taps}o{lanes}"
    return PackedArg(Packed(position, key, partial(store_blocks, stored), derive), dims, "int32")


def transform_codes(form: Form, weight: np.ndarray) -> np.ndarray:
    """G g G^T of int8 weights [o, c, taps...]: [points, o, c], int64. What the compiled code computes."""
    taps = weight.reshape(*weight.shape[:2], form.taps).astype(np.int64)
    return np.stack([sum(taps[..., tap] * factor for tap, factor in terms) for terms in _points(form)])


def _points(form: Form) -> list[_Terms]:
    """For each p = (i, j): the terms (tap, coefficient) of its sum."""
    made = []
    for row in whole(form.height).kernel:
        for column in whole(form.width).kernel:
            values = {k * form.width.taps + n: int(a * b) for k, a in enumerate(row) for n, b in enumerate(column)}
            made.append([(tap, value) for tap, value in values.items() if value])
    return made


def _prepare(form: Form, stored: tuple[int, ...], dims: tuple[int, int, int, int, int]) -> Any:
    """The PrimFunc (stored, derived): parallel over chunks and pairs, a vector of output channels at a time."""
    chunks, _, pairs, blocks, lanes = dims
    channels = stored[1]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        source = T.match_buffer(T.arg("stored", T.handle()), stored, "int8", align=ALIGNMENT)
        made = T.match_buffer(T.arg("derived", T.handle()), dims, "int32", align=ALIGNMENT)
        with T.parallel(0, chunks * pairs) as task, T.serial(0, blocks) as b:
            chunk, pair = tirx.floordiv(task, pairs), tirx.floormod(task, pairs)
            with lane_loop(lanes) as v:

                def tap(channel: Expr, number: int) -> Expr:
                    value = source[chunk * blocks + b, tirx.min(channel, channels - 1), number, v]
                    return once(tirx.Select(channel < channels, tirx.Cast("int32", value), const(0, "int32")))

                sides = [[tap(2 * pair + side, number) for number in range(form.taps)] for side in (0, 1)]
                for p, terms in enumerate(_points(form)):
                    halves = [tirx.Cast("uint16", tirx.Cast("int16", _sum(terms, taps))) for taps in sides]
                    T.buffer_store(made, joined(halves, 16), [chunk, p, pair, b, v])
    return builder.get()


def _sum(terms: _Terms, taps: list[Expr]) -> Expr:
    """From left to right; no sum leaves 16 bits."""
    total: Any = None
    for tap, factor in terms:
        term = taps[tap] if factor == 1 else taps[tap] * const(factor, "int32")
        total = term if total is None else total + term
    return total
