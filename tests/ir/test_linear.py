"""The operator algebra against torch in float64, and each thing it must not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from planish.ir import linear
from planish.ir.linear import Linear

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
Sizes = tuple[int, ...]


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= 1e-12 * float(expected.abs().max() + 1)


@st.composite
def convolutions(draw: st.DrawFn, rank: int, inputs: int, outputs: int, extents: Sizes) -> tuple[Linear, Any]:
    """An operator and the torch function that it must equal."""
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if inputs % g == 0 and outputs % g == 0]))
    kernel, stride, dilation, padding = (
        [draw(st.integers(low, top)) for _ in range(rank)] for low, top in ((1, 3), (1, 2), (1, 2), (0, 2))
    )
    for i, size in enumerate(extents):
        if dilation[i] * (kernel[i] - 1) + 1 > size + 2 * padding[i]:
            kernel[i] = 1
    torch.manual_seed(draw(st.integers(0, 99)))
    weight = randn(outputs, inputs // groups, *kernel)
    bias = randn(outputs) if draw(st.booleans()) else None
    op = linear.convolution(weight, bias, stride, padding, dilation, groups, extents)
    return op, lambda x: CONV[rank](x, weight, bias, stride, padding, dilation, groups)


EXTENTS: dict[int, Sizes] = {1: (11,), 2: (9, 8), 3: (5, 6, 4)}


@settings(max_examples=settings.default.max_examples // 2)
@given(st.data(), st.sampled_from([1, 2, 2, 3]))
def test_convolutions_add_and_compose(data: st.DataObject, rank: int) -> None:
    extents = EXTENTS[rank]
    first, run_first = data.draw(convolutions(rank, 4, 4, extents))
    x = randn(2, 4, *extents)
    middle = run_first(x)
    close(first(x), middle)
    assert first.work == middle[0].numel() * first.weight[0].numel()
    second, run_second = data.draw(convolutions(rank, 4, 8, tuple(middle.shape[2:])))
    both = linear.compose(second, first)
    if isinstance(both, Linear):
        close(both(x), run_second(middle))
    else:
        assert any(second.padded)
        assert "pads what the first computes" in both
    other, run_other = data.draw(convolutions(rank, 4, 4, extents))
    total = linear.add(first, other, -1.0)
    if isinstance(total, Linear):
        close(total(x), middle - run_other(x))
    else:
        assert other.stride != first.stride or other.target != first.target


@settings(max_examples=settings.default.max_examples // 5)
@given(st.data())
def test_affines_commute_with_everything_but_padding(data: st.DataObject) -> None:
    op, run = data.draw(convolutions(2, 4, 4, (7, 6)))
    s, t, x = randn(4), randn(4), randn(2, 4, 7, 6)
    wide_s, wide_t = s.reshape(4, 1, 1), t.reshape(4, 1, 1)
    close(linear.scale(op, s, t)(x), run(x) * wide_s + wide_t)
    before = linear.compose(op, linear.affine(s, t, (7, 6)))
    assert isinstance(before, Linear)
    close(before(x), run(x * wide_s + wide_t))
    assert before.uniform(1e-12) or any(op.padded)
    assert linear.affine(s, t, (7, 6)).pointwise
    after = linear.compose(linear.affine(s, t, op.target), op)
    assert isinstance(after, Linear)
    close(after(x), run(x) * wide_s + wide_t)


def test_a_shift_before_padding_becomes_a_map() -> None:
    op = linear.convolution(torch.ones(1, 1, 3), None, [1], [1], [1], 1, (4,))
    shifted = linear.compose(op, linear.affine(torch.ones(1), torch.full((1,), 2.0), (4,)))
    assert isinstance(shifted, Linear)
    assert shifted.bias.tolist() == [[4.0, 6.0, 6.0, 4.0]]  # two taps at the ends, three inside, 2 each
    assert not shifted.uniform(1e-6)
    assert shifted.flat_bias().tolist() == [6.0]


def test_frames_of_a_value_make_a_bias_whole_again() -> None:
    t = torch.tensor([1.5, -2.0])
    one = linear.convolution(torch.eye(2)[:, :, None], t, [1], [0], [1], 1, (5,))
    framed = linear.compose(linear.pad(2, [1], [1], (5,), t), one)
    assert isinstance(framed, Linear)
    assert framed.uniform(0.0)
    x = randn(1, 2, 5)
    expected = torch.cat([t.double().reshape(1, 2, 1), x + t.reshape(2, 1), t.double().reshape(1, 2, 1)], 2)
    close(framed(x), expected)
    whole = linear.compose(linear.average(2, [3], [1], [0], (7,)), framed)
    assert isinstance(whole, Linear)
    close(whole(x), F.avg_pool1d(expected, 3, 1))
    assert whole.uniform(1e-15)


def test_averages_pads_and_cuts() -> None:
    x = randn(1, 3, 7, 6)
    close(linear.average(3, [3, 2], [2, 1], [1, 0], (7, 6))(x), F.avg_pool2d(x, (3, 2), (2, 1), (1, 0)))
    close(linear.pad(3, [1, -2], [0, 3], (7, 6))(x), F.pad(x, (-2, 3, 1, 0)))
    close(linear.identity(3, (7, 6))(x), x)


def test_identity_fits_every_kernel_and_grouping() -> None:
    x = randn(2, 4, 6, 6)
    for groups in (1, 2, 4):
        weight = randn(4, 4 // groups, 3, 3)
        conv = linear.convolution(weight, None, [1, 1], [1, 1], [1, 1], groups, (6, 6))
        total = linear.add(conv, linear.identity(4, (6, 6)))
        assert isinstance(total, Linear)
        assert (total.work, total.groups) == (conv.work, groups)
        close(total(x), F.conv2d(x, weight, padding=1, groups=groups) + x)


def test_kernels_share_the_smallest_lattice() -> None:
    def taps(*ops: tuple[int, int, int]) -> tuple[Sizes, Sizes, Sizes]:
        made = [linear.convolution(torch.ones(1, 1, k), None, [1], [p], [d], 1, (16,)) for k, d, p in ops]
        total = linear.add(*made)
        assert isinstance(total, Linear)
        return total.taps, total.dilation, total.low

    assert taps((3, 2, 2), (1, 1, 0)) == ((3,), (2,), (2,))  # the centre is a tap of the dilated kernel
    assert taps((3, 2, 2), (3, 1, 1)) == ((5,), (1,), (2,))
    assert taps((3, 4, 4), (3, 2, 2)) == ((5,), (2,), (4,))


def test_linear_layers_are_rank_zero() -> None:
    a, b = randn(5, 3), randn(4, 5)
    one = linear.convolution(a, randn(5), (), (), (), 1, ())
    two = linear.convolution(b, randn(4), (), (), (), 1, ())
    both = linear.compose(two, one)
    assert isinstance(both, Linear)
    x = randn(7, 3)
    close(both(x), two(one(x)))
    close(both.weight, b @ a)
    total = linear.add(linear.convolution(randn(3, 3), None, (), (), (), 1, ()), linear.identity(3, ()))
    assert isinstance(total, Linear)
    assert (total.groups, total.work) == (1, 9)


def test_outputs_stack_and_are_picked() -> None:
    x = randn(2, 4, 5, 5)
    ops = [linear.convolution(randn(n, 4, 3, 3), randn(n), [1, 1], [1, 1], [1, 1], 1, (5, 5)) for n in (2, 3)]
    both = linear.stack(ops)
    assert isinstance(both, Linear)
    close(both(x), torch.cat([op(x) for op in ops], 1))
    part = linear.rows(both, slice(1, 4))
    assert isinstance(part, Linear)
    close(part(x), both(x)[:, 1:4])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda a, g, s: linear.add(a, s), "their inputs or outputs differ in size"),
        (lambda a, g, s: linear.compose(a, s), "the second does not read what the first makes"),
        (lambda a, g, s: linear.stack([a, g]), "they have groups"),
        (lambda a, g, s: linear.stack([a, s]), "their kernels, strides, paddings or dilations differ"),
        (lambda a, g, s: linear.rows(g, slice(0, 3)), "it keeps parts of groups"),
    ],
)
def test_refusals(make: Any, reason: str) -> None:
    a = linear.convolution(randn(4, 4, 3, 3), None, [1, 1], [1, 1], [1, 1], 1, (6, 6))
    g = linear.convolution(randn(4, 2, 3, 3), None, [1, 1], [1, 1], [1, 1], 2, (6, 6))
    s = linear.convolution(randn(4, 4, 3, 3), None, [2, 2], [1, 1], [1, 1], 1, (6, 6))
    assert make(a, g, s) == reason


def test_equal_sizes_do_not_make_strides_equal() -> None:
    a = linear.convolution(randn(1, 1, 1), None, [1], [0], [1], 1, (2,))
    b = linear.convolution(randn(1, 1, 3), None, [2], [2], [1], 1, (2,))
    assert a.target == b.target
    assert linear.add(a, b) == "their strides [1] and [2] differ"
