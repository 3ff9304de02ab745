"""What it costs to make integers of a model: seconds and the most memory of a process that calibrates it.

    python -m benchmarks.calibration --models resnet50 --images 300 --observers minmax,mse

seconds = rewriting for integers + calibration, one image a batch + integers; memory is all that the process ever held
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import cycle, islice

from .case import ROOT, Case
from .figures import table
from .worker import memory


def main() -> None:
    """A process for each model and observer; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet50")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--observers", default="mse")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(calibrated(options.models, options.images, options.observers, options.threads)))
        return
    rows = []
    for model in options.models.split(","):
        for observer in options.observers.split(","):
            found = measure(model, options.images, observer, options.threads)
            rows.append([model, observer, str(options.images), f"{found['seconds']:.0f}", f"{found['peak_mb']:.0f}"])
    print(table(["model", "observer", "images", "seconds", "peak MB"], rows))


def measure(model: str, images: int, observer: str, threads: int) -> dict[str, float]:
    """`calibrated` in a fresh process."""
    given = ["--models", model, "--images", str(images), "--observers", observer, "--threads", str(threads)]
    command = [sys.executable, "-m", "benchmarks.calibration", *given, "--child"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def calibrated(model: str, images: int, observer: str, threads: int) -> dict[str, float]:
    """Seconds and peak memory in this process; nothing is compiled."""
    import torch

    import planish
    from planish.compiler import capture_model, optimize
    from planish.quantizing import quantize

    torch.set_num_threads(threads)
    case = Case(model, precision="int8")
    network, args, kwargs = case.sample()
    program = optimize(capture_model(network, args, kwargs))
    data = [kwargs or args for args, kwargs in case.calibration()]
    start = time.perf_counter()
    quantize(program, planish.Quantization(observer=observer), list(islice(cycle(data), images)))
    return {"seconds": time.perf_counter() - start, "peak_mb": memory()["peak_kb"] / 1024}


if __name__ == "__main__":
    main()
