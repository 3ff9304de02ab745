"""The plan: what is lowered. Kernels by content, values with layouts, and the calls in order. Plain data.

outputs = fold(steps, inputs + weights);   one step = one region (or one layout conversion) = one kernel
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

Layout = str
"""PLAIN (row-major, the logical shape) or "c16" / "c8": the channel axis 1 split and moved last, NC…c.

A blocked value has physical shape (N, ceil(C/c), *spatial, c). Lanes past C in the last block are
unspecified: no kernel may let them reach a real element.
"""

PLAIN: Layout = "plain"


def block_of(layout: Layout) -> int:
    """Channel block of a layout; 1 for PLAIN."""
    return 1 if layout == PLAIN else int(layout[1:])


def physical_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """Shape in memory of a value with logical `shape`."""
    if layout == PLAIN:
        return shape
    c = block_of(layout)
    return (shape[0], -(-shape[1] // c), *shape[2:], c)


def same_memory(shape: tuple[int, ...], one: Layout, other: Layout) -> bool:
    """Whether a value of `shape` lies in memory alike in both layouts: equal ones, or one pixel of whole blocks."""
    blocks = {block_of(one), block_of(other)}
    return one == other or (prod(shape[2:]) == 1 and all(shape[1] % block == 0 for block in blocks))


def computed_dtype(dtype: str) -> str:
    """What kernels compute a value of `dtype` in: bfloat16 is a way to store float32."""
    return "float32" if dtype == "bfloat16" else dtype


def memory_dtype(dtype: str) -> str:
    """What a value of `dtype` lies in memory as: NumPy and TVM know bfloat16 by its bits only."""
    return "uint16" if dtype == "bfloat16" else dtype


def from_memory(array: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers of `dtype` as they are computed with, from what lies in memory."""
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32) if dtype == "bfloat16" else array


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return np.dtype(memory_dtype(dtype)).itemsize


@dataclass(frozen=True)
class Value:
    """A tensor between kernels: logical `shape`, `dtype`, and how it lies in memory.

    `external` buffers belong to the caller: kernels access them at element alignment. All others are
    64-byte aligned.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: Layout = PLAIN
    external: bool = False


def value_of(node: Any, external: bool = False) -> Value:
    """The value that a graph's node stands for, PLAIN."""
    val = node.meta["val"]
    dtype = str(val.dtype).removeprefix("torch.")
    return Value(node.name, tuple(int(d) for d in val.shape), dtype, external=external)


def size_of(value: Value) -> int:
    """Bytes in memory."""
    return prod(physical_shape(value.shape, value.layout)) * itemsize(value.dtype)


@dataclass(frozen=True)
class Derived:
    """What loading makes of a stored array: the kernel `symbol`, called as (stored, made), and what it makes."""

    symbol: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class PackedWeight:
    """A weight as kernels read it: `pack(weights[source]) -> array`, stored once, or what is `derived` from that.

    `name` says source and packing ("conv1.weight:OIhw16i16o"); equal names are equal arrays.
    """

    name: str
    source: str
    pack: Callable[[np.ndarray], np.ndarray]
    derived: Derived | None = None


@dataclass(frozen=True)
class Kernel:
    """One PrimFunc, parameters in order (inputs..., output), its symbol the hash of its content."""

    symbol: str
    func: Any
    template: str
    choice: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, float] | None = None
    """Seconds of this kernel and of the default one, where the choice was measured."""


@dataclass(frozen=True)
class Step:
    """One call: `symbol(*inputs, output)`; names are keys of `Plan.values` or `Plan.weights`.

    `within` are values that it finds in the output's memory. Without symbol nothing runs: the output is a view of
    its input, or the parts of a concatenation were made in place.
    """

    symbol: str
    inputs: tuple[str, ...]
    output: str
    region: str
    kind: str
    layers: tuple[str, ...]
    flops: int = 0
    bytes: int = 0
    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """A kernel that finds a limit of the machine: `amount` of `unit` ("operations" or "bytes") in one call.

    `name` is the dtype whose arithmetic it does, or "memory"; `arguments` are the shapes and dtypes of its
    buffers, the last one being written.
    """

    name: str
    symbol: str
    unit: str
    amount: int
    arguments: tuple[tuple[tuple[int, ...], str], ...]


@dataclass
class Plan:
    """Everything `build` needs. `outputs` may name inputs, weights or values, also repeatedly.

    `homes[v] = (w, offset)`: the value v lies in the memory of w, so many bytes in. Views need no entry.
    """

    values: dict[str, Value]
    weights: dict[str, PackedWeight]
    kernels: dict[str, Kernel]
    steps: list[Step]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    probes: list[Probe] = field(default_factory=list)
    homes: dict[str, tuple[str, int]] = field(default_factory=dict)
