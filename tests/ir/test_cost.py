"""Counts of operations, by hand; and what rewrites save is the difference of these counts."""

from __future__ import annotations

import pytest
import torch

from planish.ir.cost import multiply_adds, node_flops, program_flops
from planish.ir.quantized.operators import OPERATORS
from planish.ir.rewrite import erase_dead
from planish.ir.text import parse_program

assert OPERATORS  # registered by their import
X = "%x: f32[2, 4, 6, 6]"
CONV = "%y: f32[2, {o}, {e}, {e}] = convolution(%x, @w, none, [{s}, {s}], [{p}, {p}], [1, 1], {t}, [0, 0], {g})"

CASES = {
    # 2*8*4*4 results, each a sum over 4*3*3
    "convolution": (
        "@w: f32[8, 4, 3, 3]\n" + CONV.format(o=8, e=4, s=1, p=0, t="false", g=1),
        2 * 256 * 36,
    ),
    # depthwise, stride 2: 2*4*3*3 results, each a sum over 3*3
    "depthwise": ("@w: f32[4, 1, 3, 3]\n" + CONV.format(o=4, e=3, s=2, p=1, t="false", g=4), 2 * 72 * 9),
    # transposed: each of 2*4*6*6 inputs through a filter of 3*2*2
    "transposed": (
        "@w: f32[4, 3, 2, 2]\n" + CONV.format(o=3, e=12, s=2, p=0, t="true", g=1),
        2 * 288 * 12,
    ),
    "conv2d": ("@w: f32[8, 4, 3, 3]\n%y: f32[2, 8, 4, 4] = conv2d(%x, @w)", 2 * 256 * 36),
    "linear": ("@w: f32[5, 6]\n@b: f32[5]\n%y: f32[2, 4, 6, 5] = linear(%x, @w, @b)", 2 * 240 * 6),
    "matmul": ("%y: f32[2, 4, 6, 6] = matmul(%x, %x)", 2 * 288 * 6),
    "attention": ("%y: f32[2, 4, 6, 6] = scaled_dot_product_attention(%x, %x, %x)", 2 * (288 * 6 + 288 * 6)),
    # ik,kj->ij over four axes: one sum over 6
    "einsum": ('%y: f32[2, 4, 6, 6] = einsum("bcik,bckj->bcij", [%x, %x])', 2 * 288 * 6),
    "einsum of the rest": ('%y: f32[6, 6] = einsum("...k,...j->kj", [%x, %x])', 2 * 36 * (2 * 4 * 6)),
    "batch norm": (
        "@m: f32[4]\n@v: f32[4] = positive(1)\n"
        "%y: f32[2, 4, 6, 6] = batch_norm(%x, none, none, @m, @v, false, 0.1, 1e-05, false)",
        2 * 288,
    ),
    "layer norm": ("@w: f32[6]\n%y: f32[2, 4, 6, 6] = layer_norm(%x, [6], @w, none, 1e-05, true)", 6 * 288),
    "softmax": ("%y: f32[2, 4, 6, 6] = softmax.int(%x, 3)", 4 * 288),
    "mean": ("%y: f32[2, 4, 1, 1] = mean.dim(%x, [2, 3], true)", 288),
    "pool": ("%y: f32[2, 4, 3, 3] = max_pool2d(%x, [2, 2], [2, 2], [0, 0], [1, 1], false)", 72 * 4),
    "pool with one size": ("%y: f32[2, 4, 2, 2] = max_pool2d(%x, [3], [3])", 32 * 9),
    "gelu": ("%y: f32[2, 4, 6, 6] = gelu(%x)", 288),
    "sum": ("%y: f32[2, 4, 6, 6] = add.Tensor(%x, %x)", 288),
    "reshape": ("%y: f32[2, 144] = reshape(%x, [2, 144])", 0),
    "cat": ("%y: f32[2, 8, 6, 6] = cat([%x, %x], 1)", 0),
    # a zero point stands before the stride of these
    "convolution of codes": (
        "@w: i8[8, 4, 3, 3]\n%y: i32[2, 8, 4, 4] = planish::convolution(%x, @w, none, 7, [1, 1], [0, 0], "
        "[1, 1], false, [0, 0], 1)",
        2 * 256 * 36,
    ),
    "transposed convolution of codes": (
        "@w: i8[4, 3, 2, 2]\n%y: i32[2, 3, 12, 12] = planish::convolution(%x, @w, none, 7, [2, 2], [0, 0], "
        "[1, 1], true, [0, 0], 1)",
        2 * 288 * 12,
    ),
    "linear of codes": ("@w: i8[5, 6]\n%y: i32[2, 4, 6, 5] = planish::linear(%x, @w, none, 7)", 2 * 240 * 6),
    "cast": ("%y: f64[2, 4, 6, 6] = _to_copy(%x, dtype=f64)", 0),
}


@pytest.mark.parametrize("name", CASES)
def test_operations(name: str) -> None:
    text, expected = CASES[name]
    program = parse_program(f"program({X}) {{\n{text}\nreturn %y }}")
    assert program_flops(program) == expected
    (node,) = (n for n in program.graph.nodes if n.op == "call_function")
    assert multiply_adds(node) in (0, expected // 2)
    assert node_flops(node) == expected


def test_dead_code_gives_back_its_parameters_once() -> None:
    text = f"""program({X}) {{
      @w: f32[5, 6]
      @tied: f32[6]
      %one: f32[2, 4, 6, 5] = linear(%x, @w, none)
      %two: f32[2, 4, 6, 5] = linear(%x, @w, none)
      %three: f32[2, 4, 6, 6] = mul.Tensor(%x, @tied)
      %four: f32[2, 4, 6, 6] = add.Tensor(%x, @tied)
      return %four
    }}"""
    after, sites = erase_dead(parse_program(text))
    assert list(after.weights) == ["tied"]
    assert [(s.node, s.parameters, s.flops) for s in sites] == [
        ("one", 30, 2 * 240 * 6),
        ("two", 0, 2 * 240 * 6),
        ("three", 0, 288),
    ]
    assert torch.equal(after.weights["tied"], parse_program(text).weights["tied"])
