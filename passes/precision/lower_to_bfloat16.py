"""lower_to_bfloat16: values and weights of float32 are kept in bfloat16; inputs and outputs stay what they were.

    y = linear(x, w)   ->   y = float32(linear(bfloat16(x), bfloat16(w)))

Kernels compute in float32 and round what they store, so the pass only has to say which values may be stored rounded.
These stay in float32, and the report says of each why:
- results of reductions: statistics, from which differences are taken; they are few numbers;
- running sums, which would stop growing;
- whole numbers made floating: bfloat16 has eight bits, so position 257 would be 256;
- what the model itself turns from bfloat16 into float32;
- what is computed pointwise, moved or joined from such values or from the inputs alone, up to the first product,
  normalization, softmax or pool.

Conditions:
- finite numbers stay finite: constants beyond the range of bfloat16 become its largest number (masks of -3.4e38).

Before:
    program(%x: f32[2, 3]) optimized {
      @fc.weight: f32[2, 3] = [[1.0, 0.5, 0.25], [1.01, 2.0, 3.4e+38]]
      %y: f32[2, 2] = linear(%x, @fc.weight, none)   # fc
      %z: f32[2, 2] = relu(%y)
      return %z
    }

After:
    program(%x: f32[2, 3]) optimized {
      @fc.weight: bf16[2, 3] = [[1.0, 0.5, 0.25], [1.0078125, 2.0, 3.3895313892515355e+38]]
      %x_bfloat16: bf16[2, 3] = _to_copy(%x, dtype=bf16)   # fc
      %y: bf16[2, 2] = linear(%x_bfloat16, @fc.weight, none)   # fc
      %z: bf16[2, 2] = relu(%y)
      %z_float32: f32[2, 2] = _to_copy(%z, dtype=f32)
      return %z_float32
    }
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir import ops
from ...ir.fake import Fakes
from ...ir.program import Program, Stage
from ...ir.report import Site
from ..base import Numerics, Pass

aten = torch.ops.aten

LARGEST = torch.finfo(torch.bfloat16).max

_INPUT, _STATISTIC, _RUNNING, _WHOLE, _ASKED, _STOPPED = (
    "it is computed from the inputs alone, which are float32",
    "it is a statistic, or computed from statistics alone: differences from it would cancel",
    "it is a running sum, or computed from one: in bfloat16 it would stop growing",
    "it is made of whole numbers, which bfloat16 rounds from 257 on",
    "the model itself asks for float32 there",
    "the pass was stopped before it",
)

_ALWAYS = frozenset(
    {"conv", "linear", "attention", "pool", "normalize", "softmax", "gather", "scatter", "resize", "recurrent"}
)
"""Families whose results are rounded whatever they are computed from."""

_PROMOTES = frozenset(
    {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.where.self}
    | {aten.maximum.default, aten.minimum.default}
)
"""Operators that take bfloat16 beside float32 and compute in float32."""


def reasons(graph: fx.Graph) -> dict[fx.Node, str]:
    """The float32 values that stay float32, each with its reason."""
    kept: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and is_float32(node):
            kept[node] = _INPUT
        elif node.op == "call_function" and (reason := _reason(node, kept)):
            kept[node] = reason
    return kept


def _reason(node: fx.Node, kept: Mapping[fx.Node, str]) -> str | None:
    """Why the value of a call stays float32, or None."""
    value, family = node.meta["val"], ops.family(node)
    if not isinstance(value, torch.Tensor):
        return _STATISTIC
    if not is_float32(node) or family in _ALWAYS:
        return None
    if family == "reduce":
        return _STATISTIC
    if family == "cumulative":
        return _RUNNING
    floating = [n for n in node.all_input_nodes if _is_floating(n)]
    if not floating:
        return _WHOLE
    if node.target is aten._to_copy.default and _is_bfloat16(floating[0]):
        return _ASKED
    if any(map(_is_bfloat16, floating)) and all(_rounds(user) for user in node.users):
        return _ASKED
    found = [kept[n] for n in floating if n in kept]
    if not found or any(n not in kept and n.op != "get_attr" for n in floating):
        return None
    strongest = next(r for r in (_WHOLE, _ASKED, _RUNNING, _STATISTIC, _INPUT) if r in found)
    return None if family == "matmul" and strongest != _WHOLE else strongest


def is_float32(node: fx.Node) -> bool:
    """Whether a node's value is one float32 tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype is torch.float32


def _is_bfloat16(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16


def _rounds(node: fx.Node) -> bool:
    """Whether a node rounds to bfloat16."""
    return node.target is aten._to_copy.default and _is_bfloat16(node)


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor) or value.is_floating_point()


@dataclass(frozen=True)
class LowerToBfloat16(Pass):
    """Keep values in bfloat16 where they are rounded anyway."""

    name: ClassVar[str] = "lower_to_bfloat16"
    requires: ClassVar[Stage] = Stage.OPTIMIZED
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATES

    def run(
        self, program: Program, *, limit: int | None = None, verify: bool = False
    ) -> tuple[Program, list[Site], list[Site]]:
        """Rebuild the graph with the dtypes decided; the numbers are judged at the end, not at each site."""
        kept = reasons(program.graph)
        lowered = [n for n in program.graph.nodes if n.op == "call_function" and is_float32(n) and n not in kept]
        for node in lowered[limit:] if limit is not None else ():
            kept[node] = _STOPPED
        applied = [_site(n) for n in lowered[:limit]]
        refused = [_site(n, reason) for n, reason in kept.items() if n.op == "call_function"]
        return _Rebuild(program, kept).run(), applied, refused


