"""The `planish` command: what it prints, writes and returns; every wrong input is two sentences and no file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doors.conftest import Small, small_inputs
from safetensors.torch import save_model

from planish.cli import status

FACTORY = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.norm = torch.nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()

def net():
    return Net().eval()

class Shared(Net):
    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y).relu()

def sorted():
    class Sort(torch.nn.Module):
        def forward(self, x):
            return x.sort().values
    return Sort().eval()
"""
X = "x=f32[1,3,8,8]"


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of factories in the current folder, under a name of its own."""
    name = f"cli_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return name


def files(folder: Path) -> set[str]:
    """What lies there, hidden files too, apart from Python's own."""
    return {p.name for p in folder.iterdir() if p.suffix != ".py" and p.name != "__pycache__"}


def test_compile_run_and_inspect(nets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["compile", f"{nets}:net", "-o", "net.planish", "--input", X, "--threads", "2", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["bytes"] == (tmp_path / "net.planish").stat().st_size
    assert made["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 3, 8, 8]}]
    # the norm's four vectors of 8 go, and with them a multiplication and an addition for each of 8*6*6 values
    saved = {"parameters": 32, "flops": 2 * 288, "error": None}
    assert {"name": "fold_affine_backward", "applied": 1, "refused": 0, "saved": saved} in made["passes"]
    assert made["saved"] == saved

    np.save("x.npy", np.zeros((1, 3, 8, 8), np.float32))
    assert status(["run", "net.planish", "--input", "x=x.npy", "-o", "out.npz", "--json"]) == 0
    (output,) = json.loads(capsys.readouterr().out)["outputs"]
    assert output["shape"] == [1, 8, 6, 6]
    assert output["file"] == "out.npz"
    with np.load("out.npz") as held:
        assert held[output["name"]].shape == (1, 8, 6, 6)

    assert status(["inspect", "net.planish"]) == 0
    shown = capsys.readouterr().out
    for part in ("x: float32[1, 3, 8, 8]", "fold_affine_backward applied (1)", "weights"):
        assert part in shown
    assert "    norm, conv: 32 parameters, 0.001 MFLOP\n" in shown
    assert "saved in all: 32 parameters, 0.001 MFLOP a run\n" in shown
    assert status(["inspect", "net.planish", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["calls"]["steps"]
    (folded,) = [entry for entry in told["report"] if entry["applied"] and entry["name"] == "fold_affine_backward"]
    assert (folded["saved"], told["saved"]) == (saved, saved)
    assert folded["applied"][0]["layers"] == ["norm", "conv"]


def test_inspect_shows_refusals_by_layer(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["compile", f"{nets}:Shared", "--eval", "-o", "net.planish", "--input", X]) == 0
    capsys.readouterr()
    assert status(["inspect", "net.planish"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (refused,) = [i for i, line in enumerate(lines) if line.startswith("fold_affine_backward refused: its producer")]
    assert lines[refused + 1].strip() == "norm"


def test_the_outputs_are_the_models(
    small: Small, small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, shift = small_inputs()
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "shift.npy", shift.numpy())
    inputs = ["--input", f"x={tmp_path / 'x.npy'}", "--input", f"shift={tmp_path / 'shift.npy'}"]
    assert status(["run", str(small_file), *inputs, "-o", str(tmp_path / "out")]) == 0
    assert "logits" in capsys.readouterr().out
    with torch.no_grad():
        want = small(x, shift)
    for name in ("logits", "features"):
        np.testing.assert_allclose(np.load(tmp_path / "out" / f"{name}.npy"), want[name].numpy(), atol=1e-5)


def test_weights_and_exported_files(nets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib

    torch.manual_seed(3)
    net = importlib.import_module(nets).net() if nets in sys.modules else None
    if net is None:
        sys.path.insert(0, str(tmp_path))
        try:
            net = importlib.import_module(nets).net()
        finally:
            sys.path.remove(str(tmp_path))
    save_model(net, "net.safetensors")
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), "net.pt2")
    with_weights = [f"{nets}:net", "--weights", "net.safetensors", "--input", X]
    np.save("x.npy", np.ones((1, 3, 8, 8), np.float32))
    results = []
    for index, model in enumerate((with_weights, ["net.pt2"])):
        assert status(["compile", *model, "-o", f"{index}.planish"]) == 0
        assert status(["run", f"{index}.planish", "--input", "x=x.npy", "-o", f"{index}.npz"]) == 0
        with np.load(f"{index}.npz") as held:
            results.append(next(iter(held.values())))
    np.testing.assert_array_equal(results[0], results[1])
    with torch.no_grad():
        np.testing.assert_allclose(results[0], net(torch.ones(1, 3, 8, 8)).numpy(), atol=1e-5)


def test_bench(small_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["bench", str(small_file), "--repeat", "7", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["calls"] == 7
    assert result["threads"] == 1
    assert 0 < result["min_ms"] <= result["median_ms"] <= result["max_ms"]
    assert "profile" not in result
    assert status(["bench", str(small_file), "--repeat", "3"]) == 0
    assert "median" in capsys.readouterr().out


def test_bench_profiles(small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "roofline.svg"
    assert status(["bench", str(small_file), "--repeat", "2", "--roofline", str(picture), "--json"]) == 0
    profile = json.loads(capsys.readouterr().out)["profile"]
    assert picture.read_text().startswith("<?xml")
    assert profile["rows"]
    assert profile["limits"]["gflops"]["float32"] > 0
    assert status(["bench", str(small_file), "--repeat", "2", "--profile"]) == 0
    assert "outside kernels" in capsys.readouterr().out
    assert status(["bench", str(small_file), "--roofline", str(tmp_path / "x.txt")]) == 1
    assert "no kind of picture" in capsys.readouterr().err


def test_doctor(small_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["doctor", str(small_file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in found["checks"]]
    assert found["healthy"]
    assert {"python", "torch", "apache-tvm", "cpu", "target", "linker", "compile", str(small_file)} <= set(names)


def test_doctor_names_a_file_that_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.planish").write_text("hello")
    assert status(["doctor", str(tmp_path / "x.planish")]) == 1
    assert "not a planish artifact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compile", "{nets}:net", "-o", "o.planish"], "Input 'x' has no example"),
        (["compile", "{nets}:net", "-o", "o.planish", "--input", "y=f32[1]"], "no input 'y'"),
        (["compile", "{nets}:net", "-o", "o.planish", "--input", "x"], "is not name=value"),
        (["compile", "{nets}:net", "-o", "o.planish", "--input", X, "--input", X], "given twice"),
        (["compile", "{nets}:net", "-o", "o.planish", "--input", "x=f32[1,4,8,8]"], "torch.export"),
        (["compile", "{nets}:Net", "-o", "o.planish", "--input", X], "--eval"),
        (["compile", "{nets}:sorted", "-o", "o.planish", "--input", "x=f32[4]"], "1 x aten.sort"),
        (["compile", "{nets}:nett", "-o", "o.planish", "--input", X], "Did you mean 'net'"),
        (["compile", "no_such_module_:net", "-o", "o.planish", "--input", X], "cannot be imported"),
        (["compile", "missing.pt2", "-o", "o.planish"], "missing.pt2"),
        (["compile", "{nets}:net", "-o", "o.planish", "--input", X, "--weights", "w.safetensors"], "w.safetensors"),
        (["compile", "{nets}:net", "-o", "no/o.planish", "--input", X], "no folder"),
        (["compile", "{nets}:net", "-o", "o.planish", "--input", X, "--target", "znver99"], "znver99"),
        (["compile", "{nets}:net", "-o", "o.planish", "--input", X, "--threads", "0"], "threads=0"),
        (["compile", "{nets}:net", "-o", "", "--input", X], "Give the name of a file"),
        (["compile", "{nets}:net", "-o", "/dev/null", "--input", X], "Give the name of a file"),
        (["run", "missing.planish"], "does not exist"),
        (["inspect", "missing.planish"], "does not exist"),
        (["bench", "missing.planish"], "does not exist"),
    ],
)
def test_what_goes_wrong_is_said_and_nothing_is_written(
    nets: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert status([argument.format(nets=nets) for argument in arguments]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("planish: ")
    assert said in err
    assert "Traceback" not in err
    assert len(err.splitlines()) >= 2
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "'x' is missing"),
        (["x=x.npy"], "'shift' is missing"),
        (["x=x.npy", "shift=shift.npy", "z=x.npy"], "no input 'z'"),
        (["x=shift.npy", "shift=shift.npy"], "dimensions"),
        (["x=wide.npy", "shift=shift.npy"], "float64"),
        (["x=none.npy", "shift=shift.npy"], "no file none.npy"),
    ],
)
def test_run_with_inputs_that_do_not_fit(
    small_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inputs: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    x, shift = (t.numpy() for t in small_inputs())
    for name, array in (("x", x), ("shift", shift), ("wide", x.astype(np.float64))):
        np.save(f"{name}.npy", array)
    before = files(tmp_path)
    options = [part for text in inputs for part in ("--input", text)]
    assert status(["run", str(small_file), *options, "-o", "out.npz"]) == 1
    assert said in capsys.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["run"], ["run", "x", "--no-such-option"], ["bench", "x", "--repeat", "0"], []]
)
def test_wrong_command_lines_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(arguments) == 2


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["--version"]) == 0
    assert capsys.readouterr().out.startswith("planish 0.")
    for command in ("compile", "run", "bench", "inspect", "doctor"):
        assert status([command, "--help"]) == 0
        assert "Usage" in capsys.readouterr().out


def test_a_defect_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("planish.load", broken)
    assert status(["run", "x.planish"]) == 1
    assert "Unexpected ZeroDivisionError: oops" in capsys.readouterr().err
    monkeypatch.setenv("PLANISH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        status(["run", "x.planish"])


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process where a library is not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; from planish.cli import status; sys.exit(status(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_compile_without_torch_says_what_to_install(tmp_path: Path) -> None:
    done = without("torch", "compile", "x.pt2", "-o", str(tmp_path / "o.planish"))
    assert done.returncode == 1
    assert "pip install 'planish[compile]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_needs_no_torch(small_file: Path, tmp_path: Path) -> None:
    x, shift = (t.numpy() for t in small_inputs())
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "shift.npy", shift)
    inputs = ["--input", f"x={tmp_path / 'x.npy'}", "--input", f"shift={tmp_path / 'shift.npy'}"]
    done = without("torch", "run", str(small_file), *inputs)
    assert done.returncode == 0, done.stderr
    assert "logits" in done.stdout


def test_ctrl_c_leaves_nothing(nets: str, tmp_path: Path) -> None:
    (tmp_path / f"{nets}.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "planish.cli", "compile", f"{nets}:net", "-o", "o.planish", "--input", X]
    pipe = subprocess.PIPE
    # what runs in a shell's background ignores SIGINT, and hands that on
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, preexec_fn=heard) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "loading\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert files(tmp_path) == set()


def test_a_closed_pipe_is_no_error(small_file: Path) -> None:
    command = [sys.executable, "-m", "planish.cli", "inspect", str(small_file), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(timeout=120) == 0
