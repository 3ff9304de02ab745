"""decompose_composites: ops that are short programs of simpler ops become these programs.

    selu(x) == 1.0507... * elu(x),   lstm(x, h, w...) == its steps,   x.std() == sqrt(var(x)), ...

The program is PyTorch's own decomposition of the op, traced on the shapes at hand.

Conditions:
- the op is pure, and either unknown to the op table or listed in `DECOMPOSED`; ops that planish has kernels or
  spellings for stay whole;
- PyTorch has a decomposition for it, and that reads no value (only shapes); otherwise the op stays as it is.

Before:
    program(%x: f32[2, 8]) {
      %y: f32[2, 4] = glu(%x, 1)
      return %y
    }

After:
    program(%x: f32[2, 8]) {
      %slice_1: f32[2, 4] = slice.Tensor(%x, 1, 0, 4, 1)
      %slice_2: f32[2, 4] = slice.Tensor(%x, 1, 4, 8, 1)
      %sigmoid: f32[2, 4] = sigmoid(%slice_2)
      %mul: f32[2, 4] = mul.Tensor(%slice_1, %sigmoid)
      return %mul
    }
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import fx
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from ...ir.fake import Fakes
from ...ir.ops import info
from ...ir.program import Stage
from ...ir.rules import Call, Expr, Replacement, Rule, Weight
from ..base import Numerics, Pass
from .spelling import aten, call, parts_of

DECOMPOSED = frozenset(
    {
        aten._weight_norm.default,
        aten._weight_norm_interface.default,
        aten.addcdiv.default,
        aten.addcmul.default,
        aten.channel_shuffle.default,
        aten.col2im.default,
        aten.cosine_similarity.default,
        aten.count_nonzero.default,
        aten.count_nonzero.dim_IntList,
        aten.deg2rad.default,
        aten.diag.default,
        aten.diag_embed.default,
        aten.dstack.default,
        aten.einsum.default,
        aten.fill.Scalar,
        aten.fill.Tensor,
        aten.fliplr.default,
        aten.flipud.default,
        aten.float_power.Tensor_Scalar,
        aten.float_power.Tensor_Tensor,
        aten.frac.default,
        aten.frobenius_norm.dim,
        aten.glu.default,
        aten.gru.input,
        aten.gru_cell.default,
        aten.hardshrink.default,
        aten.heaviside.default,
        aten.hstack.default,
        aten.im2col.default,
        aten.isclose.default,
        aten.kron.default,
        aten.lerp.Scalar,
        aten.lerp.Tensor,
        aten.linalg_cross.default,
        aten.linalg_norm.default,
        aten.logaddexp.default,
        aten.logaddexp2.default,
        aten.logit.default,
        aten.logsumexp.default,
        aten.lstm.input,
        aten.lstm_cell.default,
        aten.meshgrid.default,
        aten.meshgrid.indexing,
        aten.nan_to_num.default,
        aten.norm.Scalar,
        aten.norm.ScalarOpt_dim,
        aten.pairwise_distance.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.rad2deg.default,
        aten.rnn_relu.input,
        aten.rnn_relu_cell.default,
        aten.rnn_tanh.input,
        aten.rnn_tanh_cell.default,
        aten.rot90.default,
        aten.sgn.default,
        aten.sinc.default,
        aten.softshrink.default,
        aten.std.correction,
        aten.std.default,
        aten.std.dim,
        aten.take.default,
        aten.take_along_dim.default,
        aten.tile.default,
        aten.vdot.default,
        aten.vstack.default,
        aten.xlogy.Tensor,
    }
)
"""Known ops that are better taken apart than lowered whole."""


@dataclass(frozen=True)
class DecomposeComposites(Pass):
    """Replace composite ops by PyTorch's decompositions of them."""

    name: ClassVar[str] = "decompose_composites"
    requires: ClassVar[Stage] = Stage.CAPTURED
    numerics: ClassVar[Numerics] = Numerics.ROUNDS

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule; it remembers which ops could not be traced."""
        failed: set[Any] = set()
        return ((self.name, lambda node, _: decompose(node, failed)),)


def decompose(node: fx.Node, failed: set[Any]) -> Replacement | None:
    """The traced program of a composite call."""
    op: Any = node.target
    if node.op != "call_function" or not isinstance(op, torch._ops.OpOverload) or op in failed or not _wanted(op):
        return None
    function = _decompositions().get(op) or (op.decompose if op._can_decompose() else None)
    traced = _trace(function, node) if function is not None else None
    if traced is None:
        failed.add(op)
        return None
    results = _inline(traced, node)
    if isinstance(node.meta["val"], torch.Tensor):
        return Replacement({node: results}) if isinstance(results, fx.Node | Call | Weight) else None
    parts = parts_of(node)
    if -1 in parts or not isinstance(results, list | tuple) or any(results[i] is None for i in parts):
        return None
    return Replacement({part: results[index] for index, part in parts.items()}, (node,)) if parts else None


@lru_cache(maxsize=1)
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's table, read once: making it takes 50 ms."""
    return dict(core_aten_decompositions())


def _wanted(op: Any) -> bool:
    if op is aten.rrelu.default or op._schema.is_mutable or torch.Tag.nondeterministic_seeded in op.tags:
        return False
    return op in DECOMPOSED or (info(op) is None and op.namespace == "aten")


def _trace(function: Callable[..., Any], node: fx.Node) -> fx.Graph | None:
    """The op's decomposition as a graph over the call's tensors, in the order of `node.all_input_nodes`."""
    fakes = Fakes(node.graph)
    operands = node.all_input_nodes

    def run(*values: Any) -> Any:
        env = dict(zip(operands, values, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
        return function(*args, **kwargs)

    try:
        with fakes.mode, torch.no_grad():
            graph: fx.Graph = make_fx(run)(*(operand.meta["val"] for operand in operands)).graph
    except Exception:  # a decomposition that reads values, or does not take these arguments
        return None
    calls = [n for n in graph.nodes if n.op == "call_function"]
    whole = any(n.target is node.target for n in calls)
    return None if whole or any(n.op not in ("placeholder", "call_function", "output") for n in graph.nodes) else graph


def _inline(graph: fx.Graph, node: fx.Node) -> Any:
    """The traced graph's results as expressions over the call's operands."""
    env: dict[fx.Node, Expr] = {}
    operands = iter(node.all_input_nodes)
    for inner in graph.nodes:
        if inner.op == "placeholder":
            env[inner] = next(operands)
        elif inner.op == "call_function":
            args, kwargs = _substitute((inner.args, inner.kwargs), env)
            if inner.target is operator.getitem:
                env[inner] = Call(inner.target, args)
            else:
                env[inner] = call(inner.target, *args, **kwargs)
    return _substitute(graph.output_node().args[0], env)


def _substitute(value: Any, env: dict[fx.Node, Expr]) -> Any:
    if isinstance(value, fx.Node):
        return env[value]
    if isinstance(value, list | tuple):
        items = [_substitute(item, env) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {key: _substitute(item, env) for key, item in value.items()}
    return value
