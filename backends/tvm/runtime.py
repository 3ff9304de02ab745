"""Running artifacts: load a file and call it. Needs neither torch nor the TVM compiler.

load(path)(*inputs, **named) == model(*inputs, **named)      numpy in, numpy out; torch in, torch out

A Compiled may be called from any thread. Its outputs are fresh, or the caller's `out`. Inputs may lie anywhere in
the CPU's memory, at any element offset; what is not contiguous is copied. In a child made by fork after a call,
calls work; but such a child must end as multiprocessing's do, by os._exit, since TVM's idle threads are gone there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ArtifactError, CpuFeatureError, InputError, OptionError
from ...ir.report import Report
from ...ir.signature import Signature, TensorSpec
from . import selftest, tensors
from .artifact import Artifact, Contents
from .engine import Engine
from .limits import find, prepared
from .profile import Profile, measure
from .threads import check_threads

__all__ = ["Compiled", "Profile", "from_contents", "load"]


def load(path: str | os.PathLike[str], threads: int | None = None) -> Compiled:
    """Load an artifact to be run by `threads` threads (all cores of the process by default).

    Digests, versions and CPU features are checked before any code is mapped. Raises ArtifactError (NewerFormatError,
    CpuFeatureError) or MissingDependencyError.
    """
    return Compiled(Artifact.open(path), threads)


def from_contents(contents: Contents, threads: int | None = None) -> Compiled:
    """What was just compiled, through the same checks and the same path as a file."""
    return Compiled(Artifact.in_memory(contents), threads)


class Compiled:
    """A compiled model: call it like the model itself.

    Attributes: `signature`, `report` (what each pass did), `manifest` (all that the file says of itself), `threads`.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None, here: bool = True) -> None:
        """Make a checked artifact callable; with `here` false, one made for another machine is taken to be saved."""
        self.threads = check_threads(threads)
        self._artifact = artifact
        self._calls = artifact.manifest["calls"]
        self.signature: Signature = artifact.signature
        refs = zip(self._calls["outputs"], self.signature.outputs, strict=True)
        self._outputs = [(ref["source"], ref["index"], ref["copy"], spec) for ref, spec in refs]
        self._loaded: Engine | None = None
        if here or self.runs_here:
            artifact.check_machine()
            self._loaded = Engine(artifact, self.threads)

    def __call__(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        """Run the model. Raises InputError if an input does not fit; `out` receives the outputs and is returned."""
        values = self.signature.flatten(args, kwargs)
        if out is None:
            return self.signature.unflatten(self.run_flat(values))
        self.run_flat(values, self.signature.output_tree.flatten(out, "out"))
        return out

    def run_flat(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> list[Any]:
        """Run on flat inputs, in the signature's order; returns flat outputs, or writes them into `out`."""
        arguments = self._accept(values)
        if out is not None:
            for target, spec in zip(out, self.signature.outputs, strict=True):
                tensors.check_out(target, spec)
        found = self._run(arguments)
        if out is None:
            kind = tensors.family(values)
            return [tensors.deliver(tensor, kind, copy, spec) for tensor, copy, spec in found]
        for target, (tensor, _, spec) in zip(out, found, strict=True):
            tensors.write_out(target, tensor, spec)
        return list(out)

    def _run(self, arguments: Sequence[Any]) -> list[tuple[Any, bool, TensorSpec]]:
        """For each output the tensor that holds it, whether it must be copied, and what it is."""
        sources = {"result": self._engine.call(arguments), "input": arguments, "weight": self._engine.weight_tensors}
        return [(sources[source][index], copy, spec) for source, index, copy, spec in self._outputs]

    @property
    def runs_here(self) -> bool:
        """Whether this machine has the CPU features that the code needs."""
        try:
            self._artifact.check_machine()
        except CpuFeatureError:
            return False
        return True

    @property
    def _engine(self) -> Engine:
        if self._loaded is None:
            self._artifact.check_machine()  # says what is missing
            raise AssertionError("an artifact for this machine is loaded at once")
        return self._loaded

    @property
    def artifact(self) -> Artifact:
        """What `save` writes."""
        return self._artifact

    @property
    def manifest(self) -> dict[str, Any]:
        """Versions, target, signature, call table, report: the artifact's own description."""
        return self._artifact.manifest

    @property
    def report(self) -> Report:
        """What each pass did, and refused with its reason; `report.fidelity` is what integers cost."""
        return self._artifact.report

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The calls in order: region, kind, layers, kernel."""
        return list(self._calls["steps"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, whole or not at all. Raises OutputError."""
        self._artifact.save(path)

    def described(self, **entries: Any) -> Compiled:
        """The same code with other entries in its manifest, such as what was found of it by running it."""
        contents = self._artifact.contents()
        contents = replace(contents, manifest={**contents.manifest, **entries})
        return Compiled(Artifact.in_memory(contents), self.threads, here=False)

    def __reduce__(self) -> str:
        """No pickles and no copies: the file is what travels."""
        raise OptionError(
            "A Compiled holds machine code and cannot be pickled or copied.",
            "Save it, and call planish.load with that path where it is needed; threads may share one Compiled.",
        )

    def profile(self, *args: Any, runs: int = 10, **kwargs: Any) -> Profile:
        """Time each kernel call on these inputs, by layer, beside the machine's limits; medians of `runs` calls."""
        return self.profile_flat(self.signature.flatten(args, kwargs), runs)

    def profile_flat(self, values: Sequence[Any], runs: int = 10) -> Profile:
        """The same on flat inputs, in the signature's order."""
        engine, arguments = self._engine, self._accept(values)
        limits = find(self._calls["probes"], engine.run_kernel)
        observed = functools.partial(engine.observed, arguments)
        return measure(observed, self._calls, runs, lambda: engine.call(arguments), limits, self.threads)

    def probe(self, name: str) -> tuple[Callable[[], None], int]:
        """A call that does nothing but arithmetic in the dtype `name`, or read "memory"; and its operations or bytes.

        Raises ArtifactError where the artifact has no such probe: its CPU has no such arithmetic.
        """
        for probe in self._calls["probes"]:
            if probe["name"] == name:
                return prepared(probe, self._engine.run_kernel), probe["amount"]
        has = ", ".join(probe["name"] for probe in self._calls["probes"]) or "none"
        raise ArtifactError(f"{self._artifact.name} has no probe of {name}.", f"It has {has}.")

    def selftest(self) -> float:
        """Run the vector inside the artifact; the largest difference relative to the outputs' scale.

        Raises ArtifactError if it is too large, or if the artifact has no vector (it was made on another machine).
        """
        expected = self._artifact.expected
        if expected is None:
            raise ArtifactError(
                f"{self._artifact.name} has no self-test: it was made on a machine that cannot run it.",
                "Compare its outputs with the model's.",
            )
        return selftest.check(self.seeded_outputs(), expected, self.signature, self._artifact.name)

    def seeded_outputs(self) -> list[np.ndarray]:
        """What the self-test's inputs give; bfloat16 as bits, so that no other library is needed."""
        found = self._run(self.seeded_arguments())
        return [np.from_dlpack(tensor).reshape(spec.extents).copy() for tensor, _, spec in found]

    def seeded_arguments(self) -> list[Any]:
        """The self-test's inputs, as `run_arguments` takes them."""
        arrays = [tensors.aligned_copy(array) for array in selftest.inputs(self.signature)]
        return [self._engine.tensor(array) for array in arrays]

    def run_arguments(self, arguments: Sequence[Any]) -> None:
        """Run the code alone: nothing is checked, converted or delivered."""
        self._engine.call(arguments)

    def profile_arguments(self, arguments: Sequence[Any], runs: int) -> Profile:
        """Time each kernel call of `runs` runs."""
        return measure(functools.partial(self._engine.observed, arguments), self._calls, runs)

    def __repr__(self) -> str:
        """Name, signature and target."""
        target = self.manifest["target"]["cpu"]
        return f"Compiled({self.manifest['name']}: {self.signature} for {target}, {self.threads} thread(s))"

    def _accept(self, values: Sequence[Any]) -> list[Any]:
        """Check every input and make it an argument."""
        if len(values) != len(self.signature.inputs):
            count = len(self.signature.inputs)
            raise InputError(f"{len(values)} inputs were given, {count} are expected.", f"Give {self.signature}.")
        specs = zip(values, self.signature.inputs, self._calls["alignments"], strict=True)
        return [self._engine.tensor(tensors.accept(value, spec, alignment)) for value, spec, alignment in specs]
