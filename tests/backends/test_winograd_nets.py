"""Winograd inside compiled networks: where it is chosen, what "strict" keeps, its bits, and the size of the file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from torch import nn

import planish
from planish.backends.dynamo_engine import TvmEngine, make_engine
from planish.backends.tvm.runtime import Compiled


class Chain(nn.Module):
    """Three 3x3 layers with a shortcut, two of which share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(32, 48, 3, padding=1), nn.Conv2d(48, 48, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).relu()
        return (y + self.second(self.second(y).relu())).relu()


X = torch.randn(1, 32, 40, 40, generator=torch.Generator().manual_seed(0))


def chain() -> nn.Module:
    torch.manual_seed(0)
    return Chain().eval()


@pytest.fixture(scope="module")
def fast() -> Compiled:
    return planish.compile(chain(), (X,), progress=False)


@pytest.fixture(scope="module")
def strict() -> Compiled:
    return planish.compile(chain(), (X,), numerics="strict", progress=False)


def templates(model: Compiled) -> Counter[str]:
    """How many calls each template has."""
    kernels = model.manifest["calls"]["kernels"]
    return Counter(kernels[step["symbol"]]["template"] for step in model.steps if step["symbol"])


def test_only_fast_numerics_choose_it(fast: Compiled, strict: Compiled) -> None:
    assert templates(fast)["winograd4"] == 3
    assert not [name for name in templates(strict) if name.startswith("winograd")]
    assert templates(strict)["conv_direct"] == 3
    assert (fast.manifest["options"]["numerics"], strict.manifest["options"]["numerics"]) == ("fast", "strict")


def test_both_are_close_to_the_model(fast: Compiled, strict: Compiled) -> None:
    model = chain()
    with torch.no_grad():
        eager, exact = model(X), chain().double()(X.double())
    assert_close_to_reference(fast(X), exact, eager)
    assert_close_to_reference(strict(X), exact, eager)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_strict_keeps_what_is_not_finite_where_the_model_has_it(strict: Compiled, value: float) -> None:
    x = X.clone()
    x[0, 5, 17, 23] = value
    with torch.no_grad():
        wanted = chain()(x)
    made = strict(x)
    assert not torch.isfinite(wanted).all()
    assert torch.equal(torch.isnan(made), torch.isnan(wanted))
    assert torch.equal(torch.isposinf(made), torch.isposinf(wanted))


def test_the_door_of_torch_compile_takes_numerics() -> None:
    engine = make_engine({"numerics": "strict"})
    assert isinstance(engine, TvmEngine)
    assert engine._backend.numerics == "strict"


def test_the_same_bits_at_every_number_of_threads(fast: Compiled, tmp_path: Path) -> None:
    fast.save(tmp_path / "chain.planish")
    x = X.numpy()
    results = [planish.load(tmp_path / "chain.planish", threads=threads)(x) for threads in (1, 2, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_the_file_holds_each_weight_once(fast: Compiled) -> None:
    """48 and 32 are multiples of every block, so nothing is padded; what is derived would be four times that."""
    parameters = sum(p.numel() * 4 for p in chain().parameters())
    assert fast.manifest["members"]["weights"]["length"] <= parameters + 64 * 8
    derived = [entry["derived"]["shape"] for entry in fast.manifest["weights"] if "derived" in entry]
    assert [int(np.prod(shape)) for shape in derived] == [36 * 32 * 48, 36 * 48 * 48]


def test_machines_that_never_saw_it() -> None:
    """Other vector widths plan their own blocks and bring their own derivation."""
    for target in ("haswell", "aarch64:neoverse-v1"):
        model: Any = planish.compile(chain(), (X,), target=target, progress=False)
        assert templates(model)["winograd4"] == 3
        if model.runs_here:
            with torch.no_grad():
                assert_close_to_reference(model(X), chain().double()(X.double()), chain()(X))
