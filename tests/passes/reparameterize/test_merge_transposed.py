"""merge_transposed: sums of transposed convolutions, and those that stay."""

from __future__ import annotations

import pytest
from rewriting import check_docstring, op_names, refusal, rewritten

from planish.ir.text import parse_program
from planish.passes.reparameterize import merge_transposed
from planish.passes.reparameterize.merge_transposed import MergeTransposed

MERGE = MergeTransposed()


def program(first: str, second: str, out: str = "2, 6, 8, 8", sum_: str = "add.Tensor(%p, %q)", end: str = "%y") -> str:
    """Two transposed convolutions of 4 channels, each (weight type, arguments)."""
    (w, a), (v, b) = (text.split(" | ") for text in (first, second))
    return f"""program(%x: f64[2, 4, 4, 4]) normalized {{
      @w: f64[{w}]
      @v: f64[{v}]
      @b: f64[6]
      %p: f64[{out}] = convolution(%x, @w, none, {a})
      %q: f64[{out}] = convolution(%x, @v, @b, {b})
      %y: f64[{out}] = {sum_}
      return {end}
    }}"""


def rest(stride: int = 2, pad: int = 0, dilation: int = 1, more: int = 0, groups: int = 1) -> str:
    return f"[{stride}, {stride}], [{pad}, {pad}], [{dilation}, {dilation}], true, [{more}, {more}], {groups}"


FOUR, TWO = f"4, 6, 4, 4 | {rest(pad=1)}", f"4, 6, 2, 2 | {rest()}"


def test_docstring() -> None:
    check_docstring(MERGE, merge_transposed)


@pytest.mark.parametrize(
    ("first", "second", "kernel"),
    [
        (FOUR, TWO, [4, 6, 4, 4]),
        (TWO, FOUR, [4, 6, 4, 4]),
        (f"4, 3, 4, 4 | {rest(pad=1, groups=2)}", f"4, 3, 2, 2 | {rest(groups=2)}", [4, 3, 4, 4]),
        (FOUR, f"4, 3, 2, 2 | {rest(groups=2)}", [4, 6, 4, 4]),
        (f"4, 6, 3, 3 | {rest(pad=1, more=1)}", f"4, 6, 1, 1 | {rest(more=1)}", [4, 6, 3, 3]),
        (f"4, 6, 3, 3 | {rest(pad=1, more=1)}", f"4, 6, 3, 3 | {rest(pad=1, more=1)}", [4, 6, 3, 3]),
    ],
    ids=["larger", "smaller", "groups", "some-groups", "rest", "twins"],
)
def test_two_become_one(first: str, second: str, kernel: list[int]) -> None:
    for sum_ in ("add.Tensor(%p, %q)", "sub.Tensor(%q, %p)"):
        after, applied, _ = rewritten(MERGE, program(first, second, sum_=sum_))
        assert op_names(after) == ["convolution"]
        assert len(applied) == 1
        assert [list(w.shape) for w in after.weights.values() if w.dim() > 1] == [kernel]


def test_what_else_is_added_stays() -> None:
    text = program(FOUR, TWO, end="%z").replace("%x: f64[2, 4, 4, 4])", "%x: f64[2, 4, 4, 4], %u: f64[2, 6, 8, 8])")
    text = text.replace("return", "%z: f64[2, 6, 8, 8] = add.Tensor(%y, %u)\nreturn")
    assert op_names(rewritten(MERGE, text)[0]) == ["convolution", "add"]


def test_refuses_more_work() -> None:
    row = f"4, 6, 1, 3 | {rest(1).replace('[0, 0], [1', '[0, 1], [1')}"
    column = f"4, 6, 3, 1 | {rest(1).replace('[0, 0], [1', '[1, 0], [1')}"
    # 2 samples, 4x4 places, 4x6 channels, 9 taps against 3 + 3
    assert refusal(MERGE, program(row, column, "2, 6, 4, 4")) == (
        "one operator would take 6912 multiply-adds where its branches take 4608"
    )


def test_refuses_different_strides() -> None:
    first, second = f"4, 6, 5, 5 | {rest(1)}", f"4, 6, 2, 2 | {rest(2)}"
    assert refusal(MERGE, program(first, second)) == "their strides [1, 1] and [2, 2] differ"


def test_refuses_a_rest_that_no_lattice_has() -> None:
    # one tap each; a rest of 1 at stride 1 takes a dilation of 2, which one tap has not
    one = f"4, 6, 1, 1 | {rest(1, 0, 2, 1)}"
    assert refusal(MERGE, program(one, one, "2, 6, 5, 5")) == "it would have to pad more at one end than at the other"


def test_one_that_others_read_stays() -> None:
    after, applied, refused = rewritten(MERGE, program(FOUR, TWO, end="(%y, %p)"))
    assert (applied, refused) == ([], [])
    assert len(op_names(after)) == 3


def test_refuses_weights_that_are_computed() -> None:
    text = program(FOUR, TWO).replace("@w: f64[4, 6, 4, 4]", "").replace("@w", "%w")
    text = text.replace("%x: f64[2, 4, 4, 4])", "%x: f64[2, 4, 4, 4], %w: f64[4, 6, 4, 4])")
    assert refusal(MERGE, text) == "the weight of p is computed from inputs"


def test_refuses_to_overflow() -> None:
    text = """program(%x: f32[1, 1, 2]) normalized {
      @w: f32[1, 1, 1] = [[[3e38]]]
      %p: f32[1, 1, 2] = convolution(%x, @w, none, [1], [0], [1], true, [0], 1)
      %q: f32[1, 1, 2] = convolution(%x, @w, none, [1], [0], [1], true, [0], 1)
      %y: f32[1, 1, 2] = add.Tensor(%p, %q)
      return %y
    }"""
    _, applied, refused = MERGE.run(parse_program(text))
    assert not applied
    assert [site.reason for site in refused] == ["the merged w overflows float32"]
