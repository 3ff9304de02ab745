"""Layers that compute their weights: no weight arithmetic is left, and the weights are the right ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import assert_close_to_reference
from rewriting import op_names
from torch import Tensor, nn
from zoo import weights

from planish.ir.capture import capture
from planish.ir.interpret import eager, reference
from planish.ir.program import Program
from planish.passes.manager import run_passes
from planish.passes.pipelines import PIPELINES


class Net(nn.Module):
    """All layers in a row, with a non-linear op between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(weights.layers())

    def forward(self, x: Tensor) -> Tensor:
        """Through all of them."""
        for layer in self.layers.values():
            x = torch.sin(layer(x))
        return x


Sample = tuple[Program, Program, list[Tensor]]


@pytest.fixture(scope="module")
def sample() -> Sample:
    """The net in float32 before and after."""
    torch.manual_seed(0)
    net = Net().eval()
    x = torch.randn(1, weights.C, 5, 5)
    before = capture(net, (x,))
    return before, run_passes(before, PIPELINES["exact"]), [x]


@pytest.mark.parametrize("name", weights.layers())
def test_one_convolution_is_left(name: str, sample: Sample) -> None:
    calls = [n for n in sample[1].graph.nodes if n.op == "call_function"]
    mine = [n for n in calls if any(o.layer.startswith(f"layers.{name}") for o in n.meta["origins"])]
    assert [str(n.target) for n in mine] == ["aten.convolution.default"]
    weight: Any = mine[0].args[1]
    assert weight.op == "get_attr"


def test_nothing_else_is_left(sample: Sample) -> None:
    assert op_names(sample[1]) == ["convolution", "sin"] * len(weights.layers())


def test_it_computes_the_same(sample: Sample) -> None:
    before, after, x = sample
    assert_close_to_reference(eager(after, x), reference(before, x), eager(before, x))
