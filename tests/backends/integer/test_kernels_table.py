"""Tables looked up in registers: the bits of the reference, and when they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integer_case import S8, S16, S32, U8, codes, exact, planish
from kernel_case import HOST, make_task

from planish.backends.tvm.kernels.gemm_integer import GemmInteger
from planish.backends.tvm.kernels.table import read_table
from planish.backends.tvm.target import Target, parse_target

VBMI = parse_target("icelake-server", 2)


def looked_up(x: Any, w: Any, b: Any, m: Any, c: Any, table: Any) -> Any:
    """A linear layer of codes and a function of its result."""
    sums = planish.linear.default(x, w, b, 9)
    return planish.lookup.default(planish.requantize.default(sums, m, c, 0, 3, 0, 255, U8), table)


def inputs(table: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Weights of zero and biases that give each code, the last of them in a block of three columns."""
    columns = 259
    bias = torch.arange(columns).sub(3).mul(2**20).to(S32)
    m, c = torch.full((columns,), 2**30), torch.full((columns,), 50)
    return codes(5, 12), torch.zeros(columns, 12, dtype=S8), bias, m, c, table


@pytest.mark.parametrize("dtype", [U8, S8, S16])
@pytest.mark.parametrize("target", [HOST, parse_target("haswell", 2)], ids=["here", "haswell"])
def test_all_codes(dtype: torch.dtype, target: Target) -> None:
    given = inputs(codes(256, dtype=dtype))
    index = looked_up(*given[:-1], torch.arange(256).to(torch.uint8))
    assert len(index.unique()) == 256
    known = {4: (50, 50)}
    options: Any = {"constants": (1, 2, 3, 4, 5), "kind": "linear", "anchor": planish.linear.default}
    exact(looked_up, given, shifts=known, template=GemmInteger(), target=target, **options)


@pytest.mark.parametrize(
    ("target", "dtype", "lanes", "constant", "expected"),
    [
        (VBMI, U8, 16, True, True),
        (VBMI, S8, 16, True, True),
        (VBMI, S16, 16, True, False),
        (VBMI, U8, 8, True, False),
        (VBMI, U8, 16, False, False),
        (parse_target("cascadelake", 2), U8, 16, True, False),
    ],
)
def test_which_are_looked_up_in_registers(
    target: Target, dtype: torch.dtype, lanes: int, constant: bool, expected: bool
) -> None:
    """Constant tables of bytes, for codes from 0 on, where the CPU permutes 128 bytes."""
    constants = (1, 2, 3, 4, 5) if constant else (1, 2, 3, 4)
    task = make_task(
        looked_up, inputs(codes(256, dtype=dtype)), constants, anchor=planish.linear.default, target=target
    )
    node = next(iter(task.region.anchor_node.users))  # type: ignore[union-attr]
    assert (read_table(task, node, lanes) is not None) is expected


def test_codes_that_others_read_stay_codes() -> None:
    """A vector after the lookup has only the entries."""

    def both(*args: Any) -> Any:
        x, w, b, m, c, table = args
        code = planish.requantize.default(planish.linear.default(x, w, b, 9), m, c, 0, 3, 0, 255, U8)
        return planish.mul.default(planish.lookup.default(code, table), code, 0, 0)

    task = make_task(both, inputs(codes(256)), (1, 2, 3, 4, 5), anchor=planish.linear.default, target=VBMI)
    node = next(iter(task.region.anchor_node.users))  # type: ignore[union-attr]
    assert read_table(task, node, 16) is None
