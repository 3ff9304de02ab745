"""Layers of an integer model in float: for times that are made up, and for what a score says; never for real speed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from doors.conftest import small_inputs
from torch import nn

import planish
from planish.backends.tvm.artifact import Artifact
from planish.backends.tvm.backend import TvmBackend
from planish.compiler import capture_model, group, optimize
from planish.errors import OptionError, QuantizationError
from planish.float_layers import Clock, Decision, FloatLayers, noisiest
from planish.ir.fidelity import LayerNoise
from planish.ir.interpret import eager
from planish.ir.program import Program
from planish.layer_times import Make, Measured, Network, kernels
from planish.passes.quantize.islands import CODES, Border, Islands, Unit, islands
from planish.progress import silent
from planish.quantizing import Quantized, quantize
from planish.verification import check_integers


class Net(nn.Module):
    """Three convolutions with a view between the last and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)
        self.head = nn.Linear(4 * 9, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.third(self.second(self.first(x).relu()).relu())
        return self.head(x.flatten(1))


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def data(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 9, 9, generator=generator) for _ in range(count)]


def make(program: Program) -> Network:
    grouped = group(program)
    return TvmBackend().compile(grouped), grouped


@pytest.fixture(scope="module")
def start() -> tuple[Quantized, Network]:
    program = optimize(capture_model(make_net(), (data()[0],), None))
    quantized = quantize(program, planish.Quantization(integer_only=False), data())
    return quantized, make(quantized.integer)


def clock(table: Mapping[str, tuple[float, float]], conversion: float, whole: tuple[float, float]) -> Clock:
    """Layers take (integers, float) as the table says, 1 and 3 ms else; each conversion takes the same."""

    def layers(quantized: Quantized, integers: Network, floats: Network, _make: Make) -> Measured:
        found = islands(quantized.prepared, kernels(integers), kernels(floats), {}, tuple(quantized.keep))
        units = tuple(_timed(unit, table) for unit in found.units)
        borders = tuple(replace(border, quantize=conversion, dequantize=conversion) for border in found.borders)
        return Measured(replace(found, units=units, borders=borders), (3.0, 4.0))

    return Clock(layers, lambda _: list(whole))


def _timed(unit: Unit, table: Mapping[str, tuple[float, float]]) -> Unit:
    integer, own = next((table[layer] for layer in unit.layers if layer in table), (1.0, 3.0))
    return replace(unit, integer_ms=integer, float_ms=own)


def decide(start: tuple[Quantized, Network], how: planish.Quantization, timing: Clock | None) -> Decision:
    return FloatLayers(how, make, lambda _: (), silent, timing).decide(*start)


def in_float(quantized: Quantized) -> dict[str, str]:
    """Layers in float, each with the reason in the ledger."""
    (ledger,) = (entry for entry in quantized.integer.report if entry.name == "integerize")
    return {layer: site.reason or "" for site in ledger.refused for layer in site.layers}


def test_what_loses_stays_in_integers_and_is_reported(start: tuple[Quantized, Network]) -> None:
    how = planish.Quantization()
    made = decide(start, how, clock({"second": (3.0, 0.5)}, 0.25, (1.0, 0.1)))
    assert made.quantized is start[0]
    assert made.network is start[1]
    (entry,) = made.entries
    (site,) = entry.refused
    assert not entry.applied
    assert "second" in site.layers
    assert site.reason == "int8 takes 3.0000 ms, float 0.5000 ms; integer_only=True keeps it in integers"
    times = {layer: time for time in made.times() for layer in time.layers}
    assert set(times) >= {"first", "second", "third", "head"}
    second = times["second"]
    assert (second.integer_ms, second.float_ms, second.conversions_ms) == (3.0, 0.5, 0.5)
    assert second.cost == -2.0
    assert second.loses
    assert not second.in_float
    assert times["first"].conversions_ms == 0.0  # its output is quantized instead of its input
    assert made.whole == (3.0, 4.0)
    assert not made.unmeasured(how)


