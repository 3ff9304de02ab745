"""The text form: what it prints, what it parses, and where it says a text is wrong."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from planish.errors import TextError
from planish.ir.capture import capture
from planish.ir.program import Program, Stage
from planish.ir.text import parse_program, print_node, print_program
from planish.ir.text_values import DTYPES, INLINE, show_tensor

FULL = """\
program net(%x: f32[1, 3, 8, 8], m={"a": %m_a "m.a": f32[1, 16, 1, 1], "n": none}) normalized {
  @conv.weight: f32[16, 3, 3, 3]
  @s: f32[2] = [-0.0, 0.1]
  %conv: f32[1, 16, 8, 8] = convolution(%x, @conv.weight, none, [1, 1], [1, 1], [1, 1], false, [0, 0], 1)   # conv, bn
  %top: (f32[1, 16, 8, 1], i64[1, 16, 8, 1]) = max.dim(%conv, -1, true)
  %values: f32[1, 16, 8, 1] = getitem(%top, 0)
  %r: f32[1, 16, 8, 8] = region r0: pointwise(%a=%values, %b=%m_a, %c=%conv) anchor %y {   # conv
    %y: f32[1, 16, 8, 1] = add.Tensor(%a, %b)
    %z: f32[1, 16, 8, 1] = mul.Tensor(%y, -1e-05)   # scale
    %q: f32[1, 16, 8, 8] = add.Tensor(%z, %c, alpha=2)
    return %q
  }
  %half: f16[1, 16, 8, 8] = to.dtype(%r, f16, memory_format=contiguous_format)
  return {"out": %r "result", "rest": [(%values,), @s, %half], "none": none}
}"""


def roundtrip(program: Program) -> Program:
    text = print_program(program)
    again = parse_program(text, program.weights)
    assert print_program(again) == text
    again.graph.lint()
    return again


def test_everything_there_is_to_print() -> None:
    program = parse_program(FULL)
    assert print_program(program) == FULL
    assert str(program) == FULL
    assert (program.name, program.stage) == ("net", Stage.NORMALIZED)
    region = program.regions["r0"]
    assert (region.kind, region.anchor, region.layers) == ("pointwise", "y", ("conv",))
    assert [n.name for n in region.epilogue] == ["z", "q"]
    conv = next(n for n in program.graph.nodes if n.name == "conv")
    assert [o.layer for o in conv.meta["origins"]] == ["conv", "bn"]
    assert [s.name for s in program.signature.inputs] == ["x", "m.a"]
    assert [s.name for s in program.signature.outputs] == ["result", "rest.0.0", "rest.1", "rest.2"]


def test_a_parsed_program_runs_with_nested_inputs_and_outputs() -> None:
    program = parse_program(FULL)
    x, a = torch.randn(1, 3, 8, 8), torch.randn(1, 16, 1, 1)
    result = program(x, m={"a": a, "n": None})
    conv = torch.nn.functional.conv2d(x, program.weights["conv.weight"], padding=1)
    values = conv.amax(-1, keepdim=True)
    assert torch.equal(result["rest"][0][0], values)
    assert torch.equal(result["out"], (values + a) * -1e-5 + 2 * conv)
    assert result["none"] is None
    assert result["rest"][1].tolist() == [-0.0, pytest.approx(0.1)]
    assert math.copysign(1, result["rest"][1][0].item()) == -1


def test_types_layers_and_values_may_be_left_out() -> None:
    program = parse_program("program(%x: f32[2]) { @w: f32[2] = random(3) %y = mul.Tensor(%x, @w) return %y }")
    assert print_node(next(n for n in program.graph.nodes if n.name == "y")) == "%y: f32[2] = mul.Tensor(%x, @w)"
    other = parse_program("program(%x: f32[2]) { @w: f32[2] = random(4) %y = mul.Tensor(%x, @w) return %y }")
    assert not torch.equal(program.weights["w"], other.weights["w"])


def test_seeds_make_the_same_values_each_time() -> None:
    text = "program(%x: f32[9]) {{ @{}: f32[99]{} %y = relu(%x) return (%y, @{}) }}"
    first, again, named = (
        parse_program(text.format(name, seed, name)).weights[name]
        for name, seed, name in (("a", " = random(1)", "a"), ("b", " = random(1)", "b"), ("a", "", "a"))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, named)
    assert first.min() < 0
    for declaration in ("@v: f32[99] = positive(1)", "@bn.running_var: f32[99]"):
        name = declaration[1:].split(":")[0]
        values = parse_program(f"program(%x: f32[1]) {{ {declaration} return (%x, @{name}) }}").weights[name]
        assert values.min() >= 0.5
        assert values.max() <= 1.5


def test_given_weights_override_and_must_fit() -> None:
    text = "program(%x: f32[2]) {\n  @w: f32[2]\n  return (%x, @w)\n}"
    given = torch.tensor([1.0, 2.0])
    assert parse_program(text, {"w": given}).weights["w"] is given
    with pytest.raises(TextError, match=r"line 2, column 3: @w was given f32\[3\]"):
        parse_program(text, {"w": torch.zeros(3)})


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, more: dict[str, list[torch.Tensor]], scale: float = 2.0) -> Any:
        y = self.fc(x) * scale
        return Pair(y, more["a"][0] + 1), [y.sum(), None, 3]


def test_a_captured_model_roundtrips_and_computes_the_same() -> None:
    x, more = torch.randn(2, 8), {"a": [torch.randn(3)]}
    program = capture(Nested().eval(), (x, more), {"scale": 0.5})
    again = roundtrip(program)
    before, after = program(x, more, scale=0.5), again(x, more, scale=0.5)
    assert type(after[0]).__name__ == "Pair"
    assert torch.equal(before[0].left, after[0].left)
    assert torch.equal(before[0].right, after[0].right)
    assert torch.equal(before[1][0], after[1][0])
    assert after[1][1:] == [None, 3]


BAD_HEADERS = [
    ("program(%x: f31[2]) {\n  return %x\n}", "line 1, column 13: unknown dtype f31"),
    ("program(%x: f32[-2]) {\n  return %x\n}", "line 1, column 17: -2 is not an extent"),
    ("program(%x: f32[2]) polished {\n  return %x\n}", "line 1, column 21: unknown stage polished"),
    ("program(%x: f32[2]) {\n  return %x\n} more", "line 3, column 3: text after the program's end"),
    ("program(%x: f32[2]) {\n  return %x\n", "line 3, column 1: expected '}', found 'end of text'"),
]
BAD_LINES = [
    ("%y = frobnicate(%x)", "line 2, column 8: there is no op frobnicate"),
    ("%y = relu(%z)", "line 2, column 13: %z is not defined"),
    ("%y = relu(@w)", "line 2, column 13: @w is not defined"),
    ("%y: f32[3] = relu(%x)", r"line 2, column 3: %y is f32\[2\], not f32\[3\]"),
    ("%x = relu(%x)", "line 2, column 3: %x is defined twice"),
    ("%y = relu(%x, 1)", "line 2, column 8: relu does not take these arguments"),
    ("%y = relu(%x, what)", "line 2, column 17: what is not a value"),
    ("!", "line 2, column 3: unexpected '!'"),
    ("@w: f32[2] = [1.0]", r"line 2, column 3: the values of @w are not f32\[2\]"),
    ("@w: f32[2]\n  @w: f32[2]", "line 3, column 3: @w is declared twice"),
    (
        "%r = region r: other(%a=%x) anchor %b {\n    %c = relu(%a)\n    return %c\n  }",
        "line 2, column 38: %b is not defined",
    ),
]


@pytest.mark.parametrize(
    ("text", "message"),
    [*BAD_HEADERS, *((f"program(%x: f32[2]) {{\n  {line}\n  return %x\n}}", message) for line, message in BAD_LINES)],
)
def test_errors_have_line_and_column(text: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        parse_program(text)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 5e-324, 3.4028235e38, 0.1, 1 / 3, 65504.0]


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_small_constants_keep_their_bits(dtype: str) -> None:
    tensor = torch.tensor(SPECIAL, dtype=torch.float64).to(DTYPES[dtype])
    text = f"program(%x: f32[1]) {{\n  @c: {dtype}[{len(SPECIAL)}] = {show_tensor(tensor)}\n  return (%x, @c)\n}}"
    program = parse_program(text)
    assert bits(program.weights["c"]) == bits(tensor)
    assert print_program(program) == text


@pytest.mark.parametrize("dtype", [word for word in DTYPES if word[0] in "iu"] + ["bool"])
def test_integers_print_too(dtype: str) -> None:
    tensor = torch.tensor([[0, 1], [1, 1]]).to(DTYPES[dtype])
    declaration = f"@c: {dtype}[2, 2] = {show_tensor(tensor)}"
    program = parse_program(f"program(%x: f32[1]) {{\n  {declaration}\n  return (%x, @c)\n}}")
    assert torch.equal(program.weights["c"], tensor)
    assert declaration in print_program(program)


def test_large_constants_print_without_values() -> None:
    assert show_tensor(torch.zeros(INLINE)) is not None
    assert show_tensor(torch.zeros(INLINE + 1)) is None


def test_empty_and_scalar_constants() -> None:
    program = parse_program("program(%x: f32[1]) {\n  @e: f32[0, 3] = []\n  @s: f32[] = 2.5\n  return (%x, @e, @s)\n}")
    assert program.weights["e"].shape == (0, 3)
    assert program.weights["s"].item() == 2.5
    roundtrip(program)


UNARY = ("relu", "neg", "sigmoid", "exp")
BINARY = ("add.Tensor", "mul.Tensor", "maximum")
NUMBERS = st.one_of(
    st.integers(-(2**31), 2**31), st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30)
)


@st.composite
def graphs(draw: st.DrawFn) -> str:
    """A random graph over vectors of four elements, in text."""
    inputs, weights = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    values = [f"%in{i}" for i in range(inputs)] + [f"@w.{i}" for i in range(weights)]
    lines = [f"@w.{i}: f32[4] = random({draw(st.integers(0, 99))})" for i in range(weights)]
    for index in range(draw(st.integers(1, 12))):
        left, right = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        call = draw(
            st.one_of(
                st.builds("{}({})".format, st.sampled_from(UNARY), st.just(left)),
                st.builds("{}({}, {})".format, st.sampled_from(BINARY), st.just(left), st.just(right)),
                st.builds("mul.Tensor({}, {})".format, st.just(left), NUMBERS),
                st.just(f"flip({left}, [0])"),
            )
        )
        layer = draw(st.sampled_from(["", "   # a", "   # a.b, c"]))
        name = draw(st.sampled_from([f"v{index}", f"relu_{index}", f"add_{99 - index}", f"_x{index}"]))
        lines.append(f"%{name} = {call}{layer}")
        values.append(f"%{name}")
    results = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    header = ", ".join(f"%in{i}: f32[4]" for i in range(inputs))
    return "program({}) {{\n{}\nreturn ({},)\n}}".format(header, "\n".join(lines), ", ".join(results))


@given(graphs())
def test_any_program_prints_parses_and_runs_the_same(text: str) -> None:
    program = parse_program(text)
    again = roundtrip(program)
    inputs = [torch.randn(4) for _ in program.signature.inputs]
    for before, after in zip(program(*inputs), again(*inputs), strict=True):
        assert bits(before) == bits(after)
