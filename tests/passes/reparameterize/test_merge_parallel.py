"""merge_parallel: neighbours in a cat, and those that are not one."""

from __future__ import annotations

import pytest
from rewriting import check_docstring, op_names, refusal, rewritten

from planish.passes.reparameterize import merge_parallel
from planish.passes.reparameterize.merge_parallel import MergeParallel

MERGE = MergeParallel()
SAME = "[1, 1], [1, 1], [1, 1], false, [0, 0], 1"


def test_docstring() -> None:
    check_docstring(MERGE, merge_parallel)


def cat(first: str, second: str, result: str = "%y", axis: int = 1, shape: str = "2, 8, 6, 6") -> str:
    return f"""program(%x: f64[2, 4, 6, 6]) normalized {{
      @a: f64[4, 4, 3, 3]
      @b: f64[4, 4, 3, 3]
      @d: f64[4]
      %p: f64[2, 4, 6, 6] = convolution(%x, @a, none, {first})
      %r: f64[2, 4, 6, 6] = relu(%x)
      %q: f64[2, 4, 6, 6] = convolution(%x, @b, @d, {second})
      %y: f64[{shape}] = cat([%p, %q{", %r" if shape == "2, 12, 6, 6" else ""}], {axis})
      %z: f64[2, 4, 6, 6] = exp(%r)
      return ({result}, %z)
    }}"""


def test_neighbours_become_one() -> None:
    assert op_names(rewritten(MERGE, cat(SAME, SAME))[0]) == ["relu", "convolution", "exp"]


def test_others_stay_beside_it() -> None:
    after, _, _ = rewritten(MERGE, cat(SAME, SAME, shape="2, 12, 6, 6"))
    assert op_names(after) == ["relu", "convolution", "cat", "exp"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            cat(SAME, "[1, 1], [2, 2], [2, 2], false, [0, 0], 1"),
            "their kernels, strides, paddings or dilations differ",
        ),
        (cat(SAME, SAME, "%y, %p"), "one of them has other readers"),
        (cat(SAME, SAME, axis=2, shape="2, 4, 12, 6"), "they do not stand side by side along their channels"),
        (
            cat(SAME, SAME.replace("0], 1", "0], 2")).replace("@b: f64[4, 4,", "@b: f64[4, 2,"),
            "they have groups",
        ),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    assert refusal(MERGE, text) == reason


def apart(first: str, second: str, weight: str = "4, 4, 3, 3") -> str:
    return f"""program(%x: f64[2, 4, 6, 6]) normalized {{
      @a: f64[4, 4, 3, 3]
      @b: f64[{weight}]
      %p: f64[2, 4, 6, 6] = convolution(%x, @a, none, {first})
      %q: f64[2, 4, 6, 6] = convolution(%x, @b, none, {second})
      return (%p, %q)
    }}"""


def test_refuses_convolutions_that_no_cat_joins() -> None:
    reason = "one convolution for it and q would leave slices, which their readers would copy"
    assert refusal(MERGE, apart(SAME, SAME)) == reason


def test_refuses_query_key_and_value() -> None:
    layers = "".join(f"%{n}: f64[2, 5, 6] = linear(%x, @w{n}, none)\n" for n in "qkv")
    weights = "".join(f"@w{n}: f64[6, 4]\n" for n in "qkv")
    text = f"program(%x: f64[2, 5, 4]) normalized {{\n{weights}{layers}return (%q, %k, %v)\n}}"
    reason = "one layer for it and k, v would leave slices of longer rows, which are slower to read"
    assert refusal(MERGE, text) == reason


@pytest.mark.parametrize(
    ("second", "weight"),
    [(SAME.replace("[1, 1], [1, 1], [1", "[1, 1], [0, 0], [1"), "4, 4, 1, 1"), (SAME[:-1] + "4", "4, 1, 3, 3")],
    ids=["kernel", "groups"],
)
def test_different_operators_are_no_candidates(second: str, weight: str) -> None:
    assert rewritten(MERGE, apart(SAME, second, weight))[1:] == ([], [])
