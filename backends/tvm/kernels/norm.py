"""Layer, RMS, group and instance norm, with pointwise operations and views before and after, float32 and bfloat16.

    y = (x - mean) / sqrt(var + eps) * w + b        mean = sum(x) / n,  var = sum((x - mean)^2) / n
    y = x / sqrt(sum(x^2) / n + eps) * w            rms_norm

Squares are of differences, never sum(x^2) - sum(x)^2 / n, which cancels. Rows are walked along what lies side by side
(`norm_rows.py`), groups of channels in blocks pixel by pixel (`norm_blocked.py`), so that networks of convolutions keep
their layout. Few large rows are cut into parts, by their shape alone: the same bits for every number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..plan import PLAIN, Layout
from ..template import Choice, Lowered, Refused, Task, Wants, distinct
from .emit import Function, Operands
from .norm_blocked import BlockedNorm
from .norm_geometry import Norm, RowWalk, Walk, read_norm, walk_of
from .norm_rows import RowNorm


class Norms:
    """The template."""

    name = "norm"

    def wants(self, task: Task) -> Wants | Refused:
        """Layouts in which vectors lie side by side, for the output that is asked for."""
        norm = read_norm(task)
        if isinstance(norm, Refused):
            return norm
        found = walk_of(task, norm, output_layout(task))
        return found if isinstance(found, Refused) else found[1]

    def space(self, task: Task) -> Sequence[Choice]:
        """How many vectors and rows go side by side, and whether a row is kept as float32 between the passes."""
        walk = _walk(task)
        return distinct(RowNorm.choices(task, walk) if isinstance(walk, RowWalk) else BlockedNorm.choices(walk))

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Rows, or blocks of channels."""
        walk, layout = _walk(task), output_layout(task)
        chosen = self.space(task)[0] if choice is None else choice
        used = tuple(i for i, p in enumerate(task.region.placeholders) if p.users)
        with Function(task, layout, Operands(used, {})) as f:
            kernel = RowNorm(f, walk, chosen) if isinstance(walk, RowWalk) else BlockedNorm(f, walk, chosen)
            kernel.emit()
        return Lowered(f.func, f.args, layout, chosen)


def output_layout(task: Task) -> Layout:
    """The layout that is asked for, where the result has one."""
    return task.hint if len(task.output.shape) in (3, 4, 5) else PLAIN


def _walk(task: Task) -> Walk:
    norm = read_norm(task)
    assert isinstance(norm, Norm)
    found = walk_of(task, norm, output_layout(task))
    assert not isinstance(found, Refused)
    return found[0]
