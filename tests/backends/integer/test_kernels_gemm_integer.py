"""Linear layers of codes: the bits of the reference, from rows of whole quads, odd rows, and views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integer_case import S8, S16, S32, U8, aten, codes, exact, hostile, planish
from kernel_case import HOST, make_task

from planish.backends.tvm.kernels.gemm_integer import GemmInteger
from planish.backends.tvm.target import parse_target
from planish.backends.tvm.template import Refused

CPUS = {"vnni": HOST, "int16": parse_target("haswell", 2), "bytes": parse_target("x86-64", 2)}
SHAPES = {"whole": ((2, 13, 64), 48), "odd": ((7, 37), 21), "one row": ((1, 128), 100), "narrow": ((5, 3), 16)}


def _exact(fn: Any, *sets: Any, **options: Any) -> None:
    exact(fn, *sets, template=GemmInteger(), kind="linear", anchor=planish.linear.default, **options)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", SHAPES)
def test_sums(name: str, cpu: str) -> None:
    x, columns = SHAPES[name]
    weight = (columns, x[-1])
    bias, w, ends = codes(columns, dtype=S16).to(S32), codes(*weight, dtype=S8), torch.full(weight, 127, dtype=S8)
    sets = [(v, k, bias) for v, k in zip(hostile(x), (w, w, ends, -ends, w), strict=True)]
    _exact(lambda v, k, b: planish.linear.default(v, k, b, 131), *sets, constants=(1, 2), target=CPUS[cpu])


def test_without_a_bias_from_the_callers_memory() -> None:
    for zero in (0, 5):
        sets = [(x, codes(20, 8, dtype=S8)) for x in hostile((3, 8))]
        _exact(lambda x, w, z=zero: planish.linear.default(x, w, None, z), *sets, constants=(1,), external=True)


@pytest.mark.parametrize("depth", [8, 6], ids=["quads", "bytes"])
def test_heads_are_read_where_they_lie(depth: int) -> None:
    """[batch, head, token, depth] as rows of all heads: neighbours stay side by side within a head."""

    def fn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rows = aten.reshape.default(aten.permute.default(x, [0, 2, 1, 3]), [2, 5, 3 * depth])
        result: torch.Tensor = planish.linear.default(rows, w, None, 77)
        return result

    _exact(fn, *((x, codes(24, 3 * depth, dtype=S8)) for x in hostile((2, 3, 5, depth))), constants=(1,))


@pytest.mark.parametrize("columns", [32, 37])
@pytest.mark.parametrize("cpu", ["vnni", "int16"])
def test_requantized_and_added(columns: int, cpu: str) -> None:
    """A residual is read in whole vectors only where rows end with one."""
    m = torch.tensor([2**30, 2**31 - 1, 1518500250]).repeat(13)[:columns]
    small = torch.tensor([2**26 - 1, 1, -(2**26) + 1]).repeat(13)[:columns]
    large, c = torch.full((columns,), 2**30 - 1), torch.arange(33, 33 + columns).clamp(max=57)

    def requantized(x: torch.Tensor, w: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        sums = planish.linear.default(x, w, None, 9)
        result: torch.Tensor = planish.requantize.default(sums, m, c, 0, 3, -100, 90, S8)
        return result

    def added(x: torch.Tensor, r: torch.Tensor, *k: torch.Tensor) -> torch.Tensor:
        sums = planish.linear.default(x, k[0], None, 9)
        result: torch.Tensor = planish.add.default(sums, r, *k[1:], 0, 100, 7, 0, 255, U8)
        return result

    w, xs = codes(columns, 36, dtype=S8), list(hostile((5, 36)))
    known: dict[str, Any] = {"constants": (1, 2, 3), "shifts": {3: (33, 62)}, "target": CPUS[cpu]}
    _exact(requantized, *((x, w, m, c) for x in xs), **known)
    known |= {"constants": (2, 3, 4, 5), "shifts": {5: (28, 57)}, "small": (3,)}
    sets = [(x, r, w, small, large, c) for x, r in zip(xs, hostile((5, columns)), strict=True)]
    _exact(added, *sets, **known)


@pytest.mark.parametrize(
    ("dtype", "constants", "reason"),
    [(S8, (1,), "codes of int8, int8"), (U8, (), "not a constant")],
    ids=["signed", "no constant"],
)
def test_what_is_refused(dtype: torch.dtype, constants: tuple[int, ...], reason: str) -> None:
    def fn(x: Any, w: Any) -> Any:
        return planish.linear.default(x, w, None, 0)

    inputs = (codes(3, 8, dtype=dtype), codes(4, 8, dtype=S8))
    answer = GemmInteger().wants(make_task(fn, inputs, constants, anchor=planish.linear.default))
    assert isinstance(answer, Refused)
    assert reason in answer.reason
