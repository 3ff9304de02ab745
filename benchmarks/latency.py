"""Latency of the zoo: planish against other engines, each in its own process, in turns.

    python -m benchmarks.latency --models resnet18,resnet50 --against inductor,onnxruntime,openvino --threads 2 --batch 1

Every engine has the model in the form that suits it best, and computes the same: the largest difference from a
float64 reference stands beside its time. planish begins with an empty object cache and tuning database. The figure
is the median over all calls, its spread the quartiles; the machine's peak is measured in turns with the engines.
"""

from __future__ import annotations

from . import figures, page
from .command import Command
from .measure import compare


def main() -> None:
    """Measure, print the table, write what is asked for."""
    command = Command(__doc__)
    options = command.parse()
    name = f"latency-{options.precision}-{options.batch}"
    with command.work() as work:
        results = []
        for case in command.cases():
            results.append(compare(case, command.engines, work, options.rounds, options.seconds))
            print(figures.line(results[-1]), flush=True)
    page.write(options, name, figures.latency(results), results)
    command.finish(results)


if __name__ == "__main__":
    main()
