"""Arrays in the layouts that kernels read and write. Imports neither torch nor TVM.

from_layout(to_layout(array, layout), array.shape, layout) == array
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..plan import PLAIN, Layout, block_of


def to_layout(array: np.ndarray, layout: Layout, dtype: str) -> np.ndarray:
    """The logical array in `layout`, contiguous; lanes past the channels hold NaN, or the largest integer."""
    if layout == PLAIN:
        return np.asarray(array, order="C")
    block = block_of(layout)
    blocks = -(-array.shape[1] // block)
    padded = np.full((array.shape[0], blocks * block, *array.shape[2:]), _junk(array.dtype, dtype), array.dtype)
    padded[:, : array.shape[1]] = array
    split = padded.reshape(array.shape[0], blocks, block, *array.shape[2:])
    return np.ascontiguousarray(np.moveaxis(split, 2, -1))


def from_layout(array: np.ndarray, shape: Sequence[int], layout: Layout) -> np.ndarray:
    """The logical array of what lies in `layout`."""
    if layout == PLAIN:
        return array
    merged = np.moveaxis(array, -1, 2)
    return merged.reshape(shape[0], -1, *shape[2:])[:, : shape[1]]


def _junk(held: np.dtype[Any], dtype: str) -> Any:
    """What no kernel may let reach a real element."""
    if dtype == "bfloat16":
        return 0x7FC0
    return np.nan if held.kind == "f" else held.kind == "b" or np.iinfo(held).max
