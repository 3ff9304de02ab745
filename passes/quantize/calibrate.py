"""Calibration: run a float program over data and observe the range of every value.

    range(value) = observer(value of batch 1, value of batch 2, ...)

A group of values with one scale (`ir.scales`) has one observer. It sees the members that are computed and not moved,
because the others hold the same elements. Memory is that of one forward pass and one observer a group, however many
batches there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, fx

from ...errors import QuantizationError
from ...ir.interpret import run_graph
from ...ir.program import Program
from ...ir.scales import moves, scale_groups
from .batches import Select, batches
from .bias import InputMeans
from .observers import Observer

Report = Callable[[str, int, int], None]
"""Called as (what is done, how many are done, how many there are)."""


def calibrate(
    program: Program,
    loader: Iterable[Any],
    observer: Callable[[], Observer],
    select: Select | None = None,
    report: Report | None = None,
    means: InputMeans | None = None,
    special: Mapping[fx.Node, Callable[[], Observer]] | None = None,
) -> dict[fx.Node, tuple[float, float]]:
    """The range of each floating value by its node, the same for all of a group; weights alone are left out.

    `means`, if given, sees all values, too (for `bias.corrected`). `special` has observers of other groups, by a node.
    """
    other = special or {}
    groups = [group for group in scale_groups(program.graph) if any(node.op != "get_attr" for node in group)]
    observers = [next((other[node] for node in group if node in other), observer)() for group in groups]
    watched = {node: found for group, found in zip(groups, observers, strict=True) for node in group if not moves(node)}
    for node, found in watched.items():
        if node.op == "get_attr":
            _observe(node, program.weights[str(node.target)], found)
    total = len(loader) if isinstance(loader, Sized) else 0
    with torch.no_grad():
        for done, inputs in enumerate(batches(program.signature, loader, select), 1):
            _run(program, inputs, watched, means)
            if report:
                report("calibration", done, max(total, done))
    ranges = [found.range() for found in observers]
    return {node: ends for group, ends in zip(groups, ranges, strict=True) for node in group}


def _run(program: Program, inputs: list[Tensor], watched: dict[fx.Node, Observer], means: InputMeans | None) -> None:
    """One forward pass, each value observed as soon as it is there."""

    def see(node: fx.Node, value: Any) -> None:
        if node in watched:
            _observe(node, value, watched[node])
        if means is not None:
            means.add(node, value)

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert callable(node.target)
        value = node.target(*args, **kwargs)
        see(node, value)
        return value

    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, value in zip(placeholders, inputs, strict=True):
        see(node, value)
    run_graph(program.graph, inputs, program.weights, call)


def _observe(node: fx.Node, value: Tensor, observer: Observer) -> None:
    """Hand a value over; what is wrong with it is told with its layer."""
    try:
        observer.add(value)
    except QuantizationError as error:
        layers = [origin.layer for origin in node.meta.get("origins", ()) if origin.layer]
        where = f"{node.name} (layer {', '.join(layers)})" if layers else node.name
        raise QuantizationError(f"In calibration, {where}: {error.what}", error.todo) from None