def test_float_where_it_is_faster(start: tuple[Quantized, Network]) -> None:
    """An island of two layers and the view between them; its code computes what the reference does."""
    how = planish.Quantization(integer_only=False)
    table = {"third": (3.0, 0.5), "head": (1.0, 0.9)}
    made = decide(start, how, clock(table, 0.25, (2.0, 1.0)))
    reasons = in_float(made.quantized)
    assert reasons["third"] == "it is faster so: int8 takes 3.0000 ms, float 0.5000 ms"
    assert reasons["head"] == "it is faster so: int8 takes 1.0000 ms, float 0.9000 ms"
    assert set(reasons) == {"third", "head"}
    names = [str(node.target) for node in made.quantized.integer.graph.nodes if node.op == "call_function"]
    assert names.count("planish.quantize.default") == 1  # the input, and nothing behind the second layer
    assert names.count("planish.dequantize.default") == 1
    compiled, grouped = made.network
    captured = capture_model(make_net(), (data()[0],), None)
    check_integers(compiled, captured, grouped, [data()[1]])
    (want,), (got,) = eager(captured, [data()[1]]), compiled.run_flat([data()[1]])
    assert float((got - want).abs().max()) < 0.05 * float(want.abs().max())
    assert {layer for time in made.times() if time.in_float for layer in time.layers} >= {"third", "head"}
    (entry,) = made.entries
    assert len(entry.applied) == 2
    assert not entry.refused


def test_the_whole_has_to_be_faster(start: tuple[Quantized, Network]) -> None:
    made = decide(start, planish.Quantization(integer_only=False), clock({"third": (3.0, 0.5)}, 0.25, (2.0, 2.5)))
    assert not in_float(made.quantized)
    (entry,) = made.entries
    assert not entry.applied
    (site,) = entry.refused
    assert site.reason == (
        "int8 takes 3.0000 ms, float 0.5000 ms; "
        "with such layers in float the whole takes 2.500 ms instead of 2.000 ms"
    )  # fmt: skip


def test_conversions_count(start: tuple[Quantized, Network]) -> None:
    made = decide(start, planish.Quantization(integer_only=False), clock({"third": (3.0, 0.5)}, 1.5, (2.0, 1.0)))
    assert not in_float(made.quantized)
    (entry,) = made.entries
    assert [site.reason for site in entry.refused] == [
        "int8 takes 3.0000 ms, float 0.5000 ms; conversions would take more"
    ]


def test_a_layer_comes_along(start: tuple[Quantized, Network]) -> None:
    """Without the first layer in float the input would be quantized, and what the second reads dequantized."""
    table = {"first": (1.0, 1.5), "second": (3.0, 0.5)}
    made = decide(start, planish.Quantization(integer_only=False), clock(table, 0.75, (2.0, 1.0)))
    assert in_float(made.quantized) == {
        "first": "layers beside it are faster so, and conversions take more: int8 takes 1.0000 ms, float 1.5000 ms",
        "second": "it is faster so: int8 takes 3.0000 ms, float 0.5000 ms",
    }


def test_nothing_is_measured_for_another_machine_or_unasked(start: tuple[Quantized, Network]) -> None:
    for how, timing, said in (
        (planish.Quantization(), None, "the code is for another machine"),
        (planish.Quantization(measure=False), clock({}, 0.0, (1.0, 1.0)), ""),
    ):
        made = decide(start, how, timing)
        assert made.network is start[1]
        assert made.times() == ()
        assert made.whole is None
        assert made.unmeasured(how) == said


def test_evaluate_has_to_run_the_code(start: tuple[Quantized, Network]) -> None:
    network: Any = (SimpleNamespace(runs_here=False), start[1][1])
    how = planish.Quantization(evaluate=lambda compiled: 1.0)
    with pytest.raises(OptionError, match=r"evaluate runs the compiled model, whose code is for another machine\."):
        FloatLayers(how, make, lambda _: (), silent, None).decide(start[0], network)


def test_the_noisiest_are_first() -> None:
    """A unit is as noisy as the worst value that it makes or reads; what is in float already is no candidate."""
    units = tuple(Unit(frozenset({name}), (), 1.0, 1.0) for name in "abcd")
    found = Islands(units, (Border("x", CODES, frozenset({0})), Border("b", 1, frozenset({2}))), frozenset({3}))
    noise = {"x": 35.0, "a": 50.0, "b": 10.0, "c": 40.0, "d": 0.0}
    assert noisiest(found, tuple(LayerNoise(name, (), own, own) for name, own in noise.items())) == [1, 2, 0]


def scored(start: tuple[Quantized, Network], evaluate: Any, max_drop: float = 0.005) -> Decision:
    return decide(start, planish.Quantization(evaluate=evaluate, max_drop=max_drop, measure=False), None)


def quantized_layers(compiled: planish.Compiled) -> set[str]:
    ledgers = [entry for entry in compiled.report if entry.name == "integerize"]
    return {layer for entry in ledgers for site in entry.applied for layer in site.layers}


