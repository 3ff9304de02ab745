"""Addresses with shifted quotients: what a kernel reads is what its index says."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_case import HOST, aten, check, randn

from planish.backends.tvm.compat import IRBuilder, T, tvm
from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.shifted import protect

Index = Callable[[list[Any]], list[Any]]


def build(index: Index, extents: list[int], inner: int, source: tuple[int, ...], loop: Any) -> Any:
    """out[v, u] = source[index(parts of v, u)], with the parts named as kernels name them."""
    count = prod(extents)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        a = T.match_buffer(T.arg("a", T.handle()), source, "float32")
        b = T.match_buffer(T.arg("b", T.handle()), (count, inner), "float32")
        with T.serial(0, count) as v:
            parts = [T.Bind(part) for part in unravel(v, extents)]
            with loop(0, inner) as u:
                T.buffer_store(b, a[tuple(index([*parts, u]))], [v, u])
    return builder.get()


def unravel(v: Any, extents: list[int]) -> list[Any]:
    return [v // prod(extents[i + 1 :]) % e if i else v // prod(extents[1:]) for i, e in enumerate(extents)]


def addresses_are_right(index: Index, extents: list[int], inner: int, loop: Any, guard: bool = True) -> bool:
    count = prod(extents)
    v, u = np.arange(count)[:, None], np.arange(inner)[None, :]
    where = [np.broadcast_to(i, (count, inner)) for i in index([*unravel(v, extents), u])]
    shape = tuple(int(i.max()) + 1 for i in where)
    func = build(index, extents, inner, shape, loop)
    module = tvm.compile(tvm.IRModule({"main": protect(func) if guard else func}), target=HOST.tvm_target())
    source = np.arange(prod(shape), dtype=np.float32).reshape(shape)
    made = tvm.runtime.tensor(np.full((count, inner), -1, np.float32))
    module["main"](tvm.runtime.tensor(source), made)
    return np.array_equal(made.numpy(), source[tuple(where)])


@st.composite
def indices(draw: Any) -> Index:
    """Sums of parts, divided and shifted up to three times, on one to three axes."""

    def quotient(steps: int) -> Callable[[list[Any]], Any]:
        first, second, scale = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(0, 4))
        shift, by, rest = draw(st.integers(0, 5)), draw(st.integers(1, 6)), draw(st.booleans())
        before = quotient(steps - 1) if steps else lambda parts: parts[first]

        def at(parts: list[Any]) -> Any:
            value = before(parts) * scale + parts[second] + shift if scale else before(parts) + shift
            return value % by if rest else value // by

        return at

    axes = [quotient(draw(st.integers(0, 2))) for _ in range(draw(st.integers(1, 3)))]
    return lambda parts: [axis(parts) for axis in axes]


@settings(max_examples=40)
@given(indices(), st.lists(st.integers(1, 7), min_size=3, max_size=3), st.integers(1, 8), st.booleans())
def test_random_addresses(index: Index, extents: list[int], inner: int, vector: bool) -> None:
    loop = T.vectorized if vector and inner > 1 else T.serial
    assert addresses_are_right(index, extents, inner, loop)


CASES = {
    "nested": lambda p: [(p[2] + 1) // 3 * 2],
    "read twice": lambda p: [p[1], (p[2] + 1) // 2, (p[2] + 1) % 2],
    "sum": lambda p: [((p[0] * 2 + p[3] + 5) // 3 * 2 + 2) % 6 * 3],
}


@pytest.mark.parametrize("name", CASES)
def test_known_cases(name: str) -> None:
    assert addresses_are_right(CASES[name], [7, 2, 3], 2, T.serial)


def test_tvm_needs_it_still() -> None:
    """When this fails, TVM is repaired: away with `shifted.py`."""
    assert not addresses_are_right(CASES["nested"], [5, 1, 3], 3, T.serial, guard=False)


def test_plain_addresses_stay_as_they_are() -> None:
    func = build(lambda p: [p[0], p[1] * 4 + p[3], (p[3] + 1) // 2], [3, 2, 2], 4, (3, 8, 3), T.serial)
    same = build(lambda p: [p[0], p[1] * 4, (p[3] + 1) // 2], [3, 2, 2], 4, (3, 8, 3), T.serial)
    assert protect(func) is not func  # p[3] is read twice
    assert protect(same) is same


def test_transposed_convolution_by_the_generic_scheduler() -> None:
    def fn(x: Any, w: Any, b: Any) -> Any:
        return aten.convolution.default(x, w, b, [2, 2], [1, 1], [1, 1], True, [0, 0], 1)

    inputs = [randn(2, 3, 11, 11), randn(3, 5, 2, 3), randn(5)]
    check(Generic(), fn, inputs, (1, 2), kind="conv", anchor=aten.convolution.default)
