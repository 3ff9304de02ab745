"""Asking for memory before it is read: at batch 1 weights come from memory, and a core waits for each line of them.

step i of a sum reads lines [i*n, (i+1)*n) of the packed weights and asks for lines [i*n + ahead, (i+1)*n + ahead)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..plan import PLAIN, itemsize
from .emit import Buffer, Expr, Function

AHEAD, LINE = 256, 64
"""Cache lines between the weight that is asked for and the one that is read; bytes of a cache line.

Measured on a 3x3 convolution of 512 channels at 7x7, weights from memory: 211 GFLOP/s without, 221 at a distance of 32
lines, 231 at 64 and 128, 244 at 256, 239 at 512.
"""

_LINES = range(4, 129)
"""Cache lines of a row that are worth asking for before it is read."""


def look_ahead(f: Function, weight: Buffer, step: Sequence[Expr], ahead: int) -> None:
    """Ask for what is read `ahead` lines after the weights at `step`, the outer index into them; 0 asks for nothing.

    Past the end of the weights nothing happens.
    """
    if not ahead:
        return
    dims = [int(extent) for extent in weight.shape]
    place: Expr = 0
    for index, extent in zip(step, dims, strict=False):
        place = place * extent + index
    width, line = prod(dims[len(step) :]), LINE // itemsize(str(weight.dtype))
    flat = f.alias(weight, (prod(dims),))
    for offset in range(0, width, line):
        f.prefetch(flat, [f.simplify(place * width + ahead * line + offset)])


def look_ahead_rows(f: Function, row: Expr, rows: Sequence[int]) -> None:
    """Ask for the rows after the next: what lies with another core comes line by line otherwise."""
    task = f.task
    buffers = [(task.inputs[i], buffer, False) for i, buffer in f.inputs.items()]
    for value, buffer, write in [*buffers, (replace(task.output, layout=f.layout), f.output, True)]:
        width, size = prod(value.shape[len(rows) :]), itemsize(value.dtype)
        lines = -(-width * size // LINE)
        if value.layout != PLAIN or value.shape[: len(rows)] != tuple(rows) or lines not in _LINES:
            continue
        flat = f.alias(buffer, (prod(value.shape),))
        with f.serial(lines) as line:
            f.prefetch(flat, [(row + 2) * width + line * (LINE // size)], write=write)
