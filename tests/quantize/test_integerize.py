"""Integer forms by hand: their nodes, what stays in float and why, and everything that is refused."""

from __future__ import annotations

import pytest
import torch

from planish.errors import NoIntegerForm, QuantizationError, VerifyError
from planish.ir.program import Program, Stage
from planish.ir.text import parse_program, print_program
from planish.ir.types import QuantParams
from planish.ir.verify import verify
from planish.passes.quantize.integerize import Settings, integerize
from planish.passes.quantize.plan import Ranges

BYTE = (-128.0, 127.0)
"""Scale 1, zero 128."""
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
    """Ranges by the names of nodes, BYTE where none is given."""
    return {node: ends.get(node.name, BYTE) for node in program.graph.nodes}


def integers_of(text: str, settings: Settings | None = None, **ends: tuple[float, float]) -> list[str]:
    """The calls of the integer form of a program, as text."""
    program = parse_program(text)
    made = integerize(program, ranges_of(program, **ends), settings)
    verify(made)
    assert made.stage == Stage.QUANTIZED
    lines = (line.strip() for line in print_program(made).splitlines())
    return [line.partition("   #")[0] for line in lines if line.startswith("%")]


def test_a_network_by_hand() -> None:
    """s_x = 1, z_x = 128; s_w = 0.5 / 127; b_q = 1 / s_w = 254; s_w / 0.01 = 0.3937.. = 1690932006 / 2^32."""
    program = parse_program(CONV)
    made = integerize(program, ranges_of(program, r=(0.0, 2.55), f=(0.0, 2.55)))
    verify(made)
    assert print_program(made) == INTEGER


def test_a_clamp_is_bounds_of_the_sum_before_it() -> None:
    """6 is code 60 of the scale 0.1."""
    calls = integers_of(
        """program(%x: f32[4], %y: f32[4]) optimized {
          %s: f32[4] = add.Tensor(%x, %y)
          %c: f32[4] = clamp(%s, 0.0, 6.0)
          return %c
        }""",
        c=(0.0, 25.5),
    )
    assert calls[-2] == "%c: u8[4] = planish::add(%x_1, %y_1, @c.ma, @c.mb, @c.c, 128, 128, 0, 0, 60, u8)"


def test_what_has_two_readers_is_rounded_once_and_kept() -> None:
    """The ReLU reads the codes of the convolution, not its accumulator, which then need not be stored."""
    calls = integers_of(
        """program(%x: f32[1, 1, 2, 2]) optimized {
          @w: f32[1, 1, 1, 1] = [[[[0.5]]]]
          %c: f32[1, 1, 2, 2] = convolution(%x, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
          %r: f32[1, 1, 2, 2] = relu(%c)
          %f: f32[1, 1, 2, 2] = flip(%r, [3])
          %y: f32[1, 1, 2, 2] = sub.Tensor(%c, %f)
          %z: f32[1, 1, 2, 2] = convolution(%y, @w, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
          return %z
        }""",
        r=(0.0, 127.5),
    )
    assert calls[2:6] == [
        "%c: u8[1, 1, 2, 2] = planish::requantize(%c_sum, @c.m, @c.c, 0, 128, 0, 255, u8)",
        "%r: u8[1, 1, 2, 2] = planish::requantize(%c, @r.m, @r.c, 128, 0, 0, 255, u8)",
        "%f: u8[1, 1, 2, 2] = flip(%r, [3])",
        "%y: u8[1, 1, 2, 2] = planish::add(%c, %f, @y.ma, @y.mb, @y.c, 128, 0, 128, 0, 255, u8)",
    ]


def test_of_two_accumulators_the_later_stays_one() -> None:
    calls = integers_of(
        """program(%x: f32[1, 2]) optimized {
          @w: f32[2, 2] = [[0.5, 0.25], [1.0, 1.0]]
          @v: f32[2, 2] = [[1.5, 0.25], [1.0, 1.0]]
          %a: f32[1, 2] = linear(%x, @w, none)
          %b: f32[1, 2] = linear(%x, @v, none)
          %y: f32[1, 2] = add.Tensor(%b, %a)
          %z: f32[1, 2] = linear(%y, @w, none)
          return %z
        }"""
    )
    assert calls[-4:-2] == [
        "%a: u8[1, 2] = planish::requantize(%a_sum, @a.m, @a.c, 0, 128, 0, 255, u8)",
        "%y: u8[1, 2] = planish::add(%b_sum, %a, @y.ma, @y.mb, @y.c, 0, 128, 128, 0, 255, u8)",
    ]


