"""Winograd's convolution of codes: the same integers as direct sums, on every CPU that multiplies pairs of int16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_case import CPUS, S8, S32, U8, codes, hostile, planish
from kernel_case import build, make_task

from planish.backends.tvm.kernels.winograd_integer import WinogradInteger
from planish.backends.tvm.kernels.winograd_points import Axial, Form, form_of
from planish.backends.tvm.kernels.winograd_whole import INT16, Unscale, fits, unscale, whole
from planish.backends.tvm.kernels.winograd_whole_weights import transform_codes
from planish.backends.tvm.target import parse_target
from planish.backends.tvm.template import Refused, Wants

CONV = planish.convolution.default
PAIRED = [name for name in CPUS if name != "single"]


def layer(pad: int, zero: int = 131, kernel: int = 3) -> Any:
    def fn(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        across = [pad, pad] if kernel == 3 else [0, pad]
        result: torch.Tensor = CONV(x, w, b, zero, [1, 1], across, [1, 1], False, [0, 0], 1)
        return result

    return fn


def inputs_of(x: tuple[int, ...], out: int, kernel: int = 3) -> list[tuple[torch.Tensor, ...]]:
    """Codes at either end, and weights whose sums are all as large as they get."""
    shape = (out, x[1], kernel, 3)
    bias = codes(out, dtype=torch.int16).to(S32) * 1000
    weights = [codes(*shape, dtype=S8).clamp(min=-127), torch.full(shape, 127, dtype=S8)]
    return [(v, w, bias) for v in hostile(x) for w in weights]


def task_of(fn: Any, inputs: Any, bits: int | None = 25, **options: Any) -> Any:
    task = make_task(fn, inputs, (1, 2), anchor=CONV, kind="conv", **options)
    if bits is not None:
        task.region.placeholders[1].meta["sum_bits"] = bits
    return task


def exact(m: int, fn: Any, sets: Any, cpu: str = "vnni", choose: Any = None) -> None:
    task = task_of(fn, sets[0], target=CPUS[cpu])
    built = build(WinogradInteger(m, anywhere=True), task, choose)
    for inputs in sets:
        assert torch.equal(torch.as_tensor(built.run(inputs)), fn(*inputs))


@pytest.mark.parametrize("cpu", PAIRED)
@pytest.mark.parametrize("m", [4, 2])
def test_sums(m: int, cpu: str) -> None:
    """Odd channels, and an image that no tile divides."""
    exact(m, layer(1), inputs_of((2, 37, 7, 9), 24), cpu)


@pytest.mark.parametrize("m", [4, 2])
@settings(max_examples=4)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 13), st.integers(1, 13)),
    st.integers(1, 40),
    st.integers(1, 3),
    st.sampled_from([0, 255, 128]),
)
def test_any_size(m: int, x: tuple[int, ...], out: int, pad: int, zero: int) -> None:
    exact(m, layer(pad, zero), inputs_of(x, out))


def test_along_one_axis() -> None:
    exact(4, layer(1, 9, kernel=1), inputs_of((1, 20, 5, 9), 16, kernel=1))


def test_every_blocking() -> None:
    """All of a space make the same integers."""
    inputs = inputs_of((1, 24, 14, 14), 32)[:2]
    space = WinogradInteger(4, anywhere=True).space(task_of(layer(1), inputs[0]))
    assert len(space) > 3
    for choice in (space[len(space) // 2], space[-1]):
        exact(4, layer(1), inputs, choose=lambda _, chosen=choice: chosen)


@pytest.mark.parametrize("out", [32, 19])
def test_requantized_and_added(out: int) -> None:
    """Four neighbours are stored together, and what is left of a row one by one; an operand may end inside a block."""
    m, c = torch.full((out, 1, 1), 1518500250), torch.arange(33, 33 + out).clamp(max=48).reshape(out, 1, 1)
    table = codes(256)

    def fn(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, m: torch.Tensor, c: torch.Tensor, t: Any) -> Any:
        code = planish.requantize.default(layer(1)(x, w, b), m, c, 0, 3, 0, 255, U8)
        return planish.lookup.default(code, t)

    sets = [(*inputs, m, c, table) for inputs in inputs_of((1, 32, 6, 10), out)]
    task = make_task(fn, sets[0], (1, 2, 3, 4, 5), anchor=CONV, kind="conv")
    task.region.placeholders[1].meta["sum_bits"] = 25
    task.region.placeholders[4].meta["shifts"] = (33, 48)
    built = build(WinogradInteger(4, anywhere=True), task)
    for inputs in sets:
        assert torch.equal(torch.as_tensor(built.run(inputs)), fn(*inputs))


@pytest.mark.parametrize(
    ("m", "bits", "cpu", "kernel", "reason"),
    [
        (4, None, "vnni", 3, "sums may have any number of bits, 25 are what is left of 32"),
        (4, 28, "vnni", 3, "sums may have 28 bits, 25 are what is left of 32"),
        (2, 29, "vnni", 3, None),
        (4, 28, "vnni", 1, None),
        (4, 25, "single", 3, "no products of pairs of int16"),
        (4, 25, "vnni", 5, "transformed weights or codes are no int16"),
    ],
)
def test_what_is_refused(m: int, bits: int | None, cpu: str, kernel: int, reason: str | None) -> None:
    x, w = codes(1, 16, 12, 12), torch.zeros(16, 16, kernel, 5 if kernel == 5 else 3, dtype=S8)
    task = task_of(layer(1), (x, w, torch.zeros(16, dtype=S32)), bits, target=CPUS[cpu])
    answer = WinogradInteger(2 if kernel == 5 else m, anywhere=True).wants(task)
    if reason is None:
        assert isinstance(answer, Wants)
    else:
        assert isinstance(answer, Refused)
        assert reason in answer.reason


@pytest.mark.parametrize(
    ("size", "channels", "expected"),
    [(56, 64, [True, True]), (28, 128, [True, True]), (14, 256, [True, True]), (7, 512, [False, True])],
)
def test_where_it_pays(size: int, channels: int, expected: list[bool]) -> None:
    """With dot products and without; transformed weights of 19 MB take longer than products of bytes for 7x7 images."""
    x, w = codes(1, channels, size, size), torch.zeros(channels, channels, 3, 3, dtype=S8)
    inputs = x, w, torch.zeros(channels, dtype=S32)
    tasks = [task_of(layer(1), inputs, target=parse_target(cpu, 2)) for cpu in ("znver4", "haswell")]
    assert [isinstance(WinogradInteger(4).wants(task), Wants) for task in tasks] == expected


def test_matrices() -> None:
    """A (G g * B d) is 24 times a correlation of 3 taps, in whole numbers."""
    axis = whole(Axial(4, 3, True))
    assert axis.multiple == 24
    assert [[int(v) for v in row] for row in axis.kernel] == [
        [3, 0, 0], [-1, -1, -1], [-1, 1, -1], [1, 2, 4], [1, -2, 4], [0, 0, 3]
    ]  # fmt: skip
    output, kernel, patch = (
        np.array([[int(v) for v in row] for row in m]) for m in (axis.output, axis.kernel, axis.patch)
    )
    d, g = np.arange(6) ** 3 - 50, np.array([5, -7, 11])
    assert (output @ ((kernel @ g) * (patch @ d)) == 24 * np.correlate(d, g, "valid")).all()


@pytest.mark.parametrize(("m", "taps", "expected"), [(4, 3, Unscale(6, 954437177)), (2, 3, Unscale(2, 1))])
def test_unscaling_undoes_the_multiple(m: int, taps: int, expected: Unscale) -> None:
    """Of every number that is small enough, the ends too: 576 · 954437177 = 64 modulo 2^32."""
    form = Form(Axial(m, taps, True), Axial(m, taps, True))
    found = unscale(form)
    assert found == expected
    multiple = whole(form.height).multiple ** 2
    most = 2**found.bits - 1
    for y in (0, 1, -1, 12345, -54321, most, -most - 1):
        wide = (y * multiple * found.inverse) % 2**32
        assert (wide - 2**32 * (wide >= 2**31)) >> found.shift == y
    assert (2**found.bits * multiple * found.inverse) % 2**32 >> 31  # one more has a wrong sign


def test_transformed_values_are_int16() -> None:
    form = form_of((3, 3), 4, whole=True)
    assert form is not None
    assert fits(form)
    ends = np.full((1, 1, 3, 3), -128, np.int8)
    assert abs(transform_codes(form, ends)).max() == 49 * 128 <= INT16
    five = form_of((5, 5), 2, whole=True)
    assert five is not None
    assert not fits(five)
    assert form_of((1, 7), 4, whole=True) is None
