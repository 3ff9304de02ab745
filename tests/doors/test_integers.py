"""precision="int8": from a float model and data to an artifact of integers, and all that may be wrong on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import planish
from planish.cli import status
from planish.errors import InputError, NoIntegerForm, OptionError, QuantizationError
from planish.ir.fidelity import Fidelity, Hop, LayerNoise, LayerTime, decibels


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def data(count: int = 4, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, 9, 11, generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def compiled() -> planish.Compiled:
    return planish.compile(make(), (data()[0],), precision="int8", calibration=data(), verify=True)


def noise(model: nn.Module, compiled: Any, x: torch.Tensor) -> float:
    """In decibels below the model's outputs."""
    with torch.no_grad():
        want = model(x).double()
    return decibels(float(want.square().sum()), float((compiled(x) - want).square().sum()))


def test_a_model_in_integers(compiled: planish.Compiled) -> None:
    """Four roundings to 8 bits, each of about 40 dB: at least 30 dB are left, on data that was not seen."""
    assert noise(make(), compiled, data(6)[5]) > 30
    assert compiled.manifest["options"]["precision"] == "int8"
    assert compiled.manifest["options"]["quantization"] == {
        "observer": "mse", "keep_float": [], "integer_only": True, "correct_bias": True,
    }  # fmt: skip
    (ledger,) = (entry for entry in compiled.report if entry.name == "integerize")
    assert {layer for site in ledger.applied for layer in site.layers} == {"0", "1", "2", "3", "4", "5", "6"}
    assert not ledger.refused


def test_fidelity_hop_by_hop(compiled: planish.Compiled, tmp_path: Path) -> None:
    fidelity = compiled.report.fidelity
    assert fidelity is not None
    names = ["eager", "rewritten", "fake-quantized", "integer reference", "artifact"]
    assert [(hop.before, hop.after) for hop in fidelity.hops] == list(pairwise(names))
    rewritten, rounded, integers, code = fidelity.hops
    assert rewritten.sqnr > 110  # float32 rounds
    assert 30 < rounded.sqnr < 80  # 8 bits round
    assert integers.sqnr > rounded.sqnr - 3  # biases and multipliers round far less; where they tip a code it is one
    assert code.noise == code.largest == 0  # the same bits
    assert (fidelity.total.before, fidelity.total.after) == ("eager", "artifact")
    assert "integer reference → artifact: no difference" in str(fidelity)
    layers = {layer.name: layer for layer in fidelity.layers}
    assert set(layers) >= {"2", "3", "4"}
    assert all(20 < layer.own < 70 and layer.carried < layer.own + 3 for layer in fidelity.layers)
    assert fidelity.worst(1) == (min(fidelity.layers, key=lambda layer: layer.own),)
    compiled.save(tmp_path / "net.planish")
    assert planish.load(tmp_path / "net.planish").report.fidelity == fidelity


def test_the_worst_layer_is_named() -> None:
    """Large weights for a channel that is always 0 leave no codes to the other weights of their layer."""
    model = make()
    with torch.no_grad():
        model[1].weight[0], model[1].bias[0] = 0.0, -1.0  # type: ignore[index, operator]
        model[3].weight[:, 0] = 100.0  # type: ignore[index, operator]
    fidelity = planish.compile(model, (data()[0],), precision="int8", calibration=data()).report.fidelity
    assert fidelity is not None
    worst, second = fidelity.worst(2)
    assert worst.name == "3"
    assert worst.own < 10 < 30 < second.own
    assert f"3 ({worst.node}): {worst.own:.1f} dB of its own" in str(fidelity)


def test_hops_and_layers_survive_json() -> None:
    """Of what is exact there are no decibels, and of noise without a signal neither."""
    hops = (Hop("a", "b", 4.0, 0.04, 0.1), Hop("b", "c", 4.0, 0.0, 0.0))
    layers = (LayerNoise("x", (), math.inf, 12.0), LayerNoise("y", ("conv", "bn"), decibels(0, 1), 3.0))
    fidelity = Fidelity(hops, Hop("a", "c", 4.0, 0.04, 0.1), layers)
    assert Fidelity.from_json(json.loads(json.dumps(fidelity.to_json()))) == fidelity
    assert [hop.sqnr for hop in hops] == [pytest.approx(20), math.inf]
    assert [layer.name for layer in fidelity.worst()] == ["conv, bn", "x"]
    assert str(fidelity).splitlines() == [
        "a → b: 20.0 dB, at most 0.1",
        "b → c: no difference, at most 0",
        "a → c: 20.0 dB, at most 0.1",
        "conv, bn (y): -400.0 dB of its own, 3.0 dB with all before it",
        "x: no difference of its own, 12.0 dB with all before it",
    ]


