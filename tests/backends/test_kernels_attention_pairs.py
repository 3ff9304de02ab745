"""Attention of bfloat16: pairs of channels and of keys; an odd number of keys, masks, causality, shared heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_case import HOST, aten, check, randn

from planish.backends.tvm.kernels.attention import Attention
from planish.backends.tvm.kernels.bfloat16 import has_dot

SDPA = aten.scaled_dot_product_attention.default
DOTS = has_dot(HOST)


def qkv(queries: int, keys: int, depth: int, width: int, groups: int = 1) -> list[torch.Tensor]:
    shapes = ((2, 4, queries, depth), (2, 4 // groups, keys, depth), (2, 4 // groups, keys, width))
    return [randn(*shape, seed=seed).bfloat16() for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    ("queries", "keys", "depth", "width", "groups", "causal"),
    [
        (33, 49, 16, 16, 1, False),
        (1, 1, 2, 1, 1, False),
        (20, 40, 24, 20, 2, False),
        (37, 37, 32, 18, 1, True),
        (64, 50, 16, 16, 4, True),
        (7, 300, 8, 8, 1, False),
        (9, 12, 7, 8, 1, False),  # an odd depth has no pairs
    ],
)
def test_sizes(queries: int, keys: int, depth: int, width: int, groups: int, causal: bool) -> None:
    fn = lambda q, k, v: SDPA(q, k, v, None, 0.0, causal, enable_gqa=groups > 1)  # noqa: E731
    built = check(Attention(), fn, qkv(queries, keys, depth, width, groups), anchor=SDPA, external=True)
    assert ("planish_dot_bfloat16" in built.lowered.func.script()) == (DOTS and depth % 2 == 0)


@pytest.mark.parametrize("constant", [False, True])
def test_masks(constant: bool) -> None:
    """A row without keys is zero."""
    mask = randn(21, 35) > -0.3
    mask[4] = False
    fn = lambda q, k, v, m: SDPA(q, k, v, m, 0.0, False)  # noqa: E731
    inputs = [*qkv(21, 35, 16, 16), mask]
    built = check(Attention(), fn, inputs, (3,) if constant else (), anchor=SDPA)
    assert not built.run(inputs)[:, :, 4].any()


def test_heads_that_are_views() -> None:
    """Heads of one projection are read where they lie, and joined where they belong."""

    def fn(x: Any) -> Any:
        parts = (aten.slice.Tensor(x, 0, i, i + 1, 1) for i in range(3))
        q, k, v = (aten.reshape.default(part, [1, 2, 35, 16]) for part in parts)
        made = aten.permute.default(SDPA(q, k, v, None, 0.0, False), [0, 2, 1, 3])
        return aten.reshape.default(made, [1, 35, 32])

    check(Attention(), fn, [randn(3, 1, 2, 35, 16).bfloat16()], anchor=SDPA)


def test_numbers_that_are_not_finite_stay_in_their_rows() -> None:
    """A NaN among the queries is one row's, and the last of an odd number of values has no neighbour."""
    inputs = qkv(18, 33, 16, 16)
    inputs[0][0, 1, 5, 3] = float("nan")
    fn = lambda q, k, v: SDPA(q, k, v, None, 0.0, False)  # noqa: E731
    built = check(Attention(), fn, inputs, anchor=SDPA)
    assert torch.equal(built.run(inputs).isnan(), fn(*(t.double() for t in inputs)).isnan())
