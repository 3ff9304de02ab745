"""The plan as a Relax function over external kernels, and how its results become the model's outputs.

main(inputs..., weights...) -> (results...);     outputs[i] = reshape(results[k]) | copy(input | weight | result)

A result leaves the function once. What the model returns a second time, or returns of its inputs and weights,
is copied by the runtime, so that no two outputs share memory and none shares the plan's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import CodegenError
from .plan import Plan, Step, Value, memory_dtype, physical_shape


@dataclass(frozen=True)
class OutputRef:
    """Where an output comes from: `source` is "result", "input" or "weight", `index` counts among those."""

    source: str
    index: int
    copy: bool


@dataclass(frozen=True)
class CallGraph:
    """Which steps really run, and what surrounds them."""

    steps: tuple[Step, ...]
    weights: tuple[str, ...]
    results: tuple[str, ...]
    outputs: tuple[OutputRef, ...]
    alignments: tuple[int, ...]
    """For each input, the alignment in bytes that the kernels reading it assume."""


def analyze(plan: Plan) -> CallGraph:
    """Roots of views, distinct results, and the alignment that each input needs."""
    check(plan)
    root = _roots(plan)
    weights = tuple(plan.weights)
    results: list[str] = []
    outputs: list[OutputRef] = []
    for name in plan.outputs:
        base = root.get(name, name)
        if base in plan.inputs:
            ref = OutputRef("input", plan.inputs.index(base), copy=True)
        elif base in plan.weights:
            ref = OutputRef("weight", weights.index(base), copy=True)
        elif base in results:
            ref = OutputRef("result", results.index(base), copy=True)
        else:
            ref = OutputRef("result", len(results), copy=False)
            results.append(base)
        outputs.append(ref)
    return CallGraph(_needed(plan, results), weights, tuple(results), tuple(outputs), _alignments(plan, root))


def relax_module(plan: Plan, graph: CallGraph) -> Any:
    """The IRModule with `main`; kernels are external symbols, called in destination-passing style."""
    from .compat import relax

    builder = relax.BlockBuilder()
    variables = {name: relax.Var(name, _type(plan.values[name])) for name in plan.inputs}
    variables |= {name: relax.Var(f"weight{i}", relax.ObjectType()) for i, name in enumerate(graph.weights)}
    with builder.function("main", list(variables.values())):
        with builder.dataflow():
            for step in graph.steps:
                value = plan.values[step.output]
                args = [variables[name] for name in step.inputs]
                if step.symbol:
                    call = relax.call_dps_packed(step.symbol, args, _type(value))
                else:
                    call = relax.op.reshape(args[0], physical_shape(value.shape, value.layout))
                variables[step.output] = builder.emit(call)
            result = builder.emit_output(relax.Tuple([variables[name] for name in graph.results]))
        builder.emit_func_output(result)
    return builder.get()


def check(plan: Plan) -> None:
    """Refuse a plan that would read what is not there: a defect of the lowering."""
    known = {*plan.inputs, *plan.weights}
    for step in plan.steps:
        missing = [name for name in step.inputs if name not in known]
        if missing or step.output not in plan.values or (step.symbol and step.symbol not in plan.kernels):
            what = f"reads {', '.join(missing)} before it is made" if missing else "has no kernel or no value"
            raise _defect(f"step {step.region} ({', '.join(step.layers) or 'top level'}) {what}")
        if not step.symbol and step.inputs[0] in plan.weights:
            raise _defect(f"step {step.region} is a view of the weight {step.inputs[0]}")
        known.add(step.output)
    if gone := [name for name in plan.outputs if name not in known]:
        raise _defect(f"the outputs {', '.join(gone)} are never made")


def _defect(what: str) -> CodegenError:
    return CodegenError(
        f"The plan is inconsistent: {what}.", "This is a defect of planish's lowering; please report it."
    )


def _roots(plan: Plan) -> dict[str, str]:
    """For each view, the value whose memory it shows."""
    root: dict[str, str] = {}
    for step in plan.steps:
        if not step.symbol:
            root[step.output] = root.get(step.inputs[0], step.inputs[0])
    return root


def _alignments(plan: Plan, root: dict[str, str]) -> tuple[int, ...]:
    """Element alignment, unless some view of the input is not declared external: then 64 bytes."""
    strict = {root[name] for name in root if not plan.values[name].external}
    strict |= {name for name in plan.inputs if not plan.values[name].external}
    return tuple(64 if name in strict else 1 for name in plan.inputs)


def _needed(plan: Plan, results: Sequence[str]) -> tuple[Step, ...]:
    """Steps that the results depend on, in order."""
    needed, steps = set(results), []
    for step in reversed(plan.steps):
        if step.output in needed:
            needed.update(step.inputs)
            steps.append(step)
    return tuple(reversed(steps))


def _type(value: Value) -> Any:
    from .compat import relax

    return relax.TensorType(physical_shape(value.shape, value.layout), memory_dtype(value.dtype))
