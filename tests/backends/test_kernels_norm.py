"""Layer, RMS, group and instance norm: along rows and in blocks of channels, whole and in parts, far from 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from kernel_case import HOST, Built, aten, build, check, loops, make_task, randn

from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.kernels.norm import Norms
from planish.backends.tvm.kernels.templates import TEMPLATES
from planish.backends.tvm.plan import PLAIN
from planish.backends.tvm.template import Refused

LAYER, RMS, GROUP = aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default
BLOCKED = f"c{HOST.block}"
IN_BLOCKS: dict[str, Any] = {"layouts": {0: BLOCKED}, "hint": BLOCKED}


def layer(*normalized: int) -> Callable[..., Any]:
    return lambda x, w=None, b=None: LAYER(x, list(normalized), w, b, 1e-5, False)


def rms(*normalized: int) -> Callable[..., Any]:
    return lambda x, w=None: RMS(x, list(normalized), w, 1e-6)


def group(groups: int) -> Callable[..., Any]:
    return lambda x, w=None, b=None: GROUP(x, groups, w, b, 1e-5, False)


def run(fn: Callable[..., Any], *inputs: torch.Tensor, anchor: Any, **options: Any) -> Built:
    """All inputs but the first are weights."""
    return check(Norms(), fn, inputs, range(1, len(inputs)), anchor=anchor, kind="normalize", **options)


ROWS = [((197, 48), 1), ((3, 5, 40), 2), ((2, 19), 1), ((70, 100), 1), ((1, 30000), 1), ((2, 9, 1024), 2)]


@pytest.mark.parametrize(("shape", "normalized"), ROWS, ids=str)
def test_rows_of_the_last_axes(shape: tuple[int, ...], normalized: int) -> None:
    axes = shape[-normalized:]
    run(layer(*axes), randn(*shape), randn(*axes, seed=1), randn(*axes, seed=2), anchor=LAYER)


@pytest.mark.parametrize("shape", [(70, 100), (1, 30000)], ids=str)
def test_rms_norms(shape: tuple[int, ...]) -> None:
    run(rms(shape[1]), randn(*shape), randn(shape[1], seed=1), anchor=RMS)


def test_an_rms_norm_without_eps_takes_that_of_its_dtype() -> None:
    run(lambda x: RMS(x, [32], None, None), randn(5, 32) * 1e-4, anchor=RMS)


GROUPS = [(1, 64, 16), (2, 20, 4), (1, 21, 3), (3, 33, 33), (1, 24, 1), (8, 96, 2)]


@pytest.mark.parametrize("options", [{}, IN_BLOCKS], ids=["plain", "blocked"])
@pytest.mark.parametrize(("batch", "channels", "groups"), GROUPS, ids=str)
def test_groups_of_channels(batch: int, channels: int, groups: int, options: dict[str, Any]) -> None:
    x, w, b = randn(batch, channels, 6, 7), randn(channels, seed=1), randn(channels, seed=2)
    run(group(groups), x, w, b, anchor=GROUP, **options)


@pytest.mark.parametrize("options", [{}, IN_BLOCKS], ids=["plain", "blocked"])
@pytest.mark.parametrize(("channels", "groups"), [(24, 1), (8, 2)], ids=str)
def test_few_large_groups_are_cut_into_parts(channels: int, groups: int, options: dict[str, Any]) -> None:
    x, w, b = randn(1, channels, 71, 83), randn(channels, seed=1), randn(channels, seed=2)
    built = run(group(groups), x, w, b, anchor=GROUP, **options)
    shared = [extent for kind, extent in loops(built.lowered.func) if kind == "parallel"]
    assert len(shared) == 3  # sums, squares, results
    assert min(shared) >= 8


@pytest.mark.parametrize("options", [{}, IN_BLOCKS], ids=["plain", "blocked"])
def test_bits_do_not_depend_on_threads(options: dict[str, Any]) -> None:
    x, made = randn(1, 24, 71, 83), []
    for threads in (1, 2, 16):
        target = replace(HOST, threads=threads)
        task = make_task(group(2), [x], anchor=GROUP, kind="normalize", target=target, **options)
        made.append(build(Norms(), task).run([x]).tobytes())
    assert made[0] == made[1] == made[2]


HOSTILE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "far from 0": lambda x: x * 1e-2 + 100.0,
    "very far from 0": lambda x: x + 3e4,
    "tiny": lambda x: x * 1e-20,
    "equal": lambda x: torch.full_like(x, 3.25),
    "one large": lambda x: torch.where(torch.arange(x.shape[-1]) == 3, 1e6, x),
    "one NaN": lambda x: torch.where(torch.arange(x.shape[-1]) == 3, float("nan"), x),
    "one inf": lambda x: torch.where(torch.arange(x.shape[-1]) == 3, float("inf"), x),
}


@pytest.mark.parametrize("options", [{}, IN_BLOCKS], ids=["plain", "blocked"])
def test_groups_far_from_0_or_not_finite(options: dict[str, Any]) -> None:
    built = run(group(4), randn(1, 32, 9, 20), anchor=GROUP, **options)
    for make in HOSTILE.values():
        x = make(randn(1, 32, 9, 20))
        assert_close_to_reference(built.run([x]), group(4)(x.double()), group(4)(x))


@pytest.mark.parametrize(("fn", "anchor"), [(layer(200), LAYER), (rms(200), RMS)], ids=["layer", "rms"])
def test_rows_far_from_0_or_not_finite(fn: Callable[..., Any], anchor: Any) -> None:
    built = run(fn, randn(19, 200), anchor=anchor)
    for make in HOSTILE.values():
        x = make(randn(19, 200))
        assert_close_to_reference(built.run([x]), fn(x.double()), fn(x))


def test_long_rows_keep_their_sums() -> None:
    """65536 numbers near 1000: a chain of sums of these would lose four digits."""
    x = randn(1, 8, 256, 256) * 0.1 + 1000
    for options in ({}, IN_BLOCKS):
        run(group(8), x, anchor=GROUP, **options)


def test_channels_last_are_read_from_blocks_and_written_back() -> None:
    def fn(x: Any, w: Any, b: Any) -> Any:
        return LAYER(aten.permute.default(x, [0, 2, 3, 1]), [40], w, b, 1e-6, False)

    def back(x: Any, w: Any, b: Any) -> Any:
        return aten.permute.default(fn(x, w, b), [0, 3, 1, 2])

    inputs = randn(2, 40, 5, 7), randn(40, seed=1), randn(40, seed=2)
    run(fn, *inputs, anchor=LAYER, layouts={0: BLOCKED})
    run(back, *inputs, anchor=LAYER, **IN_BLOCKS)
    wants = Norms().wants(make_task(fn, inputs, (1, 2), anchor=LAYER))
    assert not isinstance(wants, Refused)
    assert wants.inputs == {0: (BLOCKED,)}


def test_what_stands_before_and_after() -> None:
    def fn(x: Any, r: Any, w: Any, s: Any) -> Any:
        made = LAYER(aten.add.Tensor(aten.slice.Tensor(x, 1, 1, 6), r), [48], w, None, 1e-5, False)
        windows = aten.permute.default(aten.reshape.default(made, [2, 5, 3, 16]), [0, 2, 1, 3])
        return aten.add.Tensor(aten.relu.default(windows), s)

    inputs = [randn(2, 7, 48), randn(2, 5, 48, seed=1), randn(48, seed=2), randn(2, 3, 5, 16, seed=3)]
    for keep in (False, True):
        task = make_task(fn, inputs, (2,), anchor=LAYER, kind="normalize")
        built = build(Norms(), task, lambda space, keep=keep: next(c for c in space if c["keep"] is keep))  # type: ignore[misc]
        assert_close_to_reference(built.run(inputs), fn(*(t.double() for t in inputs)), fn(*inputs))


@pytest.mark.parametrize("options", [{}, IN_BLOCKS], ids=["plain", "blocked"])
def test_a_residual_and_an_activation_join_a_group_norm(options: dict[str, Any]) -> None:
    def fn(x: Any, w: Any, r: Any) -> Any:
        return aten.silu.default(aten.add.Tensor(GROUP(x, 2, w, None, 1e-5, False), r))

    inputs = [randn(2, 24, 5, 9), randn(24, seed=1), randn(2, 24, 5, 9, seed=2)]
    layouts = {0: options["hint"], 2: options["hint"]} if options else {}
    hint = options.get("hint", PLAIN)
    check(Norms(), fn, inputs, (1,), anchor=GROUP, kind="normalize", layouts=layouts, hint=hint)


def test_bfloat16_is_computed_in_float32() -> None:
    x, w, b = randn(21, 200).bfloat16(), randn(200, seed=1).bfloat16(), randn(200, seed=2).bfloat16()
    run(layer(200), x, w, b, anchor=LAYER)
    run(group(4), randn(1, 32, 9, 9).bfloat16(), anchor=GROUP, **IN_BLOCKS)


def test_the_callers_memory_may_lie_anywhere() -> None:
    run(layer(100), randn(50, 100), anchor=LAYER, external=True)


def test_rows_ask_for_the_rows_after_them() -> None:
    """Rows of 384 floats are 24 cache lines; rows of 32 are 2, which is not worth it."""
    tasks = [make_task(layer(n), [randn(400, n)], anchor=LAYER, kind="normalize") for n in (384, 32)]
    assert ["llvm_intrin" in str(Norms().emit(task).func) for task in tasks] == [True, False]


@pytest.mark.parametrize(
    ("fn", "anchor", "reason"),
    [
        (aten.relu.default, None, "not a layer, RMS or group norm"),
        (layer(8), LAYER, "its vectors do not lie side by side"),
        (lambda x: group(2)(aten.slice.Tensor(x, 3, 0, 1)), GROUP, "its vectors do not lie side by side"),
        (lambda x: layer(6)(aten.permute.default(x, [0, 1, 3, 2])), LAYER, "its vectors do not lie side by side"),
        (lambda x: group(2)(aten.cumsum.default(x, 1)), GROUP, "what comes before it is neither pointwise nor a view"),
        (lambda x: aten.cumsum.default(group(2)(x), 1), GROUP, "aten.cumsum.default is not pointwise"),
    ],
)
def test_what_is_left_to_the_generic_scheduler(fn: Callable[..., Any], anchor: Any, reason: str) -> None:
    refused = Norms().wants(make_task(fn, [randn(2, 4, 6, 8)], anchor=anchor))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


def test_float64_is_left_to_the_generic_scheduler() -> None:
    refused = Norms().wants(make_task(layer(32), [randn(4, 32).double()], anchor=LAYER))
    assert refused == Refused("not float32 or bfloat16")


def test_the_template_is_asked_before_the_generic_scheduler() -> None:
    task = make_task(layer(32), [randn(4, 32)], anchor=LAYER)
    taken = [t.name for t in TEMPLATES if not isinstance(t.wants(task), Refused)]
    assert taken == [Norms.name, Generic().name]


def test_what_it_makes_is_what_the_generic_scheduler_makes() -> None:
    """Two ways to sum: close, and neither forgets an element."""
    x = randn(40, 384)
    task = make_task(layer(384), [x], anchor=LAYER, kind="normalize")
    np.testing.assert_allclose(build(Norms(), task).run([x]), build(Generic(), task).run([x]), atol=2e-6)
