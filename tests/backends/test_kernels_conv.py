"""Direct and depthwise convolution against torch: every border, stride, dilation, group, rank and layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_case import HOST, Built, aten, build, check, loops, make_task, randn

from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.kernels.depthwise import Depthwise
from planish.backends.tvm.template import Refused

CONV = aten.convolution.default


def conv(
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    after: Callable[..., Any] = lambda y: y,
) -> Callable[..., Any]:
    none = [0] * len(stride)
    s, p, d = list(stride), list(padding), list(dilation)
    return lambda x, w, b, *more: after(CONV(x, w, b, s, p, d, False, none, groups), *more)


def run(
    x: tuple[int, ...],
    out: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    template: Any = None,
    **options: Any,
) -> Built:
    inputs = [randn(*x), randn(out, x[1] // groups, *kernel, seed=1), randn(out, seed=2)]
    fn = conv(stride, padding, dilation, groups)
    return check(template or ConvDirect(), fn, inputs, (1, 2), anchor=CONV, kind="conv", **options)


@st.composite
def windows(draw: Any) -> tuple[Any, ...]:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    largest = {1: 40, 2: 13, 3: 6}[rank]
    kernel = [draw(st.integers(1, 5 if rank < 3 else 3)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 3)) for _ in range(rank)]
    padding = [draw(st.integers(0, 4)) for _ in range(rank)]
    size = [draw(st.integers(1, largest)) for _ in range(rank)]
    for s, k, p, d in zip(size, kernel, padding, dilation, strict=True):
        assume(s + 2 * p >= d * (k - 1) + 1)
    return size, kernel, stride, padding, dilation


@settings(max_examples=25)
@given(windows(), st.integers(1, 2), st.integers(1, 40), st.integers(1, 40))
def test_any_window_and_channels(window: tuple[Any, ...], batch: int, channels: int, out: int) -> None:
    size, *rest = window
    run((batch, channels, *size), out, *rest)


@settings(max_examples=10)
@given(windows(), st.sampled_from([(2, 16, 32), (3, 24, 8), (4, 12, 4), (5, 10, 30), (2, 40, 6)]))
def test_groups(window: tuple[Any, ...], groups: tuple[int, int, int]) -> None:
    size, *rest = window
    count, channels, out = groups
    run((1, count * (channels // count + 1) // 1, *size), count * out, *rest, groups=count)


@settings(max_examples=15)
@given(windows(), st.integers(2, 40))
def test_depthwise_any_window(window: tuple[Any, ...], channels: int) -> None:
    size, *rest = window
    run((2, channels, *size), channels, *rest, groups=channels, template=Depthwise())


@pytest.mark.parametrize("template", [ConvDirect(), Depthwise()])
def test_a_long_kernel_becomes_a_loop(template: Any) -> None:
    channels = 20
    groups = channels if isinstance(template, Depthwise) else 1
    window = ([1, 63], [1, 1], [0, 31], [1, 1])
    built = run((1, channels, 2, 80), channels, *window, groups=groups, template=template)
    assert ("serial", 63) in loops(built.lowered.func)
    run((1, channels, 2, 9), channels, *window, groups=groups, template=template)  # no pixel sees all 63 taps


def test_pointwise_convolution_runs_over_all_pixels_of_an_image_at_once() -> None:
    built = run((2, 20, 5, 3), 32, [1, 1], [1, 1], [0, 0], [1, 1])
    assert int(str(built.lowered.choice["tile"]).split("x")[0]) > 3  # a row has only 3 pixels


@pytest.mark.parametrize("layout", ["plain", f"c{HOST.block}"])
def test_few_channels_are_read_in_either_layout(layout: str) -> None:
    built = run((1, 3, 20, 20), 24, [7, 7], [2, 2], [3, 3], [1, 1], layouts={0: layout})
    assert built.task.inputs[0].layout == layout


def test_many_channels_are_wanted_blocked() -> None:
    built = run((1, 40, 6, 6), 24, [3, 3], [1, 1], [1, 1], [1, 1])
    assert built.task.inputs[0].layout == built.lowered.output == f"c{HOST.block}"


def test_buffers_of_the_caller_may_lie_anywhere() -> None:
    run((1, 3, 20, 20), 24, [3, 3], [1, 1], [1, 1], [1, 1], external=True)


def residual(y: Any, r: Any) -> Any:
    return aten.relu.default(aten.add.Tensor(y, r))


@pytest.mark.parametrize(
    "shape", [(2, 24, 5, 6), (24, 1, 1), (1, 24, 1, 1), (2, 24, 1, 1), (2, 1, 5, 6), (5, 6), (1,), ()]
)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("template", [ConvDirect(), Depthwise()])
def test_epilogue_operands(shape: tuple[int, ...], constant: bool, template: Any) -> None:
    groups = 24 if isinstance(template, Depthwise) else 1
    inputs = [randn(2, 24, 5, 6), randn(24, 24 // groups, 3, 3), randn(24), randn(*shape)]
    fn = conv([1, 1], [1, 1], [1, 1], groups, residual)
    task = make_task(fn, inputs, (1, 2, 3) if constant else (1, 2), anchor=CONV)
    if isinstance(refused := template.wants(task), Refused):
        assert not constant
        assert shape == (24, 1, 1)
        assert "channels where the batch" in refused.reason
        return
    check(template, fn, inputs, task.constants, anchor=CONV)


def test_a_value_used_twice_in_the_epilogue() -> None:
    def after(y: Any) -> Any:
        return aten.mul.Tensor(y, aten.sigmoid.default(aten.add.Tensor(y, 1.0)))

    inputs = [randn(1, 20, 5, 6), randn(20, 20, 1, 1), randn(20)]
    check(ConvDirect(), conv([1, 1], [0, 0], [1, 1], 1, after), inputs, (1, 2), anchor=CONV)


def test_input_is_its_own_residual() -> None:
    inputs = [randn(1, 20, 5, 6), randn(20, 20, 3, 3), randn(20)]
    fn = lambda x, w, b: aten.add.Tensor(CONV(x, w, b, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), x)  # noqa: E731
    check(ConvDirect(), fn, inputs, (1, 2), anchor=CONV)


@pytest.mark.parametrize("template", [ConvDirect(), Depthwise()])
def test_non_finite_pixels_stay_where_the_window_sees_them(template: Any) -> None:
    groups = 20 if isinstance(template, Depthwise) else 1
    x = randn(1, 20, 9, 11)
    x[0, 3, 4, 5], x[0, 7, 0, 0] = float("nan"), float("inf")
    inputs = [x, randn(20, 20 // groups, 3, 3), randn(20)]
    check(template, conv([1, 1], [1, 1], [1, 1], groups), inputs, (1, 2), anchor=CONV)


def test_long_sums_round_no_more_than_eager() -> None:
    inputs = [randn(1, 512, 7, 7), randn(64, 512, 3, 3), randn(64)]
    fn = conv([1, 1], [1, 1], [1, 1])
    actual = build(ConvDirect(), make_task(fn, inputs, (1, 2), anchor=CONV)).run(inputs)
    reference = fn(*[t.double() for t in inputs]).numpy()
    naive = np.zeros(64, np.float32)  # one accumulator over all 4608 terms, at the middle pixel
    patch, weight = inputs[0][0, :, 2:5, 2:5].numpy(), inputs[1].numpy()
    for c, i, j in np.ndindex(512, 3, 3):
        naive += patch[c, i, j] * weight[:, c, i, j]
    wide = (patch.astype(np.float64) * weight.astype(np.float64)).sum((1, 2, 3))
    assert np.abs(actual - reference).max() < 2 * np.abs(naive - wide).max()


@pytest.mark.parametrize(
    ("fn", "constants", "reason"),
    [
        (lambda x, w, b: aten.relu.default(x), (1, 2), "not a convolution"),
        (lambda x, w, b: CONV(x, w, b, [1, 1], [0, 0], [1, 1], True, [0, 0], 1), (1, 2), "transposed"),
        (lambda x, w, b: CONV(x, w, b, [1, 1], [0, 0], [1, 1], False, [0, 0], 1), (2,), "not a constant"),
        (lambda x, w, b: CONV(x, w, b, [1, 1], [0, 0], [1, 1], False, [0, 0], 1), (1,), "not a constant"),
        (lambda x, w, b: CONV(x, aten.relu.default(w), b, [1, 1], [0, 0], [1, 1], False, [0, 0], 1), (1, 2), "inside"),
        (
            lambda x, w, b: aten.sum.dim_IntList(CONV(x, w, b, [1, 1], [0, 0], [1, 1], False, [0, 0], 1), [1]),
            (1, 2),
            "not pointwise",
        ),
    ],
)
@pytest.mark.parametrize("template", [ConvDirect(), Depthwise()])
def test_refusals_say_why(fn: Any, constants: tuple[int, ...], reason: str, template: Any) -> None:
    groups_of_four = [randn(1, 4, 5, 5), randn(4, 4, 1, 1), randn(4)]
    anchor = CONV if "relu" not in reason and reason != "not a convolution" else None
    refused = template.wants(make_task(fn, groups_of_four, constants, anchor=anchor))
    assert isinstance(refused, Refused)
    if reason != "not pointwise" or isinstance(template, ConvDirect):
        assert reason in refused.reason


def test_depthwise_does_not_compute_its_input() -> None:
    def fn(x: Any, w: Any, b: Any) -> Any:
        return CONV(aten.relu.default(x), w, b, [1, 1], [0, 0], [1, 1], False, [0, 0], 4)

    refused = Depthwise().wants(make_task(fn, [randn(1, 4, 5, 5), randn(4, 1, 1, 1), randn(4)], (1, 2), anchor=CONV))
    assert isinstance(refused, Refused)
    assert "inside" in refused.reason


def test_depthwise_takes_only_one_channel_a_group() -> None:
    refused = Depthwise().wants(
        make_task(conv([1], [0], [1], 2), [randn(1, 4, 5), randn(4, 2, 1), randn(4)], (1, 2), anchor=CONV)
    )
    assert isinstance(refused, Refused)
    assert "not depthwise" in refused.reason


def test_groups_without_a_vector_are_refused() -> None:
    refused = ConvDirect().wants(
        make_task(conv([1], [0], [1], 3), [randn(1, 6, 5), randn(9, 2, 1), randn(9)], (1, 2), anchor=CONV)
    )
    assert isinstance(refused, Refused)
    assert "nothing to vectorize" in refused.reason


def test_double_precision_is_refused() -> None:
    inputs = [randn(1, 4, 5).double(), randn(4, 4, 1).double(), randn(4).double()]
    refused = ConvDirect().wants(make_task(conv([1], [0], [1]), inputs, (1, 2), anchor=CONV))
    assert isinstance(refused, Refused)
    assert refused.reason == "not float32 or bfloat16"


def test_threads_do_not_change_the_bits() -> None:
    inputs = [randn(1, 40, 14, 14), randn(48, 40, 3, 3), randn(48)]
    results = []
    for threads in (1, 2, 16):
        target = type(HOST)(HOST.triple, HOST.cpu, HOST.features, threads)
        task = make_task(conv([1, 1], [1, 1], [1, 1]), inputs, (1, 2), anchor=CONV, target=target)
        results.append(build(ConvDirect(), task).run(inputs))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_weights_larger_than_the_cache_are_asked_for_ahead() -> None:
    """256 x 640 weights are 640 KB; the space has kernels that wait for them, too."""
    large = [randn(1, 256, 7, 7), randn(640, 256, 1, 1), randn(640)]
    small = [randn(1, 256, 7, 7), randn(64, 256, 1, 1), randn(64)]
    tasks = [make_task(conv([1, 1], [0, 0], [1, 1]), inputs, (1, 2), anchor=CONV) for inputs in (large, small)]
    template = ConvDirect()
    assert [int(template.emit(task).choice["ahead"]) > 0 for task in tasks] == [True, False]
    assert {bool(choice["ahead"]) for choice in template.space(tasks[0])} == {True, False}
    waiting = next(choice for choice in template.space(tasks[0]) if not choice["ahead"])
    kernels = [template.emit(tasks[0]), template.emit(tasks[0], waiting), template.emit(tasks[1])]
    assert ["llvm_intrin" in str(kernel.func) for kernel in kernels] == [True, False, False]
    check(template, conv([1, 1], [0, 0], [1, 1]), large, (1, 2), anchor=CONV)
