"""Transposed convolution against torch: every phase, border, dilation, group and rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_case import HOST, Built, aten, build, check, loops, make_task, randn

from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.kernels.conv_transposed import ConvTransposed, Spread
from planish.backends.tvm.template import Choice, Lowered, Refused, Task

CONV = aten.convolution.default
Window = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int], Sequence[int]]
"""Kernel, stride, padding, dilation, output padding."""


def transposed(window: Window, groups: int = 1, after: Callable[..., Any] = lambda y: y) -> Callable[..., Any]:
    _, stride, padding, dilation, more = map(list, window)
    return lambda x, w, b, *rest: after(CONV(x, w, b, stride, padding, dilation, True, more, groups), *rest)


def run(x: tuple[int, ...], out: int, window: Window, groups: int = 1, **options: Any) -> Built:
    inputs = [randn(*x), randn(x[1], out // groups, *window[0], seed=1), randn(out, seed=2)]
    fn = transposed(window, groups)
    return check(ConvTransposed(), fn, inputs, (1, 2), anchor=CONV, kind="conv", **options)


class Chosen(ConvTransposed):
    """The template with a choice of its space."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        return super().emit(task, self.choice)


@st.composite
def windows(draw: Any) -> tuple[list[int], Window]:
    rank = draw(st.sampled_from([1, 2, 2, 3]))

    def each(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(rank)]

    size, kernel, stride, dilation, padding = each(1, 7), each(1, 5), each(1, 4), each(1, 3), each(0, 3)
    more = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    for z, k, s, p, d, m in zip(size, kernel, stride, padding, dilation, more, strict=True):
        assume((z - 1) * s - 2 * p + d * (k - 1) + m + 1 > 0)
    return size, (kernel, stride, padding, dilation, more)


@settings(max_examples=15)
@given(windows(), st.integers(1, 2), st.integers(1, 20), st.integers(1, 40))
def test_any_window_and_channels(window: tuple[list[int], Window], batch: int, channels: int, out: int) -> None:
    size, rest = window
    run((batch, channels, *size), out, rest)


@settings(max_examples=6)
@given(windows(), st.sampled_from([(2, 16, 32), (3, 8, 8), (4, 3, 4), (2, 20, 6)]))
def test_groups(window: tuple[list[int], Window], groups: tuple[int, int, int]) -> None:
    size, rest = window
    count, channels, out = groups
    run((1, count * channels, *size), count * out, rest, groups=count)


@pytest.mark.parametrize("choice", range(0, 12, 5))
def test_every_choice_makes_a_right_kernel(choice: int) -> None:
    inputs = [randn(1, 20, 5, 6), randn(20, 36, 4, 3, seed=1), randn(36, seed=2)]
    fn = transposed(([4, 3], [2, 2], [1, 1], [1, 1], [0, 1]))
    template = ConvTransposed()
    task = make_task(fn, inputs, (1, 2), anchor=CONV, kind="conv")
    space = template.space(task)
    assert len(space) >= 12
    assert len({tuple(entry.items()) for entry in space}) == len(space)
    assert space[0] == template.emit(task).choice
    check(Chosen(space[choice]), fn, inputs, (1, 2), anchor=CONV, kind="conv")


def test_taps_of_a_phase_by_hand() -> None:
    """Kernel 4, stride 2, padding 1: pixel z = 2i - 1 + k; 0 sees taps 1 (pixel 0) and 3, 1 sees 0 (pixel 1) and 2."""
    axis = Spread(size=3, out=6, kernel=4, stride=2, pad=1)
    even, odd = axis.phase(0), axis.phase(1)
    assert [(even.source(0, j), even.kept(0, j)) for j in range(2)] == [(-1, 3), (0, 1)]
    assert [(odd.source(0, j), odd.kept(0, j)) for j in range(2)] == [(0, 2), (1, 0)]
    assert (even.taps(0), even.taps(2), odd.taps(2)) == ((1,), (0, 1), (0,))
    assert (axis.source(0, 0), axis.kept(0, 0), axis.kept(0, 1)) == (0, 1, 3)


