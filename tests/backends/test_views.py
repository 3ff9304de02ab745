"""Index maps of views against torch, element by element."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_case import aten, make_task, randn
from torch import fx

from planish.backends.tvm.compat import tvm
from planish.backends.tvm.views import (
    broadcast_index,
    forward_index,
    is_bijective,
    is_view,
    memory_strides,
    reshape_index,
    source_index,
)

VIEWS = [
    lambda x: aten.reshape.default(x, [6, 20]),
    lambda x: aten.reshape.default(x, [1, 4, 3, 5, 2]),
    lambda x: aten.reshape.default(x, [3, 8, 5]),
    lambda x: aten.permute.default(x, [2, 0, 1]),
    lambda x: aten.flip.default(x, [0, 2]),
    lambda x: aten.roll.default(x, [1, -7], [0, 2]),
    lambda x: aten.slice.Tensor(x, 1, 1, 4, 2),
    lambda x: aten.slice.Tensor(x, 2, 3, 5, 1),
    lambda x: aten.expand.default(x, [7, 4, 6, 5]),
]


def last_call(fn: Any) -> fx.Node:
    node: fx.Node = make_task(fn, [randn(4, 6, 5)]).region.result
    return node


def numbers(index: list[Any]) -> tuple[int, ...]:
    return tuple(int(tvm.sym.Analyzer().simplify(i)) if not isinstance(i, int) else i for i in index)


@pytest.mark.parametrize("view", VIEWS)
def test_source_index(view: Any) -> None:
    x = torch.arange(120).reshape(4, 6, 5)
    y, node = view(x), last_call(view)
    assert is_view(node)
    for index in product(*map(range, y.shape)):
        assert y[index] == x[numbers(source_index(node, list(index)))]


@pytest.mark.parametrize("view", VIEWS)
def test_forward_index_of_bijective_views(view: Any) -> None:
    x = torch.arange(120).reshape(4, 6, 5)
    y, node = view(x), last_call(view)
    assert is_bijective(node) == (y.numel() == x.numel())
    if is_bijective(node):
        for index in product(*map(range, x.shape)):
            assert x[index] == y[numbers(forward_index(node, list(index)))]


@st.composite
def shapes(draw: Any) -> tuple[list[int], list[int]]:
    factors = draw(st.lists(st.integers(1, 4), max_size=4))

    def merged() -> list[int]:
        shape: list[int] = []
        left = list(factors)
        while left:
            count = draw(st.integers(1, len(left)))
            shape.append(prod(left[:count]))
            left = left[count:]
            shape += [1] * draw(st.integers(0, 1))
        return shape

    return merged(), merged()


@settings(max_examples=100)
@given(shapes())
def test_reshape_index_keeps_the_row_major_order(pair: tuple[list[int], list[int]]) -> None:
    old, new = pair
    for place, index in enumerate(product(*map(range, old))):
        found = numbers(reshape_index([int(i) for i in index], old, new))
        assert sum(i * prod(new[a + 1 :]) for a, i in enumerate(found)) == place


def test_an_axis_that_a_reshape_keeps_keeps_its_index() -> None:
    assert reshape_index(["b", "s", "d"], [2, 197, 8], [2, 197, 8]) == ["b", "s", "d"]


def test_broadcast_index() -> None:
    assert broadcast_index(["a", "b", "c"], (1, 5)) == [0, "c"]


def test_memory_strides_of_a_transposed_slice() -> None:
    def fn(x: Any) -> Any:
        return aten.permute.default(aten.slice.Tensor(x, 1, 1, 6, 2), [2, 1, 0])

    assert memory_strides(last_call(fn)) == [1, 10, 30]
