"""Every choice of every template makes a right kernel: borders, odd sizes; NaN and inf where it is direct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_case import HOST, aten, build, make_task, randn

from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.kernels.attention import Attention
from planish.backends.tvm.kernels.concat import Concat
from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.kernels.depthwise import Depthwise
from planish.backends.tvm.kernels.gemm import Gemm
from planish.backends.tvm.kernels.matmul import Matmul
from planish.backends.tvm.kernels.norm import Norms
from planish.backends.tvm.kernels.pool import Pool
from planish.backends.tvm.kernels.softmax import Softmax
from planish.backends.tvm.kernels.spatial_mean import SpatialMean
from planish.backends.tvm.kernels.winograd import Winograd
from planish.backends.tvm.template import Choice, Template, distinct

CONV = aten.convolution.default


class Case:
    """A template, a region for it, and whether its algorithm keeps NaN and inf where they are."""

    def __init__(
        self,
        template: Template,
        fn: Callable[..., Any],
        inputs: Sequence[torch.Tensor],
        constants: Sequence[int] = (),
        *,
        direct: bool = True,
        **options: Any,
    ) -> None:
        self.template, self.fn, self.inputs, self.direct = template, fn, list(inputs), direct
        self.constants, self.options = constants, options

    def space(self) -> Sequence[Choice]:
        """The choices, for the inputs as the template wants them."""
        return build_space(self)

    def check(self, choose: Callable[[Sequence[Choice]], Choice]) -> None:
        """Build one choice and compare it with torch."""
        inputs = self.inputs
        if self.direct and inputs[0].is_floating_point():
            flat = inputs[0].clone().view(-1)
            flat[0], flat[flat.numel() // 2] = float("nan"), float("inf")
            inputs = [flat.view(inputs[0].shape), *inputs[1:]]
        task = make_task(self.fn, inputs, self.constants, **self.options)
        built = build(self.template, task, choose)
        reference = self.fn(*(t.double() for t in inputs))
        if self.direct:
            assert_close_to_reference(built.run(inputs), reference, self.fn(*inputs))
            return
        error = float(np.abs(built.run(inputs) - reference.numpy()).max())
        assert error <= 2e-5 * float(reference.abs().max())


def build_space(case: Case) -> Sequence[Choice]:
    spaces: list[Sequence[Choice]] = []

    def keep(space: Sequence[Choice]) -> None:
        spaces.append(space)

    build(case.template, make_task(case.fn, case.inputs, case.constants, **case.options), keep)
    return spaces[0]


def conv(groups: int, stride: Sequence[int], pad: Sequence[int], dilation: int = 1) -> Callable[..., Any]:
    d, none = [dilation, dilation], [0, 0]
    return lambda x, w, b: aten.relu.default(CONV(x, w, b, list(stride), list(pad), d, False, none, groups))


def layer(n: int, c: int, h: int, w: int, out: int, taps: tuple[int, int], groups: int = 1) -> list[torch.Tensor]:
    return [randn(n, c, h, w), randn(out, c // groups, *taps, seed=1), randn(out, seed=2)]


def attention(q: Any, k: Any, v: Any) -> Any:
    return aten.scaled_dot_product_attention.default(q, k, v)


def softmax(x: Any) -> Any:
    return SOFTMAX(x, -1, False)


POOL = aten.max_pool2d.default
LINEAR = aten.linear.default
MATMUL = aten.matmul.default
SOFTMAX = aten._softmax.default
SDPA = aten.scaled_dot_product_attention.default
LAYER, GROUP = aten.layer_norm.default, aten.group_norm.default
CASES: dict[str, Callable[[], Case]] = {
    "conv with borders": lambda: Case(
        ConvDirect(), conv(1, (1, 1), (1, 2)), layer(1, 19, 7, 11, 40, (3, 5)), (1, 2), anchor=CONV, kind="conv"
    ),
    "strided and dilated conv": lambda: Case(
        ConvDirect(), conv(1, (2, 1), (3, 0), 2), layer(2, 32, 13, 9, 64, (3, 3)), (1, 2), anchor=CONV, kind="conv"
    ),
    "pointwise conv": lambda: Case(
        ConvDirect(), conv(1, (1, 1), (0, 0)), layer(1, 48, 5, 7, 96, (1, 1)), (1, 2), anchor=CONV, kind="conv"
    ),
    "grouped conv": lambda: Case(
        ConvDirect(), conv(2, (1, 1), (1, 1)), layer(1, 32, 6, 6, 64, (3, 3), 2), (1, 2), anchor=CONV, kind="conv"
    ),
    "depthwise": lambda: Case(
        Depthwise(), conv(21, (2, 1), (1, 1)), layer(1, 21, 9, 23, 21, (3, 3), 21), (1, 2), anchor=CONV, kind="conv"
    ),
    "winograd 4": lambda: Case(
        Winograd(4, anywhere=True), conv(1, (1, 1), (1, 1)), layer(1, 20, 13, 9, 48, (3, 3)), (1, 2),
        anchor=CONV, kind="conv", direct=False,
    ),
    "winograd 2": lambda: Case(
        Winograd(2, anywhere=True), conv(1, (1, 1), (1, 1)), layer(2, 32, 7, 10, 64, (3, 3)), (1, 2),
        anchor=CONV, kind="conv", direct=False,
    ),
    "linear": lambda: Case(
        Gemm(), LINEAR, [randn(3, 7, 50), randn(41, 50, seed=1), randn(41, seed=2)], (1, 2), anchor=LINEAR
    ),
    "matmul": lambda: Case(Matmul(), MATMUL, [randn(3, 19, 30), randn(3, 30, 45, seed=1)], anchor=MATMUL),
    "attention": lambda: Case(
        Attention(), attention, [randn(2, 3, 19, 24), randn(2, 3, 37, 24, seed=1), randn(2, 3, 37, 24, seed=2)],
        anchor=SDPA,
    ),
    "pool": lambda: Case(
        Pool(), lambda x: POOL(x, [3, 3], [2, 2], [1, 1]), [randn(1, 20, 15, 29)], anchor=POOL, kind="pool"
    ),
    "spatial mean": lambda: Case(
        SpatialMean(), lambda x: aten.mean.dim(x, [2, 3]), [randn(2, 120, 5, 7)], anchor=aten.mean.dim,
        layouts={0: f"c{HOST.block}"},
    ),
    "concat": lambda: Case(
        Concat(), lambda x, y: aten.cat.default([x, y], 1), [randn(9, 50, 30), randn(9, 41, 30, seed=1)],
        anchor=aten.cat.default,
    ),
    "layer norm": lambda: Case(
        Norms(), lambda x, w, b: LAYER(x, [100], w, b, 1e-5, False), [randn(19, 100), randn(100), randn(100, seed=2)],
        (1, 2), anchor=LAYER, kind="normalize",
    ),
    "layer norm of channels": lambda: Case(
        Norms(), lambda x: LAYER(aten.permute.default(x, [0, 2, 3, 1]), [40], None, None, 1e-5, False),
        [randn(2, 40, 7, 9)], anchor=LAYER, kind="normalize", layouts={0: f"c{HOST.block}"},
    ),
    "group norm": lambda: Case(
        Norms(), lambda x, w: GROUP(x, 4, w, None, 1e-5, False), [randn(2, 12, 9, 11), randn(12, seed=1)], (1,),
        anchor=GROUP, kind="normalize",
    ),
    "group norm of blocks": lambda: Case(
        Norms(), lambda x, w: GROUP(x, 5, w, None, 1e-5, False), [randn(2, 40, 9, 11), randn(40, seed=1)], (1,),
        anchor=GROUP, kind="normalize", layouts={0: f"c{HOST.block}"}, hint=f"c{HOST.block}",
    ),
    "softmax": lambda: Case(Softmax(), softmax, [randn(6, 5, 300)], anchor=SOFTMAX),
    "softmax of few rows": lambda: Case(Softmax(), softmax, [randn(2, 9001)], anchor=SOFTMAX),
    "softmax along no row": lambda: Case(Generic(), lambda x: SOFTMAX(x, 1, False), [randn(6, 500, 9)]),
    "sum": lambda: Case(Generic(), lambda x: aten.sum.dim_IntList(x, [1]), [randn(9, 1000)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=4)
@given(st.data())
def test_every_choice_is_right(name: str, data: st.DataObject) -> None:
    CASES[name]().check(lambda space: data.draw(st.sampled_from(space)))


@pytest.mark.parametrize("name", CASES)
def test_a_space_begins_with_the_default_and_names_each_choice_once(name: str) -> None:
    case = CASES[name]()
    space = case.space()
    assert len(space) > 1
    assert space == distinct(space)
    chosen: list[Choice] = []

    def last(found: Sequence[Choice]) -> Choice:
        chosen.append(found[-1])
        return found[-1]

    task = make_task(case.fn, case.inputs, case.constants, **case.options)
    assert build(case.template, task).lowered.choice == space[0]
    assert build(case.template, task, last).lowered.choice == chosen[0]


def test_values_too_small_for_a_parallel_loop_leave_nothing_to_choose() -> None:
    assert not Case(Generic(), aten.relu.default, [randn(64, 64)]).space()
    assert Case(Generic(), aten.relu.default, [randn(65, 64)]).space()
