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
    made = [(p, compile_piece(p.program) if p.compiled else eager.compile(p.program).run_flat) for p in pieces]
    names = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    results = list(program.graph.output_node().args[0])  # type: ignore[arg-type]
    if len(made) == 1 and pieces[0].program is program:
        return made[0][1]
    weights = {n.name: program.weights[n.target] for n in results if n.op == "get_attr"}
    last = _last_use(pieces, [node.name for node in results])

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        values = {**weights, **dict(zip(names, inputs, strict=True))}
        for index, (piece, call) in enumerate(made):
            values.update(zip(piece.outputs, call([values[name] for name in piece.inputs]), strict=True))
            for name in last[index]:
                del values[name]
        return fresh((values[node.name] for node in results), (*inputs, *weights.values()))

    return run


def _last_use(pieces: Sequence[Piece], kept: Sequence[str]) -> list[list[str]]:
    """For each piece, the values that nobody reads after it."""
    last = {name: index for index, piece in enumerate(pieces) for name in (*piece.inputs, *piece.outputs)}
    return [[name for name, use in last.items() if use == index and name not in kept] for index in range(len(pieces))]
