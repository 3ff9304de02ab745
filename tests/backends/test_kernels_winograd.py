"""Winograd's convolution against torch: sizes, paddings, channels, operands, and what it may not read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from compare import unit_in_last_place
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_case import HOST, Built, aten, build, derive, in_memory, loops, make_task, randn

from planish.backends.tvm.kernels.conv import Conv, read_conv
from planish.backends.tvm.kernels.winograd import Winograd
from planish.backends.tvm.kernels.winograd_cost import FLOATS, PAIRS_DIRECT, _blockings, pays, plan_blocking
from planish.backends.tvm.kernels.winograd_points import Axial, Form, apply, matrices
from planish.backends.tvm.kernels.winograd_weights import packed_weight, transform
from planish.backends.tvm.template import Refused

CONV = aten.convolution.default
AXES = [(1, 1), *((m, taps) for m in (2, 4) for taps in (3, 5, 7))]
FACTOR = {4: 8, 2: 4}
"""Max error of one layer as a multiple of eager's: what winograd_points documents, and as much again."""


def square(m: int) -> Form:
    return Form(Axial(m, 3), Axial(m, 3))


def conv(padding: Sequence[int], after: Callable[..., Any] = lambda y: y) -> Callable[..., Any]:
    p, one, none = list(padding), [1] * len(padding), [0] * len(padding)
    return lambda x, w, b, *more: after(CONV(x, w, b, one, p, one, False, none, 1), *more)


