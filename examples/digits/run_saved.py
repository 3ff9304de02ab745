"""Runs saved artifacts in a process without torch and prints what came out as JSON: `run_saved.py FOLDER`.

The folder holds `*.planish` files and the digits as `held_out.npz`; `demo.py` makes it and calls this.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 100


def main(folder: Path) -> None:
    """Measure everything, print one JSON object."""
    start = time.perf_counter()
    import planish

    digits = np.load(folder / "held_out.npz")["inputs"]
    one = planish.load(folder / "resnet20.planish")
    one(digits[:1])
    result: dict[str, Any] = {"ready_s": time.perf_counter() - start}
    result["resnet20_ms"] = latency(one, digits[:1])
    many = planish.load(folder / f"resnet20_batch{BATCH}.planish")
    logits = np.concatenate([many(digits[i : i + BATCH]) for i in range(0, len(digits), BATCH)])
    np.save(folder / "compiled_logits.npy", logits)
    result["batch_ms"] = latency(many, digits[:BATCH])
    single = np.concatenate([one(digits[i : i + 1]) for i in range(BATCH)])
    result["batch_1_against_100"] = float(np.abs(single - logits[:BATCH]).max())

    image = np.load(folder / "image.npy")
    start = time.perf_counter()
    large = planish.load(folder / "resnet50.planish")
    np.save(folder / "compiled_image_logits.npy", large(image))
    result["resnet50_ready_s"] = time.perf_counter() - start
    result["resnet50_ms"] = latency(large, image)
    result["foreign"] = foreign()
    print(json.dumps(result))


def latency(model: Any, x: np.ndarray, seconds: float = 2.0) -> float:
    """Median milliseconds of a call."""
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times) < 5:
        start = time.perf_counter()
        model(x)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def foreign() -> list[str]:
    """What must not be in this process: torch, and TVM's compiler."""
    modules = [name for name in ("torch", "tvm") if sys.modules.get(name) is not None]
    maps = Path("/proc/self/maps")
    lines = maps.read_text().split() if maps.exists() else []
    libraries = {Path(word).name for word in lines if word.startswith("/")}
    heavy = ("libtorch", "libtvm.so", "libtvm_compiler")
    return modules + sorted(name for name in libraries if name.startswith(heavy))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
