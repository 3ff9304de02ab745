"""Known architectures in small: what each block leaves, and that it computes the same."""

from __future__ import annotations

import pytest
import torch
from compare import assert_close_to_reference
from rewriting import op_names
from torch import Tensor, nn
from zoo import blocks

from planish.ir.capture import capture
from planish.ir.interpret import eager, reference
from planish.ir.program import Program
from planish.passes.manager import run_passes
from planish.passes.pipelines import PIPELINES

ONE = ["convolution", "relu"]
SIDES = ["slice", "slice"]

LEFT: dict[type[nn.Module], list[str]] = {
    blocks.RepVgg: ONE,
    blocks.MobileOne: ONE,
    blocks.AcNet: ONE,
    blocks.DiverseBranch: ONE,
    blocks.LargeKernel: [*ONE, *ONE, "convolution", "add", "relu"],
    blocks.RepMixer: ONE,
    blocks.RepVit: ONE,
    blocks.LeVit: ["reshape", "permute", "linear", "relu", "permute", "reshape"],
    blocks.NextVit: ["gelu", "add", *ONE, "cat", *ONE],
    blocks.MixNet: [*SIDES, "convolution", "convolution", "cat", "relu"],
    # both norms are a product and a sum in the epilogue of the convolution before them
    blocks.ConvMixer: ["convolution", "gelu", "mul", "add", "add", "convolution", "gelu", "mul", "add", *ONE],
    blocks.Ghost: [*ONE, *ONE, "cat"],
    blocks.Shuffle: [*SIDES, *ONE, *ONE, "cat", "reshape", "permute", "reshape"],
    blocks.Adapter: [*ONE, "convolution"],
}


class Net(nn.Sequential):
    """All blocks in a row, with a non-linear op between."""

    def forward(self, x: Tensor) -> Tensor:
        """Through all of them."""
        for block in self:
            x = torch.sin(block(x))
        return x


def captured(dtype: torch.dtype) -> tuple[Program, list[Tensor]]:
    """The net as a program, and an input."""
    torch.manual_seed(0)
    net = Net(*(kind() for kind in LEFT)).eval().to(dtype)
    x = torch.randn(1, blocks.C, 7, 6, dtype=torch.float64).to(dtype)
    return capture(net, (x,)), [x]


@pytest.fixture(scope="module")
def double() -> tuple[Program, Program, list[Tensor]]:
    """The net in float64 before and after."""
    before, x = captured(torch.float64)
    return before, run_passes(before, PIPELINES["exact"]), x


@pytest.mark.parametrize("kind", LEFT, ids=lambda kind: kind.__name__)
def test_what_is_left(kind: type[nn.Module], double: tuple[Program, Program, list[Tensor]]) -> None:
    place = str(list(LEFT).index(kind))
    nodes = [n for n in double[1].graph.nodes if n.op == "call_function"]
    mine = [n for n in nodes if any(o.layer.split(".")[0] == place for o in n.meta["origins"])]
    names = [str(n.target).split(".")[1] for n in mine]
    assert sorted(names) == sorted(LEFT[kind])


def test_it_computes_the_same(double: tuple[Program, Program, list[Tensor]]) -> None:
    before, after, x = double
    (old,), (new,) = eager(before, x), eager(after, x)
    assert float((new - old).abs().max()) <= 1e-12 * float(old.abs().max())
    again = run_passes(after, PIPELINES["exact"])
    assert op_names(again) == op_names(after)
    assert not [s for report in again.report[len(after.report) :] for s in report.applied]


def test_float32_is_as_near_as_eager() -> None:
    before, x = captured(torch.float32)
    after = run_passes(before, PIPELINES["exact"])
    assert_close_to_reference(eager(after, x), reference(before, x), eager(before, x))
