"""Attention in one kernel against torch: masks, causality, odd lengths, head widths, views, non-finite scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_case import aten, check, make_task, randn

from planish.backends.tvm.kernels.attention import Attention
from planish.backends.tvm.template import Refused

SDPA = aten.scaled_dot_product_attention.default


def qkv(queries: int, keys: int, depth: int, width: int | None = None, heads: int = 2) -> list[torch.Tensor]:
    return [
        randn(2, heads, queries, depth),
        randn(2, heads, keys, depth, seed=1),
        randn(2, heads, keys, width or depth, seed=2),
    ]


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_any_size(queries: int, keys: int, depth: int, width: int, causal: bool) -> None:
    fn = lambda q, k, v: SDPA(q, k, v, None, 0.0, causal)  # noqa: E731
    check(Attention(), fn, qkv(queries, keys, depth, width), anchor=SDPA)


@pytest.mark.parametrize("depth", [32, 48, 64, 80, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_typical_heads(depth: int, causal: bool) -> None:
    fn = lambda q, k, v: SDPA(q, k, v, None, 0.0, causal)  # noqa: E731
    check(Attention(), fn, qkv(33, 197, depth), anchor=SDPA, external=True)


def test_scale() -> None:
    check(Attention(), lambda q, k, v: SDPA(q, k, v, None, 0.0, False, scale=0.3), qkv(9, 20, 16), anchor=SDPA)


def test_long_sequences_keep_their_precision() -> None:
    q, k, v = qkv(3, 3000, 8)
    check(Attention(), lambda q, k, v: SDPA(q, k, v, None, 0.0, False), [0.01 * q, k, v], anchor=SDPA)


@pytest.mark.parametrize("shape", [(2, 2, 19, 23), (2, 1, 19, 23), (1, 1, 1, 23), (2, 1, 1, 23), (19, 23), (2, 19, 1)])
@pytest.mark.parametrize("kind", ["float", "bool"])
@pytest.mark.parametrize("constant", [False, True])
def test_masks(shape: tuple[int, ...], kind: str, constant: bool) -> None:
    mask = randn(*shape)
    inputs = [*qkv(19, 23, 16), mask if kind == "float" else mask > -0.3]

    def fn(q: Any, k: Any, v: Any, m: Any) -> Any:
        return SDPA(q, k, v, m.to(q.dtype) if isinstance(m, torch.Tensor) and m.is_floating_point() else m, 0.0, False)

    check(Attention(), fn, inputs, (3,) if constant else (), anchor=SDPA)


@pytest.mark.parametrize("kind", ["float", "bool"])
@pytest.mark.parametrize("constant", [False, True])
def test_a_row_without_keys_is_zero(kind: str, constant: bool) -> None:
    allowed = torch.ones(19, 23, dtype=torch.bool)
    allowed[4] = False
    mask = allowed if kind == "bool" else torch.zeros(19, 23).masked_fill(~allowed, float("-inf"))

    def fn(q: Any, k: Any, v: Any, m: Any) -> Any:
        return SDPA(q, k, v, m.to(q.dtype) if isinstance(m, torch.Tensor) and m.is_floating_point() else m, 0.0, False)

    inputs = [*qkv(19, 23, 16), mask]
    built = check(Attention(), fn, inputs, (3,) if constant else (), anchor=SDPA)
    assert not built.run(inputs)[:, :, 4].any()


def test_nan_and_infinite_scores() -> None:
    q, k, v = qkv(9, 20, 16)
    k[0, 0, 3, 1] = float("inf")
    q[1, 1, 2, 0] = float("nan")
    v[1, 0, 5, 5] = float("inf")
    check(Attention(), lambda q, k, v: SDPA(q, k, v, None, 0.0, False), [q, k, v], anchor=SDPA)


def test_heads_are_split_and_joined_through_views() -> None:
    def split(x: Any, rows: int) -> Any:
        return aten.permute.default(aten.reshape.default(x, [2, rows, 3, 20]), [0, 2, 1, 3])

    def fn(q: Any, k: Any, v: Any) -> Any:
        y = SDPA(split(q, 19), split(k, 23), split(v, 23), None, 0.0, False)
        return aten.reshape.default(aten.permute.default(y, [0, 2, 1, 3]), [2, 19, 60])

    check(Attention(), fn, [randn(2, 19, 60), randn(2, 23, 60), randn(2, 23, 60, seed=4)], anchor=SDPA)


def test_one_packed_projection_is_sliced() -> None:
    def part(x: Any, i: int) -> Any:
        five = aten.permute.default(aten.reshape.default(x, [2, 19, 3, 4, 8]), [2, 0, 3, 1, 4])
        return aten.reshape.default(aten.slice.Tensor(five, 0, i, i + 1, 1), [2, 4, 19, 8])

    fn = lambda x: SDPA(part(x, 0), part(x, 1), part(x, 2), None, 0.0, True)  # noqa: E731
    check(Attention(), fn, [randn(2, 19, 96)], anchor=SDPA)


def test_grouped_queries() -> None:
    inputs = [randn(2, 6, 9, 16), randn(2, 2, 11, 16, seed=1), randn(2, 2, 11, 16, seed=2)]
    fn = lambda q, k, v: SDPA(q, k, v, None, 0.0, False, enable_gqa=True)  # noqa: E731
    check(Attention(), fn, inputs, anchor=SDPA)


def test_without_batch_or_heads() -> None:
    inputs = [randn(9, 16), randn(11, 16, seed=1), randn(11, 16, seed=2)]
    check(Attention(), lambda q, k, v: SDPA(q, k, v, None, 0.0, False), inputs, anchor=SDPA)


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda q, k, v: SDPA(q, k, v, None, 0.5, False), "dropout"),
        (lambda q, k, v: SDPA(aten.relu.default(q), k, v, None, 0.0, False), "computed inside"),
        (lambda q, k, v: aten.relu.default(q), "not an attention"),
    ],
)
def test_refusals_say_why(fn: Any, reason: str) -> None:
    anchor = None if reason == "not an attention" else SDPA
    refused = Attention().wants(make_task(fn, qkv(3, 4, 8), anchor=anchor))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


def test_double_precision_is_refused() -> None:
    fn = lambda q, k, v: SDPA(q, k, v, None, 0.0, False)  # noqa: E731
    refused = Attention().wants(make_task(fn, [t.double() for t in qkv(3, 4, 8)], anchor=SDPA))
    assert isinstance(refused, Refused)
    assert refused.reason == "not float32 or bfloat16"
