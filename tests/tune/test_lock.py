"""The machine-wide lock: one measurement at a time, no compiler beside it, gone with whoever held it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from planish.backends.tvm.tune import lock
from planish.errors import TuningError

HOLDER = """
import sys, time
from pathlib import Path
from planish.backends.tvm.tune import lock
with getattr(lock, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(kind: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, kind, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def free(kind: str, path: Path) -> bool:
    """Whether the lock can be had at once."""
    try:
        with getattr(lock, kind)(path, patience=0.0):
            return True
    except TuningError:
        return False


@pytest.mark.parametrize(
    ("held", "wanted", "together"),
    [
        ("measuring", "measuring", False),
        ("measuring", "compiling", False),
        ("compiling", "measuring", False),
        ("compiling", "compiling", True),
    ],
)
def test_who_may_run_beside_whom(tmp_path: Path, held: str, wanted: str, together: bool) -> None:
    path = tmp_path / "lock"
    process = holder(held, path)
    assert free(wanted, path) == together
    end(process)
    assert free(wanted, path)


def test_a_lock_ends_with_a_process_that_is_killed_and_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder("measuring", path)
    process.send_signal(signal.SIGKILL)
    with lock.measuring(path, patience=30.0):
        assert not free("measuring", path)
    end(process)


def test_who_waits_in_vain_is_told_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder("measuring", path)
    begin = time.monotonic()
    with pytest.raises(TuningError, match=rf"\({process.pid}\) has been measuring") as error, lock.measuring(path, 0.2):
        pytest.fail("it was not free")
    assert time.monotonic() - begin >= 0.2
    assert process.poll() is None  # it gave up, and did not wait for the end
    assert "stopped" in error.value.todo
    end(process)


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock.measuring(tmp_path / "lock"):
        raise KeyboardInterrupt
    assert free("measuring", tmp_path / "lock")


def test_every_user_may_hold_the_file_and_nobody_may_write_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    old = os.umask(0o077)
    try:
        with lock.measuring(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o444
    finally:
        os.umask(old)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(TuningError, match="cannot be opened"), lock.measuring(tmp_path / "lock"):
        pytest.fail("it was followed")


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="cannot be opened"), lock.measuring(tmp_path / "no" / "lock"):
        pytest.fail("it was made")
