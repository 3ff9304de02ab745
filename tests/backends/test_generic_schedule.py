"""What the generic scheduler makes of operators that have no parallel axis of their own, and of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kernel_case import HOST, aten, build, check, loops, make_task, randn

from planish.backends.tvm.generic.template import Generic


@pytest.mark.parametrize(
    ("shape", "dim"), [((5000,), 0), ((20003,), 0), ((3, 4097), 1), ((4100, 2), 0), ((2, 300, 3), 1), ((257,), 0)]
)
@pytest.mark.parametrize("op", [aten.cumsum.default, aten.cumprod.default])
def test_long_running_sums(op: Any, shape: tuple[int, ...], dim: int) -> None:
    x = randn(*shape) if op is aten.cumsum.default else 1 + randn(*shape) * 0.01
    built = check(Generic(), lambda x: op(x, dim), [x], kind="other")
    if x.numel() > 4096:
        assert {"parallel", "vectorized"} <= {kind for kind, extent in loops(built.lowered.func) if extent > 1}


def test_running_sums_of_whole_numbers_are_exact() -> None:
    x = torch.arange(-3000, 7000)
    result = build(Generic(), make_task(lambda x: aten.cumsum.default(x, 0), [x], kind="other")).run([x])
    np.testing.assert_array_equal(result, np.cumsum(x.numpy()))


def test_what_is_not_finite_stays_in_all_later_sums() -> None:
    x = randn(9000)
    x[4000], x[7000] = float("inf"), float("nan")
    result = check(Generic(), lambda x: aten.cumsum.default(x, 0), [x], kind="other").run([x])
    assert [np.isfinite(result[:4000]).all(), np.isinf(result[4000:7000]).all(), np.isnan(result[7000:]).all()] == [
        True,
        True,
        True,
    ]


def same_at_every_thread_count(fn: Callable[..., Any], x: torch.Tensor) -> bool:
    results = []
    for threads in (1, 2, 16):
        target = type(HOST)(HOST.triple, HOST.cpu, HOST.features, threads)
        results.append(build(Generic(), make_task(fn, [x], target=target, kind="other")).run([x]))
    return np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_running_sums_do_not_depend_on_threads() -> None:
    assert same_at_every_thread_count(lambda x: aten.cumsum.default(x, 0), randn(10007))


def test_rows_ask_for_the_rows_after_them() -> None:
    """Rows of 384 floats are 24 cache lines; rows of 32 are 2, which is not worth it."""
    wide = make_task(lambda x, w: aten.layer_norm.default(x, [384], w, None, 1e-5), [randn(40, 384), randn(384)], (1,))
    short = make_task(lambda x, w: aten.layer_norm.default(x, [32], w, None, 1e-5), [randn(400, 32), randn(32)], (1,))
    assert ["llvm_intrin" in str(Generic().emit(task).func) for task in (wide, short)] == [True, False]