def test_times_survive_json() -> None:
    """What lost layers cost, and what it would cost not to have their noise."""
    layers = tuple(LayerNoise(name, (name,), own, own) for name, own in (("x", 10.0), ("y", 20.0), ("z", 30.0)))
    times = (
        LayerTime(("y", "w"), ("y",), 0.5, 0.25, 0.125, loses=True),
        LayerTime(("z",), ("z",), 0.5, 0.25, -0.125, in_float=True, loses=True),
    )
    fidelity = Fidelity((), Hop("a", "b", 4.0, 0.04, 0.1), layers, times, (2.0, 3.0), "it is late")
    assert Fidelity.from_json(json.loads(json.dumps(fidelity.to_json()))) == fidelity
    assert fidelity.time_of(layers[0]) is None
    assert fidelity.time_of(layers[1]) is times[0]
    assert fidelity.slower() == times[:1]
    assert str(fidelity).splitlines()[1:] == [
        "x (x): 10.0 dB of its own, 10.0 dB with all before it",
        "y (y): 20.0 dB of its own, 20.0 dB with all before it; in float -0.1250 ms",
        "z (z): 30.0 dB of its own, 30.0 dB with all before it; it is in float",
        "layers were not timed in float: it is late",
        "the whole model takes 2.0000 ms in integers and 3.0000 ms in float",
        "slower in integers: y: int8 takes 0.5000 ms, float 0.2500 ms, conversions +0.1250 ms",
    ]


def test_layers_that_stay_in_float() -> None:
    """By name or pattern, an outer module included; the ledger says why."""
    model = nn.Sequential(make()[:3], make()[3:]).eval()
    how = planish.Quantization("percentile", kept=0.999, keep_float=["1.3", "0.*"])
    made = planish.compile(model, (data()[0],), precision=how, calibration=data(), verify=True)
    (ledger,) = (entry for entry in made.report if entry.name == "integerize")
    reasons = {layer: site.reason for site in ledger.refused for layer in site.layers}
    assert reasons == {
        "1.3": "keep_float='1.3' names it", **{f"0.{i}": "keep_float='0.*' names it" for i in range(3)},
    }  # fmt: skip
    assert made.manifest["options"]["quantization"]["kept"] == 0.999
    with pytest.raises(OptionError, match=r"keep_float: no layer matches '1\.9'\.\n  Did you mean '1\.\d'"):
        planish.compile(model, (data()[0],), precision=planish.Quantization(keep_float="1.9"), calibration=data())


def test_what_has_no_integer_form_is_listed() -> None:
    with pytest.raises(NoIntegerForm, match="have no integer form") as caught:
        planish.compile(Cumulative().eval(), (data()[0],), precision="int8", calibration=data())
    assert [op.op for op in caught.value.ops] == ["aten.cumsum.default", "aten.cumsum.default"]
    how = planish.Quantization(integer_only=False, measure=False)
    made = planish.compile(Cumulative().eval(), (data()[0],), precision=how, calibration=data(), verify=True)
    (ledger,) = (entry for entry in made.report if entry.name == "integerize")
    assert [site.reason for site in ledger.refused] == ["it has no integer form"] * 2
    assert noise(Cumulative().eval(), made, data()[1]) > 25


