"""Kernels that work in their inputs' memory: the same bits as with memory of their own, template by template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kernel_case import HOST, aligned, build, from_layout, make_task, randn, to_layout
from zoo import find
from zoo.common import Sample
from zoo.random_net import random_sample

import planish
from planish.backends.tvm import lower as lowering
from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.kernels.depthwise import Depthwise
from planish.backends.tvm.kernels.gemm import Gemm
from planish.backends.tvm.kernels.matmul import Matmul
from planish.backends.tvm.kernels.norm import Norms
from planish.backends.tvm.kernels.pool import Pool
from planish.backends.tvm.reuse import overwritable, parts_of
from planish.backends.tvm.sharing import Shares, Use, share

aten = torch.ops.aten
BLOCKED = f"c{HOST.block}"
CONV, POOL, LINEAR, MATMUL = (
    aten.convolution.default, aten.max_pool2d.default, aten.linear.default, aten.matmul.default
)  # fmt: skip


def conv(x: Any, w: Any, r: Any, groups: int = 1) -> Any:
    return aten.relu.default(aten.add.Tensor(CONV(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups), r))


def pool(x: Any, r: Any) -> Any:
    return aten.mul.Tensor(POOL(x, [3, 3], [1, 1], [1, 1]), r)


CASES: dict[str, tuple[Any, Any, list[tuple[int, ...]], dict[str, Any]]] = {
    "conv": (ConvDirect(), conv, [(2, 24, 9, 7), (40, 24, 3, 3), (2, 40, 9, 7)], {"constants": (1,), "anchor": CONV}),
    "depthwise": (
        Depthwise(), lambda x, w, r: conv(x, w, r, 40), [(2, 40, 9, 7), (40, 1, 3, 3), (2, 40, 9, 7)],
        {"constants": (1,), "anchor": CONV},
    ),
    "pool": (Pool(), pool, [(2, 40, 9, 7), (2, 40, 9, 7)], {"anchor": POOL}),
    "gemm": (
        Gemm(), lambda x, w, r: aten.add.Tensor(LINEAR(x, w), r), [(50, 33), (41, 33), (50, 41)],
        {"constants": (1,), "anchor": LINEAR},
    ),
    "matmul": (
        Matmul(), lambda p, q, r: aten.add.Tensor(MATMUL(p, q), r), [(3, 20, 33), (3, 33, 41), (3, 20, 41)],
        {"anchor": MATMUL},
    ),
    "generic pointwise": (
        Generic(), lambda r, b: aten.mul.Tensor(aten.add.Tensor(r, b), r), [(2, 40, 9, 70), (40, 1, 1)],
        {"kind": "pointwise"},
    ),
    "generic norm": (
        Generic(), lambda x, r: aten.add.Tensor(aten.layer_norm.default(x, [70], None, None, 1e-5), r),
        [(90, 70), (90, 70)], {"anchor": aten.layer_norm.default, "kind": "normalize"},
    ),
    "norm": (
        Norms(), lambda x, r: aten.add.Tensor(aten.layer_norm.default(x, [70], None, None, 1e-5), r),
        [(90, 70), (90, 70)], {"anchor": aten.layer_norm.default, "kind": "normalize"},
    ),
    "norm of blocks": (
        Norms(), lambda x, r: aten.add.Tensor(aten.group_norm.default(x, 2, None, None, 1e-5, False), r),
        [(2, 40, 9, 7), (2, 40, 9, 7)],
        {"anchor": aten.group_norm.default, "kind": "normalize", "hint": BLOCKED, "layouts": {0: BLOCKED, 1: BLOCKED}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_results_in_an_operands_place_have_the_same_bits(name: str) -> None:
    template, fn, shapes, options = CASES[name]
    inputs = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    task = make_task(fn, inputs, **options)
    apart = build(template, task)
    expected = apart.run(inputs)
    task = replace(apart.task, output=replace(apart.task.output, layout=apart.lowered.output))
    position = overwritable(task)[0]
    assert position == (0 if name == "generic pointwise" else len(shapes) - 1)
    inside = build(template, replace(task, within=frozenset({position})))
    assert position not in inside.lowered.args
    memory = aligned(to_layout(inputs[position].numpy(), task.output.layout))
    inside.module["main"](*inside.arguments(inputs), memory)
    np.testing.assert_array_equal(
        from_layout(np.from_dlpack(memory), task.output.shape, task.output.layout), expected, strict=True
    )


@pytest.mark.parametrize(
    ("why", "fn", "shapes", "options"),
    [
        ("the anchor reads it", lambda x: aten.add.Tensor(POOL(x, [3, 3], [1, 1], [1, 1]), x), [(1, 16, 8, 8)],
         {"anchor": POOL, "layouts": {0: BLOCKED}}),
        ("it is read elsewhere", lambda a, b: aten.add.Tensor(a, aten.flip.default(b, [0])), [(8, 8), (8, 8)], {}),
        ("it is broadcast", lambda a, b: aten.mul.Tensor(a, b), [(1, 8), (8, 1)], {}),
        ("its dtype is another", lambda a: aten.gt.Scalar(a, 0), [(8, 8)], {}),
        ("the caller owns it", lambda a: aten.relu.default(a), [(8, 8)], {"external": True}),
    ],
)  # fmt: skip
def test_operands_that_must_not_be_overwritten(why: str, fn: Any, shapes: Any, options: Any) -> None:
    task = make_task(fn, [torch.empty(shape) for shape in shapes], **{"kind": "pointwise", **options})
    assert overwritable(task) == [], why


def concat_parts(axis: int, layout: str, *shapes: tuple[int, ...]) -> list[tuple[int, int]]:
    inputs = [torch.empty(shape) for shape in shapes]
    layouts = dict.fromkeys(range(len(shapes)), layout)
    task = make_task(lambda *x: aten.cat.default(list(x), axis), inputs, anchor=aten.cat.default, layouts=layouts)
    return parts_of(replace(task, output=replace(task.output, layout=layout)))


@pytest.mark.parametrize(
    ("axis", "layout", "shapes", "expected"),
    [
        (1, BLOCKED, [(1, 32, 2, 3), (1, 16, 2, 3), (1, 5, 2, 3)], [(0, 0), (1, 32 * 24), (2, 48 * 24)]),
        (1, BLOCKED, [(1, 20, 2, 3), (1, 12, 2, 3), (1, 16, 2, 3)], [(0, 0), (2, 32 * 24)]),  # 20 is within a block
        (1, BLOCKED, [(2, 32, 2, 3), (2, 16, 2, 3)], []),  # of two images, each part lies in two pieces
        (1, "plain", [(1, 3, 2), (1, 5, 2)], [(0, 0), (1, 24)]),
        (0, "plain", [(3, 2), (5, 2)], [(0, 0), (1, 24)]),
        (2, "plain", [(1, 3, 2), (1, 3, 4)], []),
    ],
)
def test_parts_that_lie_in_one_piece(axis: int, layout: str, shapes: Any, expected: Any) -> None:
    if HOST.block == 16 or layout == "plain":
        assert concat_parts(axis, layout, *shapes) == expected


def test_a_concatenation_with_operations_after_it_is_computed() -> None:
    task = make_task(
        lambda a, b: aten.relu.default(aten.cat.default([a, b], 0)), [torch.empty(4)] * 2, anchor=aten.cat.default
    )
    assert parts_of(task) == []


def outputs(sample: Sample) -> tuple[list[torch.Tensor], dict[str, int]]:
    model, args, kwargs = sample
    compiled = planish.compile(model, args, example_kwargs=kwargs, progress=False)
    first, again = compiled(*args, **kwargs), compiled(*args, **kwargs)
    results, repeated = ([y] if isinstance(y, torch.Tensor) else list(y) for y in (first, again))
    for a, b in zip(results, repeated, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    return results, compiled._calls["memory"]


def nothing_shared(uses: list[Use], *context: Any) -> Shares:
    return share([Use(use.output, use.reads, use.view) for use in uses], *context)


@pytest.mark.parametrize("name", ["squeezenet1_1", "deit_tiny", "inception_v3", 3, 7, 12, 21])
def test_models_have_the_same_bits_however_memory_is_shared(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample() -> Sample:
        return random_sample(name) if isinstance(name, int) else find(name).small()

    shared, memory = outputs(sample())
    monkeypatch.setattr(lowering, "share", nothing_shared)
    apart, more = outputs(sample())
    for a, b in zip(shared, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert memory["size"] <= more["size"]
    assert memory["size"] <= 1.1 * memory["busiest"] + 4096
