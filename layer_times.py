"""Measures layers in integers and in float: kernel by kernel, and the conversions between the two.

time(layer) = Σ median times of its kernels inside the network, the least of several rounds in turns

Nothing is tuned for it. What is measured is bounded in time: ROUNDS rounds of about ROUND seconds for each network.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from .backends.tvm.runtime import Compiled
from .ir.program import Program
from .ir.text import parse_program
from .passes.quantize.builder import is_floating
from .passes.quantize.islands import Islands, Kernel, islands
from .quantizing import Quantized

ROUNDS = 5
ROUND = 0.05
"""Seconds; a network that takes longer runs once more than it has to."""

Network = tuple[Compiled, Program]
"""Code, and the grouped program that it is of, whose regions are the kernels."""
Make = Callable[[Program], Network]
"""Compiles a program."""

_SHORT = {torch.uint8: ("u8", 0, 255), torch.int8: ("i8", -127, 127), torch.int16: ("i16", -32767, 32767)}


@dataclass(frozen=True)
class Measured:
    """The layers with both times, and the whole model's: milliseconds in integers and in float."""

    islands: Islands
    whole: tuple[float, float]


def measure_layers(quantized: Quantized, integers: Network, floats: Network, make: Make) -> Measured:
    """Both times of every layer, and what conversions of the values between them take."""
    program, kept = quantized.prepared, tuple(quantized.keep)
    bare = islands(program, kernels(integers), kernels(floats), {}, kept)
    converters, named = _converters(quantized, [border.value for border in bare.borders])
    networks = [integers, floats, *([] if converters is None else [make(converters)])]
    times = kernel_times([network for network, _ in networks])
    made = [kernels(network, own) for network, own in zip(networks, times, strict=True)]
    taken = {name: kernel.milliseconds for kernel in (made[2] if converters else ()) for name in kernel.nodes}
    conversions = {name: (taken[f"q{place}"], taken[f"d{place}"]) for name, place in named.items()}
    found = islands(program, made[0], made[1], conversions, kept)
    whole = whole_times([integers[0], floats[0]])
    return Measured(found, (whole[0], whole[1]))


def kernels(network: Network, times: Mapping[str, float] | None = None) -> list[Kernel]:
    """The kernels of a network and the nodes that they stand for, with the times of the values they make.

    A region that has no step of its own was joined with the one before it.
    """
    compiled, grouped = network
    steps = {step["region"] for step in compiled.steps}
    made: dict[fx.Node, tuple[str, set[str]]] = {}
    for call in grouped.graph.find_nodes(op="call_module"):
        body = [node for node in grouped.regions[str(call.target)].body.nodes if node.op == "call_function"]
        nodes = {name for node in body for name in node.meta.get("stands_for", (node.name,))}
        before = [source for source in call.all_input_nodes if source in made]
        if str(call.target) in steps or not before:
            made[call] = (call.name, nodes)
        else:
            made[call] = made[before[0]]
            made[call][1].update(nodes)
    joined = {name: nodes for name, nodes in made.values()}
    return [Kernel(frozenset(nodes), (times or {}).get(name, 0.0)) for name, nodes in joined.items()]


def kernel_times(networks: Sequence[Compiled]) -> list[dict[str, float]]:
    """Milliseconds of each value that a kernel makes, by its name, for each network: the least of rounds in turns."""
    arguments = [network.seeded_arguments() for network in networks]
    runs = [_runs(network, given) for network, given in zip(networks, arguments, strict=True)]
    best: list[dict[str, float]] = [{} for _ in networks]
    for _ in range(ROUNDS):
        for network, given, count, least in zip(networks, arguments, runs, best, strict=True):
            rows = network.profile_arguments(given, count).rows
            steps = (step for step in network.steps if step["symbol"])
            for step, row in zip(steps, rows, strict=True):
                name = step["output"]
                least[name] = min(row.milliseconds, least.get(name, row.milliseconds))
    return best


def whole_times(networks: Sequence[Compiled]) -> list[float]:
    """Milliseconds of a whole run of each network, measured in the same way."""
    arguments = [network.seeded_arguments() for network in networks]
    turns = max(_runs(network, given) for network, given in zip(networks, arguments, strict=True))
    best = [math.inf] * len(networks)
    for _ in range(ROUNDS):
        walls: list[list[float]] = [[] for _ in networks]
        for _ in range(turns):
            for network, given, seen in zip(networks, arguments, walls, strict=True):
                seen.append(_seconds(network, given))
        best = [min(least, 1e3 * statistics.median(seen)) for least, seen in zip(best, walls, strict=True)]
    return best


def _runs(network: Compiled, arguments: Sequence[object]) -> int:
    """How many runs a round has; the first run warms up."""
    _seconds(network, arguments)
    return int(min(max(ROUND / max(_seconds(network, arguments), 1e-6), 1), 10))


def _seconds(network: Compiled, arguments: Sequence[object]) -> float:
    start = time.perf_counter()
    network.run_arguments(arguments)
    return time.perf_counter() - start


def _converters(quantized: Quantized, values: Iterable[str]) -> tuple[Program | None, dict[str, int]]:
    """A program that quantizes and dequantizes a value of each shape and codes, and which of them a value is like."""
    coded = (node.meta for node in quantized.integer.graph.nodes if "quant" in node.meta and "of" in node.meta)
    codes = {meta["of"]: meta["quant"].dtype for meta in coded}
    shapes = {node.name: tuple(node.meta["val"].shape) for node in quantized.prepared.graph.nodes if is_floating(node)}
    kinds: dict[tuple[tuple[int, ...], torch.dtype], int] = {}
    named = {
        name: kinds.setdefault((shapes[name], codes.get(name, torch.uint8)), len(kinds))
        for name in values
        if name in shapes  # images are bytes: what makes floats of them belongs to the first layer
    }
    if not kinds:
        return None, named
    inputs, lines, results = [], [], []
    for (shape, dtype), i in kinds.items():
        (short, low, high), extents = _SHORT[dtype], list(shape)
        inputs += [f"%x{i}: f32{extents}", f"%c{i}: {short}{extents}"]
        lines.append(f"%q{i}: {short}{extents} = planish::quantize(%x{i}, 0.01, 0, {low}, {high}, {short})")
        lines.append(f"%d{i}: f32{extents} = planish::dequantize(%c{i}, @scale, 0)")
        results += [f"%q{i}", f"%d{i}"]
    scale = "@scale: f32[1] = [0.01]"
    text = "\n  ".join([f"program({', '.join(inputs)}) quantized {{", scale, *lines, f"return ({', '.join(results)})"])
    return parse_program(text + "\n}"), named