def assert_near(actual: np.ndarray, fn: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> None:
    """max|actual - ref64| <= 2e-5 max|ref64|. Eager's own error says little where it is the largest of a few."""
    reference = fn(*(t.double() for t in inputs)).numpy()
    error, scale = float(np.abs(actual - reference).max()), float(np.abs(reference).max())
    assert error <= 2e-5 * scale, (error, scale)


def check(
    m: int, fn: Callable[..., Any], inputs: Sequence[torch.Tensor], constants: Sequence[int] = (1, 2), **options: Any
) -> Built:
    built = build(Winograd(m, anywhere=True), make_task(fn, inputs, constants, anchor=CONV, kind="conv", **options))
    assert_near(built.run(inputs), fn, inputs)
    return built


def layer(x: tuple[int, ...], out: int) -> list[torch.Tensor]:
    taps = (1, 3, 3) if len(x) == 5 else (3, 3)
    return [randn(*x), randn(out, x[1], *taps, seed=1), randn(out, seed=2)]


@pytest.mark.parametrize("m", [2, 4])
@settings(max_examples=10)
@given(
    st.tuples(st.integers(1, 13), st.integers(1, 13)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.integers(1, 2),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_any_size_padding_and_channels(
    m: int, size: tuple[int, int], padding: tuple[int, int], batch: int, channels: int, out: int
) -> None:
    made = [s + 2 * p - 2 for s, p in zip(size, padding, strict=True)]
    assume(min(made) > 0)
    assume(batch * out * made[0] * made[1] >= 16)  # fewer results may all be near zero, which is no scale
    check(m, conv(padding), layer((batch, channels, *size), out))


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("channels", "size"), [(64, 28), (128, 14), (256, 7)])
def test_error_of_typical_layers(m: int, channels: int, size: int) -> None:
    inputs, fn = layer((1, channels, size, size), channels), conv([1, 1])
    actual = check(m, fn, inputs).run(inputs)
    reference, eager = fn(*(t.double() for t in inputs)).numpy(), fn(*inputs).numpy()
    error, own = np.abs(actual - reference).max(), np.abs(eager - reference).max()
    assert error <= FACTOR[m] * own + 8 * unit_in_last_place(np.abs(reference).max(), "float32"), error / own


KERNELS = [(4, (1, 3)), (4, (3, 1)), (4, (1, 5)), (4, (7, 1)), (4, (1, 7)), (2, (5, 5)), (2, (3, 5)), (2, (1, 7))]


@pytest.mark.parametrize(("m", "kernel"), KERNELS)
@settings(max_examples=4)
@given(st.tuples(st.integers(1, 13), st.integers(1, 13)), st.integers(1, 2), st.integers(1, 40), st.integers(1, 40))
def test_other_kernels(
    m: int, kernel: tuple[int, int], size: tuple[int, int], batch: int, channels: int, out: int
) -> None:
    padding = [k // 2 for k in kernel]
    assume(batch * out * size[0] * size[1] >= 16)
    inputs = [randn(batch, channels, *size), randn(out, channels, *kernel, seed=1), randn(out, seed=2)]
    check(m, conv(padding), inputs)


@pytest.mark.parametrize(("m", "kernel"), KERNELS)
def test_error_of_other_kernels(m: int, kernel: tuple[int, int]) -> None:
    inputs = [randn(1, 128, 17, 17), randn(128, 128, *kernel, seed=1), randn(128, seed=2)]
    fn = conv([k // 2 for k in kernel])
    actual, reference = check(m, fn, inputs).run(inputs), fn(*(t.double() for t in inputs)).numpy()
    error, scale = np.abs(actual - reference).max(), np.abs(reference).max()
    assert error <= 4e-6 * scale, error / scale


def test_sequences() -> None:
    check(4, conv([1]), [randn(2, 20, 31), randn(24, 20, 3, seed=1), randn(24, seed=2)])
    check(4, conv([0]), [randn(1, 33, 9), randn(40, 33, 7, seed=1), randn(40, seed=2)])


def test_padding_across_the_axis_that_has_no_taps() -> None:
    check(4, conv([2, 1]), [randn(1, 20, 5, 9), randn(24, 20, 1, 3, seed=1), randn(24, seed=2)])


def test_without_bias() -> None:
    one, none = [1, 1], [0, 0]
    fn = lambda x, w: CONV(x, w, None, one, one, one, False, none, 1)  # noqa: E731
    check(4, fn, layer((1, 20, 9, 9), 24)[:2], (1,))


def test_a_volume_of_one_slice_is_an_image() -> None:
    check(4, conv([0, 1, 1]), layer((2, 20, 1, 6, 9), 24))


@pytest.mark.parametrize(
    "shape", [(2, 24, 5, 6), (24, 1, 1), (1, 24, 1, 1), (2, 24, 1, 1), (2, 1, 5, 6), (5, 6), (1,), ()]
)
@pytest.mark.parametrize("constant", [False, True])
def test_epilogue_operands(shape: tuple[int, ...], constant: bool) -> None:
    fn = conv([1, 1], lambda y, r: aten.relu.default(aten.add.Tensor(y, r)))
    inputs = [*layer((2, 20, 5, 6), 24), randn(*shape)]
    constants = (1, 2, 3) if constant else (1, 2)
    if isinstance(refused := Winograd(4, anywhere=True).wants(make_task(fn, inputs, constants, anchor=CONV)), Refused):
        assert not constant
        assert shape == (24, 1, 1)
        assert "channels where the batch" in refused.reason
        return
    check(4, fn, inputs, constants)


@pytest.mark.parametrize("last", [(20, 1, 1), (1, 1, 1)])
def test_no_lane_past_an_operand_that_ends_with_the_channels(last: tuple[int, int, int]) -> None:
    fn = conv([1, 1], lambda y, r: aten.add.Tensor(y, aten.sigmoid.default(r)))  # so that r comes PLAIN
    built = check(4, fn, [*layer((1, 20, 5, 6), 20), randn(1, *last)])
    assert (("vectorized", 20 % HOST.block) in loops(built.lowered.func)) == (last[0] == 20)


def test_input_is_its_own_residual() -> None:
    fn = lambda x, w, b: aten.add.Tensor(conv([1, 1])(x, w, b), x)  # noqa: E731
    check(4, fn, layer((1, 20, 5, 6), 20))


def test_a_value_used_twice_in_the_epilogue() -> None:
    fn = conv([1, 1], lambda y: aten.mul.Tensor(y, aten.sigmoid.default(y)))
    check(4, fn, layer((1, 20, 5, 6), 20))


@pytest.mark.parametrize("m", [2, 4])
def test_one_nan_spoils_no_tile_that_does_not_see_it(m: int) -> None:
    inputs = layer((1, 20, 13, 13), 20)
    fn = conv([1, 1])
    built = check(m, fn, inputs)
    clean = built.run(inputs)
    inputs[0][0, 3, 0, 12] = torch.nan
    spoiled = np.isnan(built.run(inputs))
    wanted = np.isnan(fn(*inputs).numpy())
    assert np.all(spoiled[wanted])
    rows, columns = (np.flatnonzero(spoiled.any((0, 1, axis))) for axis in (3, 2))
    assert rows.max() < m  # only the topmost tiles
    assert columns.min() >= (12 - 1) // m * m
    np.testing.assert_array_equal(built.run(inputs)[~spoiled], clean[~spoiled])


@pytest.mark.parametrize("m", [2, 4])
def test_every_blocking_gives_the_same_bits(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, fn = layer((1, 33, 10, 11), 70), conv([1, 1])
    task = make_task(fn, inputs, (1, 2), anchor=CONV)
    plans = list(_blockings(geometry(inputs, [1, 1]), m, HOST, FLOATS))
    assert len({(p.tile_blocks, p.groups, p.rows) for p in plans}) > 4
    picked = [plans[0], plans[-1], *plans[1 : -1 : max(1, len(plans) // 4)]]
    picked.append(replace(plans[-1], tile_blocks=2))  # two sizes of blocks or an even cut, as the tiles divide
    results = []
    for plan in picked:
        monkeypatch.setattr("planish.backends.tvm.kernels.winograd.plan_blocking", lambda *_, plan=plan: plan)
        results.append(build(Winograd(m, anywhere=True), task).run(inputs))
        assert_near(results[-1], fn, inputs)
    assert all(np.array_equal(results[0], other) for other in results[1:])


def geometry(inputs: Sequence[torch.Tensor], padding: Sequence[int]) -> Conv:
    found = read_conv(make_task(conv(padding), inputs, (1, 2), anchor=CONV))
    assert isinstance(found, Conv)
    return found


@pytest.mark.parametrize(("m", "taps"), AXES)
def test_matrices_are_exact(m: int, taps: int) -> None:
    found = matrices(Axial(m, taps))
    patch = [Fraction(n * n - 7 * n + 3, 5) for n in range(m + taps - 1)]
    kernel = [Fraction(2 * n * n - 3, n + 7) for n in range(taps)]
    v = [sum(c * d for c, d in zip(row, patch, strict=True)) for row in found.patch]
    u = [sum(c * g for c, g in zip(row, kernel, strict=True)) for row in found.kernel]
    products = [a * b for a, b in zip(u, v, strict=True)]
    y = [sum(c * p for c, p in zip(row, products, strict=True)) for row in found.output]
    assert y == [sum(patch[i + k] * kernel[k] for k in range(taps)) for i in range(m)]


@pytest.mark.parametrize(("m", "taps"), AXES)
def test_data_transforms_have_exact_coefficients(m: int, taps: int) -> None:
    found = matrices(Axial(m, taps))
    values = [c for row in (*found.patch, *found.output) for c in row]
    assert all(Fraction(float(np.float32(float(c)))) == c for c in values)


@pytest.mark.parametrize("m", [2, 4])
def test_weights_are_transformed_in_float64_and_cast_once(m: int) -> None:
    weight = randn(5, 7, 3, 3).numpy()
    rows = matrices(Axial(m, 3)).kernel
    for o, c in [(0, 0), (4, 6)]:
        g = [[Fraction(float(v)) for v in row] for row in weight[o, c]]
        exact = [
            sum(a[k] * b[n] * g[k][n] for k in range(3) for n in range(3)) for a, b in itertools.product(rows, rows)
        ]
        assert transform(square(m), weight)[:, o, c].tolist() == [float(np.float32(float(v))) for v in exact]


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("out", "channels", "dtype"), [(40, 7, "float32"), (64, 33, "float32"), (40, 7, "bfloat16")])
def test_compiled_code_derives_the_same_bits(m: int, out: int, channels: int, dtype: str) -> None:
    weight, block = randn(out, channels, 3, 3).to(getattr(torch, dtype)), HOST.block
    blocks = -(-out // block)
    for each in (d for d in range(1, blocks + 1) if blocks % d == 0):
        made = packed_weight(0, square(m), (blocks // each, (m + 2) ** 2, channels, each, block), dtype).packed
        derived = np.from_dlpack(derive(made, in_memory(weight), HOST))  # [chunk, p, c, b, lane]
        flat = derived.transpose(1, 0, 3, 4, 2).reshape((m + 2) ** 2, -1, channels)
        np.testing.assert_array_equal(flat[:, :out], transform(square(m), weight.float().numpy()))
        assert not flat[:, out:].any()


class Counted:
    """A number that counts the additions made on the way to it and others."""

    additions = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __add__(self, other: Counted) -> Counted:
        Counted.additions += 1
        return Counted(self.value + other.value)

    def __sub__(self, other: Counted) -> Counted:
        return self + other * -1.0

    def __mul__(self, factor: float) -> Counted:
        return Counted(self.value * factor)


def test_pairs_of_points_share_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.backends.tvm.kernels.winograd_points.once", lambda value: value)
    monkeypatch.setattr("planish.backends.tvm.kernels.winograd_points.const", lambda value, dtype: value)
    found = matrices(Axial(4, 3))
    numbers = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0]
    # B^T: two rows of 3 terms, two pairs of (2 terms, 2 terms, +, -): 16 additions without sharing.
    # A^T: two sums, two differences, then rows of 3, 2, 2 and 3 terms: 14 without.
    for matrix, additions in ((found.patch, 2 + 2 * 4 + 2), (found.output, 4 + 2 + 1 + 1 + 2)):
        Counted.additions = 0
        made = [value.value for value in apply(matrix, [Counted(n) for n in numbers])]
        assert Counted.additions == additions
        assert made == [float(sum(c * Fraction(n) for c, n in zip(row, numbers, strict=True))) for row in matrix]


@pytest.mark.parametrize(
    ("m", "kernel", "stride", "dilation", "groups", "why"),
    [
        (4, [5, 5], 1, 1, 1, "kernel 5x5 has no short form with tiles of 4"),
        (2, [7, 7], 1, 1, 1, "kernel 7x7 has no short form"),
        (4, [2, 2], 1, 1, 1, "kernel 2x2 has no short form"),
        (4, [1, 1], 1, 1, 1, "kernel 1x1 has no short form"),
        (4, [3, 3], 2, 1, 1, "stride or dilation"),
        (4, [3, 3], 1, 2, 1, "stride or dilation"),
        (4, [3, 3], 1, 1, 2, "2 groups"),
    ],
)
def test_refusals(m: int, kernel: list[int], stride: int, dilation: int, groups: int, why: str) -> None:
    fn = lambda x, w, b: CONV(x, w, b, [stride] * 2, [1, 1], [dilation] * 2, False, [0, 0], groups)  # noqa: E731
    inputs = [randn(1, 32, 8, 8), randn(32, 32 // groups, *kernel), randn(32)]
    refused = Winograd(m, anywhere=True).wants(make_task(fn, inputs, (1, 2), anchor=CONV))
    assert isinstance(refused, Refused)
    assert why in refused.reason


def test_a_volume_is_refused() -> None:
    refused = Winograd(4, anywhere=True).wants(
        make_task(conv([0, 1, 1]), layer((1, 20, 2, 6, 9), 24), (1, 2), anchor=CONV)
    )
    assert isinstance(refused, Refused)
    assert "not over an image" in refused.reason


def test_pays_where_arithmetic_is_the_limit() -> None:
    zen = replace(HOST, cpu="znver4", features=HOST.features | {"avx512f", "avx2"}, threads=2)
    layers = {(c, s): geometry(layer((1, c, s, s), c), [1, 1]) for c, s in [(64, 56), (128, 28), (256, 14), (512, 7)]}
    assert [pays(g, zen) for g in layers.values()] == [True, True, True, False]  # 37.7 MB of weights
    assert not pays(geometry(layer((1, 512, 1, 1), 512), [1, 1]), zen)  # one pixel of sixteen
    assert not pays(geometry(layer((1, 3, 56, 56), 64), [1, 1]), zen)  # an RGB stem
    assert pays(geometry(layer((16, 512, 7, 7), 512), [1, 1]), zen)  # a large batch shares the weights


def test_pays_against_pairs_of_bfloat16() -> None:
    zen = replace(HOST, cpu="znver4", features=HOST.features | {"avx512f", "avx2"}, threads=2)
    layers = [geometry(layer((1, c, s, s), c), [1, 1]) for c, s in [(64, 56), (128, 28), (256, 14), (512, 7)]]
    assert [pays(g, zen, 4, PAIRS_DIRECT) for g in layers] == [True, True, True, False]
    assert [pays(g, zen, 2) for g in layers] == [False, False, False, True]
    assert not any(
        pays(g, zen, 2, PAIRS_DIRECT) for g in layers
    )  # 2.25 times fewer multiplications, each at half speed


def test_scratch_fits_the_second_level_cache() -> None:
    for c, s in [(64, 56), (256, 14), (512, 28)]:
        plan = plan_blocking(geometry(layer((1, c, s, s), c), [1, 1]), 4, HOST)
        bytes_ = 4 * 36 * plan.tiles * (plan.patch_stride + plan.blocks * HOST.block)
        assert bytes_ <= 640 * 1024 or plan.tiles == 1
