"""Tests of respellings: one call in, the calls that stand for it out.

spelled(pass, "%x: f64[2, 3]", "t(%x)") == ["permute(%x, [1, 0])"]
"""

from __future__ import annotations

from typing import Any

import torch
from rewriting import random_inputs, rewritten, run
from torch import fx

from planish.ir.program import Program
from planish.ir.text import parse_program, print_node
from planish.passes.base import Numerics, Pass


def calls(program: Program) -> list[str]:
    """Every call without names and types: `#2` is the result of the third call."""
    names: dict[str, str] = {}
    lines: list[str] = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            text = print_node(node).split(" = ", 1)[1].split("   #")[0]
            lines.append(_rename(text, node, names))
            names[node.name] = f"#{len(names)}"
    return lines


def spelled(pass_: Pass, inputs: str, call: str, *weights: str) -> list[str]:
    """What a pass makes of one call; checked in float64, and bit for bit where the pass promises it."""
    declarations = "\n".join(weights)
    before = f"program({inputs}) {{\n{declarations}\n%y = {call}\nreturn %y\n}}"
    return calls(checked(pass_, before))


def checked(pass_: Pass, text: str) -> Program:
    """The program that a pass makes of a text."""
    after, _, _ = rewritten(pass_, text)
    if pass_.numerics is Numerics.EXACT:
        before = parse_program(text)
        values = random_inputs(before)
        for old, new in zip(run(before, values), run(after, values), strict=True):
            assert torch.equal(old, new)
    return after


def _rename(text: str, node: fx.Node, names: dict[str, str]) -> str:
    operands: list[Any] = sorted((n.name for n in node.all_input_nodes), key=len, reverse=True)
    for name in operands:
        if name in names:
            text = text.replace(f"%{name},", f"{names[name]},").replace(f"%{name})", f"{names[name]})")
            text = text.replace(f"%{name}]", f"{names[name]}]")
    return text
