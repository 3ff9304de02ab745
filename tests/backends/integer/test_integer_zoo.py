"""Whole networks in integers: artifact and reference agree in every bit; only the doors compute in float."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import zoo
from integer_case import CPUS, grouped_and_reference
from integer_only import strange
from kernel_case import HOST
from quantize.test_integer_networks import Torture
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.lower import lower
from planish.backends.tvm.target import Target
from planish.ir.ops import integer_name
from planish.ir.program import Program

SMALL = ("deit_small",)
OTHERS = ("mobilenet_v3_small", "densenet121", "swin_tiny", "bert_base", "convnext_tiny")
FULL = ("resnet18", "resnet50", "mobilenet_v2", "inception_v3", "deit_small")


def check(model: Any, args: Sequence[Any], kwargs: dict[str, Any], target: Target = HOST) -> None:
    """Compiled for `target`, on the batch and on hostile inputs of its shape."""
    grouped, made = grouped_and_reference(model, args, kwargs)
    only_doors_are_float(grouped)
    compiled = TvmBackend(target).compile(grouped)
    for form in range(len(list(hostile(torch.zeros(1))))):
        given = tree_map(lambda t, n=form: list(hostile(t))[n] if t.is_floating_point() else t, (tuple(args), kwargs))
        expected, actual = made(*given[0], **given[1]), compiled(*given[0], **given[1])
        for one, other in zip(tree_leaves(expected), tree_leaves(actual), strict=True):
            assert torch.equal(one, other), f"input {form}: {int((one != other).sum())} of {one.numel()} differ"


def hostile(seen: Tensor) -> Iterator[Tensor]:
    """What calibration saw; far beyond it; all at one end, at the other, both in turns; and one impulse."""
    yield seen
    yield seen * -30.0
    yield torch.full_like(seen, -1e4)
    yield torch.full_like(seen, 1e4)
    yield torch.full_like(seen, -1e4).flatten().index_fill(0, torch.arange(0, seen.numel(), 2), 1e4).view_as(seen)
    yield torch.zeros_like(seen).flatten().index_fill(0, torch.tensor([seen.numel() // 2]), 1e4).view_as(seen)


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


@pytest.mark.parametrize("cpu", ["vnni", *(pytest.param(cpu, marks=pytest.mark.bars) for cpu in CPUS if cpu != "vnni")])
def test_a_net_of_everything(cpu: str) -> None:
    torch.manual_seed(0)
    check(Torture().eval(), (torch.randn(2, 3, 12, 12),), {}, CPUS[cpu])


@pytest.mark.bars
@pytest.mark.parametrize("name", FULL)
def test_full_networks(name: str) -> None:
    check(*zoo.find(name).full())


@pytest.mark.bars
@pytest.mark.parametrize("cpu", [cpu for cpu in CPUS if cpu != "vnni"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "deit_small"])
def test_other_instructions(name: str, cpu: str) -> None:
    check(*zoo.find(name).small(), CPUS[cpu])
