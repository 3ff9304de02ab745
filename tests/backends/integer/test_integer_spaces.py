"""Every choice of the integer templates has the bits of the reference, and a space begins with the default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_case import S8, S16, S32, codes, planish
from kernel_case import build, make_task

from planish.backends.tvm.kernels.conv_integer import ConvInteger
from planish.backends.tvm.kernels.depthwise_integer import DepthwiseInteger
from planish.backends.tvm.kernels.gemm_integer import GemmInteger
from planish.backends.tvm.template import Choice, Template, distinct

CONV, LINEAR = planish.convolution.default, planish.linear.default


def conv(groups: int, stride: list[int], padding: list[int]) -> Callable[..., Any]:
    return lambda x, w, b: CONV(x, w, b, 9, stride, padding, [1, 1], False, [0, 0], groups)


def linear(x: Any, w: Any, b: Any) -> Any:
    return LINEAR(x, w, b, 9)


CASES: dict[str, tuple[Template, Any, Callable[..., Any], tuple[int, ...], tuple[int, ...]]] = {
    "conv": (ConvInteger(), CONV, conv(1, [2, 1], [1, 2]), (1, 35, 9, 13), (64, 35, 3, 5)),
    "pointwise conv": (ConvInteger(), CONV, conv(1, [1, 1], [0, 0]), (2, 48, 5, 7), (96, 48, 1, 1)),
    "depthwise": (DepthwiseInteger(), CONV, conv(21, [1, 1], [1, 1]), (1, 21, 9, 23), (21, 1, 3, 3)),
    "linear": (GemmInteger(), LINEAR, linear, (3, 17, 52), (41, 52)),
}


def _inputs(name: str) -> list[torch.Tensor]:
    *_, x, weight = CASES[name]
    return [codes(*x), codes(*weight, dtype=S8), codes(weight[0], dtype=S16).to(S32)]


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=4)
@given(st.data())
def test_every_choice_is_right(name: str, data: st.DataObject) -> None:
    template, anchor, fn, *_ = CASES[name]
    inputs = _inputs(name)
    task = make_task(fn, inputs, (1, 2), anchor=anchor)
    built = build(template, task, lambda space: data.draw(st.sampled_from(space)))
    assert torch.equal(torch.as_tensor(built.run(inputs)), fn(*inputs))


@pytest.mark.parametrize("name", CASES)
def test_a_space_begins_with_the_default_and_names_each_choice_once(name: str) -> None:
    template, anchor, fn, *_ = CASES[name]
    task = make_task(fn, _inputs(name), (1, 2), anchor=anchor)
    spaces: list[Sequence[Choice]] = []

    def last(space: Sequence[Choice]) -> Choice:
        spaces.append(space)
        return space[-1]

    assert build(template, task, last).lowered.choice == spaces[0][-1]
    assert build(template, task).lowered.choice == spaces[0][0]
    assert len(spaces[0]) > 1
    assert spaces[0] == distinct(spaces[0])
