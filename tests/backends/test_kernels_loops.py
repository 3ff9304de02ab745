"""What every kernel that does real work must look like: a parallel loop, vector loops, and no padded copies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_case import HOST, Built, aten, build, loops, make_task, randn

from planish.backends.tvm.kernels.attention import Attention
from planish.backends.tvm.kernels.concat import Concat
from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.kernels.depthwise import Depthwise
from planish.backends.tvm.kernels.gemm import Gemm
from planish.backends.tvm.kernels.matmul import Matmul
from planish.backends.tvm.kernels.pool import Pool
from planish.backends.tvm.kernels.spatial_mean import SpatialMean
from planish.backends.tvm.target import parse_target

BLOCKED = f"c{HOST.block}"
CONV, SDPA = aten.convolution.default, aten.scaled_dot_product_attention.default
LINEAR, MATMUL, CAT = aten.linear.default, aten.matmul.default, aten.cat.default
MAX_POOL = aten.max_pool2d.default


def conv(groups: int) -> Callable[..., Any]:
    return lambda x, w, b: CONV(x, w, b, [1, 1], [1, 1], [1, 1], False, [0, 0], groups)


image = (1, 64, 28, 28)
CASES: dict[str, tuple[Any, Any, Callable[..., Any], list[torch.Tensor], tuple[int, ...]]] = {
    "conv_direct": (ConvDirect(), CONV, conv(1), [randn(*image), randn(64, 64, 3, 3), randn(64)], (1, 2)),
    "conv_grouped": (ConvDirect(), CONV, conv(8), [randn(*image), randn(64, 8, 3, 3), randn(64)], (1, 2)),
    "depthwise": (Depthwise(), CONV, conv(64), [randn(*image), randn(64, 1, 3, 3), randn(64)], (1, 2)),
    "gemm": (Gemm(), LINEAR, lambda x, w: LINEAR(x, w, None), [randn(128, 96), randn(192, 96)], (1,)),
    "gemv": (Gemm(), LINEAR, lambda x, w: LINEAR(x, w, None), [randn(1, 96), randn(192, 96)], (1,)),
    "matmul": (Matmul(), MATMUL, lambda p, q: MATMUL(p, q), [randn(3, 64, 96), randn(3, 96, 64)], ()),
    "attention": (
        Attention(),
        SDPA,
        lambda q, k, v: SDPA(q, k, v, None, 0.0, False),
        [randn(1, 2, 64, 64, seed=i) for i in range(3)],
        (),
    ),
    "pool": (
        Pool(),
        aten.max_pool2d.default,
        lambda x: aten.max_pool2d.default(x, [3, 3], [2, 2]),
        [randn(*image)],
        (),
    ),
    "spatial_mean": (SpatialMean(), aten.mean.dim, lambda x: aten.mean.dim(x, [2, 3], False), [randn(*image)], ()),
    "concat": (Concat(), CAT, lambda a, b: CAT([a, b], 1), [randn(*image), randn(*image)], ()),
}


def made(name: str, **options: Any) -> Built:
    template, anchor, fn, inputs, constants = CASES[name]
    blocked = name in ("spatial_mean", "concat")
    layouts = dict.fromkeys(range(len(inputs)), f"c{options.get('target', HOST).block}") if blocked else {}
    return build(template, make_task(fn, inputs, constants, anchor=anchor, layouts=layouts, **options))


@pytest.mark.parametrize("name", CASES)
def test_work_is_parallel_and_in_vectors(name: str) -> None:
    found = loops(made(name).lowered.func)
    assert any(kind == "parallel" and extent >= HOST.threads for kind, extent in found)
    assert any(kind == "vectorized" and extent >= min(HOST.lanes, 8) for kind, extent in found)


@pytest.mark.parametrize("name", ["conv_direct", "conv_grouped", "depthwise", "gemm", "matmul"])
def test_accumulators_stay_in_registers(name: str) -> None:
    """Between its multiply-adds an inner loop stores no vector: a spilled accumulator would be a store."""
    text = str(made(name).module.mod.inspect_source("asm"))
    if "vfmadd" not in text:
        pytest.skip("no x86 vector code on this machine")
    for block in re.split(r"^\.?\w+:.*$", text, flags=re.MULTILINE):
        if block.count("vfmadd") >= 12 and re.search(r"\bj[a-z]+\s+\.L", block):
            stores = re.findall(r"vmov\w+\s+%[xyz]mm\d+, [^%\s]*\(%rsp", block)
            assert len(stores) <= block.count("vfmadd") // 8, block


@pytest.mark.parametrize("cpu", ["haswell", "skylake-avx512", "x86-64-v3", "aarch64:neoverse-v1"])
@pytest.mark.parametrize("name", ["conv_direct", "depthwise", "gemm", "attention", "pool"])
def test_every_target_gets_code(name: str, cpu: str) -> None:
    target = parse_target(cpu, threads=4)
    built = made(name, target=target)
    assert built.lowered.output in ("plain", f"c{target.block}")
