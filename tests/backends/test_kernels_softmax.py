"""Softmax over rows: three passes, or pairs of mantissa and exponent; rows masked, huge or not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from compare import assert_close_to_reference
from kernel_case import HOST, Built, aten, build, check, make_task, randn

from planish.backends.tvm.kernels.softmax import Softmax, algorithms
from planish.backends.tvm.kernels.templates import TEMPLATES
from planish.backends.tvm.template import Choice, Refused

SOFTMAX, LOG = aten._softmax.default, aten._log_softmax.default
INF, NAN, LOWEST = float("inf"), float("nan"), torch.finfo(torch.float32).min


def rows(x: Any) -> Any:
    return SOFTMAX(x, -1, False)


def by(algorithm: str) -> Callable[[Sequence[Choice]], Choice]:
    return lambda space: next(choice for choice in space if choice["algorithm"] == algorithm)


def with_algorithm(algorithm: str, x: torch.Tensor, op: Any = SOFTMAX) -> Built:
    return build(Softmax(), make_task(lambda x: op(x, -1, False), [x], anchor=op), by(algorithm))


def filled(x: torch.Tensor, value: float, share: float) -> torch.Tensor:
    chosen = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < share
    return x.masked_fill(chosen, value)


HOSTILE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "wide": lambda x: 30 * x,
    "beyond pairs": lambda x: x + 1e4,
    "below pairs": lambda x: x - 1e4,
    "at the border of pairs": lambda x: x + torch.linspace(-505, 505, x.shape[0]).view(-1, *[1] * (x.dim() - 1)),
    "at both borders": lambda x: torch.where(x > 0, 499.0, -499.0) + x,
    "huge": lambda x: 1e30 * x,
    "masked by -inf": lambda x: filled(x, -INF, 0.5),
    "masked by the lowest number": lambda x: filled(x, LOWEST, 0.5),
    "masked by -1e9": lambda x: filled(x, -1e9, 0.9),
    "nothing but -inf": lambda x: torch.full_like(x, -INF),
    "nothing but the lowest number": lambda x: torch.full_like(x, LOWEST),
    "one part finite": lambda x: torch.where(torch.arange(x.shape[-1]) < 30, x, -INF),
    "some inf": lambda x: filled(x, INF, 0.002),
    "some NaN": lambda x: filled(x, NAN, 0.002),
}


@pytest.mark.parametrize("algorithm", ["kept", "again", "pairs"])
@pytest.mark.parametrize("shape", [(9, 519), (3, 9001)], ids=str)
def test_every_algorithm_does_with_a_row_what_eager_does(shape: tuple[int, ...], algorithm: str) -> None:
    built = with_algorithm(algorithm, randn(*shape))
    for name, make in HOSTILE.items():
        x = make(randn(*shape))
        try:
            assert_close_to_reference(built.run([x]), rows(x.double()), rows(x))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("shape", [(9, 519), (2, 9001)], ids=str)
def test_logarithms_take_three_passes(shape: tuple[int, ...]) -> None:
    built = with_algorithm("again", randn(*shape), LOG)
    assert {choice["algorithm"] for choice in Softmax().space(built.task)} == {"again"}
    for make in HOSTILE.values():
        x = make(randn(*shape))
        assert_close_to_reference(built.run([x]), LOG(x.double(), -1, False), LOG(x, -1, False))


@pytest.mark.parametrize("shape", [(16,), (1, 1, 17), (2, 3, 5, 64), (5, 8192)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    check(Softmax(), rows, [randn(*shape)], anchor=SOFTMAX)


def test_what_stands_before_and_after() -> None:
    def fn(x: Any, mask: Any, gain: Any) -> Any:
        scores = aten.slice.Tensor(aten.reshape.default(x, [2, 3, 7, 48]), 3, 5, 45)
        weights = SOFTMAX(aten.add.Tensor(aten.mul.Tensor(scores, 0.3), mask), -1, False)
        return aten.relu.default(aten.mul.Tensor(weights, gain))

    for algorithm in ("kept", "again", "pairs"):
        inputs = [randn(6, 7, 48), randn(2, 1, 7, 40, seed=1), randn(40, seed=2)]
        built = build(Softmax(), make_task(fn, inputs, anchor=SOFTMAX), by(algorithm))
        assert_close_to_reference(built.run(inputs), fn(*(t.double() for t in inputs)), fn(*inputs))


def test_bfloat16_is_computed_in_float32() -> None:
    check(Softmax(), rows, [randn(9, 300).bfloat16()], anchor=SOFTMAX)


@pytest.mark.parametrize("algorithm", ["kept", "pairs"])
def test_parts_of_a_row_do_not_depend_on_threads(algorithm: str) -> None:
    x = randn(2, 20000)
    made = []
    for threads in (1, 2, 3):
        task = make_task(rows, [x], anchor=SOFTMAX, target=replace(HOST, threads=threads))
        made.append(build(Softmax(), task, by(algorithm)).run([x]).tobytes())
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda x: aten.relu.default(x), "not a softmax"),
        (lambda x: SOFTMAX(x, 1, False), "not over the last axis"),
        (lambda x: SOFTMAX(aten.slice.Tensor(x, 2, 0, 5), -1, False), "rows of 5 do not fill a vector"),
        (lambda x: aten.permute.default(SOFTMAX(x, -1, False), [1, 0, 2]), "its result is moved"),
        (lambda x: SOFTMAX(aten.permute.default(x, [0, 2, 1]), -1, False), "aten.permute.default changes rows"),
        (lambda x: SOFTMAX(aten.reshape.default(x, [4, 32, 16]), -1, False), "aten.reshape.default changes rows"),
    ],
)
def test_what_is_left_to_the_generic_scheduler(fn: Callable[..., Any], reason: str) -> None:
    x = randn(4, 16, 32)
    anchor = None if reason == "not a softmax" else SOFTMAX
    refused = Softmax().wants(make_task(fn, [x], anchor=anchor))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


def test_float64_is_left_to_the_generic_scheduler() -> None:
    assert Softmax().wants(make_task(rows, [randn(4, 32).double()], anchor=SOFTMAX)) == Refused(
        "not float32 or bfloat16"
    )


def test_pairs_are_the_default_where_memory_is_waited_for() -> None:
    def first(*shape: int) -> str:
        anchor = make_task(rows, [torch.empty(shape, device="meta")], anchor=SOFTMAX).region.anchor_node
        assert anchor is not None
        return algorithms(anchor)[0]

    assert first(64, 32000) == "kept"  # 16 MB, read and written
    assert first(64, 128256) == "pairs"  # 66 MB


def test_the_template_is_asked() -> None:
    task = make_task(rows, [randn(4, 32)], anchor=SOFTMAX)
    assert next(t.name for t in TEMPLATES if not isinstance(t.wants(task), Refused)) == "softmax"
