"""move_attention_biases: biases of keys go, those of values go behind attention: both leave codes for what varies.

    softmax(q (k + b)^T) == softmax(q k^T)              q b is the same for all keys
    (p (v + b)) W^T + c == (p v) W^T + (c + W b)        the shares p of a row add up to 1

Second factors of products have symmetric codes, which a bias pushes to one side. And of shares of 8 bits the sum is
not quite 1; what they multiply should have no part that is always there.

Conditions:
- between layers, products and softmax there are only views that nobody else reads, and numbers that scores are
  multiplied by; through the views a bias is the same for all tokens;
- for values every row sees something, and what follows is a linear layer.

Before:
    program(%q: f32[1, 2, 1], %x: f32[1, 2, 1], %p: f32[1, 2, 2]) {
      @w: f32[1, 1] = [[2.0]]
      @b: f32[1] = [3.0]
      @c: f32[1] = [1.0]
      %k: f32[1, 2, 1] = linear(%x, @w, @b)
      %t: f32[1, 1, 2] = permute(%k, [0, 2, 1])
      %s: f32[1, 2, 2] = matmul(%q, %t)
      %r: f32[1, 2, 2] = _softmax(%s, 2, false)
      %v: f32[1, 2, 1] = linear(%x, @w, @b)
      %m: f32[1, 2, 1] = matmul(%r, %v)
      %y: f32[1, 2, 1] = linear(%m, @w, @c)
      return %y
    }

After:
    program(%q: f32[1, 2, 1], %x: f32[1, 2, 1], %p: f32[1, 2, 2]) {
      @w: f32[1, 1] = [[2.0]]
      @c_moved: f32[1] = [7.0]
      %linear: f32[1, 2, 1] = linear(%x, @w, none)
      %permute: f32[1, 1, 2] = permute(%linear, [0, 2, 1])
      %matmul: f32[1, 2, 2] = matmul(%q, %permute)
      %_softmax: f32[1, 2, 2] = _softmax(%matmul, 2, false)
      %linear_1: f32[1, 2, 1] = linear(%x, @w, none)
      %matmul_1: f32[1, 2, 1] = matmul(%_softmax, %linear_1)
      %linear_2: f32[1, 2, 1] = linear(%matmul_1, @w, @c_moved)
      return %linear_2
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from ...ir.ops import argument, integer_name, is_call
from ...ir.program import Program
from ...ir.rules import Call, Expr, Replacement, Rule, Weight
from ..base import Numerics, Pass
from ..normalize.spelling import aten, call, shape_of

VIEWS = (aten.reshape.default, aten.permute.default, aten.expand.default)


@dataclass(frozen=True)
class Projected:
    """What a linear layer gives, seen through views that nobody else reads."""

    layer: fx.Node
    views: tuple[fx.Node, ...]

    def again(self, source: Expr) -> Expr:
        """The same views of something else."""
        return _again(self.views, source)

    def bias(self, program: Program) -> Tensor:
        """What the layer's bias is at each place, float64."""
        own = program.weights[str(self.layer.all_input_nodes[-1].target)].to(torch.float64)
        return _seen(self.views, own.expand(shape_of(self.layer)))

    def bare(self) -> Expr:
        """The layer without its bias, through the views."""
        x, weight, _ = _args(self.layer)
        return self.again(call(aten.linear.default, x, weight, None))


def keys(node: fx.Node, program: Program) -> Replacement | None:
    """A softmax of products with keys that have a bias."""
    if not _is_softmax(node):
        return None
    scores, *rest = _args(node)
    if rest[0 if is_call(node, aten._softmax.default) else 1] != len(shape_of(node)) - 1:
        return None
    factors = []
    while _is_multiple(scores) and _own(scores):
        factors.append(scores)
        scores = _args(scores)[0]
    if not is_call(scores, aten.matmul.default) or not _own(scores):
        return None
    queries, right = _args(scores)
    found = _projected(right)
    if found is None or not _same_along(found.bias(program), -1):
        return None
    made: Expr = call(aten.matmul.default, queries, found.bare())
    for factor in reversed(factors):
        made = call(factor.target, made, _args(factor)[1])
    return Replacement({node: Call(node.target, (made, *rest))})


