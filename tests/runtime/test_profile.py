"""Profiles: what is computed from times, what the probes really do, the table and the picture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime.conftest import compile_plan
from runtime.plans import scale_and_shift

from planish.backends.tvm import limits as limits_module
from planish.backends.tvm import profile as profile_module
from planish.backends.tvm.limits import REPEAT, Limits, find
from planish.backends.tvm.probes import ROWS, STEPS, TASKS, add_probes
from planish.backends.tvm.profile import Observer, Profile, Row, measure
from planish.backends.tvm.runtime import Compiled
from planish.errors import ArtifactError, MissingDependencyError, OptionError, PlanishError

X = np.linspace(-1, 1, 128, dtype=np.float32).reshape(4, 32)


class Clock:
    """Every look at it takes a millisecond."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-3
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(profile_module, "time", made)
    monkeypatch.setattr(limits_module, "time", made)
    return made


def step(symbol: str, kind: str, flops: int, layer: str, dtype: str = "float32") -> dict[str, Any]:
    known = {"region": layer, "kind": kind, "layers": [layer], "bytes": 500_000, "dtype": dtype}
    return {"symbol": symbol, "flops": flops, **known}


CALLS = {
    "steps": [
        step("k_a", "conv", 2_000_000, "stem"),
        {**step("", "view", 0, "flat")},
        step("k_a", "conv", 6_000_000, "body"),
        step("k_b", "pool", 0, "pool"),
        step("k_b", "linear", 4_000_000, "head", "bfloat16"),
    ],
    "kernels": {"k_a": {"template": "direct", "choice": {"tile": "6x2"}}, "k_b": {"template": "other", "choice": {}}},
}


def observed(observer: Observer) -> Callable[[], None]:
    """A virtual machine that calls the four kernels, and something of its own in between."""

    def run() -> None:
        for name in ("vm.alloc", "k_a", "k_a", "vm.free", "k_b", "k_b"):
            observer(None, name, True)
            observer(None, name, False)

    return run


def profile_of(clock: Clock) -> Profile:
    """Two convolutions, a pool and a linear layer of one millisecond each, in a call of eight."""

    def plain() -> None:
        clock.now += 7e-3  # and one for looking at the clock: 8 ms

    return measure(observed, CALLS, 3, plain, Limits({"float32": 8.0}, 20.0), threads=2)


def test_rates_and_shares_of_peak(clock: Clock) -> None:
    rows = profile_of(clock).rows
    assert [row.milliseconds for row in rows] == pytest.approx([1, 1, 1, 1])
    assert [row.gflops for row in rows] == pytest.approx([2, 6, 0, 4])
    assert rows[0].gbytes == pytest.approx(0.5)
    assert rows[0].intensity == 4
    assert rows[0].choice == {"tile": "6x2"}
    assert [row.of_peak for row in rows] == [pytest.approx(0.25), pytest.approx(0.75), None, None]


def test_totals_and_what_lies_outside_kernels(clock: Clock) -> None:
    profile = profile_of(clock)
    assert profile.milliseconds == pytest.approx(8)
    assert profile.outside == pytest.approx(0.5)
    conv = profile.totals[0]
    assert (conv.kind, conv.calls) == ("conv", 2)
    assert (conv.milliseconds, conv.share, conv.gflops) == pytest.approx((2, 0.5, 4))
    assert conv.of_peak == pytest.approx(0.5)  # 8 MFLOP in 2 ms of a machine that does 16
    assert {total.kind: total.of_peak for total in profile.totals}["pool"] is None


def test_without_plain_calls_the_observed_one_is_the_whole(clock: Clock) -> None:
    profile = measure(observed, CALLS, 2)
    # 1 ms for the call itself; two instructions of the machine's own look twice at the clock, four of ours thrice.
    assert profile.milliseconds == pytest.approx(1 + 2 * 2 + 4 * 3)
    assert profile.limits is None
    assert all(row.of_peak is None for row in profile.rows)


def test_a_kernel_that_was_not_seen(clock: Clock) -> None:
    with pytest.raises(AssertionError, match="not seen"):
        measure(lambda observer: lambda: None, CALLS, 1)


def test_the_table(clock: Clock) -> None:
    lines = str(profile_of(clock)).splitlines()
    assert lines[0].split() == [
        "ms", "%", "GFLOP/s", "of", "peak", "MB", "GB/s", "kind", "template", "choice", "layers",
    ]  # fmt: skip
    assert lines[1].split() == ["1.0000", "25.0", "2.0", "25.0", "0.500", "0.5", "conv", "direct", "tile=6x2", "stem"]
    assert lines[3].split() == ["1.0000", "25.0", "0.0", "-", "0.500", "0.5", "pool", "other", "-", "pool"]
    assert "50.0 % of it outside kernels" in lines[-2]
    assert lines[-1].endswith("float32 8 GFLOP/s, memory 20 GB/s")


