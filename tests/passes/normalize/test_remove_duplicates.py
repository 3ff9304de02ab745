"""remove_duplicates: equal pure calls are made once."""

from __future__ import annotations

from spelling import calls, checked

from planish.ir.text import parse_program
from planish.passes.normalize.remove_duplicates import RemoveDuplicates


def left(*lines: str) -> list[str]:
    body = " ".join(f"%v{i} = {line}" for i, line in enumerate(lines))
    results = ", ".join(f"%v{i}" for i in range(len(lines)))
    text = f"program(%x: f32[2, 3], %z: f32[2, 3]) {{ @w: f32[3] = [1.0, 2.0, 3.0] {body} return ({results},) }}"
    return calls(checked(RemoveDuplicates(), text))


def test_chains_of_equal_calls() -> None:
    assert left("exp(%x)", "neg(%v0)", "exp(%x)", "neg(%v2)") == ["exp(%x)", "neg(#0)"]


def test_equal_reads_of_constants() -> None:
    assert left("mul.Tensor(%x, @w)", "mul.Tensor(%x, @w)") == ["mul.Tensor(%x, @w)"]


def test_parts_of_one_call() -> None:
    text = """
    program(%x: f32[2, 3]) {
      %m = max.dim(%x, 1)
      %a = getitem(%m, 0)
      %b = getitem(%m, 0)
      %c = getitem(%m, 1)
      return (%a, %b, %c)
    }
    """
    assert calls(checked(RemoveDuplicates(), text)) == ["max.dim(%x, 1)", "getitem(#0, 0)", "getitem(#0, 1)"]


def test_what_differs_stays() -> None:
    different = [
        "mul.Tensor(%x, 1)",
        "mul.Tensor(%x, 1.0)",
        "mul.Tensor(%x, -0.0)",
        "mul.Tensor(%x, 0.0)",
        "mul.Tensor(%x, %z)",
        "mul.Tensor(%z, %x)",
        "add.Tensor(%x, %z)",
        "add.Tensor(%x, %z, alpha=2)",
    ]
    assert left(*different) == different


def test_random_calls_stay() -> None:
    text = "program(%x: f32[2, 3]) { %a = rand_like(%x) %b = rand_like(%x) return (%a, %b) }"
    _, applied, _ = RemoveDuplicates().run(parse_program(text))
    assert applied == []
