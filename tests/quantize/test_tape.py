"""The tape: what passes compute from weights is computed again from others, with gradients."""

from __future__ import annotations

import torch

from planish.ir.program import Program
from planish.ir.tape import in_general_position, recorded
from planish.ir.text import parse_program
from planish.passes.manager import run_passes
from planish.passes.pipelines import EXACT

NORM = """program(%x: f32[2, 1]) {
  @w: f32[2, 1] = [[3.0], [-2.0]]
  @gamma: f32[2] = [1.0, 1.0]
  @beta: f32[2] = [0.5, 0.25]
  @mean: f32[2] = [1.0, 2.0]
  @var: f32[2] = [4.0, 0.25]
  %y: f32[2, 2] = linear(%x, @w, none)   # fc
  %z: f32[2, 2] = batch_norm(%y, @gamma, @beta, @mean, @var, false, 0.1, 0.0, false)   # bn
  return %z
}"""
TRAINED = frozenset({"w", "gamma", "beta"})


def exact(program: Program) -> Program:
    return run_passes(program, EXACT)


def test_a_batch_norm_is_folded_anew() -> None:
    """c = gamma / sqrt(var) = (1/2, 2): weights c w, biases beta - c mean; and their gradients by the chain rule."""
    program = parse_program(NORM)
    tape, made = recorded(program.evolve(weights=in_general_position(program.weights, TRAINED)), TRAINED, exact)
    given = {name: tensor.clone().requires_grad_(name in TRAINED) for name, tensor in program.weights.items()}
    weights = tape.play(given)
    (linear,) = (node for node in made.graph.nodes if node.op == "call_function")
    weight, bias = (weights[str(node.target)] for node in linear.args[1:3])
    assert weight.tolist() == [[1.5], [-4.0]]
    assert bias.tolist() == [0.0, -3.75]
    (weight.sum() + 10 * bias.sum()).backward()
    assert given["w"].grad is not None
    assert given["w"].grad.tolist() == [[0.5], [2.0]]
    assert given["beta"].grad is not None
    assert given["beta"].grad.tolist() == [10.0, 10.0]
    # d(weight) = w / sqrt(var) = (1.5, -4); d(bias) = -mean / sqrt(var) = (-0.5, -4), ten times
    assert given["gamma"].grad is not None
    assert given["gamma"].grad.tolist() == [1.5 - 5.0, -4.0 - 40.0]
    assert tape.reached == set(program.weights)
    assert not tape.lifted


def test_decisions_are_those_of_weights_in_general_position() -> None:
    """A gain of 1 and a shift of 0 would be left out; training moves them, so they stay."""
    text = """program(%x: f32[2, 2]) {
      @gain: f32[2] = [1.0, 1.0]
      %y: f32[2, 2] = mul.Tensor(%x, @gain)
      return %y
    }"""
    program, trained = parse_program(text), frozenset({"gain"})
    assert not exact(program).weights
    moved = in_general_position(program.weights, trained)["gain"]
    assert moved[0] < 0 < moved[1]
    assert moved[1] != 1
    assert abs(moved[0]) != moved[1]
    tape, made = recorded(program.evolve(weights={"gain": moved}), trained, exact)
    assert [w.tolist() for w in tape.play({"gain": torch.tensor([5.0, 1.0])}).values()] == [[5.0, 1.0]]
    assert len(made.weights) == 1
    assert in_general_position(program.weights, frozenset())["gain"].tolist() == [1.0, 1.0]


def test_a_weight_that_became_a_number_is_told() -> None:
    text = """program(%x: f32[2, 2]) {
      @t: f32[] = 3.0
      %y: f32[2, 2] = mul.Tensor(%x, @t)
      %z: f32[2, 2] = sigmoid(%y)
      return %z
    }"""
    tape, made = recorded(parse_program(text), frozenset({"t"}), exact)
    assert not made.weights
    assert tape.lifted == {"t"}
    assert not tape.reached


def test_what_is_written_in_place_is_on_the_tape() -> None:
    """A pass may fill a tensor that it made: the writes are played, too, and gradients pass them."""

    def filled(program: Program) -> Program:
        made = torch.zeros(2, 2)
        made[0] = program.weights["w"]
        made[1:] += 2 * program.weights["w"]
        return program.evolve(weights={"w": made})

    program = parse_program(
        "program(%x: f32[2]) {\n  @w: f32[2] = [1.0, 2.0]\n  %y: f32[2] = add.Tensor(%x, @w)\n  return %y\n}"
    )
    tape, _ = recorded(program, frozenset({"w"}), filled)
    w = torch.tensor([3.0, 5.0], requires_grad=True)
    for _ in range(2):  # playing leaves no trace
        assert tape.play({"w": w})["w"].tolist() == [[3.0, 5.0], [6.0, 10.0]]
    tape.play({"w": w})["w"].sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [3.0, 3.0]
