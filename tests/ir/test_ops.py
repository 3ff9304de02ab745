"""The op table: facts about it checked against the ops themselves."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx

from planish.ir import ops
from planish.ir.normal import RESPELLED
from planish.ir.optable import AFFINE, COMPOSITE, FAMILIES, IMPURE

aten = torch.ops.aten


def call(op: object, *args: object, **kwargs: object) -> fx.Node:
    graph = fx.Graph()
    x = graph.placeholder("x")
    return graph.call_function(op, (x, *args), kwargs)  # type: ignore[arg-type]


def test_every_op_has_one_family_and_writes_nothing() -> None:
    listed = [op for family in FAMILIES.values() for op in family]
    assert len(listed) == len(set(listed)) == len(ops.OPS)
    assert [str(op) for op in listed if op._schema.is_mutable] == []
    assert set(FAMILIES) >= IMPURE


def test_tables_beside_the_families_name_known_ops() -> None:
    assert set(ops.OPS) >= COMPOSITE
    assert set(RESPELLED) <= set(ops.OPS)
    assert set(AFFINE) <= set(ops.OPS)
    for op, names in AFFINE.items():
        assert set(names) <= {argument.name for argument in op._schema.arguments}, op


def test_what_torch_calls_random_is_not_pure() -> None:
    random = {op for op in ops.OPS if torch.Tag.nondeterministic_seeded in op.tags}
    dropouts = {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default}
    attention = {aten.scaled_dot_product_attention.default}  # capture refuses both while they drop
    recurrent = set(FAMILIES["recurrent"])
    assert {str(op) for op in random - dropouts - attention - recurrent if ops.OPS[op].pure} == set()


def test_unknown_means_unsafe() -> None:
    node = call(aten.as_strided.default, [2], [1])
    assert ops.info(node) is None
    assert ops.family(node) is None
    assert not ops.is_pure(node)
    assert not ops.is_pure(call(aten.bernoulli.default))
    assert ops.info(aten.add_.Tensor) is None
    assert ops.info(torch.add) is None


def test_lookups() -> None:
    assert ops.family(call(aten.relu.default)) == "pointwise"
    assert ops.is_pure(call(operator.getitem, 0))
    assert ops.is_call(call(aten.relu.default), aten.gelu.default, aten.relu.default)
    assert not ops.is_call(3, aten.relu.default)
    assert not ops.is_pure(fx.Graph().placeholder("x"))


def test_arguments_come_by_schema_name_with_defaults() -> None:
    node = call(aten.softmax.int, -1)
    assert ops.arguments(node) == {"self": node.args[0], "dim": -1, "dtype": None}
    node = call(aten.add.Tensor, 3, alpha=2)
    assert (ops.argument(node, "other"), ops.argument(node, "alpha")) == (3, 2)
    assert ops.argument(call(aten.gelu.default), "approximate") == "none"
    assert ops.arguments(call(operator.getitem, 1))["index"] == 1
    with pytest.raises(TypeError, match="has no schema"):
        ops.arguments(call(torch.relu))


CASES: dict[str, tuple[object, str, object, dict[str, object]]] = {
    # op, the argument it is affine in, a function of that argument
    "conv": (aten.conv2d.default, "input", (1, 2, 5, 5), {"weight": torch.ones(3, 2, 3, 3), "bias": torch.ones(3)}),
    "conv weight": (aten.conv2d.default, "weight", (3, 2, 3, 3), {"input": torch.ones(1, 2, 5, 5)}),
    "batch_norm mean": (
        aten.batch_norm.default,
        "running_mean",
        (2,),
        {"input": torch.ones(1, 2, 3), "weight": None, "bias": None, "running_var": torch.ones(2)}
        | {"training": False, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": False},
    ),
    "attention": (
        aten.scaled_dot_product_attention.default,
        "value",
        (1, 3, 4),
        {"query": torch.rand(1, 3, 4), "key": torch.rand(1, 3, 4)},
    ),
    "lerp": (aten.lerp.Tensor, "weight", (3,), {"self": torch.ones(3), "end": torch.rand(3)}),
    "where": (aten.where.self, "other", (3,), {"condition": torch.tensor([True, False, True]), "self": torch.ones(3)}),
    "grid_sampler": (
        aten.grid_sampler.default,
        "input",
        (1, 2, 4, 4),
        {"grid": torch.rand(1, 3, 3, 2), "interpolation_mode": 0, "padding_mode": 0, "align_corners": False},
    ),
    "pad": (aten.constant_pad_nd.default, "self", (3,), {"pad": [1, 2], "value": 5.0}),
    "upsample": (
        aten.upsample_bilinear2d.vec,
        "input",
        (1, 1, 3, 3),
        {"output_size": [5, 7], "align_corners": False, "scale_factors": None},
    ),
    "cumsum": (aten.cumsum.default, "self", (4,), {"dim": 0}),
    "embedding": (aten.embedding.default, "weight", (5, 2), {"indices": torch.tensor([1, 4, 1])}),
}


@pytest.mark.parametrize("case", CASES)
def test_affine_arguments_are_affine(case: str) -> None:
    op, name, shape, fixed = CASES[case]
    assert name in AFFINE[op]  # type: ignore[index]
    x, y = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)  # type: ignore[call-overload]
    wide = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in fixed.items()}

    def f(value: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = op(**{**wide, name: value})  # type: ignore[operator]
        return result

    a, b = 0.75, -1.5
    expected = a * f(x) + b * f(y) + (1 - a - b) * f(torch.zeros_like(x))
    torch.testing.assert_close(f(a * x + b * y), expected)