def test_json_has_everything(clock: Clock) -> None:
    said = profile_of(clock).to_json()
    assert said["limits"] == {"gflops": {"float32": 8.0}, "gbytes": 20.0}
    assert said["outside"] == pytest.approx(0.5)
    assert said["totals"][0]["kind"] == "conv"
    assert said["rows"][0]["choice"] == {"tile": "6x2"}


def test_limits_are_the_best_of_some_calls(clock: Clock) -> None:
    seen: list[tuple[str, list[Any]]] = []

    def run(symbol: str, arrays: Any) -> None:
        seen.append((symbol, [(a.shape, str(a.dtype)) for a in arrays]))
        clock.now += 0.0 if len(seen) % REPEAT == 5 else 1.0  # all but one call are disturbed

    probes = [
        {"name": "float32", "symbol": "p", "amount": 3_000_000, "arguments": [[[2, 4], "float32"]]},
        {"name": "memory", "symbol": "q", "amount": 5_000_000, "arguments": [[[3], "int32"], [[1], "float32"]]},
    ]
    found = find(probes, run)
    assert found is not None
    assert found.gflops == pytest.approx({"float32": 3.0})
    assert found.gbytes == pytest.approx(5.0)
    assert seen[0] == ("p", [((2, 4), "float32")])
    assert seen[-1] == ("q", [((3,), "int32"), ((1,), "float32")])
    assert find([], run) is None


def test_the_roof() -> None:
    limits = Limits({"float32": 100.0}, 10.0)
    assert [limits.roof("float32", x) for x in (1.0, 10.0, 50.0)] == [10, 100, 100]
    assert limits.roof("int8", 1.0) is None


@pytest.fixture(scope="module")
def probed() -> Compiled:
    builder = scale_and_shift()
    add_probes(builder.plan, builder.target)
    return compile_plan(builder, threads=2)


def test_probes_of_an_artifact(probed: Compiled) -> None:
    limits = probed.profile(X, runs=2).limits
    assert limits is not None
    assert limits.gbytes > 0
    assert all(rate > 0 for rate in limits.gflops.values())
    call, operations = probed.probe("float32")
    call()
    lanes = probed.manifest["calls"]["probes"][0]["arguments"][-1][0][1]
    assert operations == TASKS * STEPS * 12 * lanes * 2
    with pytest.raises(ArtifactError, match="no probe of int3"):
        probed.probe("int3")


def test_probes_leave_nothing_out(probed: Compiled) -> None:
    """What they write is what all their steps give: dead or merged work would change it."""
    results = {}
    for probe in probed.manifest["calls"]["probes"]:
        arrays = [np.ones(shape, dtype) for shape, dtype in probe["arguments"]]
        if probe["name"] == "bfloat16":
            arrays[0][:] = 0x3A803A80  # pairs of 2^-10
        probed._engine.run_kernel(probe["symbol"], arrays)
        results[probe["name"]] = arrays[-1]
    # Four sums begin at 0, 1, 2, 3; ROWS ones are added.
    np.testing.assert_array_equal(results["memory"], ROWS + 6)
    # acc -> 0.999 acc + 0.001 tends to 1 from 0..11: the difference shrinks by 0.999 each step.
    exact = 12 + (66 - 12) * 0.999**STEPS
    np.testing.assert_allclose(results["float32"], exact, rtol=1e-3)
    if "bfloat16" in results:  # each step adds 1 * 2^-10 twice; the sums are exact
        np.testing.assert_array_equal(results["bfloat16"], 66 + 12 * STEPS * 2 / 1024)
    if "uint8" in results:  # of four bytes of weights the first is 1
        np.testing.assert_array_equal(results["uint8"], 66 + 12 * STEPS)


def test_artifacts_without_probes(compiled: Compiled, tmp_path: Path) -> None:
    profile = compiled.profile(X, runs=1)
    assert profile.limits is None
    with pytest.raises(PlanishError, match="no roofline"):
        profile.roofline(tmp_path / "x.svg")


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_rooflines(clock: Clock, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    profile_of(clock).roofline(path)
    data = path.read_bytes()
    assert data.startswith(b"<?xml" if ending == "svg" else b"\x89PNG")
    assert ending == "png" or b"float32 8 GFLOP/s" in data


def test_rooflines_that_cannot_be_drawn(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = profile_of(clock)
    with pytest.raises(OptionError, match="no kind of picture"):
        profile.roofline(tmp_path / "x.txt")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        profile.roofline(tmp_path / "x.svg")


def test_a_row_without_layers_is_named_by_its_region() -> None:
    row = Row("region7", "conv", (), "t", "k", 1.0, 1.0)
    assert row.where == "region7"
    assert row.intensity == 0.0
