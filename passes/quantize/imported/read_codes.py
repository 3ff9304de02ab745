"""read_codes: the Q/DQ pairs of a graph that others quantized become values that stand on codes.

    dequantize(quantize(x))  ==  rounded(x) = scale · (clamp(zero + round(x / scale)) - zero)
    dequantize(codes of a weight)  ==  the weight that they stand for

Conditions:
- scales and zero points are constants: one an activation, one or one a channel for weights;
- codes are within int8 or uint8; those of int8 are written as uint8, with 128 added to the zero point, too;
- between quantize and dequantize stand at most moves of elements, and both have the same parameters.

Before:
    program(%x: f32[1, 2]) {
      %q: u8[1, 2] = quantized_decomposed::quantize_per_tensor(%x, 0.5, 3, 0, 255, u8)
      %d: f32[1, 2] = quantized_decomposed::dequantize_per_tensor(%q, 0.5, 3, 0, 255, u8)
      return %d
    }

After:
    program(%x: f32[1, 2]) {
      %rounded: f32[1, 2] = planish::rounded(%x, 0.5, 3, 0, 255)
      return %rounded
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ....errors import NotImported, UnsupportedOp
from ....ir.program import Program, Stage
from ....ir.quantized.operators import ROUNDED
from ....ir.rules import Call, Refused, Replacement, Rule, Weight
from ....ir.scales import moves
from ...base import Numerics, Pass
from ...fold.constants import Constants, evaluate
from ...manager import run_passes
from ..plan import layer_of
from .parameters import DYNAMIC, WIDE, Parameters, dequantizes, operator_of, parameters_of, quantizes, trains

UNCONVERTED = "it trains for codes (QAT); convert_pt2e(model) writes the pairs that are read"
MOVED_CODES = "an operator between quantize and dequantize computes with its codes"


@dataclass(frozen=True)
class ReadCodes(Pass):
    """Write `rounded` for each pair, and the values of weights for their codes."""

    name: ClassVar[str] = "read_codes"
    requires: ClassVar[Stage] = Stage.CAPTURED
    numerics: ClassVar[Numerics] = Numerics.ROUNDS

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule; it remembers which nodes are constant."""
        constants = Constants()
        return (("read_codes", lambda node, program: _dequantized(node, program, constants)),)


def read_codes(program: Program) -> Program:
    """The program without Q/DQ pairs. Raises NotImported, which lists what is left of them."""
    made = run_passes(program, [ReadCodes()])
    refused = {site.node: site.reason for report in made.report for site in report.refused}
    left = [node for node in made.graph.nodes if operator_of(node)]
    named = [(node, refused.get(node.name) or _why(node, refused)) for node in left]
    if named:
        raise NotImported([_unsupported(node, reason) for node, reason in named])
    return made


def _dequantized(node: fx.Node, program: Program, constants: Constants) -> Replacement | Refused | None:
    """A dequantize by what stands before it."""
    if not dequantizes(node):
        return None
    meaning = parameters_of(node, program, constants)
    source: Any = node.args[0]
    if isinstance(meaning, str):
        if all(map(constants.holds, node.all_input_nodes)):  # a weight in float, whatever its codes are
            return Replacement({node: Weight(_name(source), _computed(node, program))})
        return Refused(meaning, node)
    if constants.holds(source):
        return _weight(node, meaning, evaluate(source, program), _name(source))
    if quantizes(source):
        return _pair(node, source, meaning, program, constants)
    if source.op != "call_function" or not moves(source) or meaning.axis is not None:
        return Refused(MOVED_CODES if source.op == "call_function" else "its codes are an input of the model", node)
    rest = node.args[1:]
    args, kwargs = _with_values(source, node, rest)
    return Replacement({node: Call(source.target, args, kwargs)}, (source,))


def _pair(
    node: fx.Node, source: fx.Node, meaning: Parameters, program: Program, constants: Constants
) -> Replacement | Refused:
    """dequantize(quantize(x))."""
    x: Any = source.args[0]
    made = parameters_of(source, program, constants)
    if isinstance(made, str):
        return Refused(made, node)
    if not made.same(meaning):
        return Refused("it is dequantized by other parameters than it was quantized with", node)
    if constants.holds(x):
        return _weight(node, meaning, made.codes(evaluate(x, program).to(x.meta["val"].dtype)), _name(x))
    if meaning.axis is not None:
        return Refused("an activation has a scale a channel", node)
    if x.meta["val"].dtype is not torch.float32 or node.meta["val"].dtype is not torch.float32:
        return Refused("the quantized value is not float32: model.float() before it is quantized", node)
    low, high, zero = meaning.low, meaning.high, int(meaning.zero)
    shift = 128 if low < 0 else 0
    if low + shift < 0 or high + shift > 255:
        return Refused(WIDE.format(low, high), node)
    return Replacement({node: Call(ROUNDED, (x, float(meaning.scale), zero + shift, low + shift, high + shift))})


def _weight(node: fx.Node, meaning: Parameters, codes: torch.Tensor, name: str) -> Replacement:
    """The values that the codes of a constant stand for."""
    return Replacement({node: Weight(name, meaning.values(codes).to(node.meta["val"].dtype))})


def _computed(node: fx.Node, program: Program) -> torch.Tensor:
    """What a call makes of constants."""
    given = {source: evaluate(source, program).to(source.meta["val"].dtype) for source in node.all_input_nodes}
    args, kwargs = fx.map_arg((node.args, node.kwargs), given.__getitem__)
    assert callable(node.target)
    made: torch.Tensor = node.target(*args, **kwargs)
    return made


def _with_values(source: fx.Node, node: fx.Node, rest: tuple[Any, ...]) -> tuple[Any, Any]:
    """The arguments of a move of codes, dequantized."""

    def value(operand: fx.Node) -> Any:
        held = operand.meta["val"]
        codes = isinstance(held, torch.Tensor) and held.dtype is source.meta["val"].dtype
        return Call(node.target, (operand, *rest), node.kwargs) if codes else operand

    return _mapped(source.args, value), _mapped(source.kwargs, value)


def _mapped(held: Any, value: Any) -> Any:
    """Arguments with `value` of each node; FX's own map does not take what is no argument yet."""
    if isinstance(held, fx.Node):
        return value(held)
    if isinstance(held, dict):
        return {key: _mapped(item, value) for key, item in held.items()}
    return type(held)(_mapped(item, value) for item in held) if isinstance(held, list | tuple) else held


def _name(source: fx.Node) -> str:
    """A constant's own name, or the node's."""
    held = source
    while held.op == "call_function" and held.all_input_nodes:
        held = held.all_input_nodes[0]
    return str(held.target) if held.op == "get_attr" else source.name


def _why(node: fx.Node, refused: dict[str, str | None]) -> str:
    """Why an operator is left that no rule looks at."""
    name = operator_of(node)
    if name.startswith("choose_qparams"):
        return DYNAMIC
    if trains(name):
        return UNCONVERTED
    if "float8" in name:
        return "its codes are floats of 8 bits, which are no integers"
    if "per_token" in name or "group" in name:
        return "it has a scale a token or group: scales are one, or one a channel"
    if quantizes(node):
        reasons = (refused.get(user.name) for user in node.users)
        return next((r for r in reasons if r), "the model gives away its codes, or computes with them")
    return "it has no float form"


def _unsupported(node: fx.Node, reason: str) -> UnsupportedOp:
    origins = node.meta.get("origins", ())
    source = next((origin.source for origin in origins if origin.source), "")
    return UnsupportedOp(str(node.target), reason, layer_of(node) if origins else "", source)
