"""Which backend the Dynamo door compiles with, behind one small protocol, from `options={...}`.

flat = engine.compile(engine.prepare(program));   flat(inputs) == program(inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import fx

from ..errors import OptionError
from ..ir.program import Program
from ..options import Options, check_options
from ..progress import showing
from ..quantization import Quantization
from .base import Refused
from .eager import EagerBackend

Flat = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]


class Engine(Protocol):
    """Optimizes whole Programs, judges their calls, compiles pieces of them."""

    def prepare(self, program: Program) -> Program:
        """Everything that is done before a graph is cut (OPTIMIZED)."""

    def supports(self, node: fx.Node) -> Refused | None:
        """None if a prepared graph's call can be compiled."""

    def compile(self, program: Program) -> Flat:
        """A callable over flat tensors whose outputs are fresh."""


class EagerEngine:
    """The captured graph by torch: everything of the Dynamo door but the compiler (a bisect point)."""

    def __init__(self) -> None:
        """No options."""
        self._backend = EagerBackend()

    def prepare(self, program: Program) -> Program:
        """As captured."""
        return program

    def supports(self, node: fx.Node) -> Refused | None:
        """ATen only."""
        return self._backend.supports(node)

    def compile(self, program: Program) -> Flat:
        """Op by op."""
        return self._backend.compile(program).run_flat


class TvmEngine:
    """The passes and the TVM backend, as `planish.compile` runs them."""

    def __init__(self, options: Options) -> None:
        """Find the target; raises TargetError or OptionError."""
        from .tvm.backend import TvmBackend

        self._options = options
        self._backend = TvmBackend(options.target, options.threads, options.numerics)
        self._backend.warm()

    def prepare(self, program: Program) -> Program:
        """Normalize, fold constants and affines, lower the precision."""
        from ..compiler import lower_precision, optimize

        with showing(self._options.progress) as report:
            optimized = optimize(program, self._options.passes, self._options.verify, report)
        return lower_precision(optimized, self._options.precision)

    def supports(self, node: fx.Node) -> Refused | None:
        """Whether there is a kernel."""
        return self._backend.supports(node)

    def compile(self, program: Program) -> Flat:
        """Group, lower, build."""
        from ..compiler import group, tuning_of

        with showing(self._options.progress) as report:
            grouped = group(program, self._options.verify)
            return self._backend.compile(grouped, progress=report, tuning=tuning_of(self._options)).run_flat


def make_engine(options: Mapping[str, Any]) -> Engine:
    """The engine that the options ask for; OptionError for what does not exist."""
    rest = dict(options)
    name = rest.pop("engine", "tvm")
    if name not in ("tvm", "eager"):
        raise OptionError(f"There is no engine {name!r}.", "Engines are 'tvm' and 'eager'.")
    checked = check_options(rest)
    if checked.preprocess is not None:
        raise OptionError(
            "torch.compile has no preprocess: the model is called with its own inputs.",
            "Use planish.compile, or normalize in the model's forward.",
        )
    if isinstance(checked.precision, Quantization):
        raise OptionError(
            "torch.compile has no precision='int8': calibration needs the whole model, not one of its graphs.",
            "Use planish.compile(model, inputs, precision='int8', calibration=loader).",
        )
    if name == "tvm":
        return TvmEngine(checked)
    if rest:
        raise OptionError(f"engine='eager' takes no {next(iter(rest))!r}.", "Leave one of the two out.")
    return EagerEngine()