class Cumulative(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(2).relu().cumsum(3)


def loaders() -> dict[str, Any]:
    """The same data in every form."""
    xs = data()

    def generator() -> Iterator[torch.Tensor]:
        yield from xs

    labels = torch.zeros(8)
    dataset = torch.utils.data.TensorDataset(torch.cat(xs), labels)
    return {
        "list": (xs, None),
        "generator": (generator(), None),
        "tensor": (torch.cat(xs), None),
        "dicts": ([{"input": x} for x in xs], None),
        "loader": (torch.utils.data.DataLoader(dataset, batch_size=4), lambda item: item[0]),
        "labels": ([(x, 3) for x in xs], lambda item: item[0]),
    }


@pytest.mark.parametrize("form", list(loaders()))
def test_data_in_every_form(form: str, compiled: planish.Compiled) -> None:
    """Ranges are the same, and so are the results; larger batches are split."""
    loader, select = loaders()[form]
    calls: list[tuple[str, int, int]] = []
    made = planish.compile(
        make(), (data()[0],), precision=planish.Quantization(measure=False), calibration=loader, select=select,
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert torch.equal(made(data()[1]), compiled(data()[1]))
    assert [call for call in calls if call[0] == "calibration"][-1][1] == 4


@pytest.mark.parametrize(
    ("loader", "kind", "said"),
    [
        ([], QuantizationError, "The calibration data is empty"),
        ([*data(6), torch.zeros(2, 3, 9, 10)], InputError, "batch 7: input 'input' has the shape"),
        ([(x, 1) for x in data()], InputError, "`select` drops labels"),
        ([*data(1), torch.full((2, 3, 9, 11), math.nan)], QuantizationError, "input.*: 594 of 594 values are NaN"),
        ([torch.zeros(2, 3, 9, 11)], QuantizationError, "A calibrated range is zero"),
    ],
    ids=["empty", "seventh", "labels", "nan", "zeros"],
)
def test_bad_data(loader: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=f"(?s){said}"):
        planish.compile(make(), (data()[0],), precision="int8", calibration=loader)


def test_a_loader_that_is_used_up() -> None:
    used = iter(data())
    planish.compile(nn.ReLU().eval(), (data()[0],), precision="int8", calibration=used)
    with pytest.raises(QuantizationError, match="an iterator can be read only once"):
        planish.compile(nn.ReLU().eval(), (data()[0],), precision="int8", calibration=used)


class Dead(nn.Module):
    """A branch whose values never leave 0, and with them their range."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.second((-y.abs() - 1).relu()) + self.second(y)


def test_a_range_of_zero() -> None:
    torch.manual_seed(0)
    model = Dead().eval()
    with pytest.raises(QuantizationError, match="relu: A calibrated range is zero"):
        planish.compile(model, (data()[0],), precision="int8", calibration=data())
    how = planish.Quantization(integer_only=False, measure=False)
    made = planish.compile(model, (data()[0],), precision=how, calibration=data(), verify=True)
    (ledger,) = (entry for entry in made.report if entry.name == "integerize")
    reasons = {site.reason for site in ledger.refused}
    assert reasons == {"its range in calibration is zero", "the range of its input relu in calibration is zero"}
    assert {layer for site in ledger.refused for layer in site.layers} == {"second"}
    assert noise(model, made, data()[1]) > 30


@pytest.mark.parametrize("all_of_it", [False, True])
def test_channels_of_zeros(all_of_it: bool) -> None:
    """A pruned channel, or a layer whose weights vanished and left its bias."""
    model = make()
    with torch.no_grad():
        model[3].weight[slice(None) if all_of_it else 2] = 0  # type: ignore[index, operator]
    how = planish.Quantization(measure=False)
    made = planish.compile(model, (data()[0],), precision=how, calibration=data(), verify=True)
    assert noise(model, made, data()[1]) > 30


def test_images() -> None:
    """Bytes in, and the padding is a pixel of the mean."""
    image = planish.Image((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = [torch.randint(0, 256, (2, 9, 11, 3), dtype=torch.uint8) for _ in range(4)]
    made = planish.compile(make(), (pixels[0],), precision="int8", calibration=pixels, preprocess=image, verify=True)
    floats = [((p / 255 - torch.tensor(image.means)) / torch.tensor(image.stds)).permute(0, 3, 1, 2) for p in pixels]
    given = {"precision": planish.Quantization(measure=False), "preprocess": image}
    again = planish.compile(
        make(), floats[0], calibration=[(x, 1) for x in floats], select=lambda item: item[0], **given
    )
    assert torch.equal(again(pixels[1]), made(pixels[1]))  # data may be what the model itself takes
    with pytest.raises(InputError, match="floats that are no normalized pixels"):
        planish.compile(make(), floats[0], calibration=data(), **given)
    x = floats[1]
    with torch.no_grad():
        want = make()(x).double()
    assert decibels(float(want.square().sum()), float((made(pixels[1]) - want).square().sum())) > 30


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"precision": "int8"}, "precision='int8' needs calibration data"),
        ({"precision": "int8", "calibration": "images/"}, "calibration is a str, not a loader"),
        ({"precision": "int8", "calibration": {"x": 1}}, "calibration is a dict, not a loader"),
        ({"precision": "int8", "calibration": 3}, "calibration is a int, not a loader"),
        ({"precision": "int4"}, "precision='int4' is not available: it is 'float32', 'bfloat16' or 'int8'"),
        ({"calibration": [1]}, "calibration means nothing for 'float32'"),
        ({"precision": "int8", "calibration": [1], "select": 0}, "select=0 is not a function"),
        ({"select": len}, "select means nothing without calibration data"),
    ],
)
def test_options_that_do_not_fit(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        planish.compile(make(), (data()[0],), **given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"observer": "median"}, "observer='median' is unknown"),
        ({"momentum": 1}, "momentum=1 does not average"),
        ({"kept": 0}, "kept=0 is no fraction"),
        ({"kept": True}, "kept=True is no fraction"),
        ({"keep_float": 3}, "keep_float=3 holds what is no name"),
        ({"keep_float": ["head", ""]}, "holds what is no name"),
        ({"integer_only": 1}, "integer_only=1 is neither True nor False"),
        ({"correct_bias": None}, "correct_bias=None is neither True nor False"),
        ({"equalize": 1}, "equalize=1 is neither True nor False"),
        ({"measure": 1}, "measure=1 is neither True nor False"),
        ({"max_drop": 0.01}, "max_drop=0.01 is a drop of nothing"),
        ({"evaluate": 3}, "evaluate=3 is no function"),
        ({"evaluate": len, "integer_only": True}, "which integer_only=True forbids"),
        ({"evaluate": len, "max_drop": -1}, "max_drop=-1 is no drop"),
        ({"evaluate": len, "max_drop": "1 %"}, "max_drop='1 %' is no drop"),
    ],
)
def test_quantizations_that_are_none(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        planish.Quantization(**given)
    assert said in str(caught.value)


def test_torch_compile_has_no_integers() -> None:
    options = {"precision": "int8", "calibration": data()}
    with pytest.raises(OptionError, match=r"torch\.compile has no precision='int8'"):
        torch.compile(nn.ReLU(), backend="planish", options=options)(data()[0])


LOADERS = """
import numpy, torch
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)).eval()
def loader():
    return (torch.from_numpy(x) for x in numpy.load("x.npy").reshape(4, 2, 3, 8, 8))
