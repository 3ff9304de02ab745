"""Each example is short, and runs and says what its reader is promised."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tree import ROOT, files

EXAMPLES = {
    "compile_offline.py": ["fold_affine_backward: 1 applied, 0 refused", "largest difference from PyTorch: "],
    "torch_compile.py": ["aten.sort.default runs in eager", "largest difference from eager: "],
    "write_a_pass.py": ["%silu: f32[1, 4] = silu(%x)", "mul_1: the value and its gate differ"],
    "explain_a_refusal.py": ["left norm as it is: its producer", "2 x aten.sort"],
}


def test_every_example_is_run() -> None:
    assert {p.name for p in files(".py") if p.parent == ROOT / "examples"} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    path = ROOT / "examples" / name
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for part in EXAMPLES[name]:
        assert part in said
    for line in said.splitlines():
        if line.startswith("largest difference"):
            assert float(line.rsplit(maxsplit=1)[1]) < 1e-5
