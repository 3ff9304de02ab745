"""Every kernel of every zoo model's plan: what touches more than 4,096 elements has a parallel and a vector loop."""

from __future__ import annotations

from math import prod

import pytest
from kernel_case import HOST, loops
from zoo import ZOO, Entry
from zoo.common import Sample

from planish.backends.tvm.lower import lower
from planish.backends.tvm.plan import Plan
from planish.ir.capture import capture
from planish.passes.manager import run_passes
from planish.passes.pipelines import COMPILE

ELEMENTS = 4096


def plan_of(sample: Sample) -> Plan:
    model, args, kwargs = sample
    return lower(run_passes(capture(model, args, kwargs), COMPILE), HOST)


def serial_or_scalar(plan: Plan) -> list[str]:
    """Kernels that work on many elements without a parallel or without a vector loop."""
    found = []
    for kernel in plan.kernels.values():
        elements = max(prod(int(e) for e in parameter.shape) for parameter in kernel.func.params)
        kinds = {kind for kind, extent in loops(kernel.func) if extent != 1}
        if elements > ELEMENTS and not {"parallel", "vectorized"} <= kinds:
            regions = [step.region for step in plan.steps if step.symbol == kernel.symbol]
            found.append(f"{kernel.template} for {', '.join(regions)}: {elements} elements, {sorted(kinds)}")
    return found


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_kernels_of_small_models_are_parallel_and_vectorized(entry: Entry) -> None:
    assert not serial_or_scalar(plan_of(entry.small(batch=4)))


@pytest.mark.bars
@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_kernels_of_full_models_are_parallel_and_vectorized(entry: Entry) -> None:
    assert not serial_or_scalar(plan_of(entry.full()))
