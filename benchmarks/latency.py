"""Latency of the zoo: planish against other engines, each in its own process, in turns.

    python -m benchmarks.latency --models resnet18,resnet50 --against inductor,onnxruntime,openvino --threads 2

Every engine has the model in the form that suits it best, and computes the same: JSON has the largest difference of
each from a float64 reference. planish begins with an empty object cache and tuning database. The figure is the
median over all calls, its spread the quartiles; the machine's peak is measured in turns with the engines.

In integers (--precision int8) all calibrate on the same inputs, and the table has the signal-to-noise ratio of each on
others, against float64: a speed counts only if it is at least that of NNCF's model, which OpenVINO runs.
"""

from __future__ import annotations

from pathlib import Path

from .case import Case
from .command import Command
from .figures import latency
from .measure import Measured, compare


def main() -> None:
    """Measure, print the table, write what is asked for."""
    command = Command(__doc__)
    options = command.parse()
    tuned = f", tuned {options.tune:g} s each" if options.tune else ""
    title = f"{options.precision}, batch {options.batch}, {options.threads} threads{tuned}"

    def measure(case: Case, work: Path) -> list[Measured]:
        return compare(case, ("peak", *command.engines), work, options.rounds, options.seconds)

    command.run("latency", title, command.cases(), measure, latency, plot=True)


if __name__ == "__main__":
    main()
