"""Compile a model ahead of time, save it, and run the file in a process without PyTorch.

python examples/compile_offline.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import planish

RUN = """
import sys
import numpy as np
import planish

compiled = planish.load(sys.argv[1])
np.save(sys.argv[3], compiled(np.load(sys.argv[2])))
assert "torch" not in sys.modules
"""


def main() -> None:
    """Compare the file's output with the model's."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip
    x = torch.randn(1, 3, 32, 32)
    compiled = planish.compile(model, (x,), verify=True)
    for entry in compiled.report:
        if entry.applied and "fold" in entry.name:
            print(f"{entry.name}: {len(entry.applied)} applied, {len(entry.refused)} refused")

    with tempfile.TemporaryDirectory() as folder:
        file, given, result = (Path(folder, name) for name in ("model.planish", "x.npy", "y.npy"))
        compiled.save(file)
        np.save(given, x.numpy())
        subprocess.run([sys.executable, "-c", RUN, file, given, result], check=True)
        y = np.load(result)
    with torch.no_grad():
        print(f"largest difference from PyTorch: {np.abs(y - model(x).numpy()).max():.2g}")


if __name__ == "__main__":
    main()
