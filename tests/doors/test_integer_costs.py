"""What integers save and cost: ResNet-50's artifact, the memory that runs it, and the memory that makes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tree import ROOT

SIZE, MEMORY, MAKING_MB = 0.27, 0.35, 2048

MAKE = """
import sys, torch
sys.path.insert(0, "tests")
from zoo import find
import planish
model, x, _ = find("resnet50").full()
planish.compile(torch.nn.ReLU().eval(), (torch.randn(4),), progress=False).save(sys.argv[1] + "/idle.planish")
planish.compile(model, x, progress=False).save(sys.argv[1] + "/float32.planish")
seed = torch.Generator().manual_seed(1)
images = [torch.randn(1, 3, 224, 224, generator=seed) for _ in range(8)]
planish.compile(model, x, precision="int8", calibration=images, progress=False).save(sys.argv[1] + "/int8.planish")
"""
RUN = """
import sys
import numpy as np
import planish
compiled = planish.load(sys.argv[1])
compiled(*[np.zeros(s.shape, s.dtype) for s in compiled.signature.inputs])
"""
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_mb(code: str, *arguments: str) -> float:
    """The most memory that a fresh process ever held."""
    done = subprocess.run([sys.executable, "-c", code + PEAK, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 1024


@pytest.mark.bars
def test_resnet50(tmp_path: Path) -> None:
    """Few images are enough: memory does not depend on how many there are."""
    making = peak_mb(MAKE, str(tmp_path))
    size = {name: (tmp_path / f"{name}.planish").stat().st_size for name in ("float32", "int8")}
    peak = {name: peak_mb(RUN, str(tmp_path / f"{name}.planish")) for name in ("idle", "float32", "int8")}
    print(json.dumps({"making_mb": making, "bytes": size, "peak_mb": peak}))
    assert size["int8"] <= SIZE * size["float32"]
    assert peak["int8"] - peak["idle"] <= MEMORY * (peak["float32"] - peak["idle"])
    assert making <= MAKING_MB
