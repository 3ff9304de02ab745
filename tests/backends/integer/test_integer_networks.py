"""Whole integer programs through the compiler: the reference's bits, and no float, quotient or function on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from integer_case import codes
from integer_only import strange
from kernel_case import HOST, make_task
from torch.utils._pytree import tree_leaves
from zoo.integer_network import integer_network
from zoo.random_integers import random_integers

from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.lower import lower
from planish.backends.tvm.plan import Plan
from planish.backends.tvm.target import Target
from planish.ir.ops import integer_name
from planish.ir.program import Program
from planish.ir.quantized.operators import OPERATORS
from planish.ir.text import parse_program
from planish.passes.manager import run_passes
from planish.passes.pipelines import GROUP

SUITE = range(20)
BARS = range(1000, 1200)


def check_bits(program: Program, sets: list[tuple[torch.Tensor, ...]]) -> None:
    """The artifact's results and the reference's."""
    compiled = TvmBackend(HOST).compile(run_passes(program, GROUP))
    for inputs in sets:
        for one, other in zip(tree_leaves(program(*inputs)), tree_leaves(compiled(*inputs)), strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert torch.equal(one, other), f"{int((one != other).sum())} of {one.numel()} differ"


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_a_residual_network(count_include_pad: bool) -> None:
    """From float32 to float32: the doors have the reference's bits, too."""
    program, x, _ = integer_network(count_include_pad)
    check_bits(program, [(x,), (x * 100,), (torch.zeros_like(x),), (torch.full_like(x, torch.nan),)])


def test_tables_of_more_dimensions_than_codes() -> None:
    """Layouts are chosen by where elements lie; those of a table lie nowhere in particular."""
    text = """program(%x: i16[40]) quantized {
  @t: i32[512, 3]
  %r: i16[40] = planish::curve(%x, @t, 14, -9000, 9000, i16)
  return %r
}"""
    table, x = codes(512, 3, dtype=torch.int16).to(torch.int32), codes(40, dtype=torch.int16)
    check_bits(parse_program(text, {"t": table}), [(x,)])


@pytest.mark.parametrize("seed", SUITE)
def test_random_programs(seed: int) -> None:
    check_bits(*random_integers(seed))


@pytest.mark.bars
@pytest.mark.parametrize("seed", BARS)
def test_many_random_programs(seed: int) -> None:
    check_bits(*random_integers(seed))


def test_the_programs_are_what_they_claim() -> None:
    """Equal seeds are equal programs; over the suite's seeds every operator occurs, and every width."""
    assert str(random_integers(3)[0]) == str(random_integers(3)[0])
    nodes = [node for seed in SUITE for node in random_integers(seed)[0].graph.nodes if node.op == "call_function"]
    doors = {"quantize", "dequantize", None}
    assert {integer_name(node) for node in nodes} - doors == {operator.name for operator in OPERATORS} - doors
    assert {node.meta["val"].dtype for node in nodes} == {torch.uint8, torch.int8, torch.int16, torch.int32}


def plan_of(program: Program, target: Target = HOST) -> Plan:
    """The kernels of a program, not compiled."""
    return lower(run_passes(program, GROUP), target)


@pytest.mark.parametrize("seed", SUITE[:5])
def test_stored_values_are_integers(seed: int) -> None:
    check_stored(seed)


@pytest.mark.bars
@pytest.mark.parametrize("seed", BARS)
def test_many_stored_values_are_integers(seed: int) -> None:
    check_stored(seed)


def check_stored(seed: int) -> None:
    """Every kernel of a program that takes and gives codes."""
    for kernel in plan_of(random_integers(seed)[0]).kernels.values():
        assert strange(kernel.func) == set(), f"{kernel.template}"


def test_only_the_doors_are_float() -> None:
    """A quotient to quantize, a product to dequantize: nothing else, in no other kernel."""
    found = [strange(kernel.func) for kernel in plan_of(integer_network(False)[0]).kernels.values()]
    doors = [{name for name in names if "float" not in name} for names in found if names]
    assert sorted(doors, key=len) == [set(), {"Div", "round"}]


def test_the_look_at_stored_values_sees() -> None:
    """Floats, integer quotients, also in conditions, and calls of functions."""
    aten, x = torch.ops.aten, torch.arange(12).to(torch.int32)
    assert seen(lambda v: aten.gt.Scalar(aten._to_copy.default(v, dtype=torch.float32), 0.5), x) == {"float32"}
    assert seen(lambda v: aten.floor_divide.default(v, 3), x) == {"FloorDiv"}
    assert seen(lambda v: aten.where.self(aten.gt.Scalar(aten.remainder.Scalar(v, 5), 2), v, v), x) == {"FloorMod"}
    assert seen(lambda v: aten.sqrt.default(v), x.float()) == {"float32", "sqrt"}


def seen(fn: Callable[[Any], Any], x: torch.Tensor) -> set[str]:
    """What is strange about the kernel of a function."""
    return strange(Generic().emit(make_task(fn, [x])).func)
