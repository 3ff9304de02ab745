"""A tuner killed at any moment loses the candidate under way and nothing else; two tuners find what one finds."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from planish.backends.tvm.tune import lock
from planish.backends.tvm.tune.database import Attempt, Database, Record, choice_text
from planish.backends.tvm.tune.tuner import PUT_BACK

TUNE = """
import json, sys
import torch
import planish
from planish.backends.tvm.tune import database, measure

def told(function, say):
    def call(*args):
        result = function(*args)
        print(say(*args), flush=True)
        return result
    return call

def kept(self, key, attempt):
    return "kept " + json.dumps([key, attempt.template, database.choice_text(attempt.choice)])

database.Database.attempt = told(database.Database.attempt, kept)
measure.LocalMeasurer._start = told(measure.LocalMeasurer._start, lambda *_: "started")
path, seconds = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 1)).eval()
planish.compile(net, (torch.randn(1, 16, 20, 20),), tune=seconds, tuning_db=path, threads=2, progress=False)
print("compiled", flush=True)
"""


def tuner(path: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that tunes a small network; what it does comes on its standard output."""
    command = [sys.executable, "-c", TUNE, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(tuners: list[subprocess.Popen[str]]) -> None:
    """Wait until they have searched everything."""
    for process in tuners:
        said = process.communicate(timeout=900)[1]
        assert process.returncode == 0, said


def children(pid: int) -> set[int]:
    """Processes that a process started, and those that they started."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found |= {int(stat.parent.name)} | children(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


Tried = tuple[str, str, str]
"""A task, a template and a choice."""


def tried(key: str, attempt: Attempt | Record) -> Tried:
    """What was tried, whatever came of it."""
    return key, attempt.template, choice_text(attempt.choice)


Moment = tuple[int, float]
"""Results that were kept since measuring began, and seconds after the last of them."""


def kill_while_tuning(path: Path, moment: Moment) -> set[Tried]:
    """Kill a tuner at that moment; what it had kept results of."""
    process = tuner(path, 600)
    assert process.stdout is not None
    first = line = process.stdout.readline()
    while line and first.count("kept ") < moment[0]:
        first += (line := process.stdout.readline())
    time.sleep(moment[1])
    helpers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    out, said = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), said
    limit = time.monotonic() + 30
    while any(alive(pid) for pid in helpers):
        assert time.monotonic() < limit, "a process outlived its tuner"
        time.sleep(0.05)
    lines = (first + out).splitlines(keepends=True)
    return {
        tuple(json.loads(line.removeprefix("kept "))) for line in lines if line.startswith("kept ") and line[-1] == "\n"
    }


def check_kills(path: Path, moments: list[Moment]) -> None:
    """After each kill: a whole database, all that was kept before and at most one more, and a machine that is free."""
    before: dict[Tried, tuple[float | None, str]] = {}
    for moment in moments:
        kept = kill_while_tuning(path, moment)
        with Database(path) as database:
            now = {tried(key, a): (a.seconds, a.why) for key, a in database.all_attempts()}
            changed = {what for what, outcome in before.items() if now.get(what) != outcome}
            assert all(now.get(what) == (None, PUT_BACK) for what in changed)  # by the network's confirmation alone
            assert kept <= now.keys()
            assert len(now.keys() - before.keys() - kept) <= 1
            measured = {what for what, (seconds, _) in now.items() if seconds is not None}
            assert {tried(key, r) for key, r in database.records()} <= measured
        before = now
        with lock.measuring():
            pass
    assert len(before) >= sum(results for results, _ in moments)


def test_a_killed_tuner_loses_nothing_that_it_measured(tmp_path: Path) -> None:
    check_kills(tmp_path / "db.sqlite", [(0, 0.3), (3, 0.1)])


@pytest.mark.bars
def test_ten_kills_at_any_moment(tmp_path: Path) -> None:
    moments = random.Random(0)
    check_kills(tmp_path / "db.sqlite", [(moments.randrange(4), moments.random()) for _ in range(10)])


@pytest.mark.bars
def test_two_tuners_at_once_find_what_one_finds(tmp_path: Path) -> None:
    """Until nothing is left to try. Each finds the same tasks, and kernels that gain as much, but for noise.

    Gains are times: this one needs a machine with nothing else to do.
    """
    one, two = tmp_path / "one.sqlite", tmp_path / "two.sqlite"
    finish([tuner(one, 900)])
    finish([tuner(two, 900), tuner(two, 900)])
    with Database(one) as alone, Database(two) as shared:
        found, again = dict(alone.records()), dict(shared.records())
        assert found
        assert found.keys() == again.keys()
        for key, record in found.items():
            assert record.seconds <= record.default_seconds
            gains = [r.default_seconds / r.seconds for r in (record, again[key])]
            assert gains[1] >= 0.85 * gains[0], gains
