"""How near each kernel template comes to the machine's peak, on typical shapes.

    % of peak = (operations / best seconds) / (multiply-adds in registers alone, same run, times threads)

Taps in the padding count as operations, though no kernel computes them, and so do the multiplications that Winograd
saves: hence figures above 100 %. With one thread (the default) its CPU time is measured, best of many runs, so that
other work on the machine disturbs little; with more it is wall-clock time.
Convolutions of codes (`conv_integer`, `winograd_integer4`) are compared with dot products of bytes, if the CPU has any.
Run: [TVM_NUM_THREADS=2 TVM_BIND_THREADS=0] python benchmarks/kernels.py [part of a name]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TVM_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from integer_case import S8, S16, S32, U8, codes
from integer_case import planish as integers
from kernel_case import HOST, aten, build, make_task, randn

import planish
from planish.backends.tvm.kernels.attention import Attention
from planish.backends.tvm.kernels.concat import Concat
from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.kernels.conv_integer import ConvInteger
from planish.backends.tvm.kernels.depthwise import Depthwise
from planish.backends.tvm.kernels.gemm import Gemm
from planish.backends.tvm.kernels.matmul import Matmul
from planish.backends.tvm.kernels.pool import Pool
from planish.backends.tvm.kernels.spatial_mean import SpatialMean
from planish.backends.tvm.kernels.winograd import Winograd
from planish.backends.tvm.kernels.winograd_integer import WinogradInteger
from planish.errors import ArtifactError

SECONDS = 0.3
THREADS = int(os.environ["TVM_NUM_THREADS"])
CONV, LINEAR, MATMUL = aten.convolution.default, aten.linear.default, aten.matmul.default
SDPA, MAX_POOL, MEAN, CAT = (
    aten.scaled_dot_product_attention.default,
    aten.max_pool2d.default,
    aten.mean.dim,
    aten.cat.default,
)


class Case(NamedTuple):
    name: str
    template: Any
    anchor: Any
    fn: Callable[..., Any]
    inputs: list[torch.Tensor]
    constants: tuple[int, ...]
    flops: int
    blocked: bool = False
    known: dict[int, dict[str, Any]] = {}  # noqa: RUF012  (what kernels may know of constants, by position)


def best_seconds(call: Callable[[], Any], clock: Callable[[], float] = time.thread_time) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = clock()
        call()
        best = min(best, clock() - start)
    return best


def peaks(clock: Callable[[], float]) -> dict[str, float]:
    """GFLOP/s of the kernels that do nothing but multiply and add in registers, by the dtype of their factors."""
    model = planish.compile(torch.nn.ReLU().eval(), (torch.randn(4),), threads=THREADS, progress=False)
    found = {}
    for dtype in ("float32", "uint8"):
        with suppress(ArtifactError):  # a CPU without dot products has no such probe
            call, count = model.probe(dtype)
            found[dtype] = count / best_seconds(call, clock) / 1e9
    return found


def convolution(
    channels: int, size: int, out: int, kernel: int, stride: int, groups: int = 1, m: int | None = None
) -> Case:
    """Direct, depthwise or, with tiles of `m` x `m`, Winograd's."""
    pad = kernel // 2
    pixels = ((size + 2 * pad - kernel) // stride + 1) ** 2
    inputs = [randn(1, channels, size, size), randn(out, channels // groups, kernel, kernel), randn(out)]

    def fn(x: Any, w: Any, b: Any) -> Any:
        y = CONV(x, w, b, [stride, stride], [pad, pad], [1, 1], False, [0, 0], groups)
        return aten.relu.default(y)

    template: Any = Winograd(m) if m else Depthwise() if groups == channels else ConvDirect()
    name = f"{template.name}{m or ''} {channels}x{size}x{size} to {out} k{kernel} s{stride} g{groups}"
    flops = 2 * pixels * out * channels // groups * kernel**2
    return Case(name, template, CONV, fn, inputs, (1, 2), flops, channels >= HOST.block)


def integer_convolution(channels: int, size: int, out: int, kernel: int, stride: int, m: int | None = None) -> Case:
    """Of codes, requantized; direct or Winograd's."""
    pad, convolve = kernel // 2, integers.convolution.default
    pixels = ((size + 2 * pad - kernel) // stride + 1) ** 2
    weight, bias = codes(out, channels, kernel, kernel, dtype=S8).clamp(min=-127), codes(out, dtype=S16).to(S32)
    multipliers, shifts = torch.full((out, 1, 1), 1518500250), torch.full((out, 1, 1), 44)

    def fn(x: Any, w: Any, b: Any, m: Any, c: Any) -> Any:
        y = convolve(x, w, b, 0, [stride, stride], [pad, pad], [1, 1], False, [0, 0], 1)
        return integers.requantize.default(y, m, c, 0, 0, 0, 255, U8)

    template: Any = WinogradInteger(m, anywhere=True) if m else ConvInteger()
    name = f"{template.name} {channels}x{size}x{size} to {out} k{kernel} s{stride}"
    inputs = [codes(1, channels, size, size), weight, bias, multipliers, shifts]
    known = {1: {"sum_bits": 25}, 4: {"shifts": (33, 48)}}
    return Case(
        name, template, convolve, fn, inputs, (1, 2, 3, 4), 2 * pixels * out * channels * kernel**2, True, known
    )


def linear(rows: int, inner: int, columns: int) -> Case:
    inputs = [randn(rows, inner), randn(columns, inner), randn(columns)]
    name = f"gemm {rows}x{inner} to {columns}"
    return Case(name, Gemm(), LINEAR, lambda x, w, b: LINEAR(x, w, b), inputs, (1, 2), 2 * rows * inner * columns)


def attention(length: int, heads: int, width: int, causal: bool = False) -> Case:
    def split(x: Any) -> Any:
        return aten.permute.default(aten.reshape.default(x, [1, length, heads, width]), [0, 2, 1, 3])

    def fn(q: Any, k: Any, v: Any) -> Any:
        y = SDPA(split(q), split(k), split(v), None, 0.0, causal)
        return aten.reshape.default(aten.permute.default(y, [0, 2, 1, 3]), [1, length, heads * width])

    inputs = [randn(1, length, heads * width, seed=i) for i in range(3)]
    flops = 4 * heads * length * length * width // (2 if causal else 1)
    return Case(f"attention {length} {heads}x{width}{' causal' * causal}", Attention(), SDPA, fn, inputs, (), flops)


def others() -> Iterator[Case]:
    p, q = randn(12, 128, 64), randn(12, 64, 128)
    yield Case("matmul 12x128x64x128", Matmul(), MATMUL, lambda p, q: MATMUL(p, q), [p, q], (), 2 * 12 * 128 * 128 * 64)
    x = randn(1, 64, 112, 112)
    yield Case(
        "pool 112", Pool(), MAX_POOL, lambda x: MAX_POOL(x, [3, 3], [2, 2], [1, 1]), [x], (), 9 * 64 * 56**2, True
    )
    x = randn(1, 2048, 7, 7)
    yield Case("spatial_mean 7", SpatialMean(), MEAN, lambda x: MEAN(x, [2, 3], False), [x], (), x.numel(), True)
    a, b = randn(1, 64, 56, 56), randn(1, 32, 56, 56)
    yield Case("concat 56", Concat(), CAT, lambda a, b: CAT([a, b], 1), [a, b], (), a.numel() + b.numel(), True)


def cases() -> Iterator[Case]:
    yield convolution(3, 224, 64, 7, 2)
    for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        for m in (None, 4, 2):
            yield convolution(channels, size, channels, 3, 1, m=m)
        yield convolution(channels, size, 4 * channels, 1, 1)
        yield convolution(4 * channels, size, channels, 1, 1)
        for tile in (None, 4):
            yield integer_convolution(channels, size, channels, 3, 1, m=tile)
        yield integer_convolution(channels, size, 4 * channels, 1, 1)
        yield integer_convolution(4 * channels, size, channels, 1, 1)
    yield integer_convolution(128, 56, 128, 3, 2)
    yield convolution(128, 56, 128, 3, 2)
    yield convolution(96, 35, 96, 3, 1)
    yield convolution(240, 28, 240, 3, 1, groups=10)
    yield convolution(64, 28, 64, 3, 1, groups=8)
    for channels, size, kernel, stride in ((32, 112, 3, 1), (144, 56, 3, 2), (672, 14, 5, 1), (96, 56, 7, 1)):
        yield convolution(channels, size, channels, kernel, stride, groups=channels)
    for rows, inner, columns in (
        (197, 384, 1152),
        (197, 1536, 384),
        (128, 768, 3072),
        (128, 3072, 768),
        (1, 2048, 1000),
    ):
        yield linear(rows, inner, columns)
    yield attention(197, 6, 64)
    yield attention(128, 12, 64)
    yield attention(1024, 12, 64, causal=True)
    yield from others()


def main() -> None:
    clock = time.thread_time if THREADS == 1 else time.perf_counter
    limits = peaks(clock)
    print(f"peak {', '.join(f'{dtype} {limit:.1f}' for dtype, limit in limits.items())} GFLOP/s, {THREADS} threads")
    for case in cases():
        if len(sys.argv) > 1 and sys.argv[1] not in case.name:
            continue
        layouts = {i: f"c{HOST.block}" for i in range(len(case.inputs)) if case.blocked and i not in case.constants}
        task = make_task(case.fn, case.inputs, case.constants, anchor=case.anchor, layouts=layouts)
        for position, facts in case.known.items():
            task.region.placeholders[position].meta.update(facts)
        start = time.perf_counter()
        built = build(case.template, task)
        compiled = time.perf_counter() - start
        arguments = built.arguments(case.inputs)
        result = built.empty_output()
        seconds = best_seconds(lambda: built.module["main"](*arguments, result), clock)  # noqa: B023
        speed, limit = case.flops / seconds / 1e9, limits.get(str(case.inputs[0].dtype).removeprefix("torch."))
        share = "" if limit is None else f"{100 * speed / limit:5.0f} %"
        print(
            f"{case.name:45s} {seconds * 1e6:9.1f} us {speed:7.1f} GFLOP/s {share}"
            f"   compiled in {compiled:.2f} s, {dict(built.lowered.choice)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