held = list(loader())
def score(compiled):
    return -float((compiled(held[0]) - net()(held[0]).detach()).abs().max())
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Data from files and functions gives the same artifact; what int8 alone has is refused elsewhere."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    np.save("x.npy", x)
    np.savez("x.npz", input=x)
    (tmp_path / "integer_net.py").write_text(LOADERS)
    made = ["compile", "integer_net:net", "--input", "input=f32[2,3,8,8]", "-o", "net.planish"]
    results = []
    for source in ("x.npy", "x.npz", "integer_net:loader", "integer_net:held"):
        assert status([*made, "--precision", "int8", "--calibration", source, "--keep-float", "2"]) == 0
        said = capsys.readouterr().out
        assert "integer reference → artifact" in said
        results.append(planish.load("net.planish")(x[:2]))
    assert all(np.array_equal(result, results[0]) for result in results)
    assert status(["inspect", "net.planish"]) == 0
    assert "keep_float='2' names it" in capsys.readouterr().out
    integers = ["--precision", "int8", "--calibration", "x.npy"]
    assert status([*made, *integers, "--no-measure", "--evaluate", "integer_net:score", "--max-drop", "0"]) == 0
    assert " ms in float" not in capsys.readouterr().out
    assert status(["inspect", "net.planish"]) == 0
    assert "refused: evaluate rises from -" in capsys.readouterr().out
    assert status([*made, *integers, "--no-measure", "--equalize"]) == 0
    assert planish.load("net.planish").manifest["options"]["quantization"]["equalize"]
    for arguments, error in [
        (["--precision", "int8"], "precision='int8' needs calibration data"),
        (["--precision", "int8", "--calibration", "y.npz"], "There is no file y.npz"),
        (["--precision", "int8", "--calibration", "integer_net.py"], "'integer_net.py' is no calibration data"),
        (["--precision", "int8", "--calibration", "integer_net.npz"], "integer_net.npz holds no arrays"),
        (["--keep-float", "2"], "--keep-float means nothing for 'float32'"),
        (["--allow-float"], "--allow-float means nothing for 'float32'"),
        (["--evaluate", "integer_net:score"], "--evaluate means nothing for 'float32'"),
        (["--max-drop", "0"], "--max-drop means nothing for 'float32'"),
        (["--equalize"], "--equalize means nothing for 'float32'"),
        (["--no-measure"], "--no-measure means nothing for 'float32'"),
        ([*integers, "--max-drop", "0"], "max_drop=0.0 is a drop of nothing"),
        ([*integers, "--evaluate", "score"], "'score' is no function"),
        ([*integers, "--evaluate", "integer_net:held"], "integer_net:held is a list, not a function"),
    ]:
        (tmp_path / "integer_net.npz").write_text("text")
        assert status([*made, *arguments]) == 1
        assert error in capsys.readouterr().err
