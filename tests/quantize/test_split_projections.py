"""split_projections: a layer for each slice of a linear layer, behind any views; what must stay whole."""

from __future__ import annotations

import pytest
from rewriting import check_docstring, rewritten
from spelling import calls

from planish.ir.text import parse_program
from planish.passes.quantize import split_projections
from planish.passes.quantize.split_projections import SplitProjections

HEAD = "program(%x: f64[2, 5, 4]) { @w: f64[12, 4] @b: f64[12] %y = linear(%x, @w, @b)"


def layers(body: str) -> list[str]:
    """The linear layers after the pass."""
    after, _, _ = rewritten(SplitProjections(), f"{HEAD} {body} }}")
    return [found for found in calls(after) if found.startswith("linear(")]


def test_the_docstring() -> None:
    check_docstring(SplitProjections(), split_projections)


def test_slices_of_the_layer_itself() -> None:
    body = "%a = slice.Tensor(%y, 2, 0, 3, 1) %c = slice.Tensor(%y, 2, 3, 12, 1) return (%a, %c)"
    assert layers(body) == ["linear(%x, @w_0_3, @b_0_3)", "linear(%x, @w_3_12, @b_3_12)"]


@pytest.mark.parametrize(
    ("views", "dim", "rows"),
    [
        ("%r = reshape(%y, [2, 5, 3, 2, 2]) %v = permute(%r, [2, 0, 3, 1, 4])", 0, 4),
        ("%r = reshape(%y, [2, 5, 3, 4]) %v = permute(%r, [0, 2, 1, 3])", 1, 4),
        ("%p = permute(%y, [2, 0, 1]) %v = reshape(%p, [3, 4, 2, 5])", 0, 4),
        ("%r = reshape(%y, [2, 5, 6, 2]) %v = reshape(%r, [2, 5, 3, 2, 2])", 2, 4),
        ("%v = reshape(%y, [10, 12])", 1, 1),
    ],
)
def test_slices_behind_views(views: str, dim: int, rows: int) -> None:
    slices = f"%a = slice.Tensor(%v, {dim}, 0, 1, 1) %c = slice.Tensor(%v, {dim}, 1, 3, 1)"
    wanted = [f"linear(%x, @w_{start}_{end}, @b_{start}_{end})" for start, end in ((0, rows), (rows, 3 * rows))]
    assert layers(f"{views} {slices} return (%a, %c)") == wanted


@pytest.mark.parametrize(
    "body",
    [
        "%a = slice.Tensor(%y, 2, 0, 3, 1) return %a",  # one part: nothing to tell apart
        "%a = slice.Tensor(%y, 2, 0, 4, 1) %c = slice.Tensor(%y, 2, 3, 12, 1) return (%a, %c)",  # they overlap
        "%a = slice.Tensor(%y, 2, 0, 3, 1) %c = slice.Tensor(%y, 2, 3, 12, 1) return (%a, %c, %y)",  # read whole
        "%a = slice.Tensor(%y, 2, 0, 6, 2) %c = slice.Tensor(%y, 2, 6, 12, 1) return (%a, %c)",  # every second
        "%a = slice.Tensor(%y, 1, 0, 2, 1) %c = slice.Tensor(%y, 1, 2, 5, 1) return (%a, %c)",  # of the sequence
        "%r = reshape(%y, [2, 5, 3, 4]) %a = slice.Tensor(%r, 3, 0, 1, 1) "
        "%c = slice.Tensor(%r, 3, 1, 2, 1) return (%a, %c)",  # columns of each head
    ],
)
def test_what_stays(body: str) -> None:
    assert not SplitProjections().run(parse_program(f"{HEAD} {body} }}"))[1]


def test_a_matrix_that_is_computed_stays() -> None:
    text = (
        "program(%x: f64[5, 4], %w: f64[6, 4]) { %y = linear(%x, %w, none) "
        "%a = slice.Tensor(%y, 1, 0, 3, 1) %c = slice.Tensor(%y, 1, 3, 6, 1) return (%a, %c) }"
    )
    assert not SplitProjections().run(parse_program(text))[1]
