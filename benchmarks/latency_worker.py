"""One engine and one model for `benchmarks.latency`: gets ready, then measures a slice for each line on stdin.

python -m benchmarks.latency_worker MODEL ENGINE THREADS BATCH SECONDS SIZE
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.latency import ROOT


def prepare(model_name: str, engine: str, threads: int, batch: int, size: str) -> Callable[[], Any]:
    """A call of the model by the engine, warmed up."""
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from zoo import find

    torch.set_num_threads(threads)
    entry = find(model_name)
    model, args, kwargs = entry.full(batch) if size == "full" else entry.small(batch)
    if engine == "planish":
        import planish

        compiled = planish.compile(model, args, example_kwargs=kwargs, threads=threads, progress=False)
        return lambda: compiled(*args, **kwargs)
    if engine == "inductor":
        from torch._inductor import config

        config.freezing = True
        model = torch.compile(model)  # type: ignore[assignment]

    def call() -> Any:
        with torch.inference_mode():
            return model(*args, **kwargs)

    return call


def measure(call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each call within a slice; the first calls after a pause do not count."""
    times: list[float] = []
    warm = time.perf_counter() + seconds / 5
    while time.perf_counter() < warm:
        call()
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    """Speak JSON lines on stdout; everything else goes to stderr."""
    model, engine, threads, batch, seconds, size = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr
    start = time.perf_counter()
    call = prepare(model, engine, int(threads), int(batch), size)
    call()
    print(json.dumps({"start_s": time.perf_counter() - start}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"ms": measure(call, float(seconds))}), file=answers, flush=True)


if __name__ == "__main__":
    main()