def _site(node: fx.Node, reason: str | None = None) -> Site:
    layers = tuple(dict.fromkeys(origin.layer for origin in node.meta.get("origins", ())))
    return Site("lower_to_bfloat16", node.name, str(node.target), layers, reason)


class _Rebuild:
    """A copy of a program's graph, node by node, with casts where a value and its reader disagree."""

    def __init__(self, program: Program, kept: Mapping[fx.Node, str]) -> None:
        self.program, self.kept = program, kept
        self.graph = fx.Graph()
        self.fakes = Fakes(program.graph)
        self.env: dict[fx.Node, fx.Node] = {}
        self.casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}
        self.weights: dict[str, torch.Tensor] = {}

    def run(self) -> Program:
        """The program in bfloat16."""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.env[node] = self._copy(self.graph.node_copy(node), node, node.meta["val"])
            elif node.op == "call_function":
                self.env[node] = self._call(node)
        output = self.program.graph.output_node()
        given: Any = output.args[0]
        results = tuple(self._read(n, n.meta["val"].dtype, n) for n in given)
        made = self.graph.output(results)
        made.meta = {**output.meta, "val": tuple(n.meta["val"] for n in results)}
        return self.program.evolve(graph=self.graph, weights=self.weights)

    def _call(self, node: fx.Node) -> fx.Node:
        """One call; a sum of bfloat16 and float32 is computed in float32, and then rounded."""
        wide = node in self.kept or (isinstance(node.meta["val"], torch.Tensor) and not is_float32(node))
        wanted: torch.dtype | None = torch.float32 if wide else torch.bfloat16
        tensors = [n for n in node.all_input_nodes if is_float32(n)]
        mixed = any(n in self.kept for n in tensors)
        if not is_float32(node) and ops.family(node) == "pointwise":
            wanted = None  # a comparison or a cast reads what there is
        elif not wide and mixed and ops.family(node) == "pointwise":
            wanted = None if node.target in _PROMOTES else torch.float32
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._read(n, wanted, node))
        if not wide:
            args, kwargs = _within_range(args), _within_range(kwargs)
            args, kwargs = _respelled(node, args, kwargs)
        made = self.graph.create_node("call_function", node.target, args, kwargs, name=node.name)
        value = self.fakes.run(node.target, args, kwargs)
        self._copy(made, node, value)
        return self._read_made(made, torch.bfloat16, node) if not wide and value.dtype is torch.float32 else made

    def _read(self, node: fx.Node, dtype: torch.dtype | None, reader: fx.Node) -> fx.Node:
        """A value as `dtype` if it is float32 in the program; None leaves it what it is."""
        if node.op == "get_attr":
            return self._constant(node, dtype)
        made = self.env[node]
        return made if dtype is None or not is_float32(node) else self._read_made(made, dtype, reader)

    def _read_made(self, made: fx.Node, dtype: torch.dtype, reader: fx.Node) -> fx.Node:
        """A cast, made once for all its readers."""
        if made.meta["val"].dtype is dtype:
            return made
        if (made, dtype) not in self.casts:
            name = f"{made.name}_{str(dtype).removeprefix('torch.')}"
            cast = self.graph.create_node("call_function", aten._to_copy.default, (made,), {"dtype": dtype}, name=name)
            value = self.fakes.run(aten._to_copy.default, (made,), {"dtype": dtype})
            self.casts[made, dtype] = self._copy(cast, reader, value)
        return self.casts[made, dtype]

    def _constant(self, node: fx.Node, dtype: torch.dtype | None) -> fx.Node:
        """A weight in `dtype`; float32 beside bfloat16 if both are read."""
        name, tensor = str(node.target), self.program.weights[str(node.target)]
        if tensor.dtype is torch.float32 and dtype is torch.bfloat16:
            finite = tensor.isfinite()
            tensor = torch.where(finite, tensor.clamp(-LARGEST, LARGEST), tensor).to(torch.bfloat16)
        if name in self.weights and self.weights[name].dtype is not tensor.dtype:
            name = f"{name}_{str(tensor.dtype).removeprefix('torch.')}"
        self.weights.setdefault(name, tensor)
        key = (node, tensor.dtype)
        if key not in self.casts:
            self.casts[key] = self._copy(self.graph.create_node("get_attr", name), node, self.fakes.of(tensor))
        return self.casts[key]

    @staticmethod
    def _copy(new: fx.Node, old: fx.Node, value: Any) -> fx.Node:
        new.meta = {**old.meta, "val": value}
        return new


def _within_range(arguments: Any) -> Any:
    """Numbers that bfloat16 would make infinite, as its largest."""
    if isinstance(arguments, tuple | list):
        return type(arguments)(_within_range(a) for a in arguments)
    if isinstance(arguments, dict):
        return {key: _within_range(value) for key, value in arguments.items()}
    if isinstance(arguments, float) and math.isfinite(arguments):
        return max(-LARGEST, min(LARGEST, arguments))
    return arguments


def _respelled(node: fx.Node, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments that stand for a dtype: the one to cast to, and the epsilon that is float32's if none is given."""
    if kwargs.get("dtype") is torch.float32:
        kwargs = {**kwargs, "dtype": torch.bfloat16}
    if node.target is aten.rms_norm.default and (len(args) < 4 or args[3] is None):
        args = (*[*args, None][:3], torch.finfo(torch.float32).eps)
    return args, kwargs
