"""The blocked depthwise convolution of codes: the bits of the reference, four taps at a time and one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integer_case import S8, S16, S32, U8, codes, exact, hostile, planish
from kernel_case import HOST, make_task

from planish.backends.tvm.kernels.depthwise_integer import DepthwiseInteger
from planish.backends.tvm.kernels.quads import Group, Variant, groups_of
from planish.backends.tvm.kernels.window import Axis, runs
from planish.backends.tvm.target import parse_target
from planish.backends.tvm.template import Refused

CPUS = {"vnni": HOST, "int16": parse_target("haswell", 2), "bytes": parse_target("x86-64", 2)}
GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[list[int], ...]]] = {
    "3x3": ((2, 19, 5, 14), (3, 3), ([1, 1], [1, 1], [1, 1])),
    "stride 2": ((1, 16, 7, 23), (3, 3), ([2, 2], [1, 1], [1, 1])),
    "5x5": ((1, 16, 6, 30), (5, 5), ([1, 1], [2, 2], [1, 1])),
    "pads wider than the image": ((1, 16, 3, 5), (3, 4), ([1, 1], [3, 4], [1, 1])),
    "a row of four": ((1, 16, 2, 4), (3, 3), ([1, 3], [1, 1], [1, 1])),
    "a row of three": ((1, 8, 4, 3), (3, 3), ([1, 1], [1, 1], [1, 1])),
    "dilated": ((1, 16, 6, 9), (3, 3), ([1, 1], [2, 2], [2, 2])),
    "many taps": ((1, 16, 1, 60), (1, 41), ([1, 1], [0, 20], [1, 1])),
    "1d": ((2, 16, 13), (3,), ([1], [1], [1])),
    "3d": ((1, 16, 3, 4, 6), (2, 3, 3), ([1, 1, 2], [1, 0, 1], [1, 1, 1])),
}


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_sums(name: str, cpu: str) -> None:
    x, kernel, geometry = GEOMETRIES[name]
    if cpu == "bytes" and name not in ("3x3", "a row of three"):
        return
    weight, channels = (x[1], 1, *kernel), x[1]
    bias = codes(channels, dtype=S16).to(S32)
    w = codes(*weight, dtype=S8)
    ends = torch.full(weight, 127, dtype=S8)
    sets = [(v, k, bias) for v, k in zip(hostile(x), (w, w, ends, -ends, w), strict=True)]
    zeros = [0] * len(kernel)

    def fn(v: torch.Tensor, k: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.convolution.default(v, k, b, 131, *geometry, False, zeros, channels)
        return result

    _exact(fn, *sets, constants=(1, 2), target=CPUS[cpu])


def _exact(fn: Any, *sets: Any, **options: Any) -> None:
    anchor = planish.convolution.default
    exact(fn, *sets, layouts=("c16",), template=DepthwiseInteger(), kind="conv", anchor=anchor, **options)


def test_requantized() -> None:
    m = torch.tensor([2**30, 2**31 - 1, 1518500250]).repeat(7)[:19].reshape(19, 1, 1)
    c = torch.arange(33, 52).reshape(19, 1, 1)

    def fn(x: torch.Tensor, w: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        sums = planish.convolution.default(x, w, None, 9, [1, 1], [1, 1], [1, 1], False, [0, 0], 19)
        result: torch.Tensor = planish.requantize.default(sums, m, c, 0, 0, 0, 255, U8)
        return result

    sets = [(x, codes(19, 1, 3, 3, dtype=S8), m, c) for x in hostile((1, 19, 5, 9))]
    _exact(fn, *sets, constants=(1, 2, 3), shifts={3: (33, 62)})


def test_groups_of_columns() -> None:
    """Three taps: two pixels read one group. The image's last columns are reached from within it."""
    axis = Axis(size=8, out=8, kernel=3, stride=1, pad=1)
    (run,) = runs(axis, 8)
    groups = groups_of(axis, run)
    assert [g.column for g in groups] == [1, 3, 5]  # from column -1 on
    assert groups[0] == Group(1, ((0, Variant(1, 1, 3)), (1, Variant(0, 0, 3)), (2, Variant(-1, 0, 3))))
    assert groups[2].readers[-1] == (7, Variant(-2, 0, 2))
    covered = [
        sorted(k for g in groups for p, v in g.readers if p == i for k in range(v.low, v.high)) for i in range(8)
    ]
    assert covered == [[1, 2], *[[0, 1, 2]] * 6, [0, 1]]


def test_what_is_refused() -> None:
    def fn(x: Any, w: Any) -> Any:
        return planish.convolution.default(x, w, None, 0, [1, 1], [1, 1], [1, 1], False, [0, 0], 4)

    inputs = (codes(1, 4, 5, 5), codes(8, 1, 3, 3, dtype=S8))
    answer = DepthwiseInteger().wants(make_task(fn, inputs, (1,), anchor=planish.convolution.default))
    assert isinstance(answer, Refused)
    assert "not depthwise" in answer.reason
