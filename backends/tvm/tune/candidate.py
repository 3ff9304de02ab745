"""Kernels to be measured: a task's data, and what one candidate makes of it.

compile_candidates((task, lowered), ...) -> Candidate | Failed, in that order, by the worker processes

A `Subject` holds logical arrays, made once for a task, so that every candidate computes the same thing however it
packs its weights; `arguments` says what a candidate's kernel is called with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..objects import ObjectCache
from ..plan import PLAIN, Layout, memory_dtype
from ..symbol import kernel_symbol
from ..target import Target
from ..template import Derive, Lowered, Packed, Task
from ..worker import Job, KernelFailed, Pool
from .layouts import to_layout

COMPILE_SECONDS = 20.0
"""CPU time after which a candidate's compilation is given up: its code would be too large to be fast."""


@dataclass(frozen=True)
class Failed:
    """A candidate that cannot be used, and `why`.

    `kind` is "compile", "crash", "timeout", "wrong" (it computes something else than the default) or "default"
    (the default itself failed, and nothing can be compared with it).
    """

    kind: str
    why: str


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median of `samples`, and their `spread` (third less first quartile, over the median).

    `cut` says that measuring ended early: the candidate is slower by far than what is known already.
    """

    seconds: float
    spread: float
    samples: int
    cut: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """What is tuned: a task, and logical arrays for its inputs, activations and weights alike, as they lie in memory.

    bfloat16 is held as its bits, in uint16.
    """

    task: Task
    arrays: tuple[np.ndarray, ...]

    @staticmethod
    def of(task: Task, arrays: Mapping[int, np.ndarray] | None = None, seed: int = 0) -> Subject:
        """Random data for `task`; `arrays[position]` gives some of it, for kernels whose time depends on values."""
        given = arrays or {}
        random = np.random.default_rng(seed)
        made = (
            given[i] if i in given else _random(random, v.shape, v.dtype, i in task.constants)
            for i, v in enumerate(task.inputs)
        )
        return Subject(task, tuple(made))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A compiled kernel. `task` is the subject's, its inputs in the layouts that this kernel takes.

    `objects` are object files by symbol: the kernel's own, and those that derive its weights.
    """

    task: Task
    lowered: Lowered
    symbol: str
    objects: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Argument:
    """One parameter: an array by `key` (equal keys of one subject are equal arrays), and what is made of it.

    `cold` parameters come from memory at each call of a network (weights), the others from the kernel before.
    """

    key: str
    position: int
    cold: bool
    layout: Layout = PLAIN
    packed: Packed | None = None
    derive: tuple[str, tuple[int, ...], str] | None = None
    """Symbol, shape and dtype of what loading makes of the array."""

    def array(self, subject: Subject) -> np.ndarray:
        """The array as it is stored; contiguous."""
        logical = subject.arrays[self.position]
        if self.packed is not None:
            logical = self.packed.pack(logical)
        return to_layout(logical, self.layout, subject.task.inputs[self.position].dtype)


def arguments(candidate: Candidate) -> list[Argument]:
    """The parameters of a candidate's kernel, but for the output."""
    return [_argument(candidate.task, arg) for arg in candidate.lowered.args]


def compile_candidates(
    kernels: Sequence[tuple[Task, Lowered]], pool: Pool, cache: ObjectCache, seconds: float = COMPILE_SECONDS
) -> list[Candidate | Failed]:
    """Compile all, equal kernels once; what cannot be compiled is `Failed`, nothing is raised for it."""
    pending: dict[str, Future[bytes] | bytes] = {}

    def submit(func: Any, target: Target) -> str:
        symbol = kernel_symbol(func, target)
        if symbol not in pending:
            pending[symbol] = _compile(symbol, func, target, pool, cache, seconds)
        return symbol

    wanted = [
        (submit(kernel.func, task.target), [submit(d.func, task.target) for d in _derives(kernel)])
        for task, kernel in kernels
    ]
    return [
        _collect(task, kernel, symbol, [symbol, *derived], pending)
        for (task, kernel), (symbol, derived) in zip(kernels, wanted, strict=True)
    ]


def _argument(task: Task, arg: int | Packed) -> Argument:
    packed = arg if isinstance(arg, Packed) else None
    position = arg.position if isinstance(arg, Packed) else arg
    cold = position in task.constants
    layout = PLAIN if cold else task.inputs[position].layout
    key = f"{position}:{packed.key if packed else ''}:{layout}"
    if packed is None or packed.derive is None:
        return Argument(key, position, cold, layout, packed)
    made = packed.derive
    described = (kernel_symbol(made.func, task.target), made.shape, memory_dtype(made.dtype))
    return Argument(key, position, cold, layout, packed, described)


def _derives(kernel: Lowered) -> list[Derive]:
    packed = [arg for arg in kernel.args if isinstance(arg, Packed)]
    return [arg.derive for arg in packed if arg.derive is not None]


def _compile(
    symbol: str, func: Any, target: Target, pool: Pool, cache: ObjectCache, seconds: float
) -> Future[bytes] | bytes:
    """The object from the cache, or from a worker into the cache."""
    from ..compat import save_module

    job = Job(symbol, str(target.tvm_target()), save_module(symbol, func))
    known = cache.get(job)
    return known if known is not None else pool.submit(job, lambda data: cache.put(job, data), seconds)


def _collect(
    task: Task, kernel: Lowered, symbol: str, symbols: Sequence[str], pending: Mapping[str, Future[bytes] | bytes]
) -> Candidate | Failed:
    """Wait for the objects of one candidate."""
    objects = {}
    for name in symbols:
        made = pending[name]
        try:
            objects[name] = made if isinstance(made, bytes) else made.result()
        except KernelFailed as failure:
            return Failed("compile", failure.said)
    return Candidate(task, kernel, symbol, objects)


def _random(random: np.random.Generator, shape: tuple[int, ...], dtype: str, weight: bool) -> np.ndarray:
    """Normal numbers, weights so scaled that sums over their inputs stay about one; indices and flags are 0 or 1."""
    if dtype not in ("float64", "float32", "bfloat16"):
        return random.integers(0, 2, shape).astype(dtype)
    fan_in = int(np.prod(shape[1:])) if weight and len(shape) > 1 else 1
    values = random.standard_normal(shape, np.float32) / np.float32(max(fan_in, 1) ** 0.5)
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(dtype)
