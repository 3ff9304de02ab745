"""precision="bfloat16" and bfloat16 models, through every door."""

from __future__ import annotations

import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_in_bfloat16, assert_close_to_reference
from torch import nn
from typer.testing import CliRunner

import planish
from planish.cli import app
from planish.errors import InputError, MiscompiledError
from planish.ir.program import Program
from planish.verification import check_compiled

CPUS = ("haswell", "x86-64-v3", "skylake-avx512", "sapphirerapids", "aarch64:cortex-a76", "aarch64:neoverse-v1")


class Net(nn.Module):
    """A convolution, a norm, a gate by a mean, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.norm = nn.GroupNorm(4, 20)
        self.fc = nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norm(self.conv(x)))
        result: torch.Tensor = self.fc((h * torch.sigmoid(h.mean((2, 3), keepdim=True))).mean((2, 3)))
        return result


def case() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The model, an input, and the outputs in float64 and bfloat16."""
    torch.manual_seed(0)
    model = Net().eval()
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        own = Net().bfloat16()
        own.load_state_dict(model.state_dict())
        wide = Net().double()
        wide.load_state_dict(model.state_dict())
        return model, x, wide(x.double()), own(x.bfloat16())


def test_compile_takes_and_gives_float32(tmp_path: Path) -> None:
    model, x, exact, own = case()
    compiled = planish.compile(model, (x,), precision="bfloat16", verify=True, progress=False)
    assert_close_in_bfloat16(compiled(x), exact, own)
    np.testing.assert_array_equal(compiled(x.numpy()), compiled(x).numpy())
    compiled.save(tmp_path / "half.planish")
    loaded = planish.load(tmp_path / "half.planish")
    assert torch.equal(loaded(x), compiled(x))
    assert loaded.selftest() == 0.0
    assert loaded.manifest["options"]["precision"] == "bfloat16"
    (report,) = (step for step in loaded.report if step.name == "lower_to_bfloat16")
    assert {site.layers for site in report.applied} >= {("conv",), ("norm",), ("fc",)}
    assert any("statistic" in str(site.reason) for site in report.refused)


def test_weights_take_half_the_bytes() -> None:
    model, x = nn.Linear(64, 64).eval(), torch.randn(2, 64)
    sizes = {}
    for precision in ("float32", "bfloat16"):
        compiled = planish.compile(model, (x,), precision=precision, progress=False)
        weights = compiled.manifest["weights"]
        sizes[precision] = sum(prod(w["shape"]) * np.dtype(w["dtype"]).itemsize for w in weights)
    assert sizes == {"float32": 4 * (64 * 64 + 64), "bfloat16": 2 * (64 * 64 + 64)}


def test_bfloat16_models_take_and_give_bfloat16() -> None:
    model, x, exact, own = case()
    half = x.bfloat16()
    compiled = planish.compile(model.bfloat16(), (half,), progress=False)
    result = compiled(half)
    assert result.dtype is torch.bfloat16
    assert_close_to_reference(result, exact, own)
    out = torch.empty_like(result)
    assert compiled(half, out=out) is out
    assert torch.equal(out, result)


def test_numpy_has_bfloat16_by_ml_dtypes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = torch.randn(2, 8).bfloat16()
    compiled = planish.compile(nn.Linear(8, 4).bfloat16().eval(), (half,), progress=False)
    array = half.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    result = compiled(array)
    assert result.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(result.view(np.uint16), compiled(half).view(torch.uint16).numpy())
    with pytest.raises(InputError, match="is uint16, expected bfloat16"):
        compiled(array.view(np.uint16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InputError, match="NumPy lacks without ml_dtypes"):
        compiled(array)
    assert compiled.selftest() == 0.0


def test_torch_compile() -> None:
    model, x, exact, own = case()
    with torch.no_grad():
        actual = torch.compile(model, backend="planish", options={"precision": "bfloat16"})(x)
    assert_close_in_bfloat16(actual, exact, own)


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "net.planish"
    arguments = ["compile", "torch.nn:Flatten", "--eval", "--input", "input=f32[2,3,4]", "-o", str(path)]
    done = CliRunner().invoke(app, [*arguments, "--precision", "bfloat16"])
    assert done.exit_code == 0, done.output
    assert planish.load(path).manifest["options"]["precision"] == "bfloat16"


@pytest.mark.parametrize("cpu", CPUS)
def test_other_cpus_get_code_too(cpu: str) -> None:
    """With a dot product or without: where there is none, products are made in float32."""
    model, x, _, _ = case()
    compiled = planish.compile(model, (x,), target=cpu, threads=2, precision="bfloat16", progress=False)
    assert compiled.manifest["target"]["cpu"] == cpu.rpartition(":")[2]


def test_verify_finds_wrong_code() -> None:
    model, x, _, _ = case()
    program = planish.rewrite(model, (x,), passes="normalize")
    lowered = planish.rewrite(model, (x,), passes="bfloat16")
    wrong: dict[str, Any] = {**lowered.weights, "fc.weight": 1.1 * lowered.weights["fc.weight"]}
    compiled = planish.compile(model, (x,), precision="bfloat16", progress=False)
    check_compiled(compiled, program, lowered, [x], "bfloat16")
    broken: Program = lowered.evolve(weights=wrong)

    class Stub:
        """Compiled code that computes what the broken program does."""

        runs_here = True

        def run_flat(self, inputs: Any) -> Any:
            return broken.graph_module(*inputs)

    with pytest.raises(MiscompiledError, match="code generation"):
        check_compiled(Stub(), program, lowered, [x], "bfloat16")  # type: ignore[arg-type]
    with pytest.raises(MiscompiledError, match="the passes"):
        check_compiled(Stub(), program, broken, [x], "bfloat16")  # type: ignore[arg-type]