def test_functions_of_one_value_are_one_table() -> None:
    """x · min(max(x + 3, 0), 6) / 6 is hardswish: four operators, one lookup, and no other codes."""
    text = """program(%x: f32[4]) optimized {
      %a: f32[4] = add.Tensor(%x, 3.0)
      %c: f32[4] = clamp(%a, 0.0, 6.0)
      %m: f32[4] = mul.Tensor(%x, %c)
      %y: f32[4] = div.Tensor(%m, 6.0)
      return %y
    }"""
    program = parse_program(text)
    made = integerize(program, ranges_of(program))
    assert [str(n.target) for n in made.graph.nodes if n.op == "call_function"] == [
        "planish.quantize.default", "planish.lookup.default", "planish.dequantize.default",
    ]  # fmt: skip
    x = torch.tensor([-5.0, -1.0, 2.0, 50.0])
    assert torch.equal(made(x), torch.tensor([0.0, 0.0, 2.0, 50.0]))  # -1/3 and 5/3, rounded to whole numbers


def test_ranges_end_where_no_reader_looks() -> None:
    """hardswish is 0 below -3: codes from -3 on, scale 255.

    -3 .. 252 has the scale 1 and the zero 3."""
    text = "program(%x: f32[4]) optimized {\n %y: f32[4] = hardswish(%x)\n return %y\n}"
    assert integers_of(text, x=(-1000.0, 252.0))[0] == "%x_1: u8[4] = planish::quantize(%x, 1.0, 3, 0, 255, u8)"


def test_a_layer_that_is_kept_in_float_stands_between_dequantize_and_quantize() -> None:
    calls = integers_of(CONV, Settings(keep={"r": "it was asked for"}), r=(0.0, 127.5), f=(0.0, 127.5))
    assert calls[2:6] == [
        "%c: f32[1, 1, 2, 2] = planish::dequantize(%c_sum, @c.scale, 0)",
        "%r: f32[1, 1, 2, 2] = relu(%c)",
        "%r_1: u8[1, 1, 2, 2] = planish::quantize(%r, 0.5, 0, 0, 255, u8)",
        "%f: u8[1, 4] = reshape(%r_1, [1, 4])",
    ]


def test_a_group_may_have_other_codes() -> None:
    program = parse_program(CONV)
    codes = {node: lambda least, most: QuantParams.symmetric(most) for node in program.graph.nodes if node.name == "x"}
    made = integerize(program, ranges_of(program, r=(0.0, 2.55), f=(0.0, 2.55)), Settings(codes=codes))
    assert "planish::quantize(%x, 1.0, 0, -127, 127, i8)" in print_program(made)


TWO = """program(%x: f32[4, 4]) optimized {
  %a: f32[4, 4] = cumsum(%x, 1)   # first
  %b: f32[4, 4] = relu(%a)
  %c: f32[4, 4] = div.Tensor(%b, %x)   # second
  return %c
}"""


def test_all_operators_without_an_integer_form_are_listed_at_once() -> None:
    program = parse_program(TWO)
    with pytest.raises(NoIntegerForm) as error:
        integerize(program, ranges_of(program))
    assert [(op.op, op.layer) for op in error.value.ops] == [
        ("aten.cumsum.default", "first"),
        ("aten.div.Tensor", "second"),
    ]
    assert "2 operator call(s) of 2 kind(s) have no integer form" in error.value.what
    assert "1 x aten.div.Tensor: it divides by a value that depends on the inputs" in error.value.what


def test_islands_of_float_where_they_are_allowed() -> None:
    program = parse_program(TWO)
    made = integerize(program, ranges_of(program), Settings(integer_only=False))
    verify(made)
    reasons = {node.meta["of"]: node.meta["float"] for node in made.graph.nodes if "float" in node.meta}
    assert reasons == {
        "a": "it has no integer form",
        "c": "it divides by a value that depends on the inputs",
    }
    x = torch.ones(4, 4)
    assert torch.equal(made(x), torch.arange(1.0, 5).expand(4, 4))  # whole numbers are codes of the scale 1


def line(call: str, shape: str = "[4]", x: str = "%x: f32[4]", constants: str = "") -> str:
    """A program of one call."""
    return f"program({x}) optimized {{\n {constants}\n %y: f32{shape} = {call}   # layer\n return %y\n}}"


