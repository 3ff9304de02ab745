"""The TVM backend: a GROUPED Program to something callable, by way of plan, code and artifact.

TvmBackend(target).compile(program) = assemble(build(lower(program)))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from ...ir.program import Program
from ..base import Refused
from .assemble import assemble
from .build import Code, Progress, build
from .join_pools import join_pools
from .join_prologues import join_prologues
from .lower import lower
from .probes import add_probes
from .runtime import Compiled
from .support import supports
from .target import Target, parse_target
from .template import Chooser, default_kernel
from .tune.session import Tuning, tuned
from .tune.tuner import Summary
from .worker import shared_pool


class TvmBackend:
    """Compiles Programs for one CPU."""

    name = "tvm"

    def __init__(self, target: str | Target = "native", threads: int | None = None, numerics: str = "fast") -> None:
        """Find the target; raises TargetError or OptionError. `numerics` is "fast" or "strict" (see `Task`)."""
        self.target = parse_target(target, threads) if isinstance(target, str) else target
        self.numerics = numerics

    def warm(self) -> None:
        """Start the processes that generate code; they get ready while the model is captured and rewritten."""
        shared_pool().warm()

    def supports(self, node: fx.Node) -> Refused | None:
        """None if a call of a NORMALIZED graph can be lowered."""
        return supports(node)

    def compile(
        self,
        program: Program,
        *,
        progress: Progress | None = None,
        record: Mapping[str, Any] | None = None,
        tuning: Tuning | None = None,
    ) -> Compiled:
        """Lower, build and load; with `tuning`, the best kernels that are known or found in time.

        `record` is what the user asked for, kept in the manifest. Code for another machine can be saved, but not
        called.
        """
        program = join_prologues(program, self.target, self.numerics)
        program = join_pools(program, self.target, self.numerics)
        arrays = {name: _array(tensor) for name, tensor in program.weights.items()}

        made: dict[Chooser, Code] = {}

        def make(choose: Chooser, summary: Summary | None) -> Compiled:
            if choose not in made:  # tuning comes back to one of the networks that it compared
                plan = lower(program, self.target, numerics=self.numerics, choose=choose)
                add_probes(plan, self.target)
                made[choose] = build(plan, arrays, self.target, progress)
            return assemble(
                made[choose],
                program.signature,
                name=program.name,
                report=program.report,
                options=record,
                threads=self.target.threads,
                tuning=None if summary is None else summary.to_json(),
            )

        if tuning is None:
            return make(default_kernel, None)
        return tuned(make, self.target, tuning, progress or silent)


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


def _array(tensor: Any) -> np.ndarray:
    """A weight as NumPy sees it (bfloat16 as bits), without a copy where it is contiguous."""
    held = tensor.detach().contiguous()
    return np.asarray((held.view(torch.uint16) if held.dtype is torch.bfloat16 else held).numpy())
