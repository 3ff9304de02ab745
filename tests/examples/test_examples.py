"""Each example is short, and runs and says what its reader is promised."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tree import ROOT, files

EXAMPLES = {
    "compile_offline.py": ["fold_affine_backward: 1 applied, 0 refused", "largest difference from PyTorch: "],
    "torch_compile.py": ["aten.sort.default runs in eager", "largest difference from eager: "],
    "write_a_pass.py": ["%silu: f32[1, 4] = silu(%x)", "mul_1: the value and its gate differ"],
    "quantize.py": ["(x: uint8[1, 32, 32, 3])", "reference → artifact: no difference", "see the same class"],
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


README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", range(len(README)))
def test_the_readme_runs(block: int, tmp_path: Path) -> None:
    code = README[block] + "\nprint(tuple(y.shape))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] in ("(1, 16, 30, 30)", "(8, 32)")
    assert "eager" not in done.stderr
