"""Products of two activations in codes: the bits of the reference, from whole quads and odd rows, through views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integer_case import S8, S16, U8, aten, codes, exact, hostile, planish
from kernel_case import HOST, build, make_task

from planish.backends.tvm.kernels.matmul_integer import MatmulInteger, MatmulWords
from planish.backends.tvm.target import parse_target
from planish.backends.tvm.template import Refused

CPUS = {"vnni": HOST, "int16": parse_target("haswell", 2), "bytes": parse_target("x86-64", 2)}
SHAPES = {
    "heads": ((2, 3, 13, 16), (2, 3, 16, 21)),
    "odd": ((2, 19, 7), (2, 7, 33)),
    "one for all": ((3, 5, 8), (8, 16)),
    "broadcast": ((2, 1, 4, 6), (5, 6, 40)),
    "less than a quad": ((4, 3), (3, 2)),
}


def _exact(fn: Any, *sets: Any, **options: Any) -> None:
    exact(fn, *sets, template=MatmulInteger(), kind="matmul", anchor=planish.matmul.default, **options)


@pytest.mark.parametrize(
    ("name", "cpu", "zero"),
    [*((name, "vnni", 131) for name in SHAPES), ("odd", "vnni", 0), ("odd", "int16", 255), ("broadcast", "bytes", 7)],
)
def test_products(name: str, cpu: str, zero: int) -> None:
    left, right = SHAPES[name]
    q = codes(*right, dtype=S8)
    ends = torch.full(right, 127, dtype=S8)
    sets = zip(hostile(left), (q, q, ends, -ends, q), strict=True)
    _exact(lambda p, q: planish.matmul.default(p, q, zero), *sets, target=CPUS[cpu])


@pytest.mark.parametrize(
    ("name", "cpu", "factor"),
    [*((name, "vnni", S8) for name in SHAPES), ("odd", "vnni", S16), ("heads", "int16", S8), ("odd", "bytes", S16)],
)
def test_products_of_words(name: str, cpu: str, factor: torch.dtype) -> None:
    """int16 with all its codes; sums leave 32 bits nowhere because the second factor is small there."""
    left, right = SHAPES[name]
    q = codes(*right, dtype=factor) >> (12 if factor == S16 else 4)
    sets = [(p, q) for p in (codes(*left, dtype=S16), torch.full(left, -32768, dtype=S16))]
    options: Any = {"template": MatmulWords(), "kind": "matmul", "anchor": planish.matmul.default}
    for zero in (0, 77) if cpu == "vnni" else (0,):
        exact(lambda p, q, zero=zero: planish.matmul.default(p, q, zero), *sets, target=CPUS[cpu], **options)


@pytest.mark.parametrize(("cpu", "depth"), [("vnni", 16), ("vnni", 6), ("int16", 16), ("bytes", 6)])
def test_keys_and_values_lie_by_token(cpu: str, depth: int) -> None:
    """[batch, token, head, depth]: keys have their neighbours along k side by side, values along columns."""

    def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        heads = aten.permute.default(q, [0, 2, 1, 3])
        result: torch.Tensor = planish.matmul.default(heads, aten.permute.default(k, [0, 2, 3, 1]), 100)
        return result

    def context(p: torch.Tensor, v: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        made = planish.matmul.default(p, aten.permute.default(v, [0, 2, 1, 3]), 0)
        made = planish.requantize.default(made, m, c, 0, 120, 0, 255, U8)
        result: torch.Tensor = aten.reshape.default(aten.permute.default(made, [0, 2, 1, 3]), [2, 9, 3 * depth])
        return result

    shape = (2, 9, 3, depth)
    _exact(scores, *((x, codes(*shape, dtype=S8)) for x in hostile(shape)), target=CPUS[cpu])
    tokens = codes(*shape, dtype=S8)
    sets = [(x, tokens, M, C) for x in hostile((2, 3, 9, 9))]
    _exact(context, *sets, constants=(2, 3), shifts={3: (40, 40)}, target=CPUS[cpu])


M, C = torch.tensor([1518500250]), torch.tensor([40])


@pytest.mark.parametrize("shift", [40, 20])
def test_requantized(shift: int) -> None:
    """In vectors of 32 bits where the shift is known to allow it, else in 64."""

    def fn(p: torch.Tensor, q: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.requantize.default(planish.matmul.default(p, q, 9), m, c, 0, 3, 0, 255, U8)
        return result

    q, c = codes(2, 24, 37, dtype=S8), torch.tensor([shift])
    _exact(fn, *((p, q, M, c) for p in hostile((2, 11, 24))), constants=(2, 3), shifts={3: (shift, shift)})


def test_every_choice_has_the_same_bits() -> None:
    p, q = codes(2, 3, 29, 32), codes(2, 3, 32, 50, dtype=S8)

    def fn(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.matmul.default(p, q, 128)
        return result

    task = make_task(fn, (p, q), kind="matmul", anchor=planish.matmul.default)
    assert len(MatmulInteger().space(task)) > 4
    for place in (0, 5, -1):
        built = build(MatmulInteger(), task, lambda choices, place=place: choices[place])
        assert torch.equal(torch.as_tensor(built.run((p, q))), fn(p, q))


@pytest.mark.parametrize(
    ("p", "q", "reason"),
    [
        (codes(3, 4, dtype=S8), codes(4, 5, dtype=S8), "codes of int8, int8"),
        (codes(4), codes(4, 5, dtype=S8), "a vector operand"),
        (codes(3, 4), codes(4, dtype=S8), "a vector operand"),
    ],
)
def test_what_is_left_to_the_generic_scheduler(p: torch.Tensor, q: torch.Tensor, reason: str) -> None:
    task = make_task(lambda p, q: planish.matmul.default(p, q, 0), (p, q), anchor=planish.matmul.default)
    verdict = MatmulInteger().wants(task)
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason
