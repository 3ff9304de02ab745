"""How a direct convolution walks over its results, beside the register tile.

task of the parallel loop = Place(chunk of output channels, image, depth, row)      in the order of Walk.order
"""

from __future__ import annotations

from typing import NamedTuple

from ..template import Choice
from .emit import Expr


class Place(NamedTuple):
    """What a task of the parallel loop computes: chunk of output channels, image, depth and row."""

    chunk: Expr
    n: Expr
    z: Expr
    y: Expr


class Walk(NamedTuple):
    """What is chosen beside a tile; what is None the kernel chooses itself."""

    order: str | None = None
    """One of ORDERS."""
    by_tile: bool | None = None
    """Whether single tiles are shared among threads where whole rows would do."""
    ahead: int | None = None
    """How many cache lines before they are read weights are asked for."""

    @staticmethod
    def parse(choice: Choice) -> Walk:
        """As `DirectKernel.choice` says it."""
        return Walk(str(choice["order"]), choice["share"] == "tiles", int(choice["ahead"]))


UNTUNED = Walk()
