"""Random networks through the passes and through the compiler: the numbers of float64 within eager's own error."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from compare import assert_close_to_reference
from torch.utils._pytree import tree_map
from zoo.common import Sample, reference
from zoo.random_net import random_sample

import planish

SUITE = range(12)
BARS = range(1000, 1300)


NEIGHBOURS = 4
"""Inputs at which eager's own error is looked at: near the first, since one alone may round luckily all the way.

A norm over three nearly equal values magnifies one ulp of its input a hundredfold; whether eager meets that ulp in
the element where we do is chance.
"""


def eager_and_reference(sample: Sample) -> tuple[Any, Any]:
    """What eager could as well have returned, its largest error among the neighbours in every element; and float64."""
    model, args, kwargs = sample
    exact = reference(*sample)
    with torch.no_grad():
        eager = model(*args, **kwargs)
    worst = [_errors(eager, exact)]
    for number in range(1, NEIGHBOURS):
        generator = torch.Generator().manual_seed(number)
        near = tree_map(partial(_beside, generator), (args, kwargs))
        with torch.no_grad():
            worst.append(_errors(model(*near[0], **near[1]), reference(model, *near)))
    largest = tree_map(lambda *errors: torch.stack(errors).nan_to_num(0.0, 0.0).amax(0), *worst)
    return tree_map(_off_by, eager, exact, largest), exact


def _beside(generator: torch.Generator, value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return value * (1 + 1e-6 * torch.randn(value.shape, generator=generator))


def _errors(eager: Any, exact: Any) -> Any:
    return tree_map(lambda e, r: (e.double() - r.double()).abs(), eager, exact)


def _off_by(eager: torch.Tensor, exact: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    if not eager.is_floating_point():
        return eager
    return torch.where(torch.isfinite(eager), (exact + error).to(eager.dtype), eager)


def check_passes(seed: int) -> None:
    """Everything before TVM: tells a defect of a pass from one of a kernel."""
    model, args, kwargs = random_sample(seed)
    program = planish.rewrite(model, args, example_kwargs=kwargs)
    eager, exact = eager_and_reference((model, args, kwargs))
    assert_close_to_reference(program(*args, **kwargs), exact, eager)


def check_compiled(seed: int) -> None:
    model, args, kwargs = random_sample(seed)
    compiled = planish.compile(model, args, example_kwargs=kwargs, progress=False)
    eager, exact = eager_and_reference((model, args, kwargs))
    assert_close_to_reference(compiled(*args, **kwargs), exact, eager)


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
