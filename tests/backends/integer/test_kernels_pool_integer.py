"""The template for pools of codes: every window and choice, the bits of the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integer_case import S8, S16, S32, U8, codes, exact, hostile, planish
from kernel_case import build, make_task

from planish.backends.tvm.kernels.pool_integer import PoolInteger
from planish.backends.tvm.template import Refused

WINDOWS: dict[str, tuple[tuple[int, ...], list[int], list[int], list[int], bool]] = {
    "overlapping": ((2, 19, 9, 18), [3, 3], [2, 2], [1, 1], True),
    "average": ((1, 32, 7, 17), [3, 3], [1, 1], [1, 1], False),
    "whole": ((1, 16, 5, 5), [5, 5], [5, 5], [0, 0], False),
    "1d": ((2, 3, 21), [3], [2], [1], False),
    "3d": ((1, 2, 5, 4, 6), [2, 2, 2], [2, 1, 2], [1, 0, 1], False),
    "wide": ((1, 3, 40, 3), [33, 1], [1, 2], [16, 0], False),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_sums(name: str) -> None:
    """Requantized by channel; in turns of every width."""
    dtype, zero = [(U8, 131), (S8, -5), (S16, 0)][list(WINDOWS).index(name) % 3]
    shape, *window = WINDOWS[name]
    rank = len(shape) - 2
    m = torch.arange(2**30, 2**30 + shape[1]).reshape(-1, *(1,) * rank)
    c = torch.full_like(m, 36)

    def fn(x: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        sums = planish.sum_pool.default(x, zero, *window)
        result: torch.Tensor = planish.requantize.default(sums, m, c, 0, 9, 1, 250, U8)
        return result

    sets = [(x, m, c) for x in hostile(shape, dtype)]
    for shifts in ({2: (33, 62)}, None):  # in vectors of 32 bits, and by the general formula
        pool = planish.sum_pool.default
        exact(fn, *sets, layouts=("c16",), template=PoolInteger(), constants=(1, 2), anchor=pool, shifts=shifts)


@pytest.mark.parametrize("name", WINDOWS)
def test_maxima(name: str) -> None:
    shape, *window, ceil_mode = WINDOWS[name]
    dilation = [2 if n == "overlapping" else 1 for n in [name] * len(window[0])]
    dtype = (U8, S8)[list(WINDOWS).index(name) % 2]
    exact(
        lambda x: planish.max_pool.default(x, *window, dilation, ceil_mode),
        *((x,) for x in hostile(shape, dtype)),
        layouts=("c16",),
        template=PoolInteger(),
        anchor=planish.max_pool.default,
    )


def test_every_choice_makes_the_same_bits() -> None:
    x = codes(1, 19, 6, 23)

    def fn(v: Any) -> Any:
        return planish.sum_pool.default(v, 7, [3, 3], [1, 1], [1, 1], False)

    task = make_task(fn, [x], layouts={0: "c16"}, hint="c16", anchor=planish.sum_pool.default)
    space = PoolInteger().space(task)
    assert len(space) > 2
    for choice in space:
        built = build(PoolInteger(), task, lambda _, choice=choice: choice)  # type: ignore[misc]
        assert torch.equal(torch.as_tensor(built.run([x])), fn(x))


REFUSED = {
    "rank 2": (lambda x: planish.sum_pool.default(x, 0, [2], [1], [0], False), (3, 9), U8),
    "8 or 16 bits": (lambda x: planish.sum_pool.default(x, 0, [2], [1], [0], False), (1, 3, 9), S32),
    "misses": (lambda x: planish.max_pool.default(x, [2], [1], [1], [3], False), (1, 1, 2), U8),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals(reason: str) -> None:
    fn, shape, dtype = REFUSED[reason]
    anchor = planish.max_pool.default if reason == "misses" else planish.sum_pool.default
    refused = PoolInteger().wants(make_task(fn, [codes(*shape, dtype=S16).to(dtype)], anchor=anchor))
    assert isinstance(refused, Refused)
    assert reason in refused.reason
