"""The plan as a Relax function over external kernels, and how its results become the model's outputs.

main(inputs..., weights..., buffers...) -> (results...)
outputs[i] = reshape(results[k]) | copy(input | weight | result)

Memory is planned here: what passes between kernels lies at fixed offsets of one block, the arena, which the runtime
owns; `main` gets its parts as arguments. Each result has memory of its own, which leaves the function with it.

A result leaves the function once. What the model returns a second time, or returns of its inputs and weights,
is copied by the runtime, so that no two outputs share memory and none shares the plan's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import CodegenError
from .arena import Span, bound, pack
from .plan import Plan, Step, Value, memory_dtype, physical_shape, size_of


@dataclass(frozen=True)
class OutputRef:
    """Where an output comes from: `source` is "result", "input" or "weight", `index` counts among those."""

    source: str
    index: int
    copy: bool


@dataclass(frozen=True)
class Memory:
    """Where the values lie that pass between kernels: `buffers[places[v]]` is (offset in the arena, shape, dtype).

    Values without a place lie in a result's memory. `busiest` is how much of the arena's `size` is in use at its
    busiest step: no plan of these steps takes less.
    """

    size: int
    busiest: int
    buffers: tuple[tuple[int, tuple[int, ...], str], ...]
    places: Mapping[str, int]


@dataclass(frozen=True)
class CallGraph:
    """Which steps really run, and what surrounds them."""

    steps: tuple[Step, ...]
    weights: tuple[str, ...]
    results: tuple[str, ...]
    outputs: tuple[OutputRef, ...]
    alignments: tuple[int, ...]
    """For each input, the alignment in bytes that the kernels reading it assume."""
    memory: Memory


def analyze(plan: Plan) -> CallGraph:
    """Distinct results, where each value lies, and the alignment that each input needs."""
    check(plan)
    homes = _Homes(plan)
    weights = tuple(plan.weights)
    results: dict[str, str] = {}
    outputs: list[OutputRef] = []
    for name in plan.outputs:
        base, _ = homes.root(name)
        if base in plan.inputs:
            ref = OutputRef("input", plan.inputs.index(base), copy=True)
        elif base in plan.weights:
            ref = OutputRef("weight", weights.index(base), copy=True)
        elif base in results:
            ref = OutputRef("result", list(results).index(base), copy=True)
        else:
            ref = OutputRef("result", len(results), copy=False)
            results[base] = name
        outputs.append(ref)
    steps = _needed(plan, list(results.values()))
    return CallGraph(
        steps,
        weights,
        tuple(results.values()),
        tuple(outputs),
        _alignments(plan, homes),
        _memory(plan, steps, homes, list(results)),
    )


def relax_module(plan: Plan, graph: CallGraph) -> Any:
    """The IRModule with `main`; kernels are external symbols, called in destination-passing style."""
    from .compat import relax

    builder = relax.BlockBuilder()
    variables = {name: relax.Var(name, _type(plan.values[name])) for name in plan.inputs}
    variables |= {name: relax.Var(f"weight{i}", relax.ObjectType()) for i, name in enumerate(graph.weights)}
    buffers = [relax.Var(f"buffer{i}", relax.ObjectType()) for i in range(len(graph.memory.buffers))]
    with builder.function("main", [*variables.values(), *buffers], pure=False):
        for step in graph.steps:
            value = plan.values[step.output]
            if step.output in graph.memory.places:
                variables[step.output] = buffers[graph.memory.places[step.output]]
            elif step.symbol and not step.within:
                variables[step.output] = builder.emit(_allocated(value))
            else:  # a view of an input or a result, or what overwrites an operand in a result's memory
                shape = physical_shape(value.shape, value.layout)
                source = (*step.within, *step.inputs)[0]
                variables[step.output] = builder.emit(relax.op.reshape(variables[source], shape))
            if step.symbol:
                arguments = [variables[name] for name in (*step.inputs, step.output)]
                builder.emit(relax.Call(relax.ExternFunc(step.symbol), arguments, ty_args=[relax.TupleType([])]))
        builder.emit_func_output(relax.Tuple([variables[name] for name in graph.results]))
    return builder.get()


def _allocated(value: Value) -> Any:
    """Memory of its own, for a result."""
    from .compat import relax

    shape = relax.ShapeExpr(physical_shape(value.shape, value.layout))
    storage = relax.op.memory.alloc_storage(relax.ShapeExpr([size_of(value)]), 0, "global", "uint8")
    return relax.op.memory.alloc_tensor(storage, 0, shape, memory_dtype(value.dtype))


def check(plan: Plan) -> None:
    """Refuse a plan that would read what is not there: a defect of the lowering."""
    known = {*plan.inputs, *plan.weights}
    for step in plan.steps:
        missing = [name for name in (*step.inputs, *step.within) if name not in known]
        if missing or step.output not in plan.values or (step.symbol and step.symbol not in plan.kernels):
            what = f"reads {', '.join(missing)} before it is made" if missing else "has no kernel or no value"
            raise _defect(f"step {step.region} ({', '.join(step.layers) or 'top level'}) {what}")
        if not step.symbol and any(name in plan.weights for name in step.inputs):
            raise _defect(f"step {step.region} is a view of the weight {step.inputs[0]}")
        known.add(step.output)
    if gone := [name for name in plan.outputs if name not in known]:
        raise _defect(f"the outputs {', '.join(gone)} are never made")


def _defect(what: str) -> CodegenError:
    return CodegenError(
        f"The plan is inconsistent: {what}.", "This is a defect of planish's lowering; please report it."
    )


class _Homes:
    """The value whose memory each value lies in: `plan.homes`, and the sources of views."""

    def __init__(self, plan: Plan) -> None:
        self._home = dict(plan.homes)
        for step in plan.steps:
            if not step.symbol and step.inputs and self.root(step.inputs[0])[0] != step.output:
                self._home[step.output] = (step.inputs[0], 0)

    def root(self, name: str) -> tuple[str, int]:
        """(root, bytes from its begin)."""
        offset = 0
        while name in self._home:
            name, step = self._home[name]
            offset += step
        return name, offset

    def views(self) -> set[str]:
        """Values that lie in another's memory."""
        return set(self._home)


