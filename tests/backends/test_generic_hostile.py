"""Every operator that the generic scheduler builds, on hostile shapes and values, against PyTorch in float64.

The cases of one family are compiled together: one TVM module, one test a case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from compare import assert_close_to_reference
from kernel_case import HOST, Built, aten, make_task, randn

from planish.backends.tvm.compat import tvm
from planish.backends.tvm.generic.template import Generic

BLOCKED = f"c{HOST.block}"
INF = float("inf")
Case = tuple[Callable[..., Any], list[torch.Tensor], dict[str, Any]]


def case(fn: Callable[..., Any], *inputs: torch.Tensor, **options: Any) -> Case:
    """A region and its inputs; `options` are those of `make_task`."""
    return fn, list(inputs), options


def numbers(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Reproducible integers, all bytes for uint8."""
    low, high = (0, 255) if dtype == torch.uint8 else (-50, 50)
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


ODD = torch.tensor([float("nan"), INF, -INF, -0.0, 0.0, 1.0, -1.0, 3e38, -3e38, 1e-40, 2.0]).repeat(5).reshape(5, 11)
MASKED = torch.full((3, 40), -INF)
MASKED[1, 3] = 2.0

REDUCE: dict[str, Case] = {
    "sum_of_long_axis": case(lambda x: aten.sum.dim_IntList(x, [0], False), randn(9000, 3)),
    "sum_to_one_element": case(lambda x: aten.sum.dim_IntList(x, [0, 1, 2], False), randn(5, 77, 131)),
    "sum_of_a_prime": case(lambda x: aten.sum.dim_IntList(x, [0], True), randn(10007)),
    "mean_of_no_elements": case(lambda x: aten.mean.dim(x, [1], False), torch.zeros(3, 0)),
    "sum_of_no_elements": case(lambda x: aten.sum.dim_IntList(x, [1], False), torch.zeros(3, 0)),
    "mean_blocked": case(lambda x: aten.mean.dim(x, [2, 3], True), randn(2, 21, 5, 3), layouts={0: BLOCKED}),
    "mean_over_blocked_channels": case(lambda x: aten.mean.dim(x, [1], False), randn(2, 21, 5), layouts={0: BLOCKED}),
    "sum_of_bool": case(lambda x: aten.sum.dim_IntList(x, [1], False), randn(7, 33) > 0),
    "sum_of_uint8": case(lambda x: aten.sum.dim_IntList(x, [0], False), numbers(7, 33, dtype=torch.uint8)),
    "amax_of_odd": case(lambda x: aten.amax.default(x, [1], False), ODD),
    "amin_of_odd": case(lambda x: aten.amin.default(x, [0], True), ODD),
    "amax_of_int64": case(lambda x: aten.amax.default(x, [0], False), numbers(20, 37)),
    "amin_of_int8": case(lambda x: aten.amin.default(x, [1], False), numbers(20, 37, dtype=torch.int8)),
    "amax_of_bool": case(lambda x: aten.amax.default(x, [1], False), randn(20, 37) > 2),
    "prod": case(lambda x: aten.prod.dim_int(x, 1, False), randn(5, 9)),
    "any_of_odd": case(lambda x: aten.any.dims(x, [1], False), ODD),
    "all_of_many": case(lambda x: aten.all.dims(x, [1], False), randn(3, 9000) > -9),
    "any_of_uint8": case(lambda x: aten.any.dims(x, [0], False), numbers(3, 9, dtype=torch.uint8) // 200),
    "all_of_uint8": case(lambda x: aten.all.dims(x, [0], True), numbers(3, 9, dtype=torch.uint8) // 50),
    "argmax_ties": case(lambda x: aten.argmax.default(x, 1, False), numbers(9, 70) // 20),
    "argmin_of_odd": case(lambda x: aten.argmin.default(x, 0, True), ODD),
    "argmax_of_odd": case(lambda x: aten.argmax.default(x, 1, False), ODD),
    "argmax_of_everything": case(lambda x: aten.argmax.default(x, None, False), randn(77, 131)),
    "logsumexp_of_large": case(lambda x: aten.logsumexp.default(x, [0, 1], False), 900 * randn(7, 33)),
    "logsumexp_of_nothing": case(lambda x: aten.logsumexp.default(x, [1], False), MASKED),
    **{
        f"norm_{p}": case(lambda x, p=p: aten.linalg_vector_norm.default(x, p, [1], False), randn(7, 33, 5))
        for p in (0, 1, 2, INF, -INF)
    },
    **{
        f"var_{c}": case(lambda x, c=c: aten.var.correction(x, [0, 2], correction=c, keepdim=True), randn(7, 3, 5) + 3)
        for c in (0, 1, 2)
    },
    "std_of_everything": case(lambda x: aten.std.correction(x, None, correction=1), randn(70, 301) + 5),
    "var_without_freedom": case(lambda x: aten.var.correction(x, [1], correction=1), randn(7, 1)),
}

SCAN: dict[str, Case] = {
    **{f"cumsum_{d}": case(lambda x, d=d: aten.cumsum.default(x, d), randn(4, 9, 37)) for d in (0, 1, 2)},
    **{f"cumprod_{d}": case(lambda x, d=d: aten.cumprod.default(x, d), randn(4, 9, 37)) for d in (0, 1, 2)},
    "cumsum_of_many": case(lambda x: aten.cumsum.default(x, 0), randn(10000)),
    "cumsum_of_a_scalar": case(lambda x: aten.cumsum.default(x, 0), randn()),
    "cumsum_of_bool": case(lambda x: aten.cumsum.default(x, 1), randn(4, 33) > 0),
    "cumsum_of_double": case(lambda x: aten.cumsum.default(x, 0), randn(40, 33).double()),
}

NORMALIZE: dict[str, Case] = {
    **{f"softmax_{d}": case(lambda x, d=d: aten._softmax.default(x, d, False), randn(4, 9, 37)) for d in (0, 1, 2)},
    "log_softmax": case(lambda x: aten._log_softmax.default(x, 1, False), randn(4, 1000)),
    "softmax_of_odd": case(lambda x: aten._softmax.default(x, 1, False), ODD),
    "softmax_masked": case(lambda x: aten._softmax.default(x, 1, False), MASKED),
    "log_softmax_masked": case(lambda x: aten._log_softmax.default(x, 1, False), MASKED),
    "softmax_of_a_scalar": case(lambda x: aten._softmax.default(x, 0, False), randn()),
    "softmax_of_nan": case(lambda x: aten._softmax.default(x, 0, False), torch.tensor(float("nan"))),
    "softmax_blocked": case(
        lambda x: aten._softmax.default(x, 1, False), randn(2, 21, 5, 3), layouts={0: BLOCKED}, hint=BLOCKED
    ),
    **{
        f"group_norm_{g}_of_{c}": case(
            lambda x, w, b, g=g: aten.group_norm.default(x, g, w, b, 1e-5, False), randn(2, c, 5, 7), randn(c), randn(c)
        )
        for g, c in ((1, 6), (3, 6), (6, 6), (7, 21), (2, 34))
    },
    "group_norm_blocked": case(
        lambda x, w, b: aten.group_norm.default(x, 3, w, b, 1e-5, False), randn(2, 21, 5, 7), randn(21), randn(21),
        layouts={0: BLOCKED}, hint=BLOCKED,
    ),
    "layer_norm": case(
        lambda x, w, b: aten.layer_norm.default(x, [5, 37], w, b, 1e-5, False), randn(3, 5, 37),
        randn(5, 37), randn(5, 37),
    ),
    "rms_norm": case(lambda x, w: aten.rms_norm.default(x, [37], w, None), randn(3, 5, 37), randn(37)),
}  # fmt: skip


def diamonds(x: Any, depth: int = 40) -> Any:
    """`depth` values that are each read three times."""
    for _ in range(depth):
        x = aten.add.Tensor(aten.mul.Tensor(aten.mul.Tensor(x, x), 0.1), x)
    return x


def shifted(x: Any, move: Callable[[Any], Any], depth: int = 6) -> Any:
    """Values read at two places each."""
    for _ in range(depth):
        x = aten.mul.Tensor(aten.add.Tensor(x, move(x)), 0.5)
    return x


def many(x: Any) -> Any:
    """Twenty-one parts, each computed."""
    parts = [aten.exp.default(aten.slice.Tensor(x, 1, i, i + 1, 1)) for i in range(7)]
    return aten.cat.default([*parts, *(aten.tanh.default(p) for p in parts), *parts], 1)


MOVE: dict[str, Case] = {
    "diamonds": case(diamonds, randn(12, 13) / 9),
    "diamonds_padded": case(lambda x: aten.constant_pad_nd.default(diamonds(x), [1, 2, 0, 1], 3.0), randn(12, 13) / 9),
    "diamonds_in_softmax": case(lambda x: aten._softmax.default(diamonds(x), 1, False), randn(12, 13) / 9),
    "rolls_of_rolls": case(lambda x: shifted(x, lambda y: aten.roll.default(y, [1], [0])), randn(12, 12)),
    "rolls_of_columns": case(lambda x: shifted(x, lambda y: aten.roll.default(y, [5, -2], [1, 0])), randn(9, 33)),
    "flips_of_flips": case(lambda x: shifted(x, lambda y: aten.flip.default(y, [1])), randn(12, 33)),
    "transposes": case(lambda x: shifted(x, lambda y: aten.permute.default(y, [1, 0]), 12), randn(12, 12)),
    "pad_of_exp": case(
        lambda x: aten.mul.Tensor(aten.constant_pad_nd.default(aten.exp.default(x), [1, 2, 3, -1], -INF), 2),
        randn(5, 9),
    ),
    "pads_of_pads": case(
        lambda x: aten.constant_pad_nd.default(
            aten.gelu.default(aten.constant_pad_nd.default(aten.gelu.default(x), [1, 1], 1.0)), [0, 0, 2, 2], 2.0
        ),
        randn(5, 9),
    ),
    "pad_in_sum": case(
        lambda x: aten.sum.dim_IntList(aten.constant_pad_nd.default(aten.gelu.default(x), [1, 1], 1.0), [1], False),
        randn(5, 33),
    ),
    "pad_of_bool": case(lambda x: aten.constant_pad_nd.default(x, [1, 1], True), randn(5, 9) > 0),
    "pad_blocked": case(
        lambda x: aten.constant_pad_nd.default(x, [1, 1, 0, 2], 0.0), randn(1, 21, 4, 5), layouts={0: BLOCKED}
    ),
    **{
        f"{mode}_{'_'.join(map(str, pads))}": case(
            lambda x, mode=mode, pads=pads: aten.pad.default(x, list(pads), mode, None), randn(1, 3, 5, 9)
        )
        for mode in ("reflect", "replicate")
        for pads in ((3, 2, 4, 1), (2, -2, -1, 1))
    },
    "cat_of_many": case(many, randn(5, 7)),
    "cat_of_cats": case(
        lambda x: aten.cat.default([aten.cat.default([x, aten.gelu.default(x)], 1), aten.exp.default(x)], 1),
        randn(3, 7),
    ),
    "cat_with_nothing": case(lambda x, y: aten.cat.default([x, y], 1), torch.zeros(2, 0), randn(2, 3)),
    "cat_blocked": case(
        lambda x, y: aten.cat.default([x, y], 1), randn(1, 21, 3, 4), randn(1, 5, 3, 4),
        layouts={0: BLOCKED, 1: BLOCKED}, hint=BLOCKED,
    ),
    "tril": case(lambda x: aten.tril.default(x, 1), randn(5, 9)),
    "difference_with_itself": case(lambda x: aten.sub.Tensor(x, x), ODD),
    "triu": case(lambda x: aten.triu.default(x, -2), ODD),
    "index_with_negative": case(lambda x, i: aten.index.Tensor(x, [None, i]), randn(4, 7, 5), numbers(3, 2) % 7 - 7),
    "index_apart": case(lambda x, i: aten.index.Tensor(x, [i, None, i]), randn(4, 7, 5), numbers(3, 2) % 4),
    "index_broadcast": case(
        lambda x, i, j: aten.index.Tensor(x, [i, j]), randn(4, 7, 5), numbers(3, 1) % 4, numbers(2) % 7
    ),
    "gather": case(lambda x, i: aten.gather.default(x, 1, i), randn(4, 7), numbers(4, 9) % 7),
    "embedding": case(lambda w, i: aten.embedding.default(w, i), randn(9, 33), numbers(2, 5) % 9),
    "empty": case(lambda x: aten.mul.Tensor(x, 2), torch.zeros(0, 5)),
    "scalar": case(lambda x, y: aten.mul.Tensor(aten.exp.default(x), y), randn(), randn()),
}  # fmt: skip


def conv(stride: int, pad: int, dilation: int, transposed: bool, extra: int, groups: int, rank: int) -> Any:
    lists = [[v] * rank for v in (stride, pad, dilation)]
    return lambda x, w, b: aten.convolution.default(x, w, b, *lists, transposed, [extra] * rank, groups)


CONTRACT: dict[str, Case] = {
    "conv1d": case(conv(2, 1, 1, False, 0, 1, 1), randn(2, 6, 20), randn(9, 6, 3), randn(9)),
    "conv2d_grouped": case(conv(1, 2, 2, False, 0, 3, 2), randn(2, 6, 11, 13), randn(9, 2, 3, 3), randn(9)),
    "conv3d": case(conv(2, 1, 1, False, 0, 2, 3), randn(1, 4, 5, 7, 6), randn(6, 2, 3, 3, 3), randn(6)),
    "conv2d_beyond_the_image": case(conv(1, 4, 1, False, 0, 6, 2), randn(1, 6, 2, 2), randn(6, 1, 3, 3), randn(6)),
    "transposed1d": case(conv(3, 2, 2, True, 1, 2, 1), randn(2, 6, 7), randn(6, 4, 4), randn(8)),
    "transposed2d": case(conv(2, 1, 1, True, 1, 3, 2), randn(2, 6, 5, 6), randn(6, 3, 3, 3), randn(9)),
    "transposed3d": case(conv(2, 1, 1, True, 0, 2, 3), randn(1, 4, 3, 4, 5), randn(4, 3, 3, 3, 3), randn(6)),
    "conv2d_blocked": case(
        conv(1, 1, 1, False, 0, 1, 2), randn(1, 21, 5, 6), randn(5, 21, 3, 3), randn(5),
        layouts={0: BLOCKED}, hint=BLOCKED
    ),
    "conv2d_double": case(
        conv(1, 1, 1, False, 0, 1, 2), randn(1, 3, 5, 6).double(), randn(5, 3, 3, 3).double(), randn(5).double()
    ),
    **{
        f"matmul_{'x'.join(map(str, a))}_{'x'.join(map(str, b))}": case(
            lambda x, y: aten.matmul.default(x, y), randn(*a), randn(*b)
        )
        for a, b in (
            ((5,), (5,)), ((3, 5), (5,)), ((5,), (5, 7)), ((3, 5), (5, 7)), ((2, 3, 5), (5, 7)), ((2, 3, 5), (2, 5, 7)),
            ((4, 1, 3, 5), (2, 5, 7)), ((5,), (4, 2, 5, 7)), ((4, 2, 3, 5), (5,)), ((1, 1), (1, 1)), ((3, 0), (0, 4)),
        )
    },
    "attention_without_keys": case(
        lambda q, k, v, m: aten.scaled_dot_product_attention.default(q, k, v, m, 0.0, False),
        randn(2, 3, 7, 20), randn(2, 3, 11, 20), randn(2, 3, 11, 20), torch.arange(7)[:, None] > torch.arange(11),
    ),
    "attention_causal": case(
        lambda q, k, v: aten.scaled_dot_product_attention.default(q, k, v, None, 0.0, True, scale=0.3),
        randn(2, 3, 7, 20), randn(2, 3, 11, 20), randn(2, 3, 11, 9),
    ),
    "avg_pool_ceil": case(
        lambda x: aten.avg_pool2d.default(x, [3, 3], [2, 2], [1, 1], True, True, None), randn(2, 5, 10, 12)
    ),
    "max_pool3d": case(
        lambda x: aten.max_pool3d.default(x, [3] * 3, [2] * 3, [1] * 3, [1] * 3, True), randn(1, 5, 6, 7, 9)
    ),
    "adaptive": case(lambda x: aten.adaptive_avg_pool2d.default(x, [3, 7]), randn(2, 5, 11, 5)),
}  # fmt: skip

FAMILIES = {"reduce": REDUCE, "scan": SCAN, "normalize": NORMALIZE, "move": MOVE, "contract": CONTRACT}


@cache
def compiled(family: str) -> dict[str, Built | Exception]:
    """All kernels of a family in one module; what fails to be emitted fails its own test."""
    made: dict[str, Any] = {}
    for name, (fn, inputs, options) in FAMILIES[family].items():
        try:
            task = make_task(fn, inputs, **options)
            made[name] = task, Generic().emit(task)
        except Exception as error:
            made[name] = error
    symbols = {name: f"{family}{i}" for i, name in enumerate(made)}
    functions = {
        symbols[name]: pair[1].func.with_attr("global_symbol", symbols[name])
        for name, pair in made.items()
        if not isinstance(pair, Exception)
    }
    module = tvm.compile(tvm.IRModule(functions), target=HOST.tvm_target())
    return {
        name: pair if isinstance(pair, Exception) else Built(*pair, {"main": module[symbols[name]]})
        for name, pair in made.items()
    }


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize(("family", "name"), [(f, name) for f, cases in FAMILIES.items() for name in cases])
def test_operator(family: str, name: str) -> None:
    built = compiled(family)[name]
    if isinstance(built, Exception):
        raise built
    fn, inputs, _ = FAMILIES[family][name]
    wide = [t.double() if t.is_floating_point() else t for t in inputs]
    assert_close_to_reference(built.run(inputs), fn(*wide), fn(*inputs))
