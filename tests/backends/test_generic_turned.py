"""Operands that lie across a result's vectors: the same bits as by definition, for every way that tiles may end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kernel_case import HOST, aligned, build, check, from_layout, make_task, randn, to_layout

from planish.backends.tvm.compat import tvm
from planish.backends.tvm.generic import nest
from planish.backends.tvm.generic.template import Generic, convert_layout
from planish.backends.tvm.plan import PLAIN, Value

aten = torch.ops.aten
BLOCKED = f"c{HOST.block}"
SHAPES = [(2, 40, 9, 7), (8, 16, 4, 4), (1, 37, 300), (3, 5, 2, 2), (2, 33, 3, 5, 7)]
"""Whole tiles, tiles that end early in either way or both, and fewer channels or pixels than a tile has."""


def turns(task: Any) -> bool:
    """Whether a kernel has tiles."""
    return "T.Shuffle" in Generic().emit(task).func.script()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("one", "other", "output"), [
    (PLAIN, BLOCKED, BLOCKED), (BLOCKED, PLAIN, PLAIN), (PLAIN, PLAIN, BLOCKED), (BLOCKED, BLOCKED, PLAIN)
])  # fmt: skip
def test_sums_of_mixed_layouts(shape: tuple[int, ...], one: str, other: str, output: str) -> None:
    inputs = [randn(*shape, seed=i) for i in range(2)]
    options: dict[str, Any] = {"kind": "pointwise", "layouts": {0: one, 1: other}, "hint": output}
    task = make_task(lambda a, b: aten.add.Tensor(a, b), inputs, **options)
    result = build(Generic(), task).run(inputs)
    np.testing.assert_array_equal(result, (inputs[0] + inputs[1]).numpy())
    assert turns(task) == (np.prod(shape[2:]) >= 4 and shape[1] >= 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(2, 40, 9, 7)], ids=str)
@pytest.mark.parametrize(("source", "target"), [(PLAIN, BLOCKED), (BLOCKED, PLAIN)])
def test_conversions_keep_every_bit(dtype: str, shape: tuple[int, ...], source: str, target: str) -> None:
    x = randn(*shape) * 100
    bits = (x > 0).numpy() if dtype == "bool" else x.to(getattr(torch, dtype)).view(torch.uint16).numpy()
    if dtype not in ("bool", "bfloat16"):
        bits = x.to(getattr(torch, dtype)).numpy()
    func = convert_layout(Value("x", shape, dtype, source), target, HOST)
    given = aligned(to_layout(bits, source))
    made = aligned(to_layout(np.zeros_like(bits), target))
    tvm.compile(tvm.IRModule({"main": func}), target=HOST.tvm_target())["main"](given, made)
    np.testing.assert_array_equal(from_layout(np.from_dlpack(made), shape, target), bits)


def channels_last(x: Any, y: Any) -> Any:
    return aten.mul.Tensor(aten.permute.default(x, [0, 3, 1, 2]), y)


TRANSPOSED: dict[str, tuple[Any, list[tuple[int, ...]], dict[str, Any]]] = {
    "a matrix": (lambda x, y: aten.add.Tensor(aten.permute.default(x, [1, 0]), y), [(70, 50), (50, 70)], {}),
    "channels last": (channels_last, [(2, 7, 9, 24), (2, 24, 7, 9)], {}),
    "channels last, blocked": (channels_last, [(2, 7, 9, 24), (2, 24, 7, 9)], {"layouts": {1: BLOCKED}}),
    "a part": (
        lambda x, y: aten.add.Tensor(aten.slice.Tensor(aten.permute.default(x, [0, 2, 1]), 2, 3, 40), y),
        [(2, 50, 30), (2, 30, 37)], {},
    ),
    "with one number a channel": (
        lambda x, y: aten.mul.Tensor(aten.sigmoid.default(x), y), [(2, 40, 9, 7), (2, 40, 1, 1)],
        {"layouts": {0: BLOCKED}, "hint": PLAIN},
    ),
    "with one number a pixel": (
        lambda x, y: aten.mul.Tensor(x, y), [(2, 40, 9, 7), (9, 7)], {"layouts": {0: PLAIN}, "hint": BLOCKED},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transpositions(name: str) -> None:
    """What the caller owns, PLAIN always, begins anywhere."""
    fn, shapes, options = TRANSPOSED[name]
    inputs = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    built = check(Generic(), fn, inputs, kind="pointwise", external="layouts" not in options, **options)
    assert turns(built.task)


def test_bfloat16_is_turned_as_it_is_read() -> None:
    inputs = [randn(2, 40, 9, 7, seed=i).bfloat16() for i in range(2)]
    options: dict[str, Any] = {"kind": "pointwise", "layouts": {0: PLAIN, 1: BLOCKED}, "hint": BLOCKED}
    built = check(Generic(), lambda a, b: aten.maximum.default(a, b), inputs, **options)
    assert turns(built.task)


def test_beside_an_operand_that_is_overwritten() -> None:
    inputs = [randn(2, 40, 9, 7, seed=i) for i in range(2)]
    task = make_task(
        lambda a, b: aten.add.Tensor(a, b), inputs, kind="pointwise", layouts={0: PLAIN, 1: BLOCKED}, hint=BLOCKED
    )
    task = replace(task, output=replace(task.output, layout=BLOCKED), within=frozenset({1}))
    built = build(Generic(), task)
    memory = aligned(to_layout(inputs[1].numpy(), BLOCKED))
    built.module["main"](*built.arguments(inputs), memory)
    result = from_layout(np.from_dlpack(memory), (2, 40, 9, 7), BLOCKED)
    np.testing.assert_array_equal(result, (inputs[0] + inputs[1]).numpy())
    assert turns(task)


@pytest.mark.parametrize(
    ("why", "fn", "shape", "options"),
    [
        ("every vector is a piece of a line", lambda x: aten.relu.default(x), (2, 40, 9, 7), {}),
        ("lines are broken: what is rolled is no longer in one piece",
         lambda x: aten.roll.default(aten.permute.default(x, [1, 0]), [5], [0]), (40, 50), {}),
        ("what is padded is not read where it is", lambda x: aten.constant_pad_nd.default(
            aten.permute.default(x, [1, 0]), [1, 1], 0.0), (40, 50), {}),
        ("it is read at two places", lambda x: aten.sub.Tensor(x, aten.permute.default(x, [1, 0])), (40, 40), {}),
        ("a tile would be three wide", lambda x: aten.neg.default(aten.permute.default(x, [1, 0])), (3, 5000), {}),
    ],
)  # fmt: skip
def test_what_is_not_turned(why: str, fn: Any, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    inputs = [randn(*shape)]
    built = check(Generic(), fn, inputs, kind="pointwise", **options)
    assert not turns(built.task), why


def test_large_ones_run_in_parallel_and_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [randn(2, 40, 30, 33, seed=i) for i in range(2)]
    options: dict[str, Any] = {"kind": "pointwise", "layouts": {0: PLAIN, 1: BLOCKED}, "hint": BLOCKED}
    task = make_task(lambda a, b: aten.gelu.default(aten.mul.Tensor(a, b)), inputs, **options)
    assert "T.parallel" in Generic().emit(task).func.script()
    tiles = build(Generic(), task).run(inputs)
    monkeypatch.setattr(nest, "plan_turn", lambda *_: None)
    np.testing.assert_array_equal(build(Generic(), task).run(inputs), tiles)
