"""Per-channel affine maps and how to read them off a graph.

    y = scale * x + shift        with scale, shift of shape [C] along one axis (or scalars)

`read` knows one op (eval-mode batch norm, mul, add, sub, div by a constant, neg); `chain` composes a run of
them into one map in float64, so that whatever absorbs it is rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.program import Program

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Affine:
    """`y = scale * x + shift` along `axis`; both are float64 vectors of one length. A scalar map has axis None.

    `dtype` is the widest type of the constant tensors it was read from (None: Python numbers only).
    """

    axis: int | None
    scale: Tensor
    shift: Tensor
    dtype: torch.dtype | None = None

    @property
    def finite(self) -> bool:
        """Neither inf nor NaN anywhere."""
        return bool(torch.isfinite(self.scale).all() and torch.isfinite(self.shift).all())

    def along(self, axis: int, size: int) -> Affine:
        """Return the same map as vectors of `size` along `axis` (a scalar map lies along every axis)."""
        return Affine(axis, self.scale.expand(size), self.shift.expand(size), self.dtype)

    def on_axis(self, axis: int | None) -> Affine:
        """Return the same vectors along another axis."""
        return Affine(axis, self.scale, self.shift, self.dtype)

    def then(self, after: Affine) -> Affine | None:
        """Compose: `after(self(x))`; None if they lie along different axes."""
        if self.axis is not None and after.axis is not None and self.axis != after.axis:
            return None
        axis = self.axis if self.axis is not None else after.axis
        scale, shift = after.scale * self.scale, after.scale * self.shift + after.shift
        return affine(axis, scale, shift, wider(self.dtype, after.dtype))


def affine(axis: int | None, scale: Tensor | float, shift: Tensor | float, dtype: torch.dtype | None = None) -> Affine:
    """Build an `Affine` from vectors or numbers; vectors of length one make it a scalar map."""
    s, t = (torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (scale, shift))
    size = torch.broadcast_shapes(s.shape, t.shape)
    return Affine(None if size.numel() == 1 else axis, s.expand(size), t.expand(size), dtype)


def wider(a: torch.dtype | None, b: torch.dtype | None) -> torch.dtype | None:
    """Return the type that holds both, None being no demand."""
    return b if a is None else a if b is None else torch.promote_types(a, b)


def value(node: Any) -> Tensor:
    """Return the fake tensor of a node: its shape and dtype."""
    fake: Tensor = node.meta["val"]
    return fake


def constant(node: Any, program: Program) -> Tensor | None:
    """Return the weight a node stands for, looking through an `expand` that was kept; None if it is computed."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        return program.weights[str(node.target)]
    if node.target is aten.expand.default:
        return constant(node.args[0], program)
    return None


def uses(node: fx.Node) -> int:
    """Count reads of a value: `add(x, x)` reads x twice."""
    seen: list[fx.Node] = []
    for user in node.users:
        fx.map_arg((user.args, user.kwargs), lambda n: seen.append(n) if n is node else None)
    return len(seen)


def read(node: fx.Node, program: Program) -> tuple[fx.Node, Affine] | None:
    """Return (x, map) if `node` is one per-channel affine op of x whose shape it keeps."""
    reader = _READERS.get(node.target) if node.op == "call_function" else None
    found = reader(node, program) if reader else None
    if found is None or not isinstance(found[0], fx.Node) or found[0].op == "get_attr":
        return None
    x, y = value(found[0]), value(node)
    return found if x.shape == y.shape and x.is_floating_point() and y.is_floating_point() else None


def chain(node: fx.Node, program: Program) -> tuple[list[fx.Node], fx.Node, Affine] | None:
    """Return (ops, x, map) of the longest run of affine ops that ends at `node` and that nobody else reads."""
    found = read(node, program)
    if found is None:
        return None
    ops, (source, total) = [node], found
    while uses(source) == 1 and (before := read(source, program)) is not None:
        composed = before[1].then(total)
        if composed is None:
            break
        ops.insert(0, source)
        source, total = before[0], composed
    return ops, source, total


def ends_chain(node: fx.Node, program: Program) -> bool:
    """Say whether no later op continues the affine run of `node`."""
    own, user = read(node, program), next(iter(node.users), None)
    later = read(user, program) if user is not None and uses(node) == 1 else None
    return own is None or later is None or later[0] is not node or own[1].then(later[1]) is None


