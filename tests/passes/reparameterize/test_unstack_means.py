"""unstack_means: stacked heads become a sum, which becomes one head."""

from __future__ import annotations

from rewriting import check_docstring, op_names, refusal, rewritten

from planish.passes.reparameterize import unstack_means
from planish.passes.reparameterize.unstack_means import UnstackMeans

UNSTACK = UnstackMeans()


def stacked(reduce: str, shape: str = "3, 2", result: str = "%y") -> str:
    return f"""program(%x: f64[3, 4]) normalized {{
      @a: f64[2, 4]
      @b: f64[2, 4]
      %p: f64[3, 2] = linear(%x, @a, none)
      %q: f64[3, 2] = linear(%x, @b, none)
      %u: f64[1, 3, 2] = reshape(%p, [1, 3, 2])
      %v: f64[1, 3, 2] = reshape(%q, [1, 3, 2])
      %s: f64[2, 3, 2] = cat([%u, %v], 0)
      %y: f64[{shape}] = {reduce}
      return {result}
    }}"""


def test_docstring() -> None:
    check_docstring(UNSTACK, unstack_means)


def test_sums_have_no_divisor() -> None:
    after, _, _ = rewritten(UNSTACK, stacked("sum.dim_IntList(%s, [0], false)"))
    assert op_names(after) == ["linear", "linear", "add"]


def test_a_kept_axis_is_kept() -> None:
    after, _, _ = rewritten(UNSTACK, stacked("mean.dim(%s, [0], true)", "1, 3, 2"))
    assert op_names(after) == ["linear", "linear", "reshape", "reshape", "add", "mul"]


def test_other_axes_are_no_candidates() -> None:
    assert rewritten(UNSTACK, stacked("mean.dim(%s, [0, 1], false)", "2"))[1:] == ([], [])


def test_refuses_a_stack_that_others_read() -> None:
    assert refusal(UNSTACK, stacked("mean.dim(%s, [0], false)", result="(%y, %s)")) == (
        "others read the stack, or it has too many parts"
    )
