"""The text form of a Program:  print(parse(print(p))) == print(p), and parse(print(p), p.weights) computes what p does.

    program(%x: f32[1, 3, 8, 8]) {
      @conv.weight: f32[16, 3, 3, 3]
      %conv: f32[1, 16, 6, 6] = convolution(%x, @conv.weight, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)   # conv
      return %conv
    }

`%` is a value, `@` a constant, `#` the layers a value comes from. Inputs and outputs nest as in Python. A constant of
at most 16 elements prints with its values; `@w: f32[3] = random(7)` (or `positive(7)`) makes seeded ones, and a
declaration without values is seeded by its name. Types and layers may be left out when writing by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx

from .program import Program, Region, Stage
from .signature import Signature, TensorSpec, output_names
from .structure import Structure
from .text_parser import parse_program
from .text_values import DTYPES, SHORT, show_literal, show_op, show_tensor, show_type

__all__ = ["parse_program", "print_node", "print_program"]


def print_program(program: Program) -> str:
    """The whole program, one line a node."""
    name = "" if program.name == "model" else f" {_word(program.name)}"
    stage = "" if program.stage == Stage.CAPTURED else f" {program.stage.name.lower()}"
    inputs = ", ".join(_inputs(program.signature, program.graph))
    lines = [f"program{name}({inputs}){stage} {{"]
    lines += [f"  {_weight(key, tensor)}" for key, tensor in program.weights.items()]
    for node in program.graph.nodes:
        if node.op in ("call_function", "call_module"):
            lines += [f"  {line}" for line in _node(node, program.regions)]
    return "\n".join([*lines, f"  return {_outputs(program.signature, program.graph)}", "}"])


def print_node(node: fx.Node, regions: Mapping[str, Region] | None = None) -> str:
    """The node as it stands in a program: one line, or a region's block."""
    return "\n".join(_node(node, regions or {}))


def _inputs(signature: Signature, graph: fx.Graph) -> Iterator[str]:
    """Parameters of the header: positional trees, then `name=tree`."""
    nodes = iter([n for n in graph.nodes if n.op == "placeholder"])
    specs = iter(signature.inputs)

    def leaf() -> str:
        node, spec = next(nodes), next(specs)
        name = "" if node.name == spec.name else f" {json.dumps(spec.name)}"
        return f"%{node.name}{name}: {_spec(spec)}"

    args, kwargs = signature.input_tree.children
    for child in args.children:
        yield _tree(child, leaf)
    for key, child in kwargs.items():
        yield f"{key}={_tree(child, leaf)}"


def _outputs(signature: Signature, graph: fx.Graph) -> str:
    operands = iter(graph.output_node().args[0])  # type: ignore[arg-type]
    names = iter(zip(output_names(signature.output_tree), signature.outputs, strict=True))

    def leaf() -> str:
        default, spec = next(names)
        return _operand(next(operands)) + ("" if default == spec.name else f" {json.dumps(spec.name)}")

    return _tree(signature.output_tree, leaf)


def _tree(tree: Structure, leaf: Any) -> str:
    """Nested containers as Python writes them."""
    if tree.kind == "leaf":
        return str(leaf())
    if tree.kind == "constant":
        return show_literal(tree.value)
    if tree.kind == "dict":
        return "{" + ", ".join(f"{show_literal(key)}: {_tree(child, leaf)}" for key, child in tree.items()) + "}"
    if tree.kind == "namedtuple":
        return f"{tree.keys[0]}(" + ", ".join(f"{key}={_tree(child, leaf)}" for key, child in tree.items()) + ")"
    inner = ", ".join(_tree(child, leaf) for child in tree.children)
    return f"[{inner}]" if tree.kind == "list" else f"({inner}{',' * (len(tree.children) == 1)})"


def _spec(spec: TensorSpec) -> str:
    words = {str(dtype).removeprefix("torch."): word for dtype, word in SHORT.items()}
    return f"{words.get(spec.dtype, spec.dtype)}[{', '.join(map(str, spec.shape))}]"


def _weight(name: str, tensor: Any) -> str:
    values = show_tensor(tensor)
    return f"{_at(name)}: {show_type(tensor)}" + ("" if values is None else f" = {values}")


def _node(node: fx.Node, regions: Mapping[str, Region]) -> list[str]:
    head = f"%{node.name}"
    if "val" in node.meta:
        head += f": {show_type(node.meta['val'])}"
    if node.op == "call_module":
        return _region(head, node, regions[str(node.target)])
    args = [_operand(arg) for arg in node.args] + [f"{key}={_operand(arg)}" for key, arg in node.kwargs.items()]
    layers = dict.fromkeys(origin.layer for origin in node.meta.get("origins", ()))
    return [f"{head} = {show_op(node.target)}({', '.join(args)}){_comment(layers)}"]


def _region(head: str, node: fx.Node, region: Region) -> list[str]:
    inputs = [f"%{p.name}={_operand(arg)}" for p, arg in zip(region.placeholders, node.args, strict=True)]
    anchor = "" if region.anchor is None else f" anchor %{region.anchor}"
    call = f"{head} = region {_word(region.name)}: {region.kind}({', '.join(inputs)}){anchor} {{"
    body = [line for n in region.body.nodes if n.op == "call_function" for line in _node(n, {})]
    return [call + _comment(region.layers), *(f"  {line}" for line in body), f"  return %{region.result.name}", "}"]


def _operand(value: Any) -> str:
    if isinstance(value, fx.Node):
        return _at(str(value.target)) if value.op == "get_attr" else f"%{value.name}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_operand, value)) + "]"
    return show_literal(value)


def _comment(layers: Any) -> str:
    named = [layer for layer in layers if layer]
    return f"   # {', '.join(named)}" if named else ""


def _at(name: str) -> str:
    return f"@{name}" if re.fullmatch(r"[\w.]+", name, re.ASCII) else f"@{json.dumps(name)}"


def _word(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name not in DTYPES
    return name if plain else json.dumps(name)
