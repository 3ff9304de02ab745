"""One process of the benchmarks: exports a case, or has it ready and measures when asked. JSON lines on stdout.

python -m benchmarks.worker export CASE FOLDER      writes what the engine loads, and the figures of that
python -m benchmarks.worker serve CASE FOLDER       answers `slice SECONDS` with times, `memory` with kilobytes
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .case import Case
from .engines import engine
from .quality import quality, write_held_out

WARM_SHARE = 0.2
"""Of a slice, the part that does not count: caches and clocks settle after a pause."""


def export(case: Case, folder: Path) -> dict[str, Any]:
    """Write the engine's form of the model; seconds include conversion from PyTorch, not importing it."""
    import torch

    torch.set_num_threads(case.threads)
    case.sample()
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    figures = engine(case.engine).export(case, folder)
    return {"export_s": time.perf_counter() - start, **figures}


def write_sample(case: Case, path: Path) -> None:
    """The flat inputs and the float64 outputs, which every engine reads and is compared with."""
    import torch
    from torch.utils._pytree import tree_leaves

    model, args, kwargs = case.sample()
    from zoo.common import reference

    inputs = {f"input{i:03d}": t.numpy() for i, t in enumerate(tree_leaves((args, kwargs))) if _tensor(t)}
    wide = reference(model, args, kwargs)
    outputs = {f"output{i:03d}": t.numpy() for i, t in enumerate(tree_leaves(wide)) if isinstance(t, torch.Tensor)}
    np.savez(path, **inputs, **outputs)


def _tensor(value: Any) -> bool:
    return hasattr(value, "numpy")


def read_sample(path: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs and expected outputs."""
    with np.load(path) as file:
        names = sorted(file.files)
        return [file[n] for n in names if n.startswith("input")], [file[n] for n in names if n.startswith("output")]


def error(outputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference from the float64 reference, relative to that output's scale."""
    worst = 0.0
    for got, want in zip(outputs, expected, strict=True):
        scale = float(np.abs(want).max()) or 1.0
        worst = max(worst, float(np.abs(got.astype(np.float64) - want).max()) / scale)
    return worst


def times(call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each call within a slice; the first calls after a pause do not count."""
    found: list[float] = []
    warm = time.perf_counter() + WARM_SHARE * seconds
    while time.perf_counter() < warm:
        call()
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def memory() -> dict[str, int]:
    """Peak and present resident kilobytes of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {"peak_kb": int(fields["VmHWM"].split()[0]), "resident_kb": int(fields["VmRSS"].split()[0])}


def serve(case: Case, folder: Path, answers: TextIO) -> None:
    """Get ready, say so, and answer until stdin closes."""
    inputs, expected = read_sample(folder.parent / f"{case.sample_name}.npz")
    before = memory()["resident_kb"]
    made = engine(case.engine)
    start = time.perf_counter()
    loaded = made.load(case, folder, inputs)
    result = loaded.call()
    figures = {"load_s": time.perf_counter() - start, "before_kb": before, **loaded.figures}
    if loaded.outputs is not None:
        figures["error"] = error(loaded.outputs(result), expected)
        if case.precision == "int8":
            figures |= quality(loaded, inputs, folder.parent / f"{case.sample_name}.held.npz")
    _answer(answers, figures)
    for line in sys.stdin:
        what, *arguments = line.split()
        if what == "slice":
            _answer(answers, {"ms": times(loaded.call, float(arguments[0]))})
        else:
            _answer(answers, memory())


def _answer(answers: TextIO, value: dict[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)


def main() -> None:
    """Everything but the answers goes to stderr, also what C libraries print."""
    what, text, folder = sys.argv[1:]
    case = Case.from_json(text)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if what == "sample":
        write_sample(case, Path(folder))
        _answer(answers, {})
    elif what == "held":
        write_held_out(case, Path(folder))
        _answer(answers, {})
    elif what == "export":
        _answer(answers, export(case, Path(folder)))
    else:
        serve(case, Path(folder), answers)


if __name__ == "__main__":
    main()
