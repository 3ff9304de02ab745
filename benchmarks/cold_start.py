"""Cold start of an artifact: wall time of a fresh process from exec to its first result, and its peak memory.

    python -m benchmarks.cold_start model.planish [--repeat 5]

The child also proves that neither torch nor TVM's compiler came into the process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

CHILD = """
import json, resource, sys, time
start = time.perf_counter()
import numpy as np
import planish
compiled = planish.load(sys.argv[1])
spec = compiled.signature.inputs
compiled(*[np.zeros(s.shape, s.dtype) for s in spec])
seconds = time.perf_counter() - start
maps = open("/proc/self/maps").read()
assert "torch" not in sys.modules and "libtvm_compiler" not in maps, "torch or the TVM compiler was loaded"
print(json.dumps({"in_process_s": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure(path: str) -> dict[str, float]:
    """One fresh process: wall seconds from exec to exit, seconds inside Python, peak megabytes."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, path], capture_output=True, text=True, check=True)
    return {"wall_s": time.perf_counter() - start, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Print the median of each figure as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    runs = [measure(options.path) for _ in range(options.repeat + 1)][1:]
    print(json.dumps({key: round(statistics.median(r[key] for r in runs), 4) for key in runs[0]}))


if __name__ == "__main__":
    main()
