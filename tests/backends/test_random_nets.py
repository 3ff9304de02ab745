"""Random networks through the passes and through the compiler: the numbers of float64 within eager's own error."""

from __future__ import annotations

import pytest
import torch
from compare import assert_close_to_reference
from zoo.common import reference
from zoo.random_net import random_sample

import planish

SUITE = range(12)
BARS = range(1000, 1300)


def check_passes(seed: int) -> None:
    """Everything before TVM: tells a defect of a pass from one of a kernel."""
    model, args, kwargs = random_sample(seed)
    program = planish.rewrite(model, args, example_kwargs=kwargs)
    with torch.no_grad():
        eager = model(*args, **kwargs)
    assert_close_to_reference(program(*args, **kwargs), reference(model, args, kwargs), eager)


def check_compiled(seed: int) -> None:
    model, args, kwargs = random_sample(seed)
    compiled = planish.compile(model, args, example_kwargs=kwargs, progress=False)
    with torch.no_grad():
        eager = model(*args, **kwargs)
    assert_close_to_reference(compiled(*args, **kwargs), reference(model, args, kwargs), eager)


@pytest.mark.parametrize("seed", SUITE)
def test_passes_keep_random_networks(seed: int) -> None:
    check_passes(seed)


@pytest.mark.parametrize("seed", SUITE)
def test_random_networks_compile(seed: int) -> None:
    check_compiled(seed)


@pytest.mark.bars
@pytest.mark.parametrize("seed", BARS)
def test_passes_keep_many_random_networks(seed: int) -> None:
    check_passes(seed)


@pytest.mark.bars
@pytest.mark.parametrize("seed", BARS)
def test_many_random_networks_compile(seed: int) -> None:
    check_compiled(seed)


def test_the_networks_are_what_they_claim() -> None:
    """Equal seeds are equal networks; over some seeds every family of operators occurs; modules are reused."""
    (first, args, _), (again, _, _) = random_sample(5), random_sample(5)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(first(*args), again(*args), strict=True))
    kinds = {type(m).__name__ for seed in range(20) for m in random_sample(seed)[0].modules()}
    assert kinds >= {"Conv2d", "ConvTranspose2d", "BatchNorm2d", "Linear", "LayerNorm", "SqueezeExcite", "GroupNorm"}
