"""The zoo, compiled: the numbers of float64 within eager's own error, and nothing left unfolded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_in_bfloat16, assert_close_to_reference
from torch import nn
from torch.utils._pytree import tree_map
from zoo import ZOO, Entry, find
from zoo.common import Sample, reference
from zoo.hostile import HOSTILE, Hostile

import planish
from planish.ir.capture import capture
from planish.ir.interpret import in_bfloat16
from planish.ir.program import Program

CNNS = [entry for entry in ZOO if entry.family == "cnn"]
NORMS = ("batch_norm",)
AFFINE = ("mul.Tensor", "add.Tensor", "sub.Tensor", "div.Tensor")


def by_name(case: Entry | Hostile) -> str:
    return case.name


def check(sample: Sample) -> None:
    """Compile and compare, with torch tensors and with NumPy arrays."""
    model, args, kwargs = sample
    compiled = planish.compile(model, args, example_kwargs=kwargs, progress=False)
    with torch.no_grad():
        eager = model(*args, **kwargs)
    exact = reference(model, args, kwargs)
    actual = compiled(*args, **kwargs)
    assert_close_to_reference(actual, exact, eager)
    arrays: Any = tree_map(lambda t: t.numpy() if isinstance(t, torch.Tensor) else t, (args, kwargs, actual))
    again = compiled(*arrays[0], **arrays[1])
    for one, two in zip(leaves(again), leaves(arrays[2]), strict=True):
        assert isinstance(one, np.ndarray | int | float | str | None)
        np.testing.assert_array_equal(one, two)


def leaves(nested: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(nested)


@pytest.mark.parametrize("entry", ZOO, ids=by_name)
def test_small_models(entry: Entry) -> None:
    check(entry.small(batch=1))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_tiny", "bert_base", "gpt2"])
def test_batches(name: str) -> None:
    entry = next(e for e in ZOO if e.name == name)
    check(entry.small(batch=3))


@pytest.mark.parametrize("case", HOSTILE, ids=by_name)
def test_hostile_modules(case: Hostile) -> None:
    check(case.small(batch=2))


def check_bfloat16(sample: Sample) -> None:
    """Compile in bfloat16: at most twice the error of the model run in bfloat16 by PyTorch; float32 in and out."""
    model, args, kwargs = sample
    program = capture(model, args, kwargs)
    compiled = planish.compile(model, args, example_kwargs=kwargs, progress=False, precision="bfloat16")
    own = program.signature.unflatten(in_bfloat16(program, program.signature.flatten(args, kwargs)))
    assert_close_in_bfloat16(compiled(*args, **kwargs), reference(model, args, kwargs), own)


SOME_IN_BFLOAT16 = ("resnet18", "regnet_y_400mf", "efficientnet_b0", "deit_small", "swin_tiny_traced_mask", "bert_base")


@pytest.mark.parametrize("name", SOME_IN_BFLOAT16)
def test_small_models_in_bfloat16(name: str) -> None:
    check_bfloat16(find(name).small(batch=1))


@pytest.mark.bars
@pytest.mark.parametrize("entry", [e for e in ZOO if e.name not in SOME_IN_BFLOAT16], ids=by_name)
def test_all_small_models_in_bfloat16(entry: Entry) -> None:
    check_bfloat16(entry.small(batch=1))


@pytest.mark.parametrize("case", HOSTILE, ids=by_name)
def test_hostile_modules_in_bfloat16(case: Hostile) -> None:
    check_bfloat16(case.small(batch=2))


@pytest.mark.bars
@pytest.mark.parametrize("entry", ZOO, ids=by_name)
def test_full_models(entry: Entry) -> None:
    check(entry.full())


@pytest.mark.parametrize("entry", ZOO, ids=by_name)
def test_parameter_counts_are_the_published_ones(entry: Entry) -> None:
    with torch.device("meta"):
        model = entry.factory(**entry.full_size.options)
    assert sum(p.numel() for p in model.parameters()) == entry.parameters


@pytest.mark.parametrize("entry", CNNS, ids=by_name)
def test_nothing_is_left_to_fold(entry: Entry) -> None:
    """No batch norm and no per-channel affine beside a constant, save where the entry says why."""
    model, args, kwargs = entry.small()
    program = planish.rewrite(model, args, example_kwargs=kwargs)
    left = norms_and_affines(program)
    if entry.affine_left is None:
        assert not left
        return
    assert left
    layers = {origin.layer for node in left for origin in node.meta["origins"]}
    refused = [site for step in program.report for site in step.refused]
    unexplained = [layer for layer in layers if not any(layer in site.layers and site.reason for site in refused)]
    assert not unexplained, f"left without a reason: {unexplained}"
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    inner = {name for name in norms if name.endswith("norm2") or name == "features.1"}
    assert not layers & inner, "norms that follow a convolution of their own must be folded"


def norms_and_affines(program: Program) -> list[torch.fx.Node]:
    """Batch norms, and additions or products of a 4-d value with a constant along its channels."""
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(node.target).removeprefix("aten.")
        constant = [a for a in node.args if isinstance(a, torch.fx.Node) and a.op == "get_attr"]
        if any("rms_norm" in str(a.target) for a in node.all_input_nodes):
            continue  # the norm's own shift, which ATen's rms_norm has no argument for: its kernel adds it
        channelwise = any(a.meta["val"].numel() > 1 for a in constant) and node.meta["val"].dim() == 4
        if name.startswith(NORMS) or (name in AFFINE and channelwise):
            found.append(node)
    return found


def test_a_layer_scale_counts_as_an_affine() -> None:
    """The check above sees what it is looking for."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(1.0, 4.0).view(3, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu() * self.scale

    program = planish.rewrite(Scaled().eval(), (torch.randn(1, 3, 4, 4),))
    assert [str(node.target) for node in norms_and_affines(program)] == ["aten.mul.Tensor"]
