"""Pools, the global mean and concatenation against torch: borders, ceil_mode, divisors, NaN, odd channel counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_case import HOST, aten, check, loops, make_task, randn

from planish.backends.tvm.kernels.concat import Concat
from planish.backends.tvm.kernels.pool import ADAPTIVE, AVERAGE, MAX, Pool
from planish.backends.tvm.kernels.spatial_mean import SpatialMean
from planish.backends.tvm.template import Refused

BLOCKED = f"c{HOST.block}"
CAT = aten.cat.default
MEAN = aten.mean.dim


@st.composite
def windows(draw: Any) -> tuple[Any, ...]:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    kernel = [draw(st.integers(1, 5)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    size = [draw(st.integers(1, 14 if rank < 3 else 7)) for _ in range(rank)]
    for s, k, p, d in zip(size, kernel, padding, dilation, strict=True):
        assume(s + 2 * p >= d * (k - 1) + 1)
    return size, kernel, stride, padding, dilation, draw(st.booleans())


@settings(max_examples=20)
@given(windows(), st.integers(1, 40))
def test_max_pool(window: tuple[Any, ...], channels: int) -> None:
    size, *rest, ceil = window
    op = MAX[len(size) - 1]
    x = randn(2, channels, *size)
    x.view(-1)[::7] = float("nan")
    x.view(-1)[3::7] = float("-inf")
    check(Pool(), lambda x: op(x, *rest, ceil), [x], anchor=op)


@settings(max_examples=20)
@given(windows(), st.integers(1, 40), st.booleans(), st.sampled_from([None, 3]))
def test_average_pool(window: tuple[Any, ...], channels: int, include: bool, divisor: int | None) -> None:
    size, kernel, stride, padding, _, ceil = window
    op = AVERAGE[len(size) - 1]
    more = [] if len(size) == 1 else [divisor]
    assume(all(s + 2 * p >= k for s, k, p in zip(size, kernel, padding, strict=True)))
    check(
        Pool(), lambda x: op(x, kernel, stride, padding, ceil, include, *more), [randn(2, channels, *size)], anchor=op
    )


@pytest.mark.parametrize(("rank", "out"), [(1, [5]), (2, [7, 3]), (2, [1, 4]), (2, [20, 1]), (3, [2, 3, 4])])
def test_adaptive_pool(rank: int, out: list[int]) -> None:
    op = ADAPTIVE[rank - 1]
    check(Pool(), lambda x: op(x, out), [randn(2, 21, *[14, 9, 5][:rank])], anchor=op)


def test_default_arguments() -> None:
    check(Pool(), lambda x: MAX[1](x, [2, 2]), [randn(1, 16, 8, 8)], anchor=MAX[1])
    check(Pool(), lambda x: AVERAGE[1](x, [3, 3]), [randn(1, 16, 9, 9)], anchor=AVERAGE[1])


@pytest.mark.parametrize("shape", [(2, 21, 4, 4), (1, 21, 1, 1), (2, 21, 1, 1), ()])
@pytest.mark.parametrize("constant", [False, True])
def test_pool_epilogue(shape: tuple[int, ...], constant: bool) -> None:
    def fn(x: Any, r: Any) -> Any:
        return aten.relu.default(aten.add.Tensor(MAX[1](x, [2, 2], [2, 2], [0, 0], [1, 1], False), r))

    check(Pool(), fn, [randn(2, 21, 8, 8), randn(*shape)], (1,) if constant else (), anchor=MAX[1])


def test_a_large_window_becomes_a_loop() -> None:
    op = AVERAGE[1]
    check(Pool(), lambda x: op(x, [1, 65], [1, 1], [0, 32], False, True, None), [randn(1, 16, 1, 70)], anchor=op)


@settings(max_examples=10)
@given(st.integers(1, 70), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.booleans(), st.integers(1, 3))
def test_global_mean(channels: int, space: list[int], keep: bool, batch: int) -> None:
    dims = list(range(2, 2 + len(space)))
    fn = lambda x: MEAN(x, dims, keep)  # noqa: E731
    built = check(SpatialMean(), fn, [randn(batch, channels, *space)], anchor=MEAN, layouts={0: BLOCKED})
    assert built.lowered.output == "plain"


@pytest.mark.parametrize("shape", [(1, 16, 56, 56), (1, 20, 3, 100), (2, 5, 1500), (1, 47, 1, 9, 30), (3, 16, 100, 3)])
def test_the_pixels_of_few_channels_are_shared_among_threads(shape: tuple[int, ...]) -> None:
    dims = list(range(2, len(shape)))
    r = randn(*shape[:2])
    fn = lambda x, r: aten.add.Tensor(MEAN(x, dims, False), r)  # noqa: E731
    built = check(SpatialMean(), fn, [randn(*shape), r], anchor=MEAN, layouts={0: BLOCKED})
    assert built.lowered.choice["parts"] == 8
    assert all(extent > 1 for kind, extent in loops(built.lowered.func) if kind == "parallel")


def test_global_mean_with_prologue_and_epilogue() -> None:
    def fn(x: Any, r: Any, b: Any) -> Any:
        mean = MEAN(aten.relu.default(aten.add.Tensor(x, r)), [-1, -2], True)
        return aten.mul.Tensor(aten.reshape.default(mean, [2, 37]), b)

    inputs = [randn(2, 37, 5, 6), randn(2, 37, 5, 6, seed=1), randn(37)]
    check(SpatialMean(), fn, inputs, (2,), anchor=MEAN, layouts={0: BLOCKED, 1: BLOCKED})


def test_global_sum() -> None:
    op = aten.sum.dim_IntList
    check(SpatialMean(), lambda x: op(x, [2, 3], False), [randn(1, 20, 9, 9)], anchor=op, layouts={0: BLOCKED})


@pytest.mark.parametrize(
    ("fn", "layout", "reason"),
    [
        (lambda x: MEAN(x, [2, 3], False), "plain", "not in blocked channels"),
        (lambda x: MEAN(x, [3], False), BLOCKED, "not over all spatial dims"),
        (lambda x: MEAN(x, [1, 2, 3], False), BLOCKED, "not over all spatial dims"),
        (lambda x: MEAN(aten.flip.default(x, [2]), [2, 3], False), BLOCKED, "view"),
    ],
)
def test_global_mean_refusals(fn: Any, layout: str, reason: str) -> None:
    refused = SpatialMean().wants(make_task(fn, [randn(1, 20, 4, 4)], anchor=MEAN, layouts={0: layout}))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda x: MAX[1](aten.relu.default(x), [2, 2]), "computed inside"),
        (lambda x: aten.relu.default(x), "not a pool"),
    ],
)
def test_pool_refusals(fn: Any, reason: str) -> None:
    anchor = MAX[1] if reason != "not a pool" else None
    refused = Pool().wants(make_task(fn, [randn(1, 20, 4, 4)], anchor=anchor))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 3), st.booleans(), st.booleans())
def test_concat(extents: list[int], axis: int, blocked: bool, constant: bool) -> None:
    shapes = [[2, 3, 4, 5] for _ in extents]
    for shape, extent in zip(shapes, extents, strict=True):
        shape[axis] = extent
    inputs = [randn(*s, seed=i) for i, s in enumerate(shapes)]
    layouts = dict.fromkeys(range(int(constant), len(inputs)), BLOCKED) if blocked else {}
    fn = lambda *x: CAT(list(x), axis)  # noqa: E731
    built = check(Concat(), fn, inputs, (0,) if constant else (), anchor=CAT, layouts=layouts)
    first_blocked = blocked and axis == 1 and not constant
    assert built.lowered.output == (BLOCKED if first_blocked else "plain")


@pytest.mark.parametrize("layout", [BLOCKED, "plain"])
def test_concat_with_epilogue(layout: str) -> None:
    def fn(a: Any, b: Any, scale: Any, r: Any) -> Any:
        return aten.relu.default(aten.add.Tensor(aten.mul.Tensor(CAT([a, b], 1), scale), r))

    inputs = [randn(2, 21, 4, 5), randn(2, 12, 4, 5), randn(33, 1, 1), randn(2, 33, 4, 5)]
    check(Concat(), fn, inputs, (2,), anchor=CAT, layouts={0: layout, 1: layout, 3: layout})


def test_concat_of_other_dtypes_and_empty_tensors() -> None:
    check(Concat(), lambda a, b: CAT([a, b], 0), [torch.arange(70), torch.arange(7)], anchor=CAT)
    check(Concat(), lambda a, b: CAT([a, b], 0), [torch.arange(70) > 3, torch.arange(7) > 3], anchor=CAT)
    check(Concat(), lambda a, b: CAT([a, b], 1), [randn(3, 0, 2), randn(3, 5, 2)], anchor=CAT)


def test_concat_of_mixed_layouts_follows_the_readers() -> None:
    inputs = [randn(1, 24, 4, 4), randn(1, 40, 4, 4)]
    fn = lambda a, b: CAT([a, b], 1)  # noqa: E731
    liked = check(Concat(), fn, inputs, anchor=CAT, layouts={0: BLOCKED}, hint=BLOCKED)
    assert liked.lowered.output == BLOCKED
    not_liked = check(Concat(), fn, inputs, anchor=CAT, layouts={0: BLOCKED})
    assert not_liked.lowered.output == "plain"


def test_concat_refusals() -> None:
    fn = lambda a, b: CAT([aten.relu.default(a), b], 0)  # noqa: E731
    refused = Concat().wants(make_task(fn, [randn(3), randn(4)], anchor=CAT))
    assert isinstance(refused, Refused)
    assert "computed inside" in refused.reason
    refused = Concat().wants(make_task(lambda a, b: CAT([a, b], 0), [randn(3), torch.arange(4)], anchor=CAT))
    assert isinstance(refused, Refused)
    assert "differ in dtype" in refused.reason


def test_all_parts_of_a_blocked_concatenation_are_copied_in_one_parallel_loop() -> None:
    inputs = [randn(1, channels, 5, 6, seed=channels) for channels in (40, 16, 7)]
    built = check(
        Concat(), lambda *x: aten.relu.default(aten.cat.default(list(x), 1)), inputs, kind="concat",
        anchor=aten.cat.default, layouts=dict.fromkeys(range(3), BLOCKED), hint=BLOCKED,
    )  # fmt: skip
    assert [extent for kind, extent in loops(built.lowered.func) if kind == "parallel"] == [5 * (3 + 1 + 1)]
