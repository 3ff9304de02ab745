"""Straight-through gradients: those of the float function at the rounded point inside the range, 0 outside."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from planish.ir.interpret import eager
from planish.ir.text import parse_program
from planish.passes.quantize.integerize import Settings, integerize
from planish.passes.quantize.straight_through import Ends, run_integers, run_straight_through

Pair = tuple[float, float]


def trained(
    text: str,
    given: Tensor,
    ranges: dict[str, Pair],
    weights: dict[str, Tensor] | None = None,
    ends: Ends | None = None,
) -> tuple[Any, ...]:
    """The outputs; they are checked to be those of the references of the operators."""
    program = parse_program(text)
    live = {**program.weights, **(weights or {})}
    program = program.evolve(weights={name: tensor.detach() for name, tensor in live.items()})
    nodes = {node.name: node for node in program.graph.nodes}
    integer = integerize(program, {nodes[name]: pair for name, pair in ranges.items()}, Settings())
    made = run_straight_through(program, live, [given], run_integers(integer, [given.detach()]), ends or {})
    wanted = eager(integer, [given.detach()])
    assert all(torch.equal(one, other) for one, other in zip(made, wanted, strict=True))
    return made


MOVED = """program(%x: f32[2, 2]) optimized {
  %y: f32[2, 2] = permute(%x, [1, 0])
  return %y
}"""


def test_ends_of_a_range_by_hand() -> None:
    """Steps of 0.01 from -1.27 to 1.28. Of the four values two are clipped, one is 0.004 off, one is a code."""
    x = torch.tensor([[-2.0, 0.504], [1.0, 3.0]], requires_grad=True)
    low, high = torch.tensor(-1.27, requires_grad=True), torch.tensor(1.28, requires_grad=True)
    pair = (-1.27, 1.28)
    (y,) = trained(MOVED, x, {"x": pair, "y": pair}, ends={"x": (low, high), "y": (low, high)})
    torch.testing.assert_close(y, torch.tensor([[-1.27, 1.0], [0.5, 1.28]]))
    (y * torch.tensor([[1.0, 2.0], [3.0, 5.0]])).sum().backward()
    assert x.grad is not None
    assert low.grad is not None
    assert high.grad is not None
    assert x.grad.tolist() == [[0.0, 3.0], [2.0, 0.0]]
    stretch = 3 * (0.5 - 0.504) / 2.55
    scale = 1 / math.sqrt(4 * 255)
    assert math.isclose(float(low.grad), (1 - stretch) * scale, rel_tol=1e-4)
    assert math.isclose(float(high.grad), (5 + stretch) * scale, rel_tol=1e-4)


def test_a_code_at_the_end_of_the_range_is_inside() -> None:
    """Float32 rounds 255 · 0.1 / 255 up: the code's value is no clipped one, wherever it is moved."""
    x = torch.full((2, 2), 0.0999, requires_grad=True)
    (y,) = trained(MOVED, x, {"x": (0.0, 0.1), "y": (0.0, 0.1)})
    assert float(y.detach()[0, 0]) > 0.1  # as doubles
    y.sum().backward()
    assert x.grad is not None
    assert bool((x.grad == 1).all())


def test_against_finite_differences() -> None:
    """Of sigmoid in float64, at the codes of x; outside their range nothing moves the result."""
    text = """program(%x: f32[5]) optimized {
      %y: f32[5] = sigmoid(%x)
      return %y
    }"""
    x = torch.tensor([-9.0, -3.0, 0.01, 2.0, 4.5], requires_grad=True)
    (y,) = trained(text, x, {"x": (-4.0, 4.0), "y": (0.0, 1.0)})
    y.sum().backward()
    step, h = 8 / 255, 1e-6
    at = ((x.detach().double() / step).round() * step).clamp(-4, 4)
    slopes = (torch.sigmoid(at + h) - torch.sigmoid(at - h)) / (2 * h)
    want = torch.where(x.detach().abs() <= 4, slopes, 0.0)
    assert x.grad is not None
    assert want[0] == want[4] == 0
    torch.testing.assert_close(x.grad.double(), want, rtol=2e-3, atol=0)  # the zero point shifts codes by half a step


def test_weights_round_and_their_gradients_do_not() -> None:
    """y = x ŵ with x = 2 and 1 exactly codes: the gradient of w is x, that of x is ŵ, 0.3 being 38/127 there."""
    text = """program(%x: f32[1, 2]) optimized {
      @w: f32[1, 2] = [[1.0, 0.3]]
      @b: f32[1] = [0.5]
      %y: f32[1, 1] = linear(%x, @w, @b)
      return %y
    }"""
    x = torch.tensor([[2.0, 1.0]], requires_grad=True)
    w, b = torch.tensor([[1.0, 0.3]], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    (y,) = trained(text, x, {"x": (0.0, 2.55), "y": (0.0, 5.0)}, {"w": w, "b": b})
    y.sum().backward()
    for gradient, want in ((w.grad, [[2.0, 1.0]]), (b.grad, [1.0]), (x.grad, [[1.0, 38 / 127]])):
        assert gradient is not None
        torch.testing.assert_close(gradient, torch.tensor(want))


def test_what_is_seen_is_not_rounded() -> None:
    """Ranges follow values as they are before their codes, else they could only shrink."""
    program = parse_program(MOVED)
    x, nodes = torch.tensor([[-2.0, 0.504], [1.0, 3.0]]), list(program.graph.nodes)
    integer = integerize(program, dict.fromkeys(nodes[:2], (-1.27, 1.28)), Settings())
    seen = {}
    run_straight_through(
        program, {}, [x], run_integers(integer, [x]), {}, lambda node, value: seen.update({node.name: value})
    )
    assert torch.equal(seen["x"], x)
