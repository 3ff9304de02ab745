"""Kernels that find a machine's limits, so that a profile can say "% of peak". They travel with every artifact.

peak of a dtype = operations / seconds of multiply-adds in registers alone
memory          = bytes / seconds of summing more than any cache holds

A profile is made where the artifact runs, which need not be where it was compiled and has no compiler: hence code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .compat import IRBuilder, T, tirx
from .kernels.bfloat16 import dot, dot_products, has_dot
from .kernels.dot import Vnni, products
from .plan import Kernel, Plan, Probe
from .symbol import kernel_symbol
from .target import Target

TASKS = 240
"""Parallel parts: shares of it are equal for most numbers of threads."""

STEPS = 5000
_ACCUMULATORS = 12
"""Independent sums: more than the latency of a multiply-add, fewer than registers."""

ROWS = 8192
"""Vectors that each part of the memory probe reads: 120 MB in all with vectors of 64 bytes."""

_STREAMS = 4

Parameters = dict[str, tuple[tuple[int, ...], str]]
Body = Callable[..., None]


def add_probes(plan: Plan, target: Target) -> None:
    """Put the probes of `target` into a plan."""
    lanes, steps = target.lanes, TASKS * STEPS * _ACCUMULATORS
    _add(plan, target, "float32", "operations", steps * lanes * 2, _multiply_adds(lanes))
    if has_dot(target):
        _add(plan, target, "bfloat16", "operations", steps * lanes * 4, _dots())
    ways = products(target, lanes)
    if isinstance(ways, Vnni):
        _add(plan, target, "uint8", "operations", steps * lanes * 8, _quads(ways))
    _add(plan, target, "memory", "bytes", TASKS * ROWS * lanes * 4, _sums(lanes))


def _add(plan: Plan, target: Target, name: str, unit: str, amount: int, func: Any) -> None:
    symbol = kernel_symbol(func, target)
    arguments = tuple((tuple(int(extent) for extent in b.shape), str(b.dtype)) for b in func.params)
    plan.kernels[symbol] = Kernel(symbol, func, "probe")
    plan.probes.append(Probe(name, symbol, unit, amount, arguments))


def _function(parameters: Parameters, body: Body) -> Any:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        body(*(T.match_buffer(T.arg(n, T.handle()), s, d, align=4) for n, (s, d) in parameters.items()))
    return builder.get()


def _repeat(out: Any, lanes: int, step: Body, dtype: str = "float32") -> None:
    """Each part takes `step` on every accumulator and writes their sum, so that nothing can be left out."""
    with T.parallel(0, TASKS) as task:
        vectors = _vectors(_ACCUMULATORS, lanes, dtype)
        with T.serial(0, STEPS):
            for vector in vectors:
                step(vector)
        _write_sum(out, task, vectors, lanes)


def _vectors(count: int, lanes: int, dtype: str = "float32") -> list[Any]:
    """Accumulators, each with a number of its own in all lanes."""
    vectors = [T.alloc_buffer((lanes,), dtype, scope="global") for _ in range(count)]
    for number, vector in enumerate(vectors):
        with T.vectorized(0, lanes) as v:
            T.buffer_store(vector, tirx.const(number, dtype), [v])
    return vectors


def _write_sum(out: Any, task: Any, vectors: list[Any], lanes: int) -> None:
    with T.vectorized(0, lanes) as v:
        T.buffer_store(out, sum((vector[v] for vector in vectors[1:]), vectors[0][v]), [task, v])


def _multiply_adds(lanes: int) -> Any:
    """acc = 0.999 acc + 0.001."""

    def step(vector: Any) -> None:
        with T.vectorized(0, lanes) as v:
            value = vector[v] * tirx.const(0.999, "float32") + tirx.const(0.001, "float32")
            T.buffer_store(vector, value, [v])

    return _function({"out": ((TASKS, lanes), "float32")}, lambda out: _repeat(out, lanes, step))


def _quads(ways: Vnni) -> Any:
    """acc = acc + quad . quad, in VNNI's products of bytes."""

    def body(quads: Any, out: Any) -> None:
        _repeat(out, ways.lanes, lambda vector: ways.add(vector, tirx.const(0x01010101, "int32"), quads, [0]), "int32")

    return _function({"quads": ((1, ways.lanes), "int32"), "out": ((TASKS, ways.lanes), "int32")}, body)


def _dots() -> Any:
    """acc = acc + pair . pair, in bfloat16's dot product."""

    def body(pairs: Any, out: Any) -> None:
        with dot_products(16):
            _repeat(out, 16, lambda vector: dot(vector, 16, tirx.const(0x3F803F80, "int32"), pairs, [0]))

    return _function({"pairs": ((1, 16), "int32"), "out": ((TASKS, 16), "float32")}, body)


def _sums(lanes: int) -> Any:
    """Running sums of everything a part reads."""

    def body(source: Any, out: Any) -> None:
        with T.parallel(0, TASKS) as task:
            vectors = _vectors(_STREAMS, lanes)
            with T.serial(0, ROWS // _STREAMS) as row:
                for number, vector in enumerate(vectors):
                    with T.vectorized(0, lanes) as v:
                        T.buffer_store(vector, vector[v] + source[task, row, number, v], [v])
            _write_sum(out, task, vectors, lanes)

    shape = (TASKS, ROWS // _STREAMS, _STREAMS, lanes)
    return _function({"source": (shape, "float32"), "out": ((TASKS, lanes), "float32")}, body)
