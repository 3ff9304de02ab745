"""The integer form of a small network: its nodes by hand, and its distance from float64."""

from __future__ import annotations

from planish.ir.program import Program, Stage
from planish.ir.text import parse_program, print_program
from planish.ir.verify import verify
from planish.passes.quantize.integerize import integerize
from planish.passes.quantize.plan import Ranges

CONV = """program(%x: f32[1, 1, 2, 2]) optimized {
  @w: f32[1, 1, 1, 1] = [[[[0.5]]]]
  @b: f32[1] = [1.0]
  @fc: f32[1, 4] = [[1.0, 2.0, 3.0, 4.0]]
  %c: f32[1, 1, 2, 2] = convolution(%x, @w, @b, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)   # conv
  %r: f32[1, 1, 2, 2] = relu(%c)   # conv
  %f: f32[1, 4] = reshape(%r, [1, 4])
  %y: f32[1, 1] = linear(%f, @fc, none)   # fc
  return %y
}"""
INTEGER = """program(%x: f32[1, 1, 2, 2]) quantized {
  @w.codes: i8[1, 1, 1, 1] = [[[[127]]]]
  @w.bias_codes: i32[1] = [254]
  @r.m: i64[1, 1, 1] = [[[1690932006]]]
  @r.c: i64[1, 1, 1] = [[[32]]]
  @fc.codes: i8[1, 4] = [[32, 64, 95, 127]]
  @y.scale: f32[1] = [0.00031496063]
  %x_1: u8[1, 1, 2, 2] = planish::quantize(%x, 1.0, 128, 0, 255, u8)
  %c_sum: i32[1, 1, 2, 2] = planish::convolution(%x_1, @w.codes, @w.bias_codes, 128, [1, 1], [0, 0], [1, 1], false, \
[0, 0], 1)   # conv
  %r: u8[1, 1, 2, 2] = planish::requantize(%c_sum, @r.m, @r.c, 0, 0, 0, 255, u8)   # conv
  %f: u8[1, 4] = reshape(%r, [1, 4])
  %y_sum: i32[1, 1] = planish::linear(%f, @fc.codes, none, 0)   # fc
  %y: f32[1, 1] = planish::dequantize(%y_sum, @y.scale, 0)   # fc
  return %y
}"""


def ranges_of(program: Program, **ends: tuple[float, float]) -> Ranges:
    """Ranges by the names of nodes."""
    return {node: ends[node.name] for node in program.graph.nodes if node.name in ends}


def test_a_network_by_hand() -> None:
    """s_x = 1, z_x = 128; s_w = 0.5 / 127; b_q = 1 / s_w = 254; s_w / 0.01 = 0.3937.. = 1690932006 / 2^32."""
    program = parse_program(CONV)
    ends = ranges_of(program, x=(-128.0, 127.0), c=(-64.0, 65.0), r=(0.0, 2.55), f=(0.0, 2.55), y=(0.0, 25.0))
    integer = integerize(program, ends)
    verify(integer)
    assert integer.stage == Stage.QUANTIZED
    assert print_program(integer) == INTEGER
