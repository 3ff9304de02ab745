"""Linear layers and products of activations against torch: any size, views on both sides, epilogues."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_case import aten, check, make_task, randn

from planish.backends.tvm.kernels.gemm import Gemm
from planish.backends.tvm.kernels.matmul import Matmul
from planish.backends.tvm.template import Refused

LINEAR = aten.linear.default
MATMUL = aten.matmul.default
size = st.integers(1, 70)


@settings(max_examples=20)
@given(size, size, size, st.booleans())
def test_linear_of_any_size(rows: int, inner: int, columns: int, bias: bool) -> None:
    inputs = [randn(rows, inner), randn(columns, inner, seed=1), randn(columns, seed=2)]
    check(Gemm(), lambda x, w, b: LINEAR(x, w, b if bias else None), inputs, (1, 2), anchor=LINEAR)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 2048, 100), (9, 1024, 96), (5, 3000, 33), (200, 64, 48)])
def test_linear_of_typical_size(rows: int, inner: int, columns: int) -> None:
    inputs = [randn(1, rows, inner), randn(columns, inner, seed=1), randn(columns, seed=2), randn(1, rows, columns)]

    def fn(x: Any, w: Any, b: Any, r: Any) -> Any:
        return aten.add.Tensor(aten.gelu.default(LINEAR(x, w, b)), r)

    check(Gemm(), fn, inputs, (1, 2), anchor=LINEAR, external=True)


@pytest.mark.parametrize("shape", [(2, 9, 20), (9, 20), (9, 1), (20,), (1, 1, 20), ()])
@pytest.mark.parametrize("constant", [False, True])
def test_linear_epilogue_operands(shape: tuple[int, ...], constant: bool) -> None:
    inputs = [randn(2, 9, 30), randn(20, 30), randn(20), randn(*shape)]
    fn = lambda x, w, b, r: aten.mul.Tensor(LINEAR(x, w, b), r)  # noqa: E731
    check(Gemm(), fn, inputs, (1, 2, 3) if constant else (1, 2), anchor=LINEAR)


def test_linear_reads_windows_through_views() -> None:
    def fn(x: Any, w: Any, b: Any) -> Any:
        shifted = aten.roll.default(x, [-3, 2], [1, 2])
        windows = aten.permute.default(aten.reshape.default(shifted, [2, 2, 4, 3, 4, 24]), [0, 1, 3, 2, 4, 5])
        return LINEAR(aten.reshape.default(windows, [12, 16, 24]), w, b)

    check(Gemm(), fn, [randn(2, 8, 12, 24), randn(40, 24), randn(40)], (1, 2), anchor=LINEAR)


def test_linear_joins_heads_through_views() -> None:
    def fn(x: Any, w: Any, b: Any) -> Any:
        return LINEAR(aten.reshape.default(aten.permute.default(x, [0, 2, 1, 3]), [2, 9, 24]), w, b)

    check(Gemm(), fn, [randn(2, 3, 9, 8), randn(40, 24), randn(40)], (1, 2), anchor=LINEAR)


def test_linear_takes_a_slice() -> None:
    fn = lambda x, w, b: LINEAR(aten.slice.Tensor(x, 1, 2, 9, 3), w, b)  # noqa: E731
    check(Gemm(), fn, [randn(2, 9, 8), randn(17, 8), randn(17)], (1, 2), anchor=LINEAR)


def test_linear_with_a_computed_weight_is_a_product_of_activations() -> None:
    inputs = [randn(2, 9, 30), randn(21, 30), randn(21)]
    fn = lambda x, w, b: LINEAR(x, w, b)  # noqa: E731
    refused = Gemm().wants(make_task(fn, inputs, anchor=LINEAR))
    assert isinstance(refused, Refused)
    assert "not a constant" in refused.reason
    check(Matmul(), fn, inputs, anchor=LINEAR)


@settings(max_examples=20)
@given(size, size, size, st.sampled_from([((), ()), ((2,), (2,)), ((2, 3), (3,)), ((2, 1), (3,)), ((3,), ())]))
def test_matmul_of_any_size(rows: int, inner: int, columns: int, batch: tuple[Any, Any]) -> None:
    inputs = [randn(*batch[0], rows, inner), randn(*batch[1], inner, columns, seed=1)]
    check(Matmul(), lambda p, q: MATMUL(p, q), inputs, anchor=MATMUL)


def heads(x: Any, rows: int, count: int = 3, width: int = 20) -> Any:
    return aten.permute.default(aten.reshape.default(x, [2, rows, count, width]), [0, 2, 1, 3])


def test_matmul_of_heads_with_a_transposed_operand() -> None:
    def fn(q: Any, k: Any) -> Any:
        return aten.mul.Tensor(MATMUL(heads(q, 11), aten.permute.default(heads(k, 37), [0, 1, 3, 2])), 0.25)

    check(Matmul(), fn, [randn(2, 11, 60), randn(2, 37, 60)], anchor=MATMUL)


def test_matmul_stores_through_views() -> None:
    def fn(p: Any, v: Any) -> Any:
        return aten.reshape.default(aten.permute.default(MATMUL(p, heads(v, 37)), [0, 2, 1, 3]), [2, 11, 60])

    check(Matmul(), fn, [randn(2, 3, 11, 37), randn(2, 37, 60)], anchor=MATMUL)


def test_matmul_operand_after_the_views() -> None:
    def fn(p: Any, v: Any, r: Any) -> Any:
        return aten.add.Tensor(aten.permute.default(MATMUL(p, v), [1, 0]), r)

    check(Matmul(), fn, [randn(11, 37), randn(37, 18), randn(18, 11)], anchor=MATMUL)


@pytest.mark.parametrize(("shapes", "reason"), [(((7,), (7, 3)), "vector operand"), (((3, 7), (7,)), "vector operand")])
def test_vectors_are_refused(shapes: tuple[tuple[int, ...], ...], reason: str) -> None:
    refused = Matmul().wants(make_task(lambda p, q: MATMUL(p, q), [randn(*s) for s in shapes], anchor=MATMUL))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


def test_an_operand_computed_inside_is_refused() -> None:
    fn = lambda x, w: LINEAR(aten.relu.default(x), w, None)  # noqa: E731
    for template in (Gemm(), Matmul()):
        refused = template.wants(make_task(fn, [randn(3, 4), randn(5, 4)], (1,), anchor=LINEAR))
        assert isinstance(refused, Refused)
        assert "computed inside the region" in refused.reason


def test_a_broadcasting_epilogue_is_refused() -> None:
    fn = lambda x, w, r: aten.add.Tensor(LINEAR(x, w, None), r)  # noqa: E731
    refused = Gemm().wants(make_task(fn, [randn(1, 4), randn(5, 4), randn(3, 5)], (1,), anchor=LINEAR))
    assert isinstance(refused, Refused)
    assert "broadcasts the anchor" in refused.reason


def test_a_slice_after_the_anchor_is_refused() -> None:
    fn = lambda x, w: aten.slice.Tensor(LINEAR(x, w, None), 1, 0, 2, 1)  # noqa: E731
    refused = Gemm().wants(make_task(fn, [randn(3, 4), randn(5, 4)], (1,), anchor=LINEAR))
    assert isinstance(refused, Refused)
    assert "cannot be folded" in refused.reason


def test_weights_larger_than_the_cache_are_asked_for_ahead() -> None:
    """256 x 640 weights are 640 KB; one row reads them from memory, many rows keep the rows where they are."""
    weights = [randn(640, 256), randn(640)]
    one, many = ([randn(rows, 256), *weights] for rows in (1, 130))
    fn = lambda x, w, b: LINEAR(x, w, b)  # noqa: E731
    single, full = (Gemm().emit(make_task(fn, x, (1, 2), anchor=LINEAR)) for x in (one, many))
    assert (single.choice["ahead"], single.choice["order"]) == (64, "weights")
    assert (full.choice["ahead"], full.choice["order"]) == (256, "rows")
    small = Gemm().emit(make_task(fn, [randn(130, 64), randn(64, 64), randn(64)], (1, 2), anchor=LINEAR))
    assert small.choice["ahead"] == 0
    assert ["llvm_intrin" in str(kernel.func) for kernel in (single, full, small)] == [True, True, False]
    check(Gemm(), fn, many, (1, 2), anchor=LINEAR)