def _memory(plan: Plan, steps: Sequence[Step], homes: _Homes, results: Sequence[str]) -> Memory:
    """Offsets in the arena for everything but results, inputs and weights."""
    lives: dict[str, tuple[int, int]] = {}
    for number, step in enumerate(steps):
        for name in (step.output, *step.inputs, *step.within):
            root, _ = homes.root(name)
            lives[root] = (lives.get(root, (number, number))[0], number)
    elsewhere = {*plan.inputs, *plan.weights, *results}
    passing = [root for root in lives if root not in elsewhere]
    spans = [Span(size_of(plan.values[root]), *lives[root]) for root in passing]
    offsets, size = pack(spans)
    begins = dict(zip(passing, offsets, strict=True))
    buffers: dict[tuple[int, tuple[int, ...], str], int] = {}
    places = {}
    for step in steps:
        root, inside = homes.root(step.output)
        if root in begins:
            value = plan.values[step.output]
            buffer = (begins[root] + inside, physical_shape(value.shape, value.layout), memory_dtype(value.dtype))
            places[step.output] = buffers.setdefault(buffer, len(buffers))
    return Memory(size, bound(spans), tuple(buffers), places)


def _alignments(plan: Plan, homes: _Homes) -> tuple[int, ...]:
    """Element alignment, unless some view of the input is not declared external: then 64 bytes."""
    strict = {homes.root(name)[0] for name in homes.views() if not plan.values[name].external}
    strict |= {name for name in plan.inputs if not plan.values[name].external}
    return tuple(64 if name in strict else 1 for name in plan.inputs)


def _needed(plan: Plan, results: Sequence[str]) -> tuple[Step, ...]:
    """Steps that the results depend on, in order."""
    needed, steps = set(results), []
    for step in reversed(plan.steps):
        if step.output in needed:
            needed.update(step.inputs)
            needed.update(step.within)
            steps.append(step)
    return tuple(reversed(steps))


def _type(value: Value) -> Any:
    from .compat import relax

    return relax.TensorType(physical_shape(value.shape, value.layout), memory_dtype(value.dtype))
