"""What every test of a pass needs: text in, text out, and the numbers on both sides.

outputs(after) == outputs(before)    to 1e-12 in float64, on random inputs
"""

from __future__ import annotations

import inspect
import textwrap
from types import ModuleType
from typing import Any

import torch

from planish.ir.program import Program, Region
from planish.ir.report import Site
from planish.ir.text import parse_program, print_program
from planish.ir.text_values import show_op
from planish.passes.base import Pass


def blocks(module: ModuleType) -> tuple[str, str]:
    """The Before and After texts of a pass's docstring."""
    doc = inspect.getdoc(module) or ""
    before, after = doc.split("\nBefore:\n")[1].split("\nAfter:\n")
    return textwrap.dedent(before).strip() + "\n", textwrap.dedent(after).strip() + "\n"


def check_docstring(pass_: Pass, module: ModuleType) -> None:
    """Before becomes After, to the letter, and computes the same."""
    before, after = (parse_program(text) for text in blocks(module))
    result, _, _ = pass_.run(before)
    assert print_program(result).strip() == print_program(after).strip()
    assert print_program(before).strip() == blocks(module)[0].strip()
    assert relative_error(before, result) <= 1e-6


def rewritten(pass_: Pass, text: str | Program) -> tuple[Program, list[Site], list[Site]]:
    """Run a pass with every site checked, check the outputs in float64, and that a second run changes nothing."""
    before = parse_program(text) if isinstance(text, str) else text
    was = print_program(before)
    after, applied, refused = pass_.run(before, verify=True)
    assert print_program(before) == was, "the pass changed its input"
    assert relative_error(before, after) <= 1e-12
    again, more, _ = pass_.run(after)
    assert not more
    assert print_program(again) == print_program(after)
    return after, applied, refused


def refusal(pass_: Pass, text: str) -> str:
    """The reason of the only refusal of a pass that changes nothing."""
    after, applied, refused = rewritten(pass_, text)
    assert not applied
    assert print_program(after) == print_program(parse_program(text))
    assert len(refused) == 1, refused
    assert refused[0].reason
    return refused[0].reason


def relative_error(before: Program, after: Program) -> float:
    """Largest error of `after`'s outputs relative to the largest output of `before`; both run as they are."""
    inputs = random_inputs(before)
    worst = 0.0
    for old, new in zip(run(before, inputs), run(after, inputs), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
        if not old.is_floating_point():
            assert torch.equal(old, new)
            continue
        scale = float(old.abs().max()) if old.numel() else 0.0
        gap = float((new.double() - old.double()).abs().max()) if old.numel() else 0.0
        worst = max(worst, gap / scale if gap else 0.0)
    return worst


def run(program: Program, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Flat outputs on flat inputs."""
    with torch.no_grad():
        result: tuple[torch.Tensor, ...] = tuple(program.graph_module(*inputs))
    return result


def random_inputs(program: Program, seed: int = 0) -> list[torch.Tensor]:
    """One seeded tensor for each placeholder: normal floats, 0 or 1 for integers."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            fake: Any = node.meta["val"]
            real = torch.randn(fake.shape, generator=generator, dtype=torch.float64)
            inputs.append(real.to(fake.dtype) if fake.is_floating_point() else (real > 0).to(fake.dtype))
    return inputs


def op_names(program: Program | Region) -> list[str]:
    """Names of the ops of a program or region, in order, without overloads."""
    graph = program.graph if isinstance(program, Program) else program.body
    return [show_op(n.target).partition(".")[0] for n in graph.nodes if n.op == "call_function"]
