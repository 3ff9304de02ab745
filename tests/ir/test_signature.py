"""Signature and Structure: names, binding, errors, JSON; without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.errors import InputError
from planish.ir.signature import Parameter, Signature, TensorSpec, input_names, output_names
from planish.ir.structure import Structure, same_constant


class Tensor:
    """Stands for any array."""


LEAF = Structure("leaf")
A, B, C = Tensor(), Tensor(), Tensor()


def constant(value: object) -> Structure:
    return Structure.constant(value)  # type: ignore[arg-type]


def pack(*children: Structure) -> Structure:
    return Structure("tuple", children)


def record(**children: Structure) -> Structure:
    return Structure("dict", tuple(children.values()), tuple(children))


def signature(args: Structure, kwargs: Structure, *parameters: Parameter) -> Signature:
    tree = pack(args, kwargs)
    specs = tuple(TensorSpec(name, "float32", (1,)) for name in input_names(tree, parameters))
    return Signature(specs, (), tree, pack(), parameters)


PAIR = signature(
    pack(LEAF, record(ids=LEAF, rest=pack(LEAF, constant(None)))),
    record(flag=constant(True)),
    Parameter("x"),
    Parameter("batch"),
    Parameter("flag", default=constant(True)),
    Parameter("size", default=pack(constant(2), constant(3))),
)
BATCH = {"rest": [C, None], "ids": B}


def test_the_module_needs_neither_torch_nor_numpy() -> None:
    code = "import planish.ir.signature, sys; print(sorted({'torch', 'numpy', 'tvm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_names_follow_parameters_and_nesting() -> None:
    assert [spec.name for spec in PAIR.inputs] == ["x", "batch.ids", "batch.rest.0"]
    assert PAIR.placeholders == ("x", "batch_ids", "batch_rest_0")
    variadic = signature(pack(LEAF, LEAF, LEAF), record(z=LEAF), Parameter("a"), Parameter("xs", "variadic"))
    assert [spec.name for spec in variadic.inputs] == ["a", "xs.0", "xs.1", "z"]
    assert [spec.name for spec in signature(pack(LEAF), record()).inputs] == ["args.0"]


def test_names_stay_distinct() -> None:
    clash = record(**{"a.b": LEAF, "a": record(b=LEAF)})
    assert [s.name for s in signature(pack(clash), record(), Parameter("x")).inputs] == ["x.a.b", "x.a.b_1"]
    specs = [TensorSpec(name, "float32", ()) for name in ("a.b", "a_b", "self", "class", "0", "torch", "x-y")]
    placeholders = Signature.of_tensors(specs, []).placeholders
    assert placeholders == ("a_b", "a_b_1", "self_", "class_", "_0", "torch_", "x_y")


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        (LEAF, ["output"]),
        (pack(LEAF, constant(1), LEAF), ["output.0", "output.2"]),
        (record(logits=LEAF, states=pack(LEAF, LEAF)), ["logits", "states.0", "states.1"]),
        (Structure("namedtuple", (LEAF, LEAF), ("Out", "y", "z")), ["y", "z"]),
        (constant(None), []),
    ],
)
def test_output_names(tree: Structure, names: list[str]) -> None:
    assert output_names(tree) == names


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((A, BATCH), {}),
        ((A,), {"batch": BATCH}),
        ((), {"batch": BATCH, "x": A}),
        ((A, BATCH, True), {}),
        ((A, BATCH), {"flag": True, "size": (2, 3)}),
        ([A, {"ids": B, "rest": (C, None)}], {}),
    ],
)
def test_a_call_binds_by_position_and_by_name(args, kwargs) -> None:  # type: ignore[no-untyped-def]
    assert PAIR.flatten(args, kwargs) == [A, B, C]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((A,), {}, "Input 'batch' is missing"),
        ((A, BATCH), {"x": A}, "Input 'x' is given twice"),
        ((A, BATCH), {"y": A}, "no input 'y'"),
        ((A, BATCH, True, (2, 3), A), {}, "no input 'args.0'"),
        ((A, BATCH), {"flag": False}, "'flag' was True at capture and is fixed, got False"),
        ((A, BATCH), {"flag": 1}, "'flag' was True at capture and is fixed, got int 1"),
        ((A, BATCH), {"size": (2, 4)}, "no input 'size', or it was not given at capture"),
        ((None, BATCH), {}, "'x' should be a tensor, got None"),
        ((1.5, BATCH), {}, "'x' should be a tensor, got float 1.5"),
        (([A], BATCH), {}, "'x' should be a tensor, got a list of 1"),
        ((A, [B, C]), {}, "'batch' should be a dict, got a list of 2"),
        ((A, {"ids": B}), {}, "'batch' lacks the key 'rest'"),
        ((A, {**BATCH, "more": A}), {}, "'batch' has an unknown key 'more'"),
        ((A, {"ids": B, "rest": (C,)}), {}, "'batch.rest' should have 2 parts, got 1"),
        ((A, {"ids": B, "rest": B}), {}, "'batch.rest' should be a tuple, got a Tensor"),
        ((A, {"ids": B, "rest": (C, C)}), {}, "'batch.rest.1' was None at capture"),
    ],
)
def test_a_call_that_does_not_fit_says_where(args, kwargs, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(".", r"\.")) as caught:
        PAIR.flatten(args, kwargs)
    assert caught.value.todo


def test_the_error_says_how_to_call() -> None:
    with pytest.raises(InputError, match=r"Call it with \(x: float32\[1\], batch.ids: .*, flag=True\)"):
        PAIR.flatten(())


def test_a_constant_whose_default_is_unknown_must_be_repeated() -> None:
    fixed = signature(pack(LEAF, constant(3)), record(), Parameter("x"), Parameter("n"))
    assert fixed.flatten((A, 3)) == fixed.flatten((A,), {"n": 3}) == [A]
    with pytest.raises(InputError, match="'n' is missing"):
        fixed.flatten((A,))


def test_inputs_by_their_full_names() -> None:
    assert PAIR.flatten_names({"batch.rest.0": C, "x": A, "batch.ids": B}) == [A, B, C]
    with pytest.raises(InputError, match=r"'batch\.ids' is missing"):
        PAIR.flatten_names({"x": A, "batch.rest.0": C})
    with pytest.raises(InputError, match="no input 'batch'"):
        PAIR.flatten_names({"x": A, "batch": B})


Point = namedtuple("Point", ["x", "y"])


def test_named_tuples_take_objects_with_such_fields_and_give_such_tuples() -> None:
    tree = Structure("namedtuple", (LEAF, LEAF), ("Point", "x", "y"))
    assert tree.flatten(Point(A, B)) == tree.flatten((A, B)) == [A, B]
    result = tree.unflatten([A, B])
    assert (type(result).__name__, result.x, result.y) == ("Point", A, B)
    with pytest.raises(InputError, match="no field 'x'"):
        tree.flatten(A)


def test_unflatten_counts_its_leaves() -> None:
    tree = record(a=LEAF, n=constant(2), pair=Structure("list", (LEAF, constant(None))))
    assert tree.unflatten([A, B]) == {"a": A, "n": 2, "pair": [B, None]}
    for leaves in ([A], [A, B, C]):
        with pytest.raises(InputError, match="leaves for a structure of 2"):
            tree.unflatten(leaves)


def test_constants_compare_by_type_and_value() -> None:
    assert same_constant(float("nan"), float("nan"))
    assert not same_constant(0.0, -0.0)
    assert not same_constant(1, True)
    assert constant(1) != constant(1.0)
    assert len({constant(1), constant(1.0), constant(True)}) == 3


CONSTANTS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
TREES = st.recursive(
    st.just(LEAF) | CONSTANTS.map(constant),
    lambda parts: (
        st.lists(parts, max_size=3).map(lambda items: Structure("list", tuple(items)))
        | st.lists(parts, max_size=3).map(lambda items: pack(*items))
        | st.dictionaries(st.text() | st.integers(), parts, max_size=3).map(
            lambda items: Structure("dict", tuple(items.values()), tuple(items))
        )
    ),
    max_leaves=8,
)


@given(TREES)
def test_any_tree_survives_values_and_json(tree: Structure) -> None:
    leaves = [Tensor() for _ in range(tree.leaf_count)]
    assert tree.flatten(tree.unflatten(leaves)) == leaves
    text = json.dumps(tree.to_json(), allow_nan=False)
    assert Structure.from_json(json.loads(text)) == tree


def test_a_signature_survives_json() -> None:
    outputs = (TensorSpec("y", "bool", ("batch", 3)),)
    full = Signature(PAIR.inputs, outputs, PAIR.input_tree, record(y=LEAF), PAIR.parameters)
    again = Signature.from_json(json.loads(json.dumps(full.to_json())))
    assert again == full
    assert again.flatten((A, BATCH)) == [A, B, C]
    assert str(again).endswith("-> (y: bool[batch, 3])")
