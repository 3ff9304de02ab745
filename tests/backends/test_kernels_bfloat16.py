"""Kernels that store bfloat16: as near to float64 as PyTorch's own, at every border, on every kind of CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from kernel_case import HOST, check, make_task, randn

from planish.backends.tvm.kernels.bfloat16 import has_dot
from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.kernels.gemm import Gemm
from planish.backends.tvm.kernels.winograd import Winograd

aten = torch.ops.aten
BLOCK = f"c{HOST.block}"
DOTS = has_dot(HOST)


def half(*shape: int, seed: int = 0) -> torch.Tensor:
    return randn(*shape, seed=seed).bfloat16()


def conv(
    stride: int = 1, pad: int = 0, dilation: int = 1, groups: int = 1, transposed: bool = False, rank: int = 2
) -> Any:
    def fn(x: Any, w: Any, b: Any) -> Any:
        rest = [stride] * rank, [pad] * rank, [dilation] * rank, False, [0] * rank, groups
        return aten.relu.default(aten.convolution.default(x, w, b, *rest))

    return fn


def calls_dot(func: Any) -> bool:
    return "planish_dot_bfloat16" in func.script()


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((1, 32, 9, 11), (24, 32, 3, 3), {"pad": 1}),
        ((2, 16, 7, 7), (16, 16, 1, 1), {}),
        ((1, 33, 6, 5), (17, 33, 3, 3), {"pad": 1, "stride": 2}),  # an odd channel after whole blocks
        ((1, 7, 8, 8), (20, 7, 3, 3), {"pad": 2, "dilation": 2}),  # an odd number of channels in one block
        ((1, 3, 13, 13), (16, 3, 5, 5), {"pad": 2, "stride": 2}),
        ((1, 32, 6, 6), (64, 8, 3, 3), {"pad": 1, "groups": 4}),
        ((1, 32, 6, 6), (32, 8, 3, 3), {"pad": 1, "groups": 4}),  # eight lanes
        ((1, 24, 6, 6), (12, 8, 1, 1), {"groups": 3}),  # four lanes
        ((1, 6, 5, 5), (6, 2, 3, 3), {"groups": 3}),  # two lanes: no dot product
        ((1, 48, 1, 1), (40, 48, 1, 1), {}),
        ((1, 47, 1, 1), (40, 47, 1, 1), {}),
        ((1, 18, 40, 1), (8, 18, 31, 1), {"pad": 15}),  # taps in a loop
    ],
)  # fmt: skip
def test_direct_convolution(x: Sequence[int], w: Sequence[int], options: dict[str, Any]) -> None:
    if x[3] == 1 and x[2] > 1:
        options = {**options}
        data = half(*x).reshape(1, x[1], x[2])
        check(ConvDirect(), conv(rank=1, **options), [data, half(*w[:3]), half(w[0])], [1, 2], kind="conv",
              anchor=aten.convolution.default, layouts={0: BLOCK})  # fmt: skip
        return
    check(ConvDirect(), conv(**options), [half(*x), half(*w), half(w[0])], [1, 2], kind="conv",
          anchor=aten.convolution.default, layouts={0: BLOCK})  # fmt: skip


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((1, 3, 21, 23), (24, 3, 7, 7), {"stride": 2, "pad": 3}),
        ((2, 3, 12, 9), (16, 3, 4, 4), {"stride": 4}),
        ((1, 1, 6, 5), (16, 1, 3, 3), {"pad": 2}),
        ((1, 3, 9, 9), (16, 3, 3, 3), {"dilation": 2}),  # taps that are no neighbours
        ((1, 2, 3, 60), (16, 2, 1, 41), {"pad": 0}),  # taps in a loop
    ],
)  # fmt: skip
def test_direct_convolution_of_images(x: Sequence[int], w: Sequence[int], options: dict[str, Any]) -> None:
    """Two taps of a row at a time; where the second is none, what lies there may be NaN."""
    fn, image, weights = conv(**options), half(*x), [half(*w), half(w[0])]
    built = check(
        ConvDirect(), fn, [image, *weights], [1, 2], kind="conv", anchor=aten.convolution.default, external=True
    )
    image[0, 0, 1, -1] = float("nan")
    exact = fn(image.double(), *(t.double() for t in weights))
    assert torch.equal(built.run([image, *weights]).isnan(), exact.isnan())


@pytest.mark.skipif(not DOTS, reason="no dot product")
def test_a_pair_that_is_made_serves_several_blocks() -> None:
    """Of three taps the last has no neighbour: 16x1 would make 16 pairs for as many products, 5x3 makes 5 for 15."""
    inputs = [half(1, 3, 224, 224), half(48, 3, 3, 3), half(48)]
    task = make_task(conv(stride=2, pad=1), inputs, [1, 2], anchor=aten.convolution.default)
    assert ConvDirect().space(task)[0]["tile"] == "5x3"


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_transforms_in_float32(m: int) -> None:
    """Rounded once, at the end: half a unit of each result, and what Winograd adds in float32."""
    fn, inputs = conv(pad=1), [half(1, 40, 9, 13), half(24, 40, 3, 3), half(24)]
    built = check(
        Winograd(m, anywhere=True), fn, inputs, [1, 2], kind="conv", anchor=aten.convolution.default, layouts={0: BLOCK}
    )
    exact = fn(*(t.double() for t in inputs))
    error = (built.run(inputs).double() - exact).abs()
    assert bool((error <= exact.abs() * 2**-8 + 2e-5 * exact.abs().max()).all())


def linear(x: Any, w: Any, b: Any) -> Any:
    return aten.gelu.default(aten.linear.default(x, w, b))


@pytest.mark.parametrize(
    ("x", "columns"),
    [((1, 64), 40), ((197, 48), 33), ((2, 7, 30), 16), ((3, 47), 20), ((1, 46), 1)],
)  # fmt: skip
def test_linear_layers(x: Sequence[int], columns: int) -> None:
    w, b = half(columns, x[-1]), half(columns)
    check(Gemm(), linear, [half(*x), w, b], [1, 2], kind="linear", anchor=aten.linear.default)


@pytest.mark.parametrize("last", [(0, 2, 1, 3), (0, 1, 3, 2)])
def test_linear_layers_behind_views(last: tuple[int, ...]) -> None:
    """Heads that are joined are read in pairs; a transpose that separates neighbours is not."""

    def fn(x: Any, w: Any) -> Any:
        return aten.linear.default(aten.reshape.default(aten.permute.default(x, list(last)), [2, -1, 48]), w)

    shape = (2, 3, 6, 16) if last[-1] == 3 else (2, 6, 48, 5)
    built = check(Gemm(), fn, [half(*shape), half(20, 48)], [1], kind="linear", anchor=aten.linear.default)
    assert calls_dot(built.lowered.func) == (DOTS and last[-1] == 3)
