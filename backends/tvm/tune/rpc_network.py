"""Whole networks on a device elsewhere: two of them, in one session, their runs in alternation.

compare(session, untuned, tuned, seconds) -> [(seconds of a run of one, of the other), ...]

The virtual machine that an artifact runs on is part of TVM's runtime, so the device needs nothing of planish. Memory
that an artifact's arena would share between values is given to each of them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .confirm import alternate


class Value(NamedTuple):
    """One argument of main: an array, or what a kernel of the library makes of one; or memory without content."""

    array: np.ndarray | None
    symbol: str
    shape: tuple[int, ...]
    dtype: str


class Whole(NamedTuple):
    """A network: its library, main's arguments, and the threads that it was planned for."""

    library: bytes
    values: Sequence[Value]
    threads: int


def whole_of(compiled: Any) -> Whole:
    """What a device needs of a compiled model, with the self-test's inputs."""
    from .. import selftest

    artifact = compiled.artifact
    given = [_plain(array) for array in selftest.inputs(compiled.signature)]
    for weight in artifact.weights:
        made = weight.derived
        given.append(
            _plain(weight.stored)
            if made is None
            else Value(np.asarray(weight.stored), made.symbol, tuple(made.shape), made.dtype)
        )
    parts = artifact.manifest["calls"]["memory"]["buffers"]
    memory = [Value(None, "", tuple(shape), dtype) for _, shape, dtype in parts]
    return Whole(bytes(artifact.code), [*given, *memory], compiled.threads)


def _plain(array: np.ndarray) -> Value:
    return Value(np.asarray(array), "", array.shape, str(array.dtype))


def compare(session: Any, first: Whole, second: Whole, seconds: float) -> list[tuple[float, float]]:
    """Seconds of runs of both, neighbours in time side by side."""
    session.get_function("runtime.config_threadpool")(1, first.threads)
    one, other = (_loaded(session, whole, f"network{number}.so") for number, whole in enumerate((first, second)))
    for run in (one, other, one, other):  # what is touched for the first time takes longer
        run()
    return list(alternate(one, other, seconds))


def _loaded(session: Any, whole: Whole, name: str) -> Any:
    """A function that runs the network on the device and says how long that took."""
    from ..compat import virtual_machine

    session.upload(bytearray(whole.library), name)
    module, device = session.load_module(name), session.cpu()
    machine = virtual_machine(module, device)
    machine.set_input("main", *(place(value, module, device) for value in whole.values))
    timer = machine.time_evaluator("invoke_stateful", device, number=1, repeat=1)
    return lambda: float(timer("main").results[0])


def place(value: Value, module: Any, device: Any) -> Any:
    """The argument over there."""
    from ..compat import tvm

    stored = None if value.array is None else tvm.runtime.tensor(np.asarray(value.array, order="C"), device)
    if stored is not None and not value.symbol:
        return stored
    made = tvm.runtime.tensor(np.zeros(value.shape, value.dtype), device)
    if stored is not None:
        module[value.symbol](stored, made)
    return made
