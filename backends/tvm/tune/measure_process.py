"""What runs in the measuring process: libraries and arrays in, seconds and results out. No torch, no compiler.

request ("load", library) | ("keep", key, array) | ("forget",) | ("measure", Order)
reply   ("ok", value) | ("failed", (kind, why)) of a candidate | ("refused", error) where nothing can be measured

Cold parameters are rotated: copies of them, together twice the last-level cache, are used in turn, so that a kernel
reads its weights from memory as it does in a network. It is timed in samples of several calls until their spread
is small or the time is over.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ....errors import TuningError
from .. import threads as pools
from ..codegen_process import end_with, open_pipes, read_frame, write_frame
from ..plan import Layout
from .differences import REFERENCE, beyond, difference, junk
from .layouts import from_layout

SAMPLE = 300e-6
"""Seconds that one sample should last: many times what the clock and Python need."""

CUT = 1.6
"""A candidate so many times slower than the best is not measured to the end."""

FEW = 3
"""Samples below which nothing is said."""

MANY = 40
"""Disturbed samples after which no more are waited for."""

BUSY = 4
"""On a busy machine measuring may last so many times longer, until there are few or many."""

_ROTATED = 4096


class Limits(NamedTuple):
    """When to stop measuring a candidate: after `seconds`, or once `samples` have a `spread` that small."""

    seconds: float = 0.2
    samples: int = 9
    spread: float = 0.02


class Parameter(NamedTuple):
    """An array by its key; `derive` is the symbol, shape and dtype of what loading would make of it."""

    key: str
    cold: bool
    derive: tuple[str, tuple[int, ...], str] | None


class Output(NamedTuple):
    """The result: how it lies in memory, and what it is."""

    physical: tuple[int, ...]
    memory: str
    logical: tuple[int, ...]
    dtype: str
    layout: Layout


class Order(NamedTuple):
    """One candidate to measure. `expected` is the key of the default's result, `known` the best seconds so far."""

    symbol: str
    parameters: Sequence[Parameter]
    output: Output
    expected: str | None
    known: float | None
    threads: int
    limits: Limits
    exact: bool = False
    """Whether any difference is wrong."""
    error: float | None = None
    """How far from float64 the result may be."""


class Result(NamedTuple):
    """What was measured, and the logical result if there was none to compare with; or `wrong`, and nothing else."""

    seconds: float
    spread: float
    samples: int
    cut: bool
    output: np.ndarray | None
    wrong: str


