"""1x1 convolutions that compute their input as they read it: channels, cuts, operands, NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_case import aten, build, check, make_task, randn

from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.template import Refused

CONV = aten.convolution.default


def _conv(x: Any, w: Any, b: Any = None) -> Any:
    return CONV(x, w, b, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)


def _norm_conv(x: Any, s: Any, t: Any, w: Any, b: Any = None) -> Any:
    return _conv(aten.relu.default(aten.add.Tensor(aten.mul.Tensor(x, s), t)), w, b)


def _inputs(channels: int, out: int, *size: int, batch: int = 1) -> list[torch.Tensor]:
    per_channel = [randn(channels, *[1] * len(size), seed=i) for i in (1, 2)]
    return [randn(batch, channels, *size), *per_channel, randn(out, channels, *[1] * len(size)), randn(out)]


@settings(max_examples=10)
@given(
    st.integers(2, 70),
    st.integers(1, 70),
    st.lists(st.integers(2, 9), min_size=2, max_size=2),
    st.integers(1, 2),
    st.integers(0, 10**6),
)
def test_every_size_and_choice(channels: int, out: int, size: list[int], batch: int, number: int) -> None:
    inputs = _inputs(channels, out, *size, batch=batch)
    inputs[0].view(-1)[::11] = float("inf")
    inputs[0].view(-1)[5] = float("nan")
    default = check(ConvDirect(), _norm_conv, inputs, [1, 2, 3, 4], anchor=CONV).run(inputs)
    task = make_task(_norm_conv, inputs, [1, 2, 3, 4], anchor=CONV)
    other = build(ConvDirect(), task, lambda space: space[number % len(space)]).run(inputs)
    np.testing.assert_allclose(other, default, rtol=1e-5, atol=1e-4)


def test_the_bits_are_those_of_any_cut_and_of_two_kernels() -> None:
    x, _, _, w, b = _inputs(40, 64, 11, 11)
    apart = build(ConvDirect(), make_task(_conv, [x, w, b], [1, 2], anchor=CONV))
    expected = apart.run([torch.relu(x), w, b])
    task = make_task(lambda x, w, b: _conv(aten.relu.default(x), w, b), [x, w, b], [1, 2], anchor=CONV)
    alike = [c for c in ConvDirect().space(task) if c["tile"] == apart.lowered.choice["tile"]]
    assert len({(c["fill"], c["parts"]) for c in alike}) > 1
    for choice in alike:
        made = build(ConvDirect(), task, lambda _, choice=choice: choice).run([x, w, b])
        assert np.array_equal(made.view(np.uint32), expected.view(np.uint32))


def test_equal_channels_on_both_sides_and_a_residual_sum() -> None:
    """The prologue's constants look like the epilogue's, and both are read."""
    inputs = [*_inputs(24, 24, 6, 7), randn(1, 24, 6, 7, seed=9)]

    def both(x: Any, s: Any, t: Any, w: Any, b: Any, r: Any) -> Any:
        return aten.mul.Tensor(aten.add.Tensor(_norm_conv(x, s, t, w, b), r), s)

    check(ConvDirect(), both, inputs, [1, 2, 3, 4], anchor=CONV)


def _refused(fn: Any, inputs: list[torch.Tensor], constants: list[int]) -> str:
    answer = ConvDirect().wants(make_task(fn, inputs, constants, anchor=CONV))
    assert isinstance(answer, Refused)
    return answer.reason


def test_refusals() -> None:
    x, s, t, w, _ = _inputs(16, 16, 5, 5)
    assert "several activations" in _refused(lambda x, y, w: _conv(aten.add.Tensor(x, y), w), [x, x, w], [2])
    assert "broadcast" in _refused(lambda x, s, w: _conv(aten.mul.Tensor(x, s), w), [s[None], x, w], [1, 2])
    assert "element by element" in _refused(lambda x, w: _conv(aten.flip.default(x, [3]), w), [x, w], [1])
    wide = [x, s, t, randn(16, 16, 3, 3)]
    assert "1x1" in _refused(_norm_conv, wide, [1, 2, 3])
    narrow = [v.bfloat16() for v in (x, s, t, w)]
    many = _inputs(2**16, 1, 1, 2)[:4]
    assert "do not fit" in _refused(_norm_conv, many, [1, 2, 3])
    answer = ConvDirect().wants(make_task(_norm_conv, narrow, [1, 2, 3], anchor=CONV))
    assert not isinstance(answer, Refused) or "pairs of bfloat16" in answer.reason


def test_a_pool_after_it_is_apart() -> None:
    def all_three(x: Any, s: Any, t: Any, w: Any) -> Any:
        return aten.max_pool2d.default(_norm_conv(x, s, t, w), [2, 2], [2, 2], [0, 0], [1, 1], False)

    assert "computed as it is read" in _refused(all_three, _inputs(16, 16, 8, 8)[:4], [1, 2, 3])


@pytest.mark.parametrize("size", [(7,), (3, 2, 5)])
def test_sequences_and_volumes(size: tuple[int, ...]) -> None:
    rank = len(size)

    def both(x: Any, s: Any, t: Any, w: Any) -> Any:
        before = aten.relu.default(aten.add.Tensor(aten.mul.Tensor(x, s), t))
        return CONV(before, w, None, [1] * rank, [0] * rank, [1] * rank, False, [0] * rank, 1)

    check(ConvDirect(), both, _inputs(20, 33, *size)[:4], [1, 2, 3], anchor=CONV)
