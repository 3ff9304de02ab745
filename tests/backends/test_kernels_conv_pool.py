"""Convolutions with the pool after them in one kernel: windows, borders, odd sizes, NaN and inf, bands, operands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_case import HOST, aten, build, check, make_task, randn

from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.kernels.pool import ADAPTIVE, AVERAGE, MAX
from planish.backends.tvm.template import Refused

CONV = aten.convolution.default
ANYWHERE = ConvDirect(anywhere=True)


def _conv(x: Any, w: Any, b: Any, stride: int = 1, padding: int = 1) -> Any:
    rank = len(w.shape) - 2 if isinstance(w, torch.Tensor) else 2
    return CONV(x, w, b, [stride] * rank, [padding] * rank, [1] * rank, False, [0] * rank, 1)


@st.composite
def pools(draw: Any) -> tuple[int, Any]:
    """(size of the convolution's result, what pools it)."""
    size = draw(st.integers(1, 19))
    kind = draw(st.sampled_from(["max", "max", "average", "adaptive"]))
    if kind == "adaptive":
        out = [draw(st.integers(1, 6)), draw(st.integers(1, 6))]
        return size, lambda z: ADAPTIVE[1](z, out)
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    padding, dilation = draw(st.integers(0, kernel // 2)), draw(st.integers(1, 2)) if kind == "max" else 1
    ceil = draw(st.booleans())
    assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    where = [kernel, kernel], [stride, stride], [padding, padding]
    if kind == "max":
        return size, lambda z: MAX[1](z, *where, [dilation, dilation], ceil)
    include, divisor = draw(st.booleans()), draw(st.sampled_from([None, 3]))
    return size, lambda z: AVERAGE[1](z, *where, ceil, include, divisor)


@settings(max_examples=10)
@given(pools(), st.integers(1, 40), st.integers(0, 10**6))
def test_every_window_and_choice(drawn: tuple[int, Any], channels: int, number: int) -> None:
    size, pool = drawn
    inputs = [randn(2, 5, size, size), randn(channels, 5, 3, 3), randn(channels)]

    def both(x: Any, w: Any, b: Any) -> Any:
        return pool(aten.relu.default(_conv(x, w, b)))

    default = check(ANYWHERE, both, inputs, [1, 2], anchor=CONV).run(inputs)
    task = make_task(both, inputs, [1, 2], anchor=CONV)
    other = build(ANYWHERE, task, lambda space: space[number % len(space)]).run(inputs)
    np.testing.assert_allclose(other, default, rtol=1e-5, atol=1e-5)


def test_nan_and_inf_stay_where_pytorch_has_them() -> None:
    x, w = randn(1, 3, 9, 9), torch.ones(20, 3, 1, 1)
    x[0, 0, 2, 2], x[0, 1, 8, 8], x[0, :, 0, 5] = float("nan"), float("-inf"), float("inf")

    def both(x: Any, w: Any) -> Any:
        return MAX[1](_conv(x, w, None, 1, 0), [3, 3], [2, 2], [1, 1], [1, 1], False)

    built = check(ANYWHERE, both, [x, w], [1], anchor=CONV)
    assert np.array_equal(np.isnan(built.run([x, w])), torch.isnan(both(x, w)).numpy())
    assert np.array_equal(np.isinf(built.run([x, w])), torch.isinf(both(x, w)).numpy())


def test_operands_before_and_after_the_pool() -> None:
    """A residual sum of the map, a PLAIN factor per channel whose last block ends early, and a sum of the result."""
    inputs = [randn(2, 4, 8, 8), randn(19, 4, 3, 3), randn(2, 19, 8, 8), randn(1, 19, 1, 1), randn(2, 19, 4, 4)]

    def both(x: Any, w: Any, r: Any, s: Any, t: Any) -> Any:
        z = aten.mul.Tensor(aten.relu.default(aten.add.Tensor(_conv(x, w, None), r)), s)
        return aten.add.Tensor(AVERAGE[1](z, [2, 2], [2, 2], [0, 0], False, True, None), t)

    check(ANYWHERE, both, inputs, [1], anchor=CONV)


def test_a_sequence() -> None:
    inputs = [randn(3, 6, 31), randn(24, 6, 5), randn(24)]

    def both(x: Any, w: Any, b: Any) -> Any:
        return MAX[0](CONV(x, w, b, [2], [2], [1], False, [0], 1), [3], [2], [1], [1], True)

    check(ANYWHERE, both, inputs, [1, 2], anchor=CONV)


@pytest.mark.parametrize("channels", [3, 32])
def test_bfloat16_rounds_once(channels: int) -> None:
    inputs = [t.bfloat16() for t in (randn(1, channels, 12, 13), randn(20, channels, 3, 3), randn(20))]

    def both(x: Any, w: Any, b: Any) -> Any:
        return MAX[1](aten.relu.default(_conv(x, w, b)), [3, 3], [2, 2], [1, 1], [1, 1], False)

    check(ANYWHERE, both, inputs, [1, 2], anchor=CONV)


def test_the_bits_are_those_of_any_band_and_of_two_kernels() -> None:
    inputs = [randn(1, 3, 40, 40), randn(32, 3, 3, 3), randn(32)]

    def both(x: Any, w: Any, b: Any) -> Any:
        return MAX[1](_conv(x, w, b), [3, 3], [2, 2], [1, 1], [1, 1], False)

    apart = build(ConvDirect(), make_task(_conv, inputs, [1, 2], anchor=CONV))
    z = torch.tensor(apart.run(inputs))
    expected = MAX[1](z, [3, 3], [2, 2], [1, 1], [1, 1], False).numpy()
    task = make_task(both, inputs, [1, 2], anchor=CONV)
    space = ANYWHERE.space(task)
    bands = {choice["band"]: choice for choice in space if choice["tile"] == apart.lowered.choice["tile"]}
    assert len(bands) > 1
    for choice in bands.values():
        made = build(ANYWHERE, task, lambda _, choice=choice: choice).run(inputs)
        assert np.array_equal(made.view(np.uint32), expected.view(np.uint32))


def _refused(both: Any, inputs: list[torch.Tensor], template: ConvDirect = ANYWHERE) -> str:
    answer = template.wants(make_task(both, inputs, range(1, len(inputs)), anchor=CONV))
    assert isinstance(answer, Refused)
    return answer.reason


def test_volumes_are_pooled_apart() -> None:
    def both(x: Any, w: Any) -> Any:
        return MAX[2](
            CONV(x, w, None, [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1), [2] * 3, [2] * 3, [0] * 3, [1] * 3
        )

    assert "volumes" in _refused(both, [randn(1, 4, 6, 6, 6), randn(16, 4, 3, 3, 3)])


def test_narrow_vectors_are_pooled_apart() -> None:
    def both(x: Any, w: Any) -> Any:
        return MAX[1](CONV(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 5), [2, 2], [2, 2], [0, 0], [1, 1])

    assert "do not fill a block" in _refused(both, [randn(1, 20, 8, 8), randn(20, 4, 3, 3)])


def test_rows_that_do_not_fit_the_cache_are_pooled_apart() -> None:
    def both(x: Any, w: Any) -> Any:
        return MAX[1](_conv(x, w, None), [33, 3], [33, 3], [0, 0], [1, 1])

    assert "do not fit the cache" in _refused(both, [randn(1, 3, 33, 4096), randn(32, 3, 3, 3)])


def test_what_few_threads_would_make_is_pooled_apart() -> None:
    """One window over the whole map: a single band of a single chunk keeps one thread busy and three waiting."""

    def both(x: Any, w: Any) -> Any:
        return MAX[1](_conv(x, w, None), [32, 32], [32, 32], [0, 0], [1, 1])

    inputs = [randn(1, 64, 32, 32), randn(16, 64, 3, 3)]
    assert "too few threads" in _refused(both, inputs, ConvDirect())
    alone = replace(HOST, threads=1)
    assert not isinstance(ConvDirect().wants(make_task(both, inputs, [1], anchor=CONV, target=alone)), Refused)
