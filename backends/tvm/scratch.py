"""The memory in which a model's intermediate values lie while it runs.

    buffers(size, layout)[i] = memory[offset_i : offset_i + bytes_i]  as an array

In huge pages where the system has them, so that a kernel's first touch of many small pages costs nothing later.
Imports neither torch nor TVM.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from math import prod

import numpy as np

Buffer = tuple[int, Sequence[int], str]
"""Offset in bytes, shape and dtype."""

_HUGE_PAGE = 2**21


def buffers(size: int, layout: Sequence[Buffer]) -> list[np.ndarray]:
    """Arrays over one new block of `size` bytes; it lives as long as they do."""
    memory = block(size)
    arrays = []
    for offset, shape, name in layout:
        dtype = np.dtype(name)
        arrays.append(memory[offset : offset + prod(shape) * dtype.itemsize].view(dtype).reshape(shape))
    return arrays


def block(size: int) -> np.ndarray:
    """Zeroed memory of this process alone, which begins at a huge page if it is longer than one, else at a page."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # private: a forked child must not write into its parent's
    if size < _HUGE_PAGE:
        return np.frombuffer(mmap.mmap(-1, max(1, size), flags), np.uint8)
    mapping = mmap.mmap(-1, size + _HUGE_PAGE, flags)
    with contextlib.suppress(AttributeError, OSError):  # not every system has huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapping, np.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE
    return whole[start : start + size]
