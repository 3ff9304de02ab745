"""remove_identities: only what gives every bit back, -0.0 and NaN included."""

from __future__ import annotations

import math

import pytest
import torch
from rewriting import run
from spelling import spelled

from planish.ir.text import parse_program
from planish.passes.normalize.remove_identities import RemoveIdentities

INPUTS = "%x: f32[2, 3], %i: i64[2, 3], %m: bool[2, 3]"


@pytest.mark.parametrize(
    "call",
    [
        "mul.Tensor(%x, 1.0)",
        "mul.Tensor(%x, 1)",
        "mul.Tensor(%i, 1)",
        "div.Tensor(%x, 1.0)",
        "sub.Tensor(%x, 0.0)",
        "sub.Tensor(%i, 0)",
        "add.Tensor(%x, -0.0)",
        "add.Tensor(%i, 0)",
        "pow.Tensor_Scalar(%x, 1)",
        "where.self(%m, %x, %x)",
        "maximum(%x, %x)",
    ],
)
def test_gone(call: str) -> None:
    assert spelled(RemoveIdentities(), INPUTS, call) == []


@pytest.mark.parametrize(
    "call",
    [
        "add.Tensor(%x, 0.0)",  # -0.0 + 0.0 is 0.0
        "add.Tensor(%x, 0)",
        "sub.Tensor(%x, -0.0)",  # -0.0 - -0.0 is 0.0
        "mul.Tensor(%i, 1.0)",  # becomes floating
        "div.Tensor(%i, 1)",
        "add.Tensor(%m, 0)",  # becomes an integer
        "mul.Tensor(%m, true)",
        "pow.Tensor_Scalar(%x, 0)",
        "mul.Tensor(%x, -1.0)",
        "maximum(%x, %i)",
    ],
)
def test_stays(call: str) -> None:
    assert spelled(RemoveIdentities(), INPUTS, call) == [call]


@pytest.mark.parametrize("op", ["neg", "bitwise_not"])
def test_twice_is_nothing(op: str) -> None:
    text = f"program({INPUTS}) {{ %a = {op}(%i) %b = {op}(%a) return %b }}"
    program, applied, _ = RemoveIdentities().run(parse_program(text), verify=True)
    assert len(applied) == 1
    assert [n.op for n in program.graph.nodes if n.op == "call_function"] == []


@pytest.mark.parametrize("op", ["relu", "abs", "floor", "ceil", "round", "trunc"])
def test_twice_is_once(op: str) -> None:
    text = f"program({INPUTS}) {{ %a = {op}(%x) %b = {op}(%a) return %b }}"
    program, applied, _ = RemoveIdentities().run(parse_program(text), verify=True)
    assert len(applied) == 1
    assert [n.name for n in program.graph.nodes if n.op == "call_function"] == ["a"]


@pytest.mark.parametrize(
    "call", ["mul.Tensor(%x, 1.0)", "div.Tensor(%x, 1.0)", "sub.Tensor(%x, 0.0)", "add.Tensor(%x, -0.0)"]
)
def test_special_values_are_why(call: str) -> None:
    before = parse_program(f"program(%x: f32[5]) {{ %y = {call} return %y }}")
    after, applied, _ = RemoveIdentities().run(before)
    assert applied
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, 1e-45])
    (old,), (new,) = run(before, [special]), run(after, [special])
    assert torch.equal(old.view(torch.int32), new.view(torch.int32))