def test_evaluate_chooses_layers() -> None:
    """Two layers cost 0.1 and 0.03 of a score of 0.9 when they are in integers: the ledger has the measured effects."""
    costs = {"first": 0.1, "head": 0.03}

    def evaluate(compiled: planish.Compiled) -> float:
        assert compiled(data()[0]).shape == (2, 5)
        return 0.9 - sum(costs.get(layer, 0.0) for layer in quantized_layers(compiled))

    how = planish.Quantization(evaluate=evaluate, measure=False)
    made = planish.compile(make_net(), (data()[0],), precision=how, calibration=data(), verify=True)
    (ledger,) = (entry for entry in made.report if entry.name == "integerize")
    reasons = {layer: site.reason for site in ledger.refused for layer in site.layers}
    assert reasons["first"] == "evaluate rises from 0.8 to 0.9 with it in float"
    assert reasons["head"] == "evaluate rises from 0.87 to 0.9 with it in float"
    assert not {"second", "third"} & set(reasons)
    assert made.manifest["options"]["quantization"]["max_drop"] == 0.005
    assert made.manifest["options"]["quantization"]["integer_only"] is False
    assert evaluate(made) == pytest.approx(0.9)


def test_evaluate_may_be_content(start: tuple[Quantized, Network]) -> None:
    """Two looks: the model in float, and all in integers."""
    scores = [0.9, 0.8]
    made = scored(start, lambda _: scores.pop(0), max_drop=0.2)
    assert not scores
    assert made.network is start[1]


def test_evaluate_that_nothing_contents(start: tuple[Quantized, Network]) -> None:
    """The model in float scores 1.0 once, and never again."""
    scores = iter([1.0])
    with pytest.raises(QuantizationError, match=r"every layer in float evaluate stays more than 0\.005 below 1, which"):
        scored(start, lambda _: next(scores, 0.0))


@pytest.mark.parametrize("value", [math.nan, math.inf, "good", None])
def test_scores_that_are_none(value: Any, start: tuple[Quantized, Network]) -> None:
    with pytest.raises(QuantizationError, match=f"evaluate returned {value!r}, which is no score"):
        scored(start, lambda _: value)


def test_a_joined_region_is_one_kernel_with_the_one_before(start: tuple[Quantized, Network]) -> None:
    """Regions that have no step were done by the kernel that they read from."""
    grouped = start[1][1]
    calls = [node.name for node in grouped.graph.find_nodes(op="call_module")]
    every: Any = SimpleNamespace(steps=[{"region": name} for name in calls])
    but_one: Any = SimpleNamespace(steps=[{"region": name} for name in calls if name != calls[2]])
    times = {name: float(place) for place, name in enumerate(calls)}
    apart, joined = (kernels((network, grouped), times) for network in (every, but_one))
    assert [kernel.milliseconds for kernel in apart] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [kernel.milliseconds for kernel in joined] == [0.0, 1.0, 3.0, 4.0]
    assert joined[1].nodes == apart[1].nodes | apart[2].nodes


def test_the_same_code_described_otherwise(small_file: Path) -> None:
    """What was made of an artifact's contents is the artifact; another entry changes nothing else."""
    loaded = planish.load(small_file)
    assert bytes(Artifact.in_memory(loaded.artifact.contents()).mapping) == small_file.read_bytes()
    made = loaded.described(note="found by running it")
    assert made.manifest["note"] == "found by running it"
    same = {key: value for key, value in made.manifest.items() if key not in ("note", "members")}
    assert same == {key: value for key, value in loaded.manifest.items() if key != "members"}
    x, shift = (value.numpy() for value in small_inputs())
    for name, want in loaded(x, shift).items():
        assert np.array_equal(made(x, shift)[name], want)


def test_the_report_of_a_real_model() -> None:
    """Times of every layer whatever they are, beside the same bits as the reference."""
    made = planish.compile(make_net(), (data()[0],), precision="int8", calibration=data(), verify=True)
    fidelity = made.report.fidelity
    assert fidelity is not None
    assert {layer for time in fidelity.times for layer in time.layers} >= {"first", "second", "third", "head"}
    assert all(time.integer_ms > 0 and time.float_ms > 0 and not time.in_float for time in fidelity.times)
    assert fidelity.whole is not None
    assert min(fidelity.whole) > 0
    assert not fidelity.unmeasured
    assert fidelity.hops[-1].noise == 0
    said = str(fidelity)
    assert f"the whole model takes {fidelity.whole[0]:.4f} ms in integers" in said
    worst = next(layer for layer in fidelity.worst(9) if layer.node != "x" and fidelity.time_of(layer) is not None)
    time = fidelity.time_of(worst)
    assert time is not None
    assert f"; in float {time.cost:+.4f} ms" in said
    losing = {layer for time in fidelity.slower() for layer in time.layers}
    (ledger,) = (entry for entry in made.report if entry.name == "compare_with_float")
    assert {layer for site in ledger.refused for layer in site.layers} == losing
