"""center_stream: every writer, every move, and each reader or writer that bars it."""

from __future__ import annotations

import pytest
from rewriting import check_docstring, op_names, refusal, rewritten

from planish.passes.norms import center_stream
from planish.passes.norms.center_stream import CenterStream

CENTER = CenterStream()
NORM = "[4], @g, @h, 1e-05, true"


def test_docstring() -> None:
    check_docstring(CENTER, center_stream)


def vit(more: str = "", result: str = "%y", head: str = "%s", pos: str = "@pos: f64[1, 10, 4]") -> str:
    """Patches, a class token, positions, one pre-norm branch, a norm of the class token."""
    return f"""program(%x: f64[2, 3, 6, 6]) normalized {{
      @patch: f64[4, 3, 2, 2]
      @b: f64[4]
      @cls: f64[1, 1, 4]
      {pos}
      @g: f64[4]
      @h: f64[4]
      @w: f64[4, 4]
      %c: f64[2, 4, 3, 3] = convolution(%x, @patch, @b, [2, 2], [0, 0], [1, 1], false, [0, 0], 1)   # patch
      %f: f64[2, 4, 9] = reshape(%c, [2, 4, 9])
      %t: f64[2, 9, 4] = permute(%f, [0, 2, 1])
      %e: f64[2, 1, 4] = expand(@cls, [2, 1, 4])
      %a: f64[2, 10, 4] = cat([%e, %t], 1)
      %p: f64[2, 10, 4] = add.Tensor(%a, @pos)
      %n: f64[2, 10, 4] = layer_norm(%p, {NORM})   # norm
      %l: f64[2, 10, 4] = linear(%n, @w, @b)   # fc
      %r: f64[2, 10, 4] = add.Tensor(%p, %l)
      %s: f64[2, 1, 4] = slice.Tensor(%r, 1, 0, 1, 1)
      {more}
      %y: f64[2, 1, 4] = layer_norm({head}, {NORM})   # head
      return {result}
    }}"""


def test_all_norms_of_a_stream_lose_their_mean() -> None:
    after, applied, refused = rewritten(CENTER, vit())
    names = op_names(after)
    assert "layer_norm" not in names
    assert names.count("rms_norm") == 2
    assert len(names) == 11 + 2  # what was there, and two additions of the norms' bias
    assert (len(applied), refused) == (1, [])
    calls = [n for n in after.graph.nodes if n.op == "call_function"]
    layers = sorted(origin.layer for n in calls for origin in n.meta["origins"])
    assert layers == ["fc", "head", "head", "norm", "norm", "patch"]


GROUPED = (
    vit()
    .replace("[1, 1], false, [0, 0], 1)", "[1, 1], false, [0, 0], 2)")
    .replace("@patch: f64[4, 3", "@patch: f64[4, 2")
    .replace("%x: f64[2, 3", "%x: f64[2, 4")
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (vit("%z: f64[2, 10, 4] = linear(%r, @w, none)", "(%y, %z)"), "z reads the stream, and is no layer norm"),
        (vit(result="(%y, %r)"), "the caller reads the stream, and is no layer norm over its channels"),
        (vit("%q: f64[2, 1, 4] = relu(%s)", head="%q"), "q writes the stream and cannot be centred"),
        (vit("%q: f64[2, 1, 4] = mul.Tensor(%s, 2.0)", head="%q"), "q writes the stream and cannot be centred"),
        (vit(pos="@pos: f64[1, 10, 1]"), "p writes the stream and cannot be centred"),
        (vit().replace("@w: f64[4, 4]", "@w: f64[4, 4] = [[1.0, 0.0, 0.0, 2.0], [0.0, 3.0, 4.0, 0.0],"
             " [1.0, 0.0, 0.0, 2.0], [0.0, 3.0, 4.0, 0.0]]"), "the weight of l (fc) is sparse"),
        (GROUPED, "c (patch) writes the stream and cannot be centred"),
    ],
    ids=["linear-reader", "returned", "non-linear", "gain", "broadcast", "sparse", "grouped"],
)  # fmt: skip
def test_refusals(text: str, reason: str) -> None:
    _, applied, refused = rewritten(CENTER, text)
    assert not applied
    assert refused
    assert any(str(site.reason).startswith(reason) for site in refused)


def test_refuses_to_copy_a_table_that_others_read() -> None:
    text = """program(%i: i64[3]) normalized {
      @table: f64[9, 4]
      %e: f64[3, 4] = embedding(@table, %i, -1, false, false)
      %n: f64[3, 4] = layer_norm(%e, [4], none, none, 1e-05, true)
      %y: f64[3, 9] = linear(%n, @table, none)
      return %y
    }"""
    assert refusal(CENTER, text) == ("others read the table of e, and a centred copy would take as much memory again")
    alone = text.replace("linear(%n, @table", "linear(%n, @w").replace(
        "@table: f64[9, 4]", "@table: f64[9, 4]\n@w: f64[9, 4]"
    )
    assert op_names(rewritten(CENTER, alone)[0]) == ["embedding", "rms_norm", "linear"]


def test_post_norm_streams_stay() -> None:
    text = """program(%x: f64[3, 4]) normalized {
      @w: f64[4, 4]
      %n: f64[3, 4] = layer_norm(%x, [4], none, none, 1e-05, true)
      %l: f64[3, 4] = linear(%n, @w, none)
      %r: f64[3, 4] = add.Tensor(%n, %l)
      %y: f64[3, 4] = layer_norm(%r, [4], none, none, 1e-05, true)
      return %y
    }"""
    _, applied, refused = rewritten(CENTER, text)
    assert not applied
    assert [s.reason for s in refused] == [
        "x writes the stream and cannot be centred",
        "n writes the stream and cannot be centred",
    ]
