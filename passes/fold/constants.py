"""Values that depend on weights alone, and how to compute them.

    value(node) = cast(op(float64(weights)...))        one rounding, at the end

Floating-point arithmetic runs in float64. What decides something discrete (casts to integers, comparisons,
rounding, argmax...) is taken from the model's own types instead, as eager takes it: a bucket or a mask must
not flip because an intermediate was more precise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ...ir.ops import family, info
from ...ir.program import Program

aten = torch.ops.aten

DISCRETE = frozenset(
    {aten.round.default, aten.round.decimals, aten.floor.default, aten.ceil.default, aten.trunc.default}
    | {aten.sign.default, aten.frac.default, aten.fmod.Tensor, aten.fmod.Scalar, aten.remainder.Tensor}
    | {aten.remainder.Scalar, aten.floor_divide.default, aten.div.Tensor_mode, aten.div.Scalar_mode}
    | {aten.topk.default, aten.sort.default, aten.sort.stable}
)
"""Floating-point ops with jumps: their inputs are taken in the model's own types."""


class Constants:
    """The constant part of one Program while it is being rewritten. Make a fresh one for each run."""

    def __init__(self) -> None:
        """Start knowing nothing; answers are kept, since a constant stays one."""
        self._known: dict[fx.Node, bool] = {}

    def holds(self, node: fx.Node) -> bool:
        """Say whether a node is computed, by deterministic ops, from weights alone."""
        todo = [node]
        while todo:
            top = todo.pop()
            if top in self._known:
                continue
            inputs = top.all_input_nodes if _pure(top) else []
            unknown = [n for n in inputs if n not in self._known]
            if unknown:
                todo += [top, *unknown]
                continue
            self._known[top] = top.op == "get_attr" or (_pure(top) and all(self._known[n] for n in inputs))
        return self._known[node]


def _pure(node: fx.Node) -> bool:
    """Judge by the op table; an ATen op outside it by its own schema."""
    if node.op != "call_function":
        return False
    known = info(node)
    if known is not None:
        return known.pure
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or op.namespace not in ("aten", "prims"):
        return False
    return not op._schema.is_mutable and torch.Tag.nondeterministic_seeded not in op.tags


MOVES = frozenset({"view", "rearrange", "concat", "gather", "copy", "getitem"})
"""Families whose results are elements of their inputs: no arithmetic, so no float64 is needed."""


def evaluate(node: fx.Node, program: Program) -> Any:
    """Compute a constant node; floating-point results may be float64 and still to be cast to the node's type."""
    memo: dict[tuple[fx.Node, bool], Any] = {}
    wide = _computes(node)
    todo = [(node, wide)]
    while todo:
        top, exact = todo[-1]
        inner = exact and _continuous(top)
        missing = [(n, inner) for n in top.all_input_nodes if (n, inner) not in memo]
        todo += missing
        if not missing:
            todo.pop()
            result = _compute(top, program, {n: memo[n, inner] for n in top.all_input_nodes})
            memo[top, exact] = _widen(result) if exact else result
    return memo[node, wide]


def _computes(node: fx.Node) -> bool:
    """Say whether any op behind a node does more than move elements."""
    seen, todo = {node}, [node]
    while todo:
        top = todo.pop()
        if top.op == "call_function" and family(top) not in MOVES:
            return True
        todo += [n for n in top.all_input_nodes if n not in seen]
        seen.update(top.all_input_nodes)
    return False


def _continuous(node: fx.Node) -> bool:
    """Say whether a node's value moves smoothly with its floating-point inputs."""
    fakes = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else (node.meta["val"],)
    floating = all(f.is_floating_point() for f in fakes if isinstance(f, Tensor))
    return floating and node.target not in DISCRETE


def _compute(node: fx.Node, program: Program, env: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return program.weights[str(node.target)].detach()
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    target: Any = node.target
    with torch.no_grad():
        return target(*args, **kwargs)


def _widen(result: Any) -> Any:
    if isinstance(result, (tuple, list)):
        return type(result)(_widen(r) for r in result)
    return result.to(torch.float64) if isinstance(result, Tensor) and result.is_floating_point() else result