def end_of_chain(node: fx.Node, program: Program) -> fx.Node:
    """Return the last op of the affine run that `node` is in."""
    while not ends_chain(node, program):
        node = next(iter(node.users))
    return node


def has_batch_norm(ops: list[fx.Node]) -> bool:
    """Say whether a run contains a batch norm."""
    return any(op.target is aten.batch_norm.default for op in ops)


def broadcast(vector: Tensor, axis: int | None, rank: int) -> Tensor:
    """Shape a vector to broadcast along `axis` of a tensor of `rank`: [C] -> [C, 1, 1]."""
    if axis is None:
        return vector.reshape(())
    return vector.reshape(-1, *[1] * (rank - axis - 1))


Found = tuple[Any, Affine] | None


def _vector(operand: Any, out: Tensor, program: Program) -> tuple[int | None, Tensor, torch.dtype | None] | None:
    """Return (axis, float64 vector, dtype) of a constant operand that varies along one axis of `out` at most."""
    if isinstance(operand, (int, float)) and not isinstance(operand, bool):
        return None, torch.tensor([operand], dtype=torch.float64), None
    tensor = constant(operand, program)
    if tensor is None or tensor.dtype.is_complex or tensor.dtype == torch.bool or tensor.dim() > out.dim():
        return None
    wide = [d for d, size in enumerate(tensor.shape) if size != 1]
    if len(wide) > 1 or tensor.numel() == 0:
        return None
    axis = wide[0] + out.dim() - tensor.dim() if wide else None
    dtype = tensor.dtype if tensor.dim() and tensor.is_floating_point() else None
    return axis, tensor.detach().to(torch.float64).reshape(-1), dtype


def _read_batch_norm(node: fx.Node, program: Program) -> Found:
    x, weight, bias, mean, var, training, _momentum, eps = node.args[:8]
    given = [constant(n, program) for n in (weight, bias, mean, var)]
    if training or given[2] is None or given[3] is None or (weight and given[0] is None) or (bias and given[1] is None):
        return None
    w, b, m, v = (None if t is None else t.detach().to(torch.float64) for t in given)
    assert m is not None
    assert v is not None
    assert isinstance(eps, (int, float))
    scale = torch.rsqrt(v + eps) if w is None else w / torch.sqrt(v + eps)
    shift = -m * scale if b is None else b - m * scale
    dtype = None
    for t in given:
        dtype = wider(dtype, None if t is None else t.dtype)
    return x, affine(1, scale, shift, dtype)


def _read_add(node: fx.Node, program: Program) -> Found:
    for x, other in (node.args[:2], node.args[1::-1]):
        if (found := _vector(other, value(node), program)) and isinstance(x, fx.Node) and "alpha" not in node.kwargs:
            return x, affine(found[0], 1.0, found[1], found[2])
    return None


def _read_sub(node: fx.Node, program: Program) -> Found:
    x, other = node.args[:2]
    if "alpha" in node.kwargs:
        return None
    if found := _vector(other, value(node), program):
        return x, affine(found[0], 1.0, -found[1], found[2])
    if found := _vector(x, value(node), program):
        return other, affine(found[0], -1.0, found[1], found[2])
    return None


def _read_mul(node: fx.Node, program: Program) -> Found:
    for x, other in (node.args[:2], node.args[1::-1]):
        if (found := _vector(other, value(node), program)) and isinstance(x, fx.Node):
            return x, affine(found[0], found[1], 0.0, found[2])
    return None


def _read_div(node: fx.Node, program: Program) -> Found:
    x, other = node.args[:2]
    if node.kwargs.get("rounding_mode") is None and (found := _vector(other, value(node), program)):
        return x, affine(found[0], 1.0 / found[1], 0.0, found[2])
    return None


def _read_neg(node: fx.Node, program: Program) -> Found:
    return node.args[0], affine(None, -1.0, 0.0)


_READERS: dict[Any, Callable[[fx.Node, Program], Found]] = {
    aten.batch_norm.default: _read_batch_norm,
    aten.add.Tensor: _read_add,
    aten.sub.Tensor: _read_sub,
    aten.mul.Tensor: _read_mul,
    aten.div.Tensor: _read_div,
    aten.neg.default: _read_neg,
}
