"""canonicalize_norms: batch, layer, group and rms norm whole; everything else by them or by its formula."""

from __future__ import annotations

import pytest
from rewriting import refusal
from spelling import calls, checked, spelled

from planish.passes.normalize.canonicalize_norms import CanonicalizeNorms

X = "%x: f64[2, 4, 3, 3]"
CONSTANTS = ("@w: f64[4]", "@b: f64[4]", "@mean: f64[4]", "@var: f64[4] = positive(1)", "@u: f64[3]")


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (
            "batch_norm(%x, @w, @b, @mean, @var, false, 0.1, 1e-05, true)",
            ["batch_norm(%x, @w, @b, @mean, @var, false, 0.1, 1e-05, false)"],
        ),
        (
            "instance_norm(%x, @w, @b, none, none, true, 0.1, 1e-05, true)",
            ["group_norm(%x, 4, @w, @b, 1e-05, false)"],
        ),
        (
            "instance_norm(%x, @w, @b, @mean, @var, false, 0.1, 1e-05, true)",
            ["batch_norm(%x, @w, @b, @mean, @var, false, 0.1, 1e-05, false)"],
        ),
        ("layer_norm(%x, [3], @u)", ["layer_norm(%x, [3], @u, none, 1e-05, false)"]),
        ("group_norm(%x, 2)", ["group_norm(%x, 2, none, none, 1e-05, false)"]),
        ("rms_norm(%x, [3], @u)", ["rms_norm(%x, [3], @u, 2.220446049250313e-16)"]),
        ("rms_norm(%x, [3], @u, 0.001)", ["rms_norm(%x, [3], @u, 0.001)"]),
        (
            "batch_norm(%x, @w, none, none, none, true, 0.1, 0.001, true)",
            [
                "mean.dim(%x, [0, 2, 3], true)",
                "sub.Tensor(%x, #0)",
                "var.correction(%x, [0, 2, 3], correction=0, keepdim=true)",
                "add.Tensor(#2, 0.001)",
                "rsqrt(#3)",
                "mul.Tensor(#1, #4)",
                "reshape(@w, [4, 1, 1])",
                "mul.Tensor(#5, #6)",
            ],
        ),
    ],
)
def test_spelling(call: str, wanted: list[str]) -> None:
    weights = [c for c in CONSTANTS if c.split(":")[0] in call]
    assert spelled(CanonicalizeNorms(), X, call, *weights) == wanted


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (
            "_native_batch_norm_legit_no_training(%x, @w, @b, @mean, @var, 0.1, 1e-05)",
            "batch_norm(%x, @w, @b, @mean, @var, false, 0.1, 1e-05, false)",
        ),
        (
            "native_batch_norm(%x, @w, @b, @mean, @var, false, 0.1, 1e-05)",
            "batch_norm(%x, @w, @b, @mean, @var, false, 0.1, 1e-05, false)",
        ),
        ("native_layer_norm(%x, [3], @u, none, 1e-05)", "layer_norm(%x, [3], @u, none, 1e-05, false)"),
        ("native_group_norm(%x, @w, @b, 2, 4, 9, 2, 1e-05)", "group_norm(%x, 2, @w, @b, 1e-05, false)"),
        ("_fused_rms_norm(%x, [3], @u, 1e-06)", "rms_norm(%x, [3], @u, 1e-06)"),
    ],
)
def test_first_results(call: str, wanted: str) -> None:
    weights = "\n".join(c for c in CONSTANTS if c.split(":")[0] in call)
    text = f"program({X}) {{ {weights}\n %n = {call} %y = getitem(%n, 0) return %y }}"
    assert calls(checked(CanonicalizeNorms(), text)) == [wanted]


def test_used_statistics_are_a_reason_to_stay() -> None:
    text = f"program({X}) {{ %n = native_layer_norm(%x, [3], none, none, 1e-05) %y = getitem(%n, 1) return %y }}"
    assert refusal(CanonicalizeNorms(), text) == "its saved statistics are used"
