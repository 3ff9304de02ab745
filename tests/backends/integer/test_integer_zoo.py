"""Whole networks in integers: artifact and reference agree in every bit; only the doors compute in float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import zoo
from integer_only import strange
from kernel_case import HOST
from quantize.test_integer_networks import Torture
from torch.utils._pytree import tree_leaves, tree_map

from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.lower import lower
from planish.ir.capture import capture
from planish.ir.ops import integer_name
from planish.ir.program import Program
from planish.passes.manager import run_passes
from planish.passes.pipelines import EXACT, GROUP, INTEGER
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import integerize
from planish.passes.quantize.observers import MinMax

SMALL = ("deit_small",)
OTHERS = ("mobilenet_v3_small", "densenet121", "swin_tiny", "bert_base", "convnext_tiny")
FULL = ("resnet18", "resnet50", "mobilenet_v2", "inception_v3", "deit_small")


def check(model: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Calibrated with one batch, run with it and with others that leave its ranges."""
    program = run_passes(capture(model, tuple(args), kwargs), (*EXACT, *INTEGER))
    made = integerize(program, calibrate(program, [tuple(program.signature.flatten(tuple(args), kwargs))], MinMax))
    grouped = run_passes(made, GROUP)
    only_doors_are_float(grouped)
    compiled = TvmBackend(HOST).compile(grouped)
    for factor in (1.0, -30.0):
        given = tree_map(lambda t, f=factor: t * f if t.is_floating_point() else t, (tuple(args), kwargs))
        expected, actual = made(*given[0], **given[1]), compiled(*given[0], **given[1])
        for one, other in zip(tree_leaves(expected), tree_leaves(actual), strict=True):
            assert torch.equal(one, other), f"{int((one != other).sum())} of {one.numel()} differ"


def only_doors_are_float(grouped: Program) -> None:
    """A kernel that stores a float, or computes with one, quantizes or dequantizes."""
    plan = lower(grouped, HOST)
    seen = {symbol: strange(kernel.func) for symbol, kernel in plan.kernels.items()}
    doors = {
        name
        for name, region in grouped.regions.items()
        if any(integer_name(node) in ("quantize", "dequantize") for node in region.body.nodes)
    }
    assert doors
    assert {step.region for step in plan.steps if step.symbol and seen[step.symbol]} <= doors


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.bars) for name in OTHERS)])
def test_small_networks(name: str) -> None:
    check(*zoo.find(name).small())


def test_a_net_of_everything() -> None:
    torch.manual_seed(0)
    check(Torture().eval(), (torch.randn(2, 3, 12, 12),), {})


@pytest.mark.bars
@pytest.mark.parametrize("name", FULL)
def test_full_networks(name: str) -> None:
    check(*zoo.find(name).full())