def test_pixels_that_no_tap_reaches_hold_the_bias() -> None:
    """Stride and dilation 2: the odd pixels see nothing."""
    inputs = [randn(1, 16, 3), randn(16, 16, 3, seed=1), randn(16, seed=2)]
    fn = transposed(([3], [2], [0], [2], [1]))
    result = check(ConvTransposed(), fn, inputs, (1, 2), anchor=CONV).run(inputs)
    assert np.array_equal(result[0, :, 1::2], np.broadcast_to(inputs[2].numpy()[:, None], (16, 5)))


def test_a_long_kernel_of_large_stride() -> None:
    run((1, 5, 2, 3), 24, ([16, 16], [8, 8], [4, 4], [1, 1], [0, 0]))


@pytest.mark.parametrize("layout", ["plain", f"c{HOST.block}"])
def test_few_channels_are_read_in_either_layout(layout: str) -> None:
    built = run((1, 3, 5, 6), 24, ([4, 4], [2, 2], [1, 1], [1, 1], [0, 0]), layouts={0: layout})
    assert built.task.inputs[0].layout == layout


def test_buffers_of_the_caller_may_lie_anywhere() -> None:
    run((1, 3, 5, 6), 24, ([3, 3], [2, 2], [1, 1], [1, 1], [1, 1]), external=True)


@pytest.mark.parametrize("shape", [(2, 24, 10, 12), (24, 1, 1), (2, 24, 1, 1), (10, 12), ()])
@pytest.mark.parametrize("constant", [False, True])
def test_epilogue_operands(shape: tuple[int, ...], constant: bool) -> None:
    inputs = [randn(2, 20, 5, 6), randn(20, 24, 2, 2), randn(24), randn(*shape)]
    after = lambda y, r: aten.relu.default(aten.add.Tensor(y, r))  # noqa: E731
    fn = transposed(([2, 2], [2, 2], [0, 0], [1, 1], [0, 0]), 1, after)
    constants = (1, 2, 3) if constant else (1, 2)
    if shape == (24, 1, 1) and not constant:
        refused = ConvTransposed().wants(make_task(fn, inputs, constants, anchor=CONV))
        assert isinstance(refused, Refused)
        assert "channels where the batch" in refused.reason
        return
    check(ConvTransposed(), fn, inputs, constants, anchor=CONV)


def test_non_finite_pixels_reach_only_where_they_are_spread() -> None:
    x = randn(1, 20, 5, 7)
    x[0, 3, 4, 5], x[0, 7, 0, 0] = float("nan"), float("inf")
    inputs = [x, randn(20, 20, 3, 3), randn(20)]
    check(ConvTransposed(), transposed(([3, 3], [2, 3], [1, 0], [1, 1], [0, 1])), inputs, (1, 2), anchor=CONV)


def test_the_kernel_is_parallel_and_vectorized() -> None:
    built = run((1, 32, 16, 16), 32, ([4, 4], [2, 2], [1, 1], [1, 1], [0, 0]))
    assert {"parallel", "vectorized"} <= {kind for kind, extent in loops(built.lowered.func) if extent > 1}


def test_threads_do_not_change_the_bits() -> None:
    inputs = [randn(1, 40, 6, 7), randn(40, 48, 3, 3), randn(48)]
    results = []
    for threads in (1, 2, 16):
        target = type(HOST)(HOST.triple, HOST.cpu, HOST.features, threads)
        fn = transposed(([3, 3], [2, 2], [1, 1], [1, 1], [1, 1]))
        results.append(build(ConvTransposed(), make_task(fn, inputs, (1, 2), anchor=CONV, target=target)).run(inputs))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_refusals_say_why() -> None:
    straight = make_task(
        lambda x, w, b: CONV(x, w, b, [1], [0], [1], False, [0], 1), [randn(1, 4, 5), randn(4, 4, 1), randn(4)], (1, 2),
        anchor=CONV,
    )  # fmt: skip
    turned = make_task(
        transposed(([2], [2], [0], [1], [0]), 3), [randn(1, 6, 5), randn(6, 3, 2), randn(9)], (1, 2), anchor=CONV
    )
    reasons = [ConvTransposed().wants(straight), ConvTransposed().wants(turned), ConvDirect().wants(turned)]
    assert [type(r) for r in reasons] == [Refused] * 3
    assert "not transposed" in str(reasons[0])
    assert "nothing to vectorize" in str(reasons[1])
    assert "transposed" in str(reasons[2])
