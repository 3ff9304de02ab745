"""Integer programs in regions: anchors take what follows them, and kernels learn what they may of constants."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from zoo.integer_network import integer_network

from planish.ir.program import Region
from planish.ir.text import parse_program
from planish.passes.group.shifts import is_small, shift_range, sum_bits
from planish.passes.manager import run_passes
from planish.passes.pipelines import GROUP


def regions_of(text: str, **weights: torch.Tensor) -> list[Region]:
    return list(run_passes(parse_program(text, weights), GROUP).regions.values())


def calls_of(region: Region) -> list[str]:
    return [node.target.__name__ for node in region.body.nodes if node.op == "call_function"]


def holder(region: Region, name: str) -> fx.Node:
    return next(node for node in region.placeholders if node.name == name)


def test_a_residual_network() -> None:
    """Each sum takes its requantization, the residual, and the door to float; the door from float is a kernel."""
    program, *_ = integer_network(False)
    assert [(r.kind, calls_of(r)) for r in run_passes(program, GROUP).regions.values()] == [
        ("pointwise", ["quantize.default"]),
        ("conv", ["convolution.default", "requantize.default"]),
        ("conv", ["convolution.default", "add.default"]),
        ("pool", ["sum_pool.default", "requantize.default"]),
        ("linear", ["reshape.default", "linear.default", "dequantize.default"]),
    ]


TEXT = """program(%x: i32[3], %y: u8[3]) quantized {
  @b: i64[3]
  @c: i64[3]
  %r: u8[3] = planish::requantize(%x, @b, @c, 0, 0, 0, 255, u8)
  %s: u8[3] = planish::add(%x, %y, @b, @b, @c, 0, 0, 0, 0, 255, u8)
  return (%r, %s)
}"""


def test_what_is_known_of_constants_is_noted() -> None:
    """The first range that holds all shifts; whether multipliers have 26 bits only where a sum asks."""
    numbers = {"b": torch.tensor([5, 2**26 - 1, 1 - 2**26]), "c": torch.tensor([33, 40, 62])}
    requantize, add = regions_of(TEXT, **numbers)
    assert holder(requantize, "c").meta["shifts"] == holder(add, "c").meta["shifts"] == (33, 62)
    assert holder(add, "b").meta["small"]
    assert "small" not in holder(requantize, "b").meta


@pytest.mark.parametrize(
    ("shifts", "expected"),
    [([33, 48], (33, 48)), ([32, 48], (28, 48)), ([33, 49], (33, 62)), ([33, 62], (33, 62)), ([28, 57], (28, 57)),
     ([32, 62], (1, 62)), ([0, 40], (-31, 95)), ([1, 63], (-31, 95)),
     ([-99, 3], (-99, 3)), ([], (33, 48))],
)  # fmt: skip
def test_ranges(shifts: list[int], expected: tuple[int, int]) -> None:
    assert shift_range(torch.tensor(shifts, dtype=torch.int64)) == expected


def test_small_multipliers() -> None:
    assert is_small(torch.tensor([2**26 - 1, 1 - 2**26]))
    assert not is_small(torch.tensor([0, -(2**26)]))


@pytest.mark.parametrize(
    ("weight", "zero", "bits"),
    [
        ([127] * 1036, 0, 25), ([127] * 1037, 0, 28), ([-127] * 1036, 255, 25), ([127, -127] * 1036, 0, 25),
        ([127, -127] * 518, 255, 25), ([127, -127] * 518, 128, 25), ([127, -127] * 519, 0, 25),
        ([127] * 2064, 127, 25), ([127] * 2065, 127, 28), ([127] * 16577, 0, 29), ([127] * 16578, 0, None),
    ],
)  # fmt: skip
def test_bits_of_sums(weight: list[int], zero: int, bits: int | None) -> None:
    """127 · 255 · 1036 = 33,550,860 < 2^25 = 33,554,432."""
    assert sum_bits(torch.tensor([weight, [1] * len(weight)], dtype=torch.int8), zero) == bits


def test_bits_of_sums_are_noted_on_the_weight() -> None:
    text = """program(%x: u8[1, 2, 4, 4]) quantized {{
  @w: i8[2, 2, 3, 3]
  %y: i32[1, 2, {0}, {0}] = planish::convolution(%x, @w, none, 7, [1, 1], [0, 0], [1, 1], {1}, [0, 0], 1)
  return %y
}}"""
    weight = torch.ones(2, 2, 3, 3, dtype=torch.int8)
    assert holder(*regions_of(text.format(2, "false"), w=weight), "w").meta["sum_bits"] == 25
    assert "sum_bits" not in holder(*regions_of(text.format(6, "true"), w=weight), "w").meta


def test_a_table_that_is_computed_is_read_at_places_of_its_own() -> None:
    """So no kernel that makes it may take its reader along; a constant one joins the region of its codes."""
    text = """program(%x: u8[256], %y: u8[256]) quantized {{
  @t: u8[256]
  %m: u8[256] = maximum(%x, %y)
  %r: u8[256] = planish::lookup(%{0}, {1})
  return %r
}}"""
    table = torch.arange(256).to(torch.uint8)
    apart = regions_of(text.format("x", "%m"), t=table)
    assert [(r.kind, calls_of(r)) for r in apart] == [("pointwise", ["maximum.default"]), ("other", ["lookup.default"])]
    joined = regions_of(text.format("m", "@t"), t=table)
    assert [(r.kind, calls_of(r)) for r in joined] == [("pointwise", ["maximum.default", "lookup.default"])]
