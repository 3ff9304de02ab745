"""Observers against the same answer computed from all values at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from planish.errors import QuantizationError
from planish.ir.types import QuantParams
from planish.passes.quantize.histogram import HALF, Histogram
from planish.passes.quantize.observers import Entropy, MeanSquare, MinMax, MovingAverage, Observer, Percentile

OBSERVERS: dict[str, Callable[[], Observer]] = {
    "min-max": MinMax,
    "moving average": MovingAverage,
    "percentile": Percentile,
    "mean square": MeanSquare,
    "entropy": Entropy,
}


def normal(count: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale


def fed(observer: Observer, *batches: Tensor) -> tuple[float, float]:
    for batch in batches:
        observer.add(batch)
    return observer.range()


def test_min_max() -> None:
    assert fed(MinMax(), torch.tensor([1.0, 2.0]), torch.tensor([[-3.0]]), torch.zeros(0)) == (-3.0, 2.0)
    assert fed(MinMax(), torch.tensor([1.5, 2.0])) == (1.5, 2.0)


def test_moving_average() -> None:
    batches = [torch.tensor([-1.0, 8.0]), torch.tensor([-2.0, 4.0]), torch.tensor([0.0, 2.0])]
    # (-1, 8), then halfway to (-2, 4), then halfway to (0, 2)
    assert fed(MovingAverage(0.5), *batches) == (-0.75, 4.0)
    for momentum in (1.0, -0.1, math.nan):
        with pytest.raises(QuantizationError, match="does not average"):
            MovingAverage(momentum)


@pytest.mark.parametrize("name", OBSERVERS)
def test_what_cannot_be_observed(name: str) -> None:
    with pytest.raises(QuantizationError, match="No values were seen"):
        fed(OBSERVERS[name](), torch.zeros(0))
    with pytest.raises(QuantizationError, match="2 of 3 values are NaN or infinite"):
        OBSERVERS[name]().add(torch.tensor([1.0, math.nan, -math.inf]))


@pytest.mark.parametrize("name", OBSERVERS)
def test_ranges_lie_within_what_was_seen(name: str) -> None:
    for batch in (normal(999), normal(999).relu(), -normal(99).abs() - 1, torch.zeros(9), torch.full((9,), 3.0)):
        least, most = fed(OBSERVERS[name](), batch)
        assert batch.min() <= least <= most <= batch.max()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40), st.integers(1, 40), st.randoms())
def test_a_histogram_does_not_depend_on_batches(values: list[float], cut: int, random: object) -> None:
    at_once, parts = Histogram(), Histogram()
    at_once.add(torch.tensor(values))
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for start in range(0, len(values), cut):
        parts.add(torch.tensor(shuffled[start : start + cut]))
    assert torch.equal(at_once.counts, parts.counts)
    assert (at_once.width, at_once.least, at_once.most) == (parts.width, parts.least, parts.most)
    # by hand: each value's bin at the final width
    expected = [0] * (2 * HALF)
    for value in values:
        expected[math.floor(Fraction(value) / Fraction(at_once.width)) + HALF] += 1
    assert at_once.counts.tolist() == expected
    peak = max(map(abs, torch.tensor(values).tolist()))
    assert peak == 0 or at_once.exponent == -149 or HALF * at_once.width / 2 <= peak <= HALF * at_once.width


def test_memory_does_not_grow() -> None:
    histogram = Histogram()
    for seed in range(20):
        histogram.add(normal(1000, seed, 10.0**seed))
    assert histogram.counts.shape == (2 * HALF,)
    assert histogram.total == 20000
    assert sum(isinstance(v, Tensor) for v in vars(histogram).values()) == 1


def test_large_batches_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = Histogram(), Histogram()
    whole.add(normal(1000))
    monkeypatch.setattr("planish.passes.quantize.histogram.CHUNK", 7)
    parts.add(normal(1000))
    assert torch.equal(whole.counts, parts.counts)


@pytest.mark.parametrize("kept", [1.0, 0.999, 0.9])
def test_percentiles_are_those_of_all_values(kept: float) -> None:
    batches = [normal(5000, seed, 1.0 + seed) for seed in range(3)]
    values = torch.cat(batches).double().sort().values
    least, most = fed(Percentile(kept), *batches)
    left = math.floor(len(values) * (1 - kept) / 2 + 1e-9)
    step = 2 * float(values.abs().max()) / HALF
    assert abs(least - float(values[left])) <= step
    assert abs(most - float(values[-1 - left])) <= step


@pytest.mark.parametrize("kept", [0.0, 1.1, math.nan])
def test_fractions(kept: float) -> None:
    with pytest.raises(QuantizationError, match="no fraction"):
        Percentile(kept)


def mean_square(values: Tensor, ends: tuple[float, float]) -> float:
    params = QuantParams.asymmetric(*ends)
    return float((params.values(params.codes(values)) - values.double()).square().mean())


def test_the_mean_square_is_as_small_as_that_of_a_search_over_all_values() -> None:
    values = torch.cat([normal(4000), torch.tensor([40.0, -25.0])])
    found = fed(MeanSquare(), values[:100], values[100:])
    error = mean_square(values, found)
    assert error < mean_square(values, (-25.0, 40.0))
    grid = [(-25.0 * i / 20, 40.0 * k / 20) for i in range(1, 21) for k in range(1, 21)]
    assert error <= min(mean_square(values, ends) for ends in grid) * 1.02


def test_without_outliers_nothing_is_cut() -> None:
    uniform = torch.linspace(-1, 1, 5001)
    for observer in (MeanSquare(), Entropy()):
        least, most = fed(observer, uniform)
        assert least <= -0.97
        assert most >= 0.97


def test_entropy_cuts_a_lone_outlier() -> None:
    least, most = fed(Entropy(), normal(20000), torch.tensor([100.0]))
    assert -6 < least < -2
    assert 2 < most < 20


def test_entropy_keeps_what_a_relu_leaves() -> None:
    """Half of the values are 0, which every range has a code for: they say nothing of where it should end."""
    least, most = fed(Entropy(), normal(20000).relu())
    assert least == 0
    assert most >= 3
    seen = Entropy()
    seen.add(torch.tensor([1.0, 2.0]))  # in bins of 2^-11
    finer = QuantParams(2.0**-12, 0, 0, 255, torch.uint8)
    assert seen.cost(*seen.histogram.occupied(), finer) == math.inf


def test_entropy_by_hand() -> None:
    """Four bins of 1, 3, 2 and 2 values, codes for two of them each, and one value beyond; that of 0 does not count."""
    middles, counts = torch.tensor([[0.0, 1.0, 2.0, 3.0, 9.0], [1.0, 3.0, 2.0, 2.0, 1.0]]).double()
    params = QuantParams(2.0, 0, 0, 1, torch.uint8)
    # codes are 1, 1, 1 (ties up; 3 is just inside): q is 7/3, 7/3, 7/3 of 7 and p is 3, 2, 3 of 8
    p, q = [3 / 8, 2 / 8, 3 / 8], [1 / 3, 1 / 3, 1 / 3]
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert math.isclose(Entropy().cost(middles, counts, params), expected, rel_tol=1e-12)


def test_symmetric_codes_can_be_asked_for() -> None:
    values = torch.cat([normal(3000), torch.tensor([60.0])])
    found = fed(MeanSquare(lambda least, most: QuantParams.symmetric(max(-least, most))), values)
    assert found[1] < 60.0
