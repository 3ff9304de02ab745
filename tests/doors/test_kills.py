"""kill -9 at any moment: the file that was there before, or the whole new one, and nothing beside it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from doors.conftest import make_small, small_inputs

import planish

SAVE = """
import sys
from planish.backends.tvm import files
for number in range(10**6):
    files.write_atomically(sys.argv[1], lambda file: [file.write(bytes([number % 251]) * 4096) for _ in range(64)])
    if not number:
        print("one is there", flush=True)
"""


def test_a_killed_save_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    moments = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", SAVE, str(target)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + 0.1 * moments.random())
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        data = target.read_bytes()
        assert len(data) == 64 * 4096
        assert len(set(data)) == 1
        # a kill between link and rename leaves the whole file under its hidden name as well
        assert all((tmp_path / name).stat().st_size == 64 * 4096 for name in os.listdir(tmp_path))


@pytest.mark.bars
def test_a_killed_compilation_leaves_nothing_or_an_artifact(tmp_path: Path) -> None:
    """Ten moments spread over capture, code generation and saving; the caches stay usable."""
    folder = Path(__file__).resolve().parents[1]
    target = tmp_path / "small.planish"
    script = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import planish\n"
        "from doors.conftest import make_small, small_inputs\n"
        f"planish.compile(make_small(), small_inputs(), threads=2).save({str(target)!r})"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", script]
    start = time.monotonic()
    subprocess.run(command, env=environment, check=True)
    whole = time.monotonic() - start
    target.unlink()
    expected = make_small()(*small_inputs())["logits"].detach().numpy()
    for moment in range(10):
        process = subprocess.Popen(command, env=environment)
        time.sleep(whole * (moment + 1) / 10)
        process.kill()
        process.wait()
        assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] in ([], [target.name])
        if target.exists():
            np.testing.assert_allclose(
                planish.load(target)(*(t.numpy() for t in small_inputs()))["logits"], expected, rtol=1e-4, atol=1e-5
            )
            target.unlink()
    subprocess.run(command, env=environment, check=True)
    assert planish.load(target).selftest() == 0.0
