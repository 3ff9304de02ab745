"""Taps of sliding windows: which pixels they read, and how a row is cut into tiles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from planish.backends.tvm.compat import tvm
from planish.backends.tvm.kernels.window import Axis, runs, split_evenly

small = st.integers(1, 3)
axes = st.builds(Axis, st.integers(1, 20), st.integers(1, 20), st.integers(1, 7), small, st.integers(0, 6), small)


def test_taps_of_a_padded_window_by_hand() -> None:
    axis = Axis(size=4, out=4, kernel=3, pad=1)
    assert [axis.taps(z) for z in range(4)] == [(1, 2), (0, 1, 2), (0, 1, 2), (0, 1)]
    assert axis.interior == range(1, 3)


def test_even_split_by_hand() -> None:
    assert split_evenly(17, 7) == [6, 6, 5]
    assert split_evenly(14, 7) == [7, 7]


@given(axes)
def test_loop_bounds_are_the_taps(axis: Axis) -> None:
    simplify = tvm.sym.Analyzer().simplify
    for z in range(axis.out):
        low, high = (int(simplify(b)) if not isinstance(b, int) else b for b in axis.bounds(z))
        assert tuple(range(low, high)) == axis.taps(z)


@given(axes, st.integers(1, 16))
def test_runs_cover_each_pixel_once_with_its_taps(axis: Axis, width: int) -> None:
    seen = []
    for run in runs(axis, width):
        assert run.width <= width
        for tile in range(run.count):
            for i, taps in enumerate(run.taps):
                seen.append((run.start + tile * run.width + i, taps))
    assert seen == [(z, axis.taps(z)) for z in range(axis.out)]


@given(axes)
def test_interior_pixels_see_every_tap(axis: Axis) -> None:
    assert all(axis.taps(z) == tuple(range(axis.kernel)) for z in axis.interior)
    assert axis.inside == (axis.interior == range(axis.out)) or axis.pad > 0
