"""Calibration of whole programs: ranges by hand, data in every form, and every kind of bad data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from planish.errors import InputError, QuantizationError
from planish.ir.program import Program
from planish.ir.text import parse_program
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.observers import MinMax, Percentile

TEXT = """program(%x: f32[2, 3]) {
  @token: f32[2, 1] = [[-9.0], [4.0]]
  @w: f32[4, 4]
  %double: f32[2, 3] = mul.Tensor(%x, 2.0)   # stem
  %both: f32[2, 4] = cat([@token, %double], 1)
  %flat: f32[8] = reshape(%both, [8])
  %up: f32[2, 3] = relu(%x)
  %i: i64[2] = argmax(%x, 1, false)
  return (%flat, %up, %i)
}"""


@pytest.fixture
def program() -> Program:
    return parse_program(TEXT)


def batch(*rows: float) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[:, None].expand(len(rows), 3).contiguous()


def ranges(program: Program, loader: Any, **options: Any) -> dict[str, tuple[float, float]]:
    return {node.name: ends for node, ends in calibrate(program, loader, MinMax, **options).items()}


EXPECTED = {
    "x": (-3.0, 1.0),
    **dict.fromkeys(["token", "double", "both", "flat"], (-9.0, 4.0)),  # -6..2 of the product, -9 and 4 of the constant
    "up": (0.0, 1.0),
}


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "dict", "labels", "split", "generator"])
def test_ranges_by_hand(program: Program, form: str) -> None:
    a, b = batch(1.0, 0.0), batch(-3.0, 0.5)

    def generator() -> Iterator[torch.Tensor]:
        yield a
        yield b

    loaders: dict[str, Any] = {
        "tensor": [a, b],
        "tuple": [(a,), (b,)],
        "list": [[a], [b]],
        "dict": [{"x": a}, {"x": b}],
        "labels": [(a, torch.tensor([1, 2])), (b, torch.tensor([1, 2]))],
        "split": [torch.cat([a, b])],
        "generator": generator(),
    }
    options = {"select": lambda item: item[0]} if form == "labels" else {}
    assert ranges(program, loaders[form], **options) == EXPECTED


def test_progress(program: Program) -> None:
    seen: list[tuple[str, int, int]] = []
    ranges(program, [batch(1.0, 2.0)] * 3, report=lambda *what: seen.append(what))
    assert seen == [("calibration", 1, 3), ("calibration", 2, 3), ("calibration", 3, 3)]


def test_memory_is_that_of_the_observers(program: Program) -> None:
    made: list[Percentile] = []

    def make() -> Percentile:
        made.append(Percentile())
        return made[-1]

    calibrate(program, (batch(float(i), 1.0) for i in range(50)), make)
    assert len(made) == 3  # x, what the concatenation binds, relu; neither the unused weight nor each member of a group
    assert sum(observer.histogram.total for observer in made) == 50 * (6 + 6 + 6) + 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, 4), r"batch 7: input 'x' has the shape \[2, 4\]"),
        (torch.zeros(3, 3), r"batch 7: input 'x' has the shape \[3, 3\]"),
        (torch.zeros(0, 3), r"batch 7: input 'x' has the shape \[0, 3\]"),
        (torch.zeros(3), r"batch 7: input 'x' has the shape \[3\]"),
        (torch.zeros(2, 3).double(), "batch 7: input 'x' has the dtype float64"),
        ((torch.zeros(2, 3), torch.zeros(2)), "batch 7: .*`select` drops labels"),
        ({"y": torch.zeros(2, 3)}, "batch 7: "),
        (3.0, "batch 7: 'x' should be a tensor, got float"),
        (torch.zeros(2, 3).numpy(), "batch 7: input 'x' is a ndarray, not a tensor"),
    ],
    ids=str,
)
def test_a_wrong_seventh_batch(program: Program, bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        ranges(program, [*[batch(1.0, 2.0)] * 6, bad])


def test_no_data(program: Program) -> None:
    used = iter([batch(1.0, 2.0)])
    ranges(program, used)
    for loader in ([], used):
        with pytest.raises(QuantizationError, match="The calibration data is empty"):
            ranges(program, loader)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_told_with_its_layer(program: Program, bad: float) -> None:
    with pytest.raises(QuantizationError, match="In calibration, x: 3 of 6 values are NaN or infinite"):
        ranges(program, [batch(bad, 1.0)])
    with pytest.raises(QuantizationError, match=r"double \(layer stem\): 3 of 6 values are NaN or infinite"):
        ranges(program, [batch(3e38, 1.0)])