class Bench:
    """Arrays and kernels of one process."""

    def __init__(self) -> None:
        """Load the runtime library."""
        import tvm_ffi

        from ..engine import installed_runtime

        library = installed_runtime()
        assert library is not None, "TVM is not installed"
        pools.prepare()
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        self.tensor: Callable[[np.ndarray], Any] = tvm_ffi.from_dlpack
        self._ffi = tvm_ffi
        self._arrays: dict[str, np.ndarray] = {}
        self._module: Any = None
        self._arenas: dict[bool, mmap.mmap] = {}
        self._configure = tvm_ffi.get_global_func("runtime.config_threadpool")
        self._size = tvm_ffi.get_global_func("runtime.NumThreads")

    def load(self, library: bytes) -> None:
        """Take kernels from `library` from now on."""
        from ..engine import load_library

        self._module = load_library(self._ffi, memoryview(library))

    def keep(self, key: str, array: np.ndarray) -> None:
        """Hold an array, at an aligned address."""
        self._arrays[key] = aligned(array)

    def forget(self) -> None:
        """Let all arrays go."""
        self._arrays.clear()

    def measure(self, order: Order) -> Result:
        """Run, compare and time one candidate."""
        return pools.in_pool(order.threads, self._configure, self._size, lambda: self._measure(order))

    def _measure(self, order: Order) -> Result:
        kernel = self._function(order.symbol)
        result = aligned(junk(order.output.physical, order.output.memory))
        out = self.tensor(result)
        arrays = [self._parameter(parameter) for parameter in order.parameters]
        kernel(*(self.tensor(array) for array in arrays), out)
        first = result.copy()
        if wrong := self._compare(order, first):
            return Result(0.0, 0.0, 0, False, None, wrong)
        calls = self._calls(kernel, arrays, order.parameters, out)
        timed = timing(lambda: next(calls), order.limits, order.known)
        if not np.array_equal(_logical(result, order.output), _logical(first, order.output), equal_nan=True):
            return Result(0.0, 0.0, 0, False, None, "two runs on the same inputs gave different results")
        logical = None if order.expected is not None else _logical(first, order.output)
        return Result(*timed, logical, "")

    def _function(self, symbol: str) -> Callable[..., Any]:
        function: Callable[..., Any] = self._module.get_function(symbol, query_imports=True)
        return function

    def _parameter(self, parameter: Parameter) -> np.ndarray:
        """The array that the kernel gets; derived ones are kept for the next candidate."""
        array = self._arrays[parameter.key]
        if parameter.derive is None:
            return array
        symbol, shape, dtype = parameter.derive
        key = f"{parameter.key} {symbol}"
        if key not in self._arrays:
            made = aligned(np.zeros(shape, dtype))
            self._function(symbol)(self.tensor(array), self.tensor(made))
            self._arrays[key] = made
        return self._arrays[key]

    def _compare(self, order: Order, result: np.ndarray) -> str:
        """What is wrong with a result, or nothing."""
        if order.expected is None:
            return ""
        return judged(_logical(result, order.output), order, self._arrays)

    def _calls(
        self, kernel: Callable[..., Any], arrays: Sequence[np.ndarray], parameters: Sequence[Parameter], out: Any
    ) -> Iterator[None]:
        """An endless series of calls, each with the next copy of the cold parameters."""
        cold = [i for i, parameter in enumerate(parameters) if parameter.cold]
        huge = any(parameters[i].derive is not None for i in cold)
        tensors = [self.tensor(array) for array in arrays]
        copies = list(self._rotated([arrays[i] for i in cold], huge))
        calls = [[*tensors, out] for _ in copies]
        for call, copy in zip(calls, copies, strict=True):
            for i, array in zip(cold, copy, strict=True):
                call[i] = self.tensor(array)
        for arguments in itertools.cycle(calls):
            yield kernel(*arguments)

    def _rotated(self, arrays: Sequence[np.ndarray], huge: bool) -> Iterator[list[np.ndarray]]:
        """Copies of some arrays, together beyond the last-level cache; `huge` as a runtime derives them."""
        starts = [0, *itertools.accumulate(-(-array.nbytes // 64) * 64 for array in arrays)]
        size = starts.pop()
        count = -(-2 * last_level_cache() // size) if size else 1
        if count == 1:
            yield list(arrays)
            return
        memory = self._arena(count * size, huge)[: count * size].reshape(count, size)
        for array, start in zip(arrays, starts, strict=True):
            memory[:, start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        for row in memory[:_ROTATED]:
            yield [
                row[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
                for array, start in zip(arrays, starts, strict=True)
            ]

    def _arena(self, size: int, huge: bool) -> np.ndarray:
        """Memory for copies, in pages of the size that a network's weights have."""
        if huge not in self._arenas or len(self._arenas[huge]) < size:
            arena = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            arena.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
            self._arenas[huge] = arena
        return np.frombuffer(self._arenas[huge], np.uint8)


def judged(result: np.ndarray, order: Order, arrays: Mapping[str, np.ndarray]) -> str:
    """What is wrong with a logical result, or nothing."""
    assert order.expected is not None
    wrong = difference(result, arrays[order.expected], order.output.dtype, order.exact)
    if wrong or order.error is None:
        return wrong
    return beyond(result, arrays[REFERENCE], order.output.dtype, order.error)


def timing(
    call: Callable[[], Any],
    limits: Limits,
    known: float | None,
    clock: Callable[[], float] = time.perf_counter,
    switches: Callable[[], int] = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
) -> tuple[float, float, int, bool]:
    """Median seconds of a call, spread, samples, and whether it was cut short; see `Timing`.

    Samples during which another process took a core (`switches` counts that) do not count. Where hardly any is left,
    the fastest few stand for all.
    """
    begin = clock()
    once = min(_seconds(call, 1, clock) for _ in range(3))
    repeat = max(1, min(100, round(SAMPLE / max(once, 1e-7))))
    clean: list[float] = []
    disturbed: list[float] = []
    while True:
        before = switches()
        sample = _seconds(call, repeat, clock)
        (clean if switches() == before else disturbed).append(sample)
        samples = clean if len(clean) >= FEW else sorted(clean + disturbed)[:FEW]
        told = len(clean) >= FEW or len(disturbed) >= MANY
        cut = told and known is not None and min(samples) > CUT * known
        enough = len(clean) >= limits.samples and spread(clean) <= limits.spread
        late = clock() - begin >= limits.seconds * (1 if told else BUSY)
        if cut or enough or (late and len(samples) >= FEW):
            return float(np.median(samples)), spread(samples), len(clean) + len(disturbed), cut


def _seconds(call: Callable[[], Any], repeat: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeat):
        call()
    return (clock() - start) / repeat


def spread(samples: Sequence[float]) -> float:
    """Third less first quartile, over the median."""
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return float((high - low) / middle)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at an address that is a multiple of a cache line."""
    from ..tensors import aligned_copy

    return aligned_copy(array)


def last_level_cache(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache."""
    sizes = []
    for path in folder.glob("index*/size"):
        text = path.read_text().strip()
        scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KMG")) * scale)
    return max(sizes, default=32 * 2**20)


def _logical(array: np.ndarray, output: Output) -> np.ndarray:
    return from_layout(array, output.logical, output.layout)


def main() -> None:
    """Serve until stdin closes."""
    requests, replies = open_pipes()
    parent = read_frame(requests)
    end_with(parent)
    sys.modules["torch"] = None  # type: ignore[assignment]  # `tvm_ffi` would import it
    serve(Bench(), requests, replies)


def serve(bench: Any, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests by the methods of `bench`, until there are no more."""
    while (request := read_frame(requests)) is not None:
        verb, *values = request
        try:
            reply: tuple[str, Any] = ("ok", getattr(bench, verb)(*values))
        except TuningError as error:
            reply = ("refused", error)
        except Exception as error:  # every failure of a kernel becomes a message of the tuner's
            kind = "timeout" if "RPCSessionTimeoutError" in str(error) else "crash"
            reply = ("failed", (kind, f"{type(error).__name__}: {error}"))
        write_frame(replies, reply)


def command(module: str = __name__) -> list[str]:
    """The command line of a process that runs a module of planish, found where this process finds it."""
    code = "import sys; sys.path[:] = sys.argv[2:]; import importlib; importlib.import_module(sys.argv[1]).main()"
    return [sys.executable, "-P", "-c", code, module, *sys.path]


def greeting() -> int:
    """Whose child it is."""
    return os.getpid()
