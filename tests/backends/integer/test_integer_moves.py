"""ATen's own operators on codes of every width: they move elements, clamp them, or take the largest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from integer_case import LAYOUTS, S8, S16, S32, U8, aten, codes, exact

MOVES: dict[str, Callable[[Any], Any]] = {
    "reshape": lambda x: aten.reshape.default(x, [6, 175]),
    "permute": lambda x: aten.permute.default(x, [0, 2, 3, 1]),
    "slice": lambda x: aten.slice.Tensor(x, 3, 1, 7, 2),
    "expand": lambda x: aten.expand.default(aten.slice.Tensor(x, 1, 3, 4, 1), [2, 9, 5, 7]),
    "flip": lambda x: aten.flip.default(x, [1, 3]),
    "roll": lambda x: aten.roll.default(x, [2, 1], [1, 2]),
    "cat": lambda x: aten.cat.default([x, aten.flip.default(x, [2]), x], 1),
    "pad": lambda x: aten.constant_pad_nd.default(x, [1, 2, 0, 3], 77),
    "reflect": lambda x: aten.pad.default(x, [1, 2, 2, 1], "reflect", 0.0),
    "clamp": lambda x: aten.clamp.default(x, 3, 100),
    "amax": lambda x: aten.amax.default(x, [2, 3], True),
    "maximum": lambda x: aten.maximum.default(x, aten.flip.default(x, [3])),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str) -> None:
    """In turns of every width."""
    dtype = (U8, S16, S8, U8, S32)[list(MOVES).index(name) % 5]
    exact(MOVES[name], (codes(2, 15, 5, 7, dtype=dtype),), layouts=LAYOUTS)


def test_gathers() -> None:
    places = torch.tensor([3, 0, 14, 3])
    for dtype in (S8, S32):
        x = codes(2, 15, 5, 7, dtype=dtype)
        exact(lambda v, i: aten.index_select.default(v, 1, i), (x, places), layouts=LAYOUTS, constants=(1,))
        exact(lambda t, i: aten.embedding.default(t, i), (codes(15, 8, dtype=dtype), places), constants=(0,))
