"""decompose_composites: PyTorch's own decompositions, inlined; ops that planish spells itself stay whole."""

from __future__ import annotations

import pytest
import torch
from rewriting import op_names
from spelling import checked
from torch import nn
from torch._decomp import core_aten_decompositions

from planish.ir.capture import capture
from planish.ir.text import parse_program
from planish.passes.normalize.decompose_composites import DECOMPOSED, DecomposeComposites


@pytest.mark.parametrize(
    ("inputs", "call", "ops"),
    [
        ("%x: f64[2, 6]", "glu(%x, -1)", {"slice", "sigmoid", "mul"}),
        ("%x: f64[1, 4, 2, 3]", "pixel_shuffle(%x, 2)", {"view", "permute", "clone", "_unsafe_view"}),
        ("%x: f64[2, 6]", "std(%x)", {"var", "sqrt"}),
        ("%x: f64[2, 6]", "multiply.Tensor(%x, %x)", {"mul"}),
        ("%x: f64[2, 6]", "absolute(%x)", {"abs"}),
        (
            "%x: f64[2, 3, 4], %z: f64[2, 5, 4]",
            'einsum("bij,bkj->bik", [%x, %z])',
            {"permute", "unsqueeze", "view", "bmm"},
        ),
    ],
)
def test_parts(inputs: str, call: str, ops: set[str]) -> None:
    text = f"program({inputs}) {{ %y = {call} return %y }}"
    assert set(op_names(checked(DecomposeComposites(), text))) == ops


@pytest.mark.parametrize(
    "call", ["relu(%x)", "softmax.int(%x, -1)", "rrelu(%x)", "sort(%x)", "layer_norm(%x, [6])", "rand_like(%x)"]
)
def test_whole(call: str) -> None:
    last = "%p = getitem(%y, 0) return %p" if call.startswith("sort") else "return %y"
    program = parse_program(f"program(%x: f32[2, 6]) {{ %y = {call} {last} }}")
    assert DecomposeComposites().run(program)[1] == []


def test_a_recurrent_net_is_its_steps() -> None:
    model = nn.GRU(3, 2, batch_first=True).double().eval()
    x = torch.randn(1, 4, 3, dtype=torch.float64)
    after, _, _ = DecomposeComposites().run(capture(model, x))
    assert "gru" not in op_names(after)
    assert op_names(after).count("tanh") == 4
    for old, new in zip(model(x), after(x), strict=True):
        assert (old - new).abs().max() <= 1e-14


def test_all_that_is_listed_has_a_decomposition() -> None:
    table = core_aten_decompositions()
    assert [op for op in DECOMPOSED if op not in table and not op._can_decompose()] == []
