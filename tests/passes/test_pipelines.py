"""The pipelines: their names, their reasons, and what they promise of whole networks."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from compare import assert_close_to_reference
from rewriting import op_names
from torch import nn
from zoo import ZOO, Entry, find

from planish.errors import OptionError
from planish.ir.capture import capture
from planish.ir.interpret import eager, reference
from planish.ir.program import Program, Stage
from planish.passes import pipelines
from planish.passes.fold.affine import read
from planish.passes.manager import run_passes
from planish.passes.pipelines import PIPELINES, pipeline


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        OptionError, match=r"no pipeline 'fastest'\.\n  Pipelines are normalize, exact, bfloat16, group, compile\."
    ):
        pipeline("fastest")


def test_every_entry_says_why() -> None:
    entries = [line for line in inspect.getsource(pipelines).splitlines() if re.match(r"    [A-Z]\w+\(", line)]
    assert len(entries) >= 25
    assert not [line for line in entries if not re.search(r"\),  # \w", line)]


class Block(nn.Module):
    """A residual block whose convolution is called twice, and a normed token mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 6)
        self.tokens = nn.BatchNorm1d(25)
        self.gamma = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, 1.5]))
        for i, norm in enumerate((self.one, self.two, self.tokens)):
            with torch.no_grad():
                for value in (norm.weight, norm.bias, norm.running_mean):
                    assert value is not None
                    value.copy_(torch.linspace(-1, 2, len(value)) * (i + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Conv-BN-ReLU, conv-BN, sum; then linear, scale, BN over the tokens."""
        y = x + self.two(self.conv(torch.relu(self.one(self.conv(x)))))
        tokens: torch.Tensor = self.tokens(self.fc(y.flatten(2).transpose(1, 2)) * self.gamma)
        return tokens


def test_stages_and_numbers_of_each_pipeline() -> None:
    torch.manual_seed(0)
    captured = capture(Block().eval(), (torch.randn(2, 4, 5, 5),))
    x = [torch.randn(2, 4, 5, 5)]
    normalized = run_passes(captured, PIPELINES["normalize"], verify=True)
    exact = run_passes(captured, PIPELINES["exact"], verify=True)
    compiled = run_passes(captured, PIPELINES["compile"])
    assert [p.stage for p in (normalized, exact, compiled)] == [Stage.NORMALIZED, Stage.OPTIMIZED, Stage.GROUPED]
    assert torch.equal(eager(compiled, x)[0], eager(exact, x)[0])
    assert_close_to_reference(eager(exact, x), reference(captured, x), eager(captured, x))
    assert op_names(exact).count("batch_norm") == 0
    assert affines(exact) == 2  # the norm over the tokens: a mul and an add
    refused = {
        layer: s.reason for r in exact.report for s in r.refused for layer in s.layers if r.name.endswith("ward")
    }
    assert list(refused) == ["tokens"]
    assert [r.kind for r in compiled.regions.values()] == ["conv", "conv", "linear"]


def affines(program: Program) -> int:
    """How many per-channel affine ops are left; the shift after an RMS norm is that norm's own."""
    nodes = (n for n in program.graph.nodes if not any("rms_norm" in str(a.target) for a in n.all_input_nodes))
    found = (read(node, program) for node in nodes)
    return sum(pair is not None and pair[1].axis is not None for pair in found)


CNNS = [entry.name for entry in ZOO if entry.family == "cnn"]
FAST = ("resnet18", "mobilenet_v3_small", "densenet121")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.bars) for n in CNNS])
def test_no_batch_norm_and_no_affine_is_left_in_a_cnn(name: str) -> None:
    entry: Entry = find(name)
    model, args, kwargs = entry.small()
    captured = capture(model, args, kwargs)
    exact = run_passes(captured, PIPELINES["exact"])
    norms = {layer for layer, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    sites = next(r.refused for r in exact.report if r.name == "fold_affine_backward")
    refused = {layer: site.reason for site in sites for layer in site.layers}
    assert op_names(exact).count("batch_norm") == 0
    lowered = next(r.applied for r in exact.report if r.name == "lower_batch_norm")
    if entry.affine_left is None:
        assert affines(exact) == 0
        assert not lowered
        return
    forward = next(r.applied for r in exact.report if r.name == "fold_affine_forward")
    shifts = {layer for site in forward for layer in site.layers} & set(refused)  # the scale went past a ReLU
    assert {layer for site in lowered for layer in site.layers} == set(refused) - shifts
    assert set(refused) < norms
    assert affines(exact) == 2 * len(refused) - len(shifts)
    assert all(
        "values with other users" in str(reason) or "has other users" in str(reason) or "not linear" in str(reason)
        for reason in refused.values()
    )