REFUSED = {
    "a range of zero": (line("relu(%x)"), {"x": (0.0, 0.0), "y": (0.0, 0.0)}, "layer: A calibrated range is zero"),
    "a sum that leaves 32 bits": (
        line("sum.dim_IntList(%x, [1], false)", "[1]", "%x: f32[1, 16909321]"),
        {"x": BYTE},
        "a sum of 16909321 values does not fit 32 bits",
    ),
    "a weight from the inputs": (
        line("linear(%x, %w, none)", "[1, 2]", "%x: f32[1, 2], %w: f32[2, 2]"),
        {},
        "its weight is computed from the inputs",
    ),
    "a weight that is no number": (
        line("linear(%x, @w, none)", "[1, 1]", "%x: f32[1, 1]", "@w: f32[1, 1] = [[nan]]"),
        {},
        "layer: its weight holds NaN or infinities",
    ),
    "a division by 0": (
        line("div.Tensor(%x, @c)", constants="@c: f32[4] = [1.0, 0.0, 1.0, 1.0]"),
        {},
        "it divides by 0",
    ),
    "NaN in a table": (line("sqrt(%x)"), {}, "^layer: A value to quantize is NaN"),
    "two values": (line("hypot(%x, %z)", x="%x: f32[4], %z: f32[4]"), {}, "it depends on several values"),
    "overlaps": (
        line("col2im(%x, [3, 3], [2, 2], [1, 1], [0, 0], [1, 1])", "[1, 1, 3, 3]", "%x: f32[1, 4, 4]"),
        {},
        "it adds up values that overlap",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    text, ends, reason = REFUSED[what]
    program = parse_program(text)
    with pytest.raises(QuantizationError, match=reason):
        integerize(program, ranges_of(program, **ends))


@pytest.mark.parametrize(("call", "range_of_x", "reason"), [
    ("floor(%x)", (-4.0, 4.0), "^layer: A function of int16 codes is off by .* codes"),
    ("sqrt(%x)", (-4.0, 4.0), "^layer: A function of int16 codes is NaN"),
    ("layer_norm(%x, [4], none, none, 1.0)", (-1e-20, 1e-20), "^layer: A norm's gain, offset or eps is too large"),
])  # fmt: skip
def test_constants_of_16_bits_that_cannot_be_made_are_refused_with_their_layer(
    call: str, range_of_x: tuple[float, float], reason: str
) -> None:
    """Not with that of what reads them."""
    program = parse_program(line(call))
    x = next(node for node in program.graph.nodes if node.op == "placeholder")
    words = Settings(codes={x: lambda least, most: QuantParams.symmetric(most, 16)})
    ends = {"x": range_of_x, "y": (-1.0, 1.0)}
    with pytest.raises(QuantizationError, match=reason):
        integerize(program, ranges_of(program, **ends), words)


def test_an_accumulator_that_may_overflow_is_refused_with_its_layer() -> None:
    """66,312 weights of 127 times codes 255: 2^31 and more."""
    program = parse_program(
        line("linear(%x, @w, none)", "[1, 1]", "%x: f32[1, 66312]", "@w: f32[1, 66312]"), {"w": torch.ones(1, 66312)}
    )
    with pytest.raises(NoIntegerForm, match=r"layer: the sums of channel 0 can reach 0[.][.]2147514120"):
        integerize(program, ranges_of(program, x=(0.0, 255.0)))


def test_programs_that_are_not_float32_or_not_calibrated_are_refused() -> None:
    half = parse_program("program(%x: bf16[4]) optimized {\n %y: bf16[4] = relu(%x)\n return %y\n}")
    with pytest.raises(QuantizationError, match="x is bfloat16: integers are made of float32 programs"):
        integerize(half, ranges_of(half))
    program = parse_program(CONV)
    with pytest.raises(QuantizationError, match="f was not calibrated"):
        integerize(program, {node: BYTE for node in program.graph.nodes if node.name not in ("r", "f")})


@pytest.mark.parametrize(("key", "value", "rule"), [
    ("float", None, 'QUANTIZED says in meta."float". why it computes with floats, here y'),
    ("quant", QuantParams.symmetric(1.0), 'meta."quant". says torch.int8, its value is torch.float32'),
])  # fmt: skip
def test_the_verifier_knows_quantized_programs(key: str, value: object, rule: str) -> None:
    """A float call without a reason, and codes that are none."""
    made = parse_program("program(%x: f32[4]) quantized {\n %y: f32[4] = relu(%x)\n return %y\n}")
    node = next(node for node in made.graph.nodes if node.op == "call_function")
    node.meta["float"] = "a test wants it"
    verify(made)
    node.meta[key] = value
    if value is None:
        del node.meta[key]
    with pytest.raises(VerifyError, match=rule):
        verify(made)
