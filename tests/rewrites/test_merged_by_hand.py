"""Trained networks against themselves merged by hand: as many nodes and kernels, as many FLOPs, as many bytes."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from rewriting import op_names
from torch import Tensor, nn
from zoo.merged import PAIRS, settled
from zoo.merged_convs import CONVOLUTIONS
from zoo.merged_tokens import TOKENS

from planish.ir.capture import capture
from planish.ir.interpret import eager
from planish.ir.program import Program
from planish.passes.manager import run_passes
from planish.passes.pipelines import PIPELINES


def rewritten(model: nn.Module, x: Tensor, verify: bool) -> tuple[Program, Program]:
    """Before and after."""
    before = capture(model, (x,))
    return before, run_passes(before, PIPELINES["exact"], verify=verify)


def cost(program: Program) -> dict[str, Any]:
    """Nodes by kind, kernels, multiply-adds and bytes of weights (equal ones are stored once)."""
    work, stored = 0, {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            weight = program.weights[str(node.target)]
            stored[weight.shape, weight.contiguous().numpy().tobytes()] = weight.nbytes
        elif str(node.target).split(".")[1:2] in (["convolution"], ["linear"]):
            at: Any = node.args[0] if node.args[6:7] == (True,) else node
            work += at.meta["val"].numel() * math.prod(node.args[1].meta["val"].shape[1:])
    kernels = run_passes(program, PIPELINES["group"])
    calls = sum(n.op in ("call_function", "call_module") for n in kernels.graph.nodes)
    return {"nodes": Counter(op_names(program)), "kernels": calls, "work": work, "bytes": sum(stored.values())}


ALL = PAIRS | CONVOLUTIONS | TOKENS


@pytest.mark.parametrize("name", ALL)
def test_costs_what_the_merged_network_does(name: str) -> None:
    torch.manual_seed(0)
    trained, merged, shape = ALL[name]
    x = torch.randn(shape, dtype=torch.float64)
    before, after = rewritten(settled(trained()), x, verify=True)
    (old,), (new,) = eager(before, [x]), eager(after, [x])
    assert float((new - old).abs().max()) <= 1e-12 * float(old.abs().max())
    assert cost(after) == cost(rewritten(settled(merged()), x, verify=False)[1])
