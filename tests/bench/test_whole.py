"""The benchmarks end to end, on a small model: processes, files and page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tree import ROOT

OPTIONS = ["--models", "resnet18", "--size", "small", "--against", "eager", "--rounds", "2", "--seconds", "0.05"]


@pytest.mark.bars
@pytest.mark.parametrize(("name", "more"), [("latency", []), ("throughput", []), ("costs", [])])
def test_a_benchmark(name: str, more: list[str], tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "x.json"), "--page", str(tmp_path / "x.md"), "--keep", str(tmp_path / "work")]
    command = [sys.executable, "-m", f"benchmarks.{name}", *OPTIONS, *more, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["engine"]: row for row in json.loads((tmp_path / "x.json").read_text())["results"]}
    assert rows["planish"]["error"] < 1e-5
    assert rows["eager"]["error"] < 1e-5
    assert 0 < rows["planish"]["low_ms"] <= rows["planish"]["median_ms"] <= rows["planish"]["high_ms"]
    page = (tmp_path / "x.md").read_text()
    assert done.stdout.strip() in page
    assert str(tmp_path) not in page
    if name == "latency":
        assert (tmp_path / "latency-float32-batch-1-2-threads.svg").is_file()
        assert rows["peak"]["flops"] > 0


@pytest.mark.bars
def test_a_benchmark_of_integers(tmp_path: Path) -> None:
    """planish alone: other engines' tools are no part of what the tests need."""
    options = ["--models", "resnet18", "--size", "small", "--against", "", "--rounds", "2", "--seconds", "0.05"]
    command = [sys.executable, "-m", "benchmarks.latency", "--precision", "int8", *options]
    done = subprocess.run([*command, "--json", str(tmp_path / "x")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["engine"]: row for row in json.loads((tmp_path / "x").read_text())["results"]}
    assert rows["planish"]["sqnr"] > 15
    assert 0 < rows["planish"]["error"] < 0.5
    assert f"{rows['planish']['sqnr']:.1f} dB" in done.stdout
    assert rows["peak"]["flops"] > 0


@pytest.mark.bars
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("tune_mode", ["--models", "resnet18", "--batch", "4", "--against", "eval"]),
        ("merged", ["--models", "repvgg_a0,mobileone_s0,fastvit_t8"]),
        ("norms", []),
    ],
)
def test_a_benchmark_of_rewrites(name: str, more: list[str], tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "x.json"), "--page", str(tmp_path / "x.md")]
    command = [sys.executable, "-m", f"benchmarks.{name}", "--size", "small", "--rounds", "2", "--seconds", "0.05"]
    done = subprocess.run([*command, *more, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    assert all(row["error"] < 1e-5 for row in found["results"])
    assert done.stdout.strip() in (tmp_path / "x.md").read_text()
    if name == "tune_mode":
        assert all(row["saved_bytes"] > 0 for row in found["results"])
        assert all(float(check["tune"]) < 1e-12 for check in found["gradients"])
    if name == "merged":
        assert found["same_kernels"] == {"repvgg_a0": True, "mobileone_s0": True, "fastvit_t8": True}
