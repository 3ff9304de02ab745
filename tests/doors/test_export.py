"""planish.export_onnx and `planish export`: files that other engines read, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_case import run_onnx
from torch import nn

import planish
from planish.backends.onnx import export
from planish.cli import status
from planish.errors import OptionError, OutputError, TrainModeError


def make() -> nn.Module:
    """What the command line names below."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()


def data(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, 8, 8, generator=generator) for _ in range(count)]


def test_a_file_computes_what_the_artifact_does(tmp_path: Path) -> None:
    """Nothing ties here, so that the outputs differ by the rounding of floats alone."""
    path = tmp_path / "net.onnx"
    planish.export_onnx(make(), path, data()[0], calibration=data())
    model, x = onnx.load(path), data(6)[5]
    assert [given.name for given in model.graph.input] == ["input"]
    (found,) = run_onnx(model, [x]).values()
    compiled = planish.compile(make(), (data()[0],), precision="int8", calibration=data())
    assert torch.allclose(found, compiled(x), rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_images_are_taken_as_bytes(tmp_path: Path) -> None:
    path, image = tmp_path / "net.onnx", planish.Image(0.5, 0.25, layout="NCHW")
    seen = [(x.abs() * 90).clamp(max=255).to(torch.uint8) for x in data()]
    planish.export_onnx(make(), path, data()[0], calibration=seen, preprocess=image)
    given = onnx.load(path).graph.input[0].type.tensor_type.elem_type
    assert given == onnx.TensorProto.UINT8
    pixels = seen[0]
    (found,) = run_onnx(onnx.load(path), [pixels]).values()
    with torch.no_grad():
        want = make()((pixels / 255 - 0.5) / 0.25)
    assert float((found - want).abs().max() / want.abs().max()) < 0.05


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    np.savez(tmp_path / "data.npz", input=torch.cat(data()).numpy())
    path = tmp_path / "net.onnx"
    line = ["export", "test_export:make", "-o", str(path), "--input", "input=f32[1,3,8,8]"]
    assert status([*line, "--calibration", str(tmp_path / "data.npz")]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == f"{path}\n"
    onnx.checker.check_model(onnx.load(path))
    assert status(line) == 1
    assert "needs calibration data" in capsys.readouterr().err


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no file appears."""
    path, x = tmp_path / "net.onnx", data()[0]
    with pytest.raises(OptionError, match="precision='float32' is exported"):
        planish.export_onnx(make(), path, x, precision="float32")
    scored = planish.Quantization(evaluate=lambda _: 1.0)
    with pytest.raises(OptionError, match="evaluate= scores compiled models"):
        planish.export_onnx(make(), path, x, precision=scored, calibration=data())
    with pytest.raises(OptionError, match="at stage OPTIMIZED is exported"):
        planish.export_onnx(planish.rewrite(make(), x), path)
    with pytest.raises(TrainModeError):
        planish.export_onnx(make().train(), path, x, calibration=data())
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(OutputError, match=r"constants take .* bytes, and an ONNX file holds less than 2 GB"):
        planish.export_onnx(make(), path, x, calibration=data())
    assert not list(tmp_path.iterdir())


def test_without_onnx_it_says_what_to_install() -> None:
    code = (
        "import sys, planish\nsys.modules['onnx'] = None\n"
        "try:\n    planish.export_onnx(None, 'net.onnx', calibration=[])\n"
        "except planish.errors.MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exporting needs onnx" in done.stdout
    assert "planish[compile,onnx]" in done.stdout
