"""Latency of the zoo: planish against other engines, each in its own process, in turns.

    python -m benchmarks.latency --models resnet18,resnet50 --against inductor,onnxruntime,openvino --threads 2

Every engine has the model in the form that suits it best, and computes the same: JSON has the largest difference of
each from a float64 reference. planish begins with an empty object cache and tuning database. The figure is the
median over all calls, its spread the quartiles; the machine's peak is measured in turns with the engines.
"""

from __future__ import annotations

import sys

from . import figures
from .command import Command
from .measure import compare


def main() -> None:
    """Measure, print the table, write what is asked for."""
    command = Command(__doc__)
    options = command.parse()
    results = []
    with command.work() as work:
        for case in command.cases():
            results.append(compare(case, ("peak", *command.engines), work, options.rounds, options.seconds))
            print(figures.line(results[-1]), file=sys.stderr, flush=True)
    tuned = f", tuned {options.tune:g} s each" if options.tune else ""
    title = f"{options.precision}, batch {options.batch}, {options.threads} threads{tuned}"
    command.publish("latency", title, figures.latency(results), results, plot=True)


if __name__ == "__main__":
    main()
