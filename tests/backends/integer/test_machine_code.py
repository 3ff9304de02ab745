"""What integer kernels are made of, read in their assembly: no float arithmetic, and no division.

Divisions by constants are multiplications by then; the one that TVM writes, by the number of threads, is replaced.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from integer_case import CPUS, grouped_and_reference
from kernel_case import make_task
from quantize.test_integer_networks import Torture
from zoo.integer_network import integer_network
from zoo.random_integers import random_integers

from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.codegen_process import WITHOUT_DIVISION, build_library
from planish.backends.tvm.compat import save_module
from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.kernel_table import undivided
from planish.backends.tvm.lower import lower
from planish.backends.tvm.plan import Plan
from planish.backends.tvm.target import Target
from planish.ir.program import Program
from planish.ir.text import parse_program
from planish.passes.manager import run_passes
from planish.passes.pipelines import GROUP

ARITHMETIC = r"add|sub|mul|div|sqrt|rcp\w*|rsqrt\w*|fn?m(?:add|sub)\w*|dp|min|max|round|rndscale|scalef|getexp|getmant"
FLOATS = re.compile(rf"\bv?(?:(?:{ARITHMETIC})[ps][sdh]|cvt\w+)\b|\bf(?:i?add|i?sub|i?mul|i?div|sqrt|i?ld)\w*\b")
DIVISIONS = re.compile(r"\bi?div[bwlq]?\b")


def machine_code(func: Any, target: Target = CPUS["vnni"]) -> str:
    """Assembly of a kernel, as a worker makes it."""
    return str(build_library(str(target.tvm_target()), save_module("kernel", func)).inspect_source("asm"))


def check_code(plan: Plan, target: Target) -> None:
    """Every kernel that touches no float."""
    kernels = [kernel for kernel in plan.kernels.values() if WITHOUT_DIVISION in kernel.func.attrs]
    assert kernels
    for kernel in kernels:
        assembly = machine_code(kernel.func, target)
        assert not FLOATS.findall(assembly), kernel.template
        assert not DIVISIONS.findall(assembly), kernel.template


@pytest.mark.parametrize("cpu", ["vnni", *(pytest.param(cpu, marks=pytest.mark.bars) for cpu in CPUS if cpu != "vnni")])
def test_a_net_of_everything(cpu: str) -> None:
    torch.manual_seed(0)
    program, _ = grouped_and_reference(Torture().eval(), (torch.randn(2, 3, 12, 12),), {})
    check_code(lower(program, CPUS[cpu]), CPUS[cpu])


@pytest.mark.parametrize("cpu", ["vnni", "halves256"])
def test_a_random_program(cpu: str) -> None:
    check_code(plan_of(random_integers(4)[0], CPUS[cpu]), CPUS[cpu])


def test_only_doors_are_looked_away_from() -> None:
    """A kernel that reads or writes floats quantizes or dequantizes: two of this network."""
    kernels = plan_of(integer_network(False)[0], CPUS["vnni"]).kernels.values()
    assert sum(WITHOUT_DIVISION not in kernel.func.attrs for kernel in kernels) == 2


def test_the_look_sees() -> None:
    """A float sum, a float quotient, a conversion, an integer quotient by a variable, and by the number of threads."""
    aten, x = torch.ops.aten, torch.arange(1, 40)
    floats = make_task(lambda v, w: aten.div.Tensor(aten.add.Tensor(v, w), v), [x.float(), x.float()])
    found = {name.lstrip("v") for name in FLOATS.findall(machine_code(Generic().emit(floats).func))}
    assert {"addps", "divps"} <= found
    rounded = make_task(lambda v: aten._to_copy.default(v, dtype=torch.int32), [x.float()])
    assert any("cvt" in name for name in FLOATS.findall(machine_code(Generic().emit(rounded).func)))
    quotient = make_task(lambda v, w: aten.floor_divide.default(v, w), [x, x])
    assert DIVISIONS.findall(machine_code(Generic().emit(quotient).func))
    task = make_task(aten.bitwise_not.default, [torch.zeros(64, 1000, dtype=torch.int32)])
    shared = Generic().emit(task).func
    assert DIVISIONS.findall(machine_code(shared))
    assert not DIVISIONS.findall(machine_code(undivided(shared, (task.output,))))


@pytest.mark.parametrize("rows", [3, 64, 1000])
def test_every_iteration_has_its_thread(rows: int) -> None:
    """However many share them: each row is written once, none is missed."""
    text = (
        f"program(%x: i32[{rows}, 129]) quantized {{\n  %r: i32[{rows}, 129] = aten::bitwise_not(%x)\n  return %r\n}}"
    )
    program, x = run_passes(parse_program(text), GROUP), torch.arange(rows * 129, dtype=torch.int32).view(rows, 129)
    for threads in (1, 2, 3, 7):
        assert torch.equal(TvmBackend(Target.host(threads=threads)).compile(program)(x), ~x)


def plan_of(program: Program, target: Target) -> Plan:
    """The kernels of a program, not compiled."""
    return lower(run_passes(program, GROUP), target)
