"""Networks as trained become what somebody makes of them who merges every block by hand."""

from __future__ import annotations

import pytest
import torch
from rewriting import op_names
from zoo import find
from zoo.merging import deployed

from planish.ir.capture import capture
from planish.ir.interpret import eager
from planish.passes.manager import run_passes
from planish.passes.pipelines import PIPELINES


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "fastvit_t8"])
def test_the_same_operators_and_numbers_as_merged_by_hand(name: str) -> None:
    model, (x,), _ = find(name).small()
    model, x = model.double(), x.double()
    with torch.no_grad():
        expected = model(x)
    trained, hand = (run_passes(capture(m, (x,)), PIPELINES["exact"]) for m in (model, deployed(model)))
    assert op_names(trained) == op_names(hand)
    shapes = [[tuple(n.meta["val"].shape) for n in p.graph.nodes if n.op == "call_function"] for p in (trained, hand)]
    assert shapes[0] == shapes[1]
    sizes = [sorted(tuple(value.shape) for value in p.weights.values()) for p in (trained, hand)]
    assert sizes[0] == sizes[1]
    for program in (trained, hand):
        (actual,) = eager(program, [x])
        assert float((actual - expected).abs().max()) <= 1e-12 * float(expected.abs().max())
