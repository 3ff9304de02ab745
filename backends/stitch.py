"""Runs the pieces of a partition in order over one table of values.

values[piece.outputs] = piece(values[piece.inputs])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..ir.program import Program
from .eager import EagerBackend, fresh
from .partition import Piece

Flat = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]


def stitch(program: Program, pieces: Sequence[Piece], compile_piece: Callable[[Program], Flat]) -> Flat:
    """A callable over the program's flat inputs; outputs are fresh memory."""
    eager = EagerBackend()
    calls = [compile_piece(p.program) if p.compiled else eager.compile(p.program).run_flat for p in pieces]
    if len(calls) == 1 and pieces[0].program is program:
        return calls[0]
    inputs = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    results = list(program.graph.output_node().args[0])  # type: ignore[arg-type]
    weights = {node.name: program.weights[node.target] for node in results if node.op == "get_attr"}
    outputs = [node.name for node in results]
    # Names only: a piece's program holds weights that compiled code no longer needs.
    last = _last_use(pieces, outputs)
    steps = [(c, p.inputs, p.outputs, done) for c, p, done in zip(calls, pieces, last, strict=True)]

    def run(given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        values = {**weights, **dict(zip(inputs, given, strict=True))}
        for call, reads, makes, done in steps:
            values.update(zip(makes, call([values[name] for name in reads]), strict=True))
            for name in done:
                del values[name]
        return fresh((values[name] for name in outputs), (*given, *weights.values()))

    return run


def _last_use(pieces: Sequence[Piece], kept: Sequence[str]) -> list[list[str]]:
    """For each piece, the values that nobody reads after it."""
    last = {name: index for index, piece in enumerate(pieces) for name in (*piece.inputs, *piece.outputs)}
    return [[name for name, use in last.items() if use == index and name not in kept] for index in range(len(pieces))]
