"""Softmax of rows of codes: the bits of the reference, from any distances, under masks, of long rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integer_case import S8, S16, S32, U8, aten, codes, exact, hostile, planish
from kernel_case import HOST, make_task

from planish.backends.tvm.kernels.softmax_integer import SoftmaxInteger
from planish.backends.tvm.target import parse_target
from planish.backends.tvm.template import Refused
from planish.ir.quantized.constants import softmax_scale

CPUS = {"avx512": HOST, "avx2": parse_target("haswell", 2), "sse": parse_target("x86-64", 2)}


def _exact(fn: Any, *sets: Any, **options: Any) -> None:
    exact(fn, *sets, template=SoftmaxInteger(), kind="softmax", anchor=planish.softmax.default, **options)


@pytest.mark.parametrize(
    ("dtype", "scale", "bits", "out", "cpu"),
    [
        (U8, 0.05, 8, U8, "avx512"),
        (S8, 3.0, 15, S16, "avx512"),
        (S16, 2e-3, 11, U8, "avx512"),
        (S32, 1e-8, 8, U8, "avx512"),
        (S32, 20.0, 15, S16, "avx512"),
        (S32, 1e-4, 28, S16, "avx512"),
        (S32, 1e-5, 12, U8, "avx2"),
        (U8, 0.1, 9, U8, "sse"),
    ],
)
def test_rows(dtype: torch.dtype, scale: float, bits: int, out: torch.dtype, cpu: str) -> None:
    """Distances from none to 2^32 - 1; steps of 10^-8 and of e^20."""
    number = softmax_scale(scale)

    def fn(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.softmax.default(x, None, number.multiplier, number.shift, -1, bits, out)
        return result

    ramp = torch.arange(3 * 5 * 83).reshape(3, 5, 83).clamp(max=torch.iinfo(dtype).max).to(dtype)
    _exact(fn, *((x,) for x in (*hostile((3, 5, 83), dtype), ramp)), target=CPUS[cpu])


def test_every_distance_of_a_byte() -> None:
    x = torch.cat([torch.full((256, 15), 255), 255 - torch.arange(256)[:, None]], 1).to(U8)
    for scale in (0.01, 0.2):
        number = softmax_scale(scale)
        _exact(lambda v, n=number: planish.softmax.default(v, None, n.multiplier, n.shift, 1, 15, S16), (x,))


def test_masks() -> None:
    """One that broadcasts; the largest code may be one that is not seen, and a row may see nothing."""
    number = softmax_scale(0.1)
    mask = codes(4, 1, 40) > 100
    mask[2] = False
    sets = [(x, mask) for x in hostile((2, 4, 3, 40), S32)]
    _exact(lambda x, m: planish.softmax.default(x, m, number.multiplier, number.shift, 3, 8, U8), *sets)


def test_long_rows_and_moved_results() -> None:
    """Sums of 2^43; scores that are read through a view, shares that are requantized."""
    number = softmax_scale(0.001)
    m, c = torch.tensor([1 << 30]), torch.tensor([31])

    def fn(x: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        rows = aten.permute.default(x, [1, 0, 2])
        shares = planish.softmax.default(rows, None, number.multiplier, number.shift, 2, 15, S16)
        result: torch.Tensor = planish.requantize.default(shares, m, c, 0, 7, 0, 255, U8)
        return result

    _exact(fn, *((x, m, c) for x in hostile((2, 3, 9000))), constants=(1, 2))


@pytest.mark.parametrize(
    ("shape", "dim", "shift", "bits", "reason"),
    [
        ((3, 40), 0, 20, 8, "not over the last axis"),
        ((40, 3), 1, 20, 8, "rows of 3"),
        ((3, 40), 1, 0, 8, "a shift by 0"),
        ((3, 40), 1, 20, 29, "29 bits"),
    ],
)
def test_what_is_left_to_the_generic_scheduler(
    shape: tuple[int, ...], dim: int, shift: int, bits: int, reason: str
) -> None:
    fn = lambda x: planish.softmax.default(x, None, 1 << 30, shift, dim, bits, U8)  # noqa: E731
    verdict = SoftmaxInteger().wants(make_task(fn, (codes(*shape),), anchor=planish.softmax.default))
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason
