"""Plan to code: each kernel compiled by a worker process, the calls as VM bytecode, all linked into one library.

build(plan, weights, target) = link(objects(kernels) + bytecode(steps)) + packed weights + call table

Kernels are those of the steps and those that derive weights when the artifact is loaded.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import CodegenError, OutputError
from .artifact import Weight
from .callgraph import CallGraph, analyze, relax_module
from .link import link
from .objects import ObjectCache, default_folder
from .plan import Kernel, PackedWeight, Plan, Step
from .target import Target
from .worker import Job, KernelFailed, Pool, shared_pool

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts of it are done, and how many there are."""


@dataclass(frozen=True)
class Code:
    """What the artifact stores: a shared library, the weights in the order of main's parameters, the call table."""

    library: bytes
    weights: dict[str, Weight]
    calls: dict[str, Any]
    target: Target


def build(
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    target: Target,
    progress: Progress | None = None,
    pool: Pool | None = None,
    cache: ObjectCache | None = None,
) -> Code:
    """Compile and link `plan`; raises CodegenError naming region and layers where a kernel fails.

    `pool` and `cache` default to those that all builds of this process share.
    """
    from .compat import build_executable, executable_object

    graph = analyze(plan)
    kernels = _used(plan, graph)
    pending = _submit(kernels, target, pool or shared_pool(), cache or shared_cache())
    try:
        packed = {name: _pack(weight, weights[weight.source]) for name, weight in plan.weights.items()}
        executable = build_executable(relax_module(plan, graph), target.tvm_target())
        objects = {"bytecode": executable_object(executable, target.tvm_target())}
        objects |= _collect(plan, pending, progress)
        library = link(objects, target)
    except OSError as error:
        raise OutputError(
            f"Code cannot be made in {tempfile.gettempdir()}: {error.strerror or error}.",
            "Set TMPDIR to a folder that can be written and has room.",
        ) from None
    finally:
        for future in pending.values():
            future.cancel()
    return Code(library, packed, call_table(plan, graph), target)


def call_table(plan: Plan, graph: CallGraph) -> dict[str, Any]:
    """What the runtime and `inspect` need to know of the plan, as plain data."""
    return {
        "steps": [
            {
                "symbol": step.symbol,
                "region": step.region,
                "kind": step.kind,
                "layers": list(step.layers),
                "inputs": list(step.inputs),
                "output": step.output,
                "shape": list(plan.values[step.output].shape),
                "layout": plan.values[step.output].layout,
                "flops": step.flops,
                "bytes": step.bytes,
                "dtype": _dtype(plan, step),
            }
            for step in graph.steps
        ],
        "kernels": {
            k.symbol: {"template": k.template, "choice": k.choice, "tuned": k.tuned} for k in _used(plan, graph)
        },
        "outputs": [asdict(output) for output in graph.outputs],
        "alignments": list(graph.alignments),
        "memory": {"size": graph.memory.size, "busiest": graph.memory.busiest, "buffers": graph.memory.buffers},
        "probes": [asdict(probe) for probe in plan.probes],
    }


def _dtype(plan: Plan, step: Step) -> str:
    """What a step computes in: bfloat16 or codes if it reads them, else what it writes."""
    read = {plan.values[name].dtype for name in step.inputs if name in plan.values}
    narrow = [dtype for dtype in ("bfloat16", "uint8") if dtype in read]
    return narrow[0] if narrow else plan.values[step.output].dtype


def _used(plan: Plan, graph: CallGraph) -> list[Kernel]:
    """Kernels that some step calls, in order of first use, then those that derive weights, and the probes."""
    symbols = [step.symbol for step in graph.steps]
    symbols += [weight.derived.symbol for weight in plan.weights.values() if weight.derived is not None]
    symbols += [probe.symbol for probe in plan.probes]
    return [plan.kernels[symbol] for symbol in dict.fromkeys(symbols) if symbol]


def _submit(kernels: Sequence[Kernel], target: Target, pool: Pool, cache: ObjectCache) -> dict[str, Future[bytes]]:
    """Send every kernel to the workers, the largest first, so that none is left alone at the end."""
    from .compat import save_module

    machine = str(target.tvm_target())
    jobs = [Job(kernel.symbol, machine, save_module(kernel.symbol, kernel.func)) for kernel in kernels]
    jobs.sort(key=lambda job: -len(job.module))
    return {job.symbol: _compile(job, pool, cache) for job in jobs}


def _compile(job: Job, pool: Pool, cache: ObjectCache) -> Future[bytes]:
    """The object from the cache, or from a worker into the cache."""
    if (known := cache.get(job)) is None:
        return pool.submit(job, keep=lambda data: cache.put(job, data))
    done: Future[bytes] = Future()
    done.set_result(known)
    return done


@functools.cache
def shared_cache() -> ObjectCache:
    """This process's cache, over the user's folder."""
    from .compat import VERSIONS

    return ObjectCache(default_folder(), VERSIONS)


def _collect(plan: Plan, pending: Mapping[str, Future[bytes]], progress: Progress | None) -> dict[str, bytes]:
    """Wait for the objects; the first failure ends the build."""
    for done, future in enumerate(as_completed(pending.values()), start=1):
        failure = future.exception()
        if isinstance(failure, KernelFailed):
            raise _kernel_error(plan, failure) from None
        if failure is not None:
            raise failure
        if progress is not None:
            progress("kernels", done, len(pending))
    return {symbol: future.result() for symbol, future in pending.items()}


def _kernel_error(plan: Plan, failure: KernelFailed) -> CodegenError:
    """Name the regions and layers that the kernel was made for."""
    steps = [step for step in plan.steps if step.symbol == failure.symbol]
    where = "; ".join(f"region {s.region} of {', '.join(s.layers) or 'the top level'}" for s in steps[:3])
    more = f" and {len(steps) - 3} more" if len(steps) > 3 else ""
    template = plan.kernels[failure.symbol].template
    return CodegenError(
        f"The kernel {failure.symbol} ({template}) for {where}{more} could not be compiled: {failure.said}",
        'Report this with the model; torch.compile(model, backend="planish") runs such regions in eager.',
    )


def _pack(weight: PackedWeight, source: np.ndarray) -> Weight:
    """The array as it is stored: contiguous, in this machine's byte order; and what loading makes of it."""
    array = weight.pack(source)
    return Weight(np.ascontiguousarray(array).reshape(np.shape(array)), weight.derived)
