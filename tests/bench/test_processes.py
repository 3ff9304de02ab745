"""Workers of the benchmarks: asked in turns, one group at a time; a failure is told in the worker's own last words."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from planish.benchmarks import processes
from planish.benchmarks.case import Case
from planish.benchmarks.processes import Worker, WorkerFailed, beside, exported, ready, take_turns

FAKE = """
import json, sys, time
what, case, folder = sys.argv[1:]
case = json.loads(case)
if case["engine"] == "broken":
    sys.exit("it broke")
print(json.dumps({"export_s": 2.0} if what == "export" else {"load_s": 1.0} if what == "serve" else {}), flush=True)
for line in sys.stdin:
    if what != "serve":
        break
    start = time.time()
    time.sleep(0.02)
    with open(folder + ".turns", "a") as turns:
        print(case["engine"], start, time.time(), file=turns)
    print(json.dumps({"ms": [3.0, 4.0], "line": line.strip()}), flush=True)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for cases, and workers that only pretend."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(processes, "WORKER", (sys.executable, str(script)))
    return tmp_path


def test_export_happens_once(work: Path) -> None:
    case = Case("m", "a", tune=0.5)  # a name with a point in it
    assert exported(case, work) == {"export_s": 2.0}
    done = beside(work / case.name, "export.json")
    done.write_text('{"export_s": 9.0}')
    assert exported(case, work) == {"export_s": 9.0}


def test_figures_of_a_ready_worker(work: Path) -> None:
    worker, figures = ready(Case("m", "a"), work)
    worker.close()
    assert (figures["export_s"], figures["load_s"]) == (2.0, 1.0)
    assert figures["ready_s"] > 0


def test_one_group_at_a_time_and_the_order_turns_round(work: Path) -> None:
    groups = [[ready(Case("m", name), work)[0]] for name in "abc"]
    found = take_turns(groups, 2, 1.5)
    for group in groups:
        group[0].close()
    assert found == [[[3.0, 4.0, 3.0, 4.0]]] * 3
    spans = []
    for name in "abc":
        lines = (work / f"{Case('m', name).name}.turns").read_text().splitlines()
        spans += [(float(line.split()[1]), float(line.split()[2]), line.split()[0]) for line in lines]
    spans.sort()
    assert [name for *_, name in spans] == list("abccba")
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_instances_measure_together(work: Path) -> None:
    workers = [ready(Case("m", name), work)[0] for name in "ab"]
    take_turns([workers], 1, 1.0)
    for worker in workers:
        worker.close()
    spans = [(work / f"{Case('m', name).name}.turns").read_text().split()[1:] for name in "ab"]
    (a0, a1), (b0, b1) = [(float(first), float(last)) for first, last in spans]
    assert max(a0, b0) < min(a1, b1)


def test_a_worker_that_breaks(work: Path) -> None:
    with pytest.raises(WorkerFailed, match="it broke"):
        exported(Case("m", "broken"), work)
    worker = Worker("serve", Case("m", "broken"), work / "x")
    worker.process.wait()
    with pytest.raises(WorkerFailed, match="it broke"):
        worker.ask("slice 1")
    worker.close()
