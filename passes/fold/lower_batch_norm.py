"""lower_batch_norm: what is left of batch norms and affine runs becomes one multiplication and one addition.

    batch_norm(x; w, b, mean, var)  ==  x * s + t       s = w / sqrt(var + eps),  t = b - mean * s

An affine that no weights could take stays in the graph in one normal form, `mul` then `add` by constants of
shape [C, 1, ...], so that it can be some kernel's epilogue. A scale of ones and a shift of zeros are left out.

Conditions:
- nobody reads the values inside the run;
- scale and shift are finite, unless the run holds a batch norm: PyTorch computes x * s + t too, so that infinities and
  NaN stand where it has them.

Before:
    program(%x: f32[1, 2, 4, 4]) normalized {
      @bn.weight: f32[2] = [1.0, 2.0]
      @bn.bias: f32[2] = [0.5, 0.0]
      @bn.mean: f32[2] = [1.0, -1.0]
      @bn.var: f32[2] = [0.25, 4.0]
      %bn: f32[1, 2, 4, 4] = batch_norm(%x, @bn.weight, @bn.bias, @bn.mean, @bn.var, false, 0.1, 0.0, false)   # bn
      %relu: f32[1, 2, 4, 4] = relu(%bn)
      return %relu
    }

After:
    program(%x: f32[1, 2, 4, 4]) normalized {
      @bn.scale: f32[2, 1, 1] = [[[2.0]], [[1.0]]]
      @bn.shift: f32[2, 1, 1] = [[[-1.5]], [[1.0]]]
      %mul: f32[1, 2, 4, 4] = mul.Tensor(%x, @bn.scale)   # bn
      %add: f32[1, 2, 4, 4] = add.Tensor(%mul, @bn.shift)   # bn
      %relu: f32[1, 2, 4, 4] = relu(%add)
      return %relu
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ...ir.program import Program, Stage
from ...ir.rules import Call, Expr, Replacement, Rule, Weight
from ..base import Pass
from .affine import Affine, broadcast, chain, ends_chain, has_batch_norm, value
from .linear_ops import name_of

aten = torch.ops.aten


@dataclass(frozen=True)
class LowerBatchNorm(Pass):
    """Write each remaining affine run as at most one mul and one add."""

    name: ClassVar[str] = "lower_batch_norm"
    ensures: ClassVar[Stage | None] = Stage.OPTIMIZED

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at the last op of each affine run."""
        return (("lower_batch_norm", lower),)


def lower(node: fx.Node, program: Program) -> Replacement | None:
    """Replace the affine run that ends at `node` by its normal form, if it is not that already."""
    found = chain(node, program)
    if found is None or not ends_chain(node, program):
        return None
    ops, source, map_ = found
    steps = int(bool((map_.scale != 1).any())) + int(bool(map_.shift.any()))
    if not has_batch_norm(ops) and (steps > len(ops) or (steps == len(ops) and _is_normal(ops))):
        return None
    if not map_.finite and not has_batch_norm(ops):
        return None
    return Replacement({node: normal_form(source, value(source).dtype, map_, node, ops)}, covers=tuple(ops[:-1]))


def _is_normal(ops: Sequence[fx.Node]) -> bool:
    """Say whether a run is one op that is no division by a vector, or a mul and then an add."""
    if len(ops) == 1:
        return ops[0].target is not aten.div.Tensor or not isinstance(ops[0].args[1], fx.Node)
    return [op.target for op in ops] == [aten.mul.Tensor, aten.add.Tensor]


def normal_form(source: Expr, dtype: torch.dtype, map_: Affine, node: fx.Node, ops: Sequence[fx.Node]) -> Expr:
    """Return `source * scale + shift` in the place of `node`, in float32 at least and cast once to its type.

    `source` has type `dtype`; `ops` are the run that the map was read from.
    """
    result, name = source, _stem(ops)
    wide = torch.promote_types(map_.dtype or value(node).dtype, torch.float32)
    for op, vector, part in ((aten.mul.Tensor, map_.scale, "scale"), (aten.add.Tensor, map_.shift, "shift")):
        if not bool((vector != (part == "scale")).any()):
            continue
        if map_.axis is None or (dtype == wide and not bool((vector != vector[0]).any())):
            result = Call(op, (result, float(vector[0])))
            continue
        operand = broadcast(vector, map_.axis, value(node).dim()).to(wide).contiguous()
        result, dtype = Call(op, (result, Weight(f"{name}.{part}", operand))), torch.promote_types(dtype, wide)
    if dtype == value(node).dtype:
        return result
    return Call(aten._to_copy.default, (result,), {"dtype": value(node).dtype})


def _stem(ops: Sequence[fx.Node]) -> str:
    """Name the constants after the layer whose weights they come from."""
    for op in ops:
        for argument in op.all_input_nodes:
            if argument.op == "get_attr":
                return name_of(argument).rpartition(".")[0] or "affine"
    return "affine"
