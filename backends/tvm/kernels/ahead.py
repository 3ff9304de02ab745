"""Asking for weights before they are read: at batch 1 they come from memory, and a core waits for each line of them.

step i of a sum reads lines [i*n, (i+1)*n) of the packed weights and asks for lines [i*n + ahead, (i+1)*n + ahead)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..plan import itemsize
from .emit import Buffer, Expr, Function

AHEAD, LINE = 256, 64
"""Cache lines between the weight that is asked for and the one that is read; bytes of a cache line.

Measured on a 3x3 convolution of 512 channels at 7x7, weights from memory: 211 GFLOP/s without, 221 at a distance of 32
lines, 231 at 64 and 128, 244 at 256, 239 at 512.
"""


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