def values(node: fx.Node, program: Program) -> Replacement | None:
    """A linear layer of products with values that have a bias."""
    if not is_call(node, aten.linear.default) or not all(_is_constant(part) for part in _args(node)[1:]):
        return None
    source, weight, bias = _args(node)
    product, views = _through(source)
    if not is_call(product, aten.matmul.default) or not _own(product):
        return None
    shares, right = _args(product)
    found = _projected(right)
    if found is None or not _is_softmax(shares) or not _sees_something(shares, program):
        return None
    spread = found.bias(program)
    if not _same_along(spread, -2):
        return None
    seen = _seen(views, spread[..., :1, :].expand(shape_of(product)))
    rows = seen.reshape(-1, seen.shape[-1])
    if not _same_along(rows, 0):
        return None
    added = program.weights[str(weight.target)].to(torch.float64) @ rows[0]
    old = program.weights[str(bias.target)] if bias is not None else torch.zeros(len(added))
    name = f"{bias.target}_moved" if bias is not None else f"{weight.target}_bias"
    moved = Weight(name, (old.to(torch.float64) + added).to(program.weights[str(weight.target)].dtype))
    context = _again(views, call(aten.matmul.default, shares, found.bare()))
    return Replacement({node: call(aten.linear.default, context, weight, moved)})


def _projected(node: Any) -> Projected | None:
    """A layer with a constant bias behind views."""
    layer, views = _through(node)
    if not is_call(layer, aten.linear.default) or not _own(layer):
        return None
    _, weight, bias = _args(layer)
    return Projected(layer, views) if bias is not None and _is_constant(weight) and _is_constant(bias) else None


def _through(node: Any) -> tuple[Any, tuple[fx.Node, ...]]:
    """What stands before views that only the next one reads, and these views, the first one first."""
    views: list[fx.Node] = []
    while is_call(node, *VIEWS) and _own(node):
        views.insert(0, node)
        node = _args(node)[0]
    return node, tuple(views)


def _again(views: Sequence[fx.Node], source: Expr) -> Expr:
    for view in views:
        source = call(view.target, source, *_args(view)[1:])
    return source


def _seen(views: Sequence[fx.Node], value: Tensor) -> Tensor:
    for view in views:
        target: Any = view.target
        value = target(value, *_args(view)[1:])
    return value


def _same_along(value: Tensor, dim: int) -> bool:
    return bool((value == value.narrow(dim, 0, 1)).all())


def _sees_something(shares: fx.Node, program: Program) -> bool:
    """Whether no row is masked wholly; of a mask that is computed nobody knows."""
    if not integer_name(shares):
        return True
    mask = argument(shares, "seen")
    return _is_constant(mask) and bool(program.weights[str(mask.target)].any(-1).all())


def _is_softmax(node: Any) -> bool:
    return is_call(node, aten._softmax.default) or integer_name(node) == "masked_softmax"


def _is_multiple(node: Any) -> bool:
    """A product with a number, or a quotient by one."""
    return is_call(node, aten.mul.Tensor, aten.div.Tensor) and isinstance(node.args[1], int | float)


def _own(node: fx.Node) -> bool:
    return len(node.users) == 1


def _is_constant(node: Any) -> bool:
    return node is None or (isinstance(node, fx.Node) and node.op == "get_attr")


def _args(node: fx.Node) -> Any:
    return node.args


@dataclass(frozen=True)
class MoveAttentionBiases(Pass):
    """Take biases out of what attention multiplies."""

    name: ClassVar[str] = "move_attention_biases"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """Two rules."""
        return (("drop_key_biases", keys), ("move_value_biases", values))
