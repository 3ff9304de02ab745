"""Capture: what goes in comes out with the same numbers, names, structure and provenance, or is refused by name."""

from __future__ import annotations

import collections
import dataclasses
import inspect
import warnings

import pytest
import torch
from compare import assert_close_to_reference
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

from planish.errors import CaptureError, DynamicShapeError, InputError, ModelError, MutatedBufferError, TrainModeError
from planish.ir import interpret
from planish.ir.capture import capture, capture_dynamo, capture_file, dynamo_constants
from planish.ir.program import Program
from planish.ir.verify import verify

aten = torch.ops.aten
Pair = collections.namedtuple("Pair", ["left", "right"])


def ops(program: Program) -> list[str]:
    return [str(node.target).removeprefix("aten.") for node in program.graph.nodes if node.op == "call_function"]


def checked(model: nn.Module, *args: object, **kwargs: object) -> Program:
    """Capture, verify, and compare with the model run without capture."""
    model.eval()
    program = capture(model, args, kwargs)
    verify(program)
    with torch.no_grad():
        expected = model(*args, **kwargs)
    actual = program(*args, **kwargs)
    assert_close_to_reference(actual, interpret.reference_model(model, args, kwargs), expected)
    return program


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.block(image)).flatten(1))


def test_a_network_keeps_its_operators_names_and_weights() -> None:
    program = checked(Net(), torch.randn(2, 3, 8, 8))
    assert ops(program)[0] == "conv2d.default"
    assert ops(program)[-1] == "linear.default"
    assert [str(spec) for spec in program.signature.inputs] == ["image: float32[2, 3, 8, 8]"]
    assert [str(spec) for spec in program.signature.outputs] == ["output: float32[2, 5]"]
    assert sorted(program.weights) == [
        "block.0.bias",
        "block.0.weight",
        "block.1.bias",
        "block.1.running_mean",
        "block.1.running_var",
        "block.1.weight",
        "fc.bias",
        "fc.weight",
    ]
    assert program.name == "Net"


def test_weights_share_storage_with_the_model() -> None:
    model = Net().eval()
    program = capture(model, torch.randn(1, 3, 8, 8))
    assert program.weights["fc.weight"].data_ptr() == model.fc.weight.data_ptr()
    assert not program.weights["fc.weight"].requires_grad


def test_origins_name_layer_class_and_the_users_line() -> None:
    program = capture(Net().eval(), torch.randn(1, 3, 8, 8))
    (origin,) = next(n for n in program.graph.nodes if n.target is aten.conv2d.default).meta["origins"]
    lines, start = inspect.getsourcelines(Net.forward)
    at = start + next(i for i, line in enumerate(lines) if "return" in line)
    assert (origin.layer, origin.module) == ("block.0", "torch.nn.modules.conv.Conv2d")
    assert origin.source == f"{__file__}:{at}"


def test_a_reused_module_is_told_apart_by_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.fc(x))

    program = checked(Twice(), torch.randn(2, 3))
    layers = [n.meta["origins"][0].layer for n in program.graph.nodes if n.target is aten.linear.default]
    assert layers == ["fc", "fc@1"]
    assert list(program.weights) == ["fc.weight", "fc.bias"]


class Everything(nn.Module):
    """Nested inputs, variadics, keywords, constants, an unused input, constants among the outputs."""

    def forward(self, x, batch, *xs, flag=True, mask=None, **more):  # type: ignore[no-untyped-def]
        y = x * 2 if flag else x
        return {
            "sum": y + xs[0] + more["z"],
            "ids": batch["ids"] + batch["pair"][1],
            "same": (y, y),
            "x": x,
            "rows": x.shape[0],
            "none": None,
            "pair": Pair(x.sum(), [more["z"]]),
        }


EXAMPLE = (
    (
        torch.randn(2, 3),
        {"unused": torch.zeros(4), "ids": torch.arange(3), "pair": (torch.tensor([True, False, True]), 1)},
        torch.randn(2, 3),
    ),
    {"flag": False, "z": torch.randn(3)},
)


def test_nested_inputs_and_outputs() -> None:
    args, kwargs = EXAMPLE
    batch = {**args[1], "pair": (torch.tensor(2), torch.tensor([5, 6, 7]), None, 3)}
    args = (args[0], batch, args[2])
    program = capture(Everything().eval(), args, kwargs)
    verify(program)
    names = [spec.name for spec in program.signature.inputs]
    assert names == ["x", "batch.unused", "batch.ids", "batch.pair.0", "batch.pair.1", "xs.0", "z"]
    outputs = [spec.name for spec in program.signature.outputs]
    assert outputs == ["sum", "ids", "same.0", "same.1", "x", "pair.left", "pair.right.0"]
    actual, expected = program(*args, **kwargs), Everything()(*args, **kwargs)
    assert list(actual) == list(expected)
    assert (actual["rows"], actual["none"]) == (2, None)
    assert type(actual["rows"]) is int
    assert actual["pair"].right[0] is kwargs["z"]
    for mine, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
        assert mine is theirs or torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))


def test_constants_of_the_signature_are_checked_at_the_call() -> None:
    args, kwargs = EXAMPLE
    args = (args[0], {"ids": torch.arange(3), "pair": (1, 2)}, args[2])
    program = capture(Everything().eval(), args, kwargs)
    torch.testing.assert_close(program(*args, mask=None, **kwargs)["ids"], torch.tensor([2, 3, 4]))
    with pytest.raises(InputError, match="'flag' was False at capture and is fixed, got True"):
        program(*args, **{**kwargs, "flag": True})
    with pytest.raises(InputError, match="'flag' is missing"):  # its default, True, is not what was captured
        program(*args, z=kwargs["z"])
    with pytest.raises(InputError, match=r"'batch.pair.1' was 2 at capture"):
        program(args[0], {"ids": torch.arange(3), "pair": (1, 4)}, args[2], **kwargs)


def test_arguments_bind_by_position_or_name_as_forward_would() -> None:
    class Named(nn.Module):
        def forward(self, a, b=None, scale=2.0):  # type: ignore[no-untyped-def]
            return a - b * scale

    a, b = torch.randn(2), torch.randn(2)
    program = capture(Named().eval(), (a,), {"b": b})
    for actual in (program(a, b), program(a, b=b), program(b=b, a=a), program(a, b, 2.0), program(a, b, scale=2.0)):
        torch.testing.assert_close(actual, a - b * 2)
    with pytest.raises(InputError, match="no input 'scale', or it was not given"):
        program(a, b, 3.0)


class Scale(nn.Module):
    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


STRIDES = {
    "transposed": torch.randn(3, 2).t(),
    "expanded": torch.randn(2, 1).expand(2, 3),
    "0-dim": torch.tensor(2.5),
    "part": torch.randn(4, 3)[1:3],
    "empty": torch.ones(0, 1, 3),
}


@pytest.mark.parametrize("tensor", STRIDES.values(), ids=STRIDES)
def test_weights_of_any_stride(tensor: torch.Tensor) -> None:
    program = checked(Scale(tensor), torch.randn(2, 3))
    assert torch.equal(program.weights["weight"], tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8])
def test_dtypes(dtype: torch.dtype) -> None:
    program = checked(Scale(torch.arange(3).to(dtype)), torch.arange(6).reshape(2, 3).to(dtype))
    assert program.signature.inputs[0].dtype == str(dtype).removeprefix("torch.")


def test_bool_and_scalar_inputs() -> None:
    class Select(nn.Module):
        def forward(self, mask: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.where(mask, x, -x)

    program = checked(Select(), torch.tensor([True, False]), torch.tensor(3.0))
    assert [str(spec) for spec in program.signature.inputs] == ["mask: bool[2]", "x: float32[]"]


@pytest.mark.parametrize("value", [None, (), []])
def test_empty_outputs(value: object) -> None:
    class Empty(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return value

    program = capture(Empty().eval(), torch.zeros(2))
    verify(program)
    assert program.signature.outputs == ()
    assert program(torch.zeros(2)) == value


@dataclasses.dataclass
class Result:
    """A dataclass that torch.export knows."""

    score: torch.Tensor
    loss: torch.Tensor | None = None


class Output(collections.OrderedDict[str, torch.Tensor]):
    """A mapping class, as the outputs of language models are."""


def test_records_and_mappings_of_the_users_own(request) -> None:  # type: ignore[no-untyped-def]
    class Makes(nn.Module):
        def forward(self, given: Result) -> tuple[object, ...]:
            top = given.score.topk(1)
            return Result(given.score * 2), Output(logits=given.score + 1), top

    torch.export.register_dataclass(Result, serialized_type_name="Result")
    pytree.register_pytree_node(
        Output, lambda o: (list(o.values()), list(o)), lambda values, keys: Output(zip(keys, values, strict=True))
    )
    request.addfinalizer(lambda: [pytree._deregister_pytree_node(kind) for kind in (Result, Output)])
    x = torch.tensor([1.0, 3.0])
    program = capture(Makes().eval(), (Result(x),))
    verify(program)
    assert [spec.name for spec in program.signature.inputs] == ["given.score"]
    record, mapping, top = program(Result(x))
    assert (record.score.tolist(), record.loss) == ([2.0, 6.0], None)
    assert mapping["logits"].tolist() == [2.0, 4.0]
    assert (top.values.tolist(), top.indices.tolist()) == ([3.0], [1])
    with pytest.raises(InputError, match=r"'given\.loss' was None at capture"):
        program(Result(x, x))


def test_tied_weights_are_stored_once_under_the_first_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    assert list(checked(Tied(), torch.arange(5)).weights) == ["embed.weight"]


def test_weights_that_share_storage_but_not_their_view_stay_apart() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            both = torch.randn(2, 3)
            self.a, self.b = nn.Parameter(both[0]), nn.Parameter(both[1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.a + self.b

    assert list(checked(Halves(), torch.randn(3)).weights) == ["a", "b"]


def test_constant_tensors_and_returned_weights() -> None:
    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Module()
            self.inner.plain = torch.tensor([1.0, 2.0])
            self.register_buffer("hidden", torch.tensor([3.0, 4.0]), persistent=False)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x + self.inner.plain + torch.tensor([5.0, 6.0]), self.hidden

    program = checked(Constants(), torch.randn(2))
    assert set(program.weights) >= {"inner.plain", "hidden"}
    assert len(program.weights) == 3


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "normalize", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm]
)
def test_parametrizations_become_visible_operators(normalize) -> None:  # type: ignore[no-untyped-def]
    program = checked(normalize(nn.Conv1d(3, 4, 3)), torch.randn(1, 3, 9))
    assert "conv1d.default" in ops(program)
    assert len(ops(program)) > 1


def test_in_place_writes_hooks_views_and_dropout_disappear() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.fc.register_forward_hook(lambda module, args, out: out * 2)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.drop(self.fc(x))
            y[:, 0] = 1
            y += 1
            y.view(-1)[3].mul_(3)
            torch.sin(y)  # dead
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                return F.dropout(y.relu_(), 0.5, self.training)

    program = checked(Hidden(), torch.randn(2, 4))
    assert not any(node.target._schema.is_mutable for node in program.graph.nodes if hasattr(node.target, "_schema"))
    assert "sin.default" not in ops(program)


def test_composites_are_broken_up_and_fused_modules_stay_whole() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)
            self.lstm = nn.LSTM(4, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x, _ = self.lstm(self.norm(x))
            x = F.scaled_dot_product_attention(x, x, x)
            grid = F.affine_grid(x[:, :2, :3], [2, 1, 4, 4], align_corners=False)
            x = F.grid_sample(x[:, None], grid, align_corners=False)[:, 0]
            return torch.einsum("bij,bkj->bik", x, x)

    found = ops(checked(Mixed(), torch.randn(2, 3, 4)))
    assert {"layer_norm.default", "scaled_dot_product_attention.default", "bmm.default"} <= set(found)
    assert not {"einsum.default", "lstm.input", "grid_sampler.default", "grid_sampler_2d.default"} & set(found)


def test_one_tensor_passed_twice_and_a_weight_passed_as_an_input() -> None:
    class Add(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a - 2 * b

    x = torch.randn(3)
    program = capture(Add().eval(), (x, x))
    torch.testing.assert_close(program(x, 2 * x), -3 * x)
    scale = Scale(torch.randn(3)).eval()
    program = capture(scale, scale.weight)
    torch.testing.assert_close(program(x), x * scale.weight)


def test_capture_works_in_inference_mode_and_leaves_the_model_alone() -> None:
    model = Net().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        program = capture(model, torch.randn(1, 3, 8, 8))
        verify(program)
    values = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta["val"], torch.Tensor)]
    assert not any(value.is_inference() for value in values)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.fc.weight.requires_grad


def test_models_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model, x = Net().eval(), torch.randn(1, 3, 8, 8)
        expected = model(x)
    program = capture(model, x)
    verify(program)
    assert torch.equal(program(x), expected)


def test_torch_compiled_models_are_unwrapped() -> None:
    assert "fc.weight" in capture(torch.compile(Net().eval(), backend="eager"), torch.randn(1, 3, 8, 8)).weights


# ---- the other ways in


def exported_net(**options: object) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(Net().eval(), (torch.randn(2, 3, 8, 8),), **options)


def test_exported_programs_and_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    exported = exported_net()
    path = tmp_path / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported, path)
    x = torch.randn(2, 3, 8, 8)
    one, two = capture(exported), capture(path)
    verify(one)
    verify(two)
    assert torch.equal(one(x), two(image=x))
    assert (one.name, two.name) == ("model", "net")
    assert [spec.name for spec in two.signature.inputs] == ["image"]
    (origin,) = next(n for n in two.graph.nodes if n.target is aten.linear.default).meta["origins"]
    assert origin.layer == "fc"
    assert origin.source.startswith(__file__)


def test_files_that_are_none(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match="There is no file"):
        capture_file(tmp_path / "nowhere.pt2")
    (tmp_path / "text.pt2").write_text("not a program")
    with pytest.raises(ModelError, match=r"text\.pt2' is not a .pt2 file"):
        capture_file(tmp_path / "text.pt2")
    with pytest.raises(ModelError, match="A int is not a model"):
        capture(3, ())


class Graphs:
    """A Dynamo backend that keeps what it is given, and answers in eager."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.constants: list[dict[str, str]] = []
        self.errors: list[Exception] = []

    def __call__(self, gm, example_inputs):  # type: ignore[no-untyped-def]
        self.constants.append(dynamo_constants(gm))
        try:
            self.programs.append(capture_dynamo(gm, example_inputs))
        except CaptureError as error:
            self.errors.append(error)
        return gm


@pytest.fixture
def graphs():  # type: ignore[no-untyped-def]
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Graphs()
    torch._dynamo.reset()


def test_dynamo_graphs_take_inputs_and_hold_parameters(graphs) -> None:  # type: ignore[no-untyped-def]
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = torch.compile(model, backend=graphs)(x)
    (program,) = graphs.programs
    verify(program)
    assert "block.0.weight" in graphs.constants[0].values()
    assert sorted(program.weights) == sorted(capture(model, x).weights)
    assert [spec.name for spec in program.signature.inputs] == ["image"]
    (origin,) = next(n for n in program.graph.nodes if n.target is aten.conv2d.default).meta["origins"]
    assert (origin.layer, origin.module) == ("block.0", "torch.nn.modules.conv.Conv2d")
    assert origin.source.startswith(__file__)
    torch.testing.assert_close(program(x)[0], expected, rtol=0, atol=0)


def test_dynamo_constants_are_owned_tensors_only(graphs) -> None:  # type: ignore[no-untyped-def]
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.ones(2))
            self.loose = torch.ones(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.kept * self.loose

    with torch.no_grad():
        torch.compile(Owner().eval(), backend=graphs)(torch.randn(2))
    (program,) = graphs.programs
    assert list(program.weights) == ["kept"]
    assert sorted(spec.name for spec in program.signature.inputs) == ["self.loose", "x"]


def test_dynamo_weights_of_several_modules_keep_their_own_names(graphs) -> None:  # type: ignore[no-untyped-def]
    one, two = nn.Linear(2, 2).eval(), nn.Linear(2, 2).eval()

    def both(x: torch.Tensor) -> torch.Tensor:
        return two(one(x))

    x = torch.randn(3, 2)
    with torch.no_grad():
        expected = torch.compile(both, backend=graphs)(x)
    (program,) = graphs.programs
    assert sorted(program.weights) == ["one.bias", "one.weight", "two.bias", "two.weight"]
    assert torch.equal(program(x)[0], expected)


def test_dynamo_symbolic_sizes_are_refused(graphs) -> None:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        torch.compile(nn.Linear(3, 3).eval(), backend=graphs, dynamic=True)(torch.randn(5, 3))
    assert len(graphs.errors) == 1
    assert isinstance(graphs.errors[0], DynamicShapeError)


# ---- refusals


def refused(model: nn.Module, *args: object, kind: type[Exception] = CaptureError) -> str:
    with pytest.raises(kind) as caught:
        capture(model.eval(), args)
    return str(caught.value)


def line_of(function: object, text: str) -> str:
    lines, start = inspect.getsourcelines(function)  # type: ignore[arg-type]
    return f"{__file__}:{start + next(i for i, line in enumerate(lines) if text in line)}"


def test_train_mode_is_refused_with_names() -> None:
    with pytest.raises(TrainModeError, match=r"7 of 7 modules are in train mode: block.1 \(BatchNorm2d\)"):
        capture(Net(), torch.randn(2, 3, 8, 8))
    model = Net().eval()
    model.block[1].train()
    with pytest.raises(TrainModeError, match=r"1 of 7 .*: block.1 \(BatchNorm2d\)"):
        capture(model, torch.randn(2, 3, 8, 8))
    model.block[1].eval()
    model.fc.train()  # a Linear computes the same in both modes
    verify(capture(model, torch.randn(2, 3, 8, 8)))


def test_a_submodule_that_reads_its_mode_counts() -> None:
    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if self.training else x

    model = nn.Sequential(Reads()).eval()
    model[0].train()
    with pytest.raises(TrainModeError, match=r"0 \(Reads\)"):
        capture(model, torch.zeros(1))


def test_training_operators_are_refused_wherever_they_come_from() -> None:
    class Drops(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(x, 0.5, training=True)

    class Attends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)

    assert "dropout" in refused(nn.Sequential(Drops()), torch.randn(3), kind=TrainModeError)
    assert "attention" in refused(Attends(), torch.randn(1, 3, 4), kind=TrainModeError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(Net().train(), (torch.randn(2, 3, 8, 8),))
    with pytest.raises(TrainModeError, match=r"block\.1"):
        capture(exported)


@pytest.mark.parametrize("what", ["buffer", "input", "parameter"])
def test_mutation_is_refused_by_name(what: str) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(1))
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
            target = {"buffer": self.steps, "input": state["cache"], "parameter": self.weight}[what]
            target.add_(1)
            return target * 2

    message = refused(Writes(), {"cache": torch.zeros(1)}, kind=MutatedBufferError)
    assert repr({"buffer": "steps", "input": "state.cache", "parameter": "weight"}[what]) in message
    assert line_of(Writes.forward, "add_") in message


class Data(nn.Module):
    """Reads `.data` of a weight and an input; notes a norm in, or counts calls by, `.data` of a buffer."""

    def __init__(self, counts: bool = False) -> None:
        super().__init__()
        self.counts, self.weight = counts, nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.register_buffer("noted", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.weight.data.norm()
        self.noted.data.copy_(self.noted + 1 if self.counts else norm)
        return x.data * (self.weight / norm)


def test_the_data_of_tensors_is_theirs() -> None:
    x = torch.tensor([2.0, 3.0, 5.0])
    assert list(checked(Data(), x).weights) == ["weight"]
    assert "'noted'" in refused(Data(counts=True), x, kind=MutatedBufferError)


def test_a_buffer_that_only_notes_a_property_of_the_weights_is_no_state() -> None:
    class Notes(nn.Module):
        def __init__(self, reads: bool) -> None:
            super().__init__()
            self.reads = reads
            self.weight = nn.Parameter(torch.randn(3, 4))
            self.register_buffer("norm", torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            norm = self.weight.norm()
            if self.reads:
                norm = 0.5 * (norm + self.norm)
            self.norm.copy_(norm.detach())
            return x @ (self.weight / norm).T

    x = torch.randn(2, 4)
    program = capture(Notes(False).eval(), (x,))
    assert len(program.signature.outputs) == 1
    assert set(program.weights) == {"weight"}
    assert "'norm'" in refused(Notes(True), x, kind=MutatedBufferError)


def test_mutated_plain_attributes_are_refused_by_name() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = torch.zeros(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.calls.add_(1)

    assert "'calls'" in refused(Counts(), torch.zeros(1), kind=MutatedBufferError)


def test_symbolic_dimensions_are_refused_by_input_and_dim() -> None:
    exported = exported_net(dynamic_shapes={"image": {0: torch.export.Dim("batch", min=2, max=64)}})
    with pytest.raises(DynamicShapeError, match="Dimension 0 of input 'image' is symbolic"):
        capture(exported)


def test_shapes_that_depend_on_data_are_refused_at_their_line() -> None:
    class Finds(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[x > 0]

    message = refused(Finds(), torch.randn(4), kind=DynamicShapeError)
    assert "depends on the data" in message
    assert line_of(Finds.forward, "x[x") in message


def test_branches_on_data_are_refused_at_their_line(capfd: pytest.CaptureFixture[str]) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x
            return -x

    message = refused(Branches(), torch.randn(4))
    assert "branches on a value that it computed" in message
    assert line_of(Branches.forward, "if x") in message
    assert capfd.readouterr().err == "", "torch logs and prints the graph so far"


def test_results_that_export_does_not_know_are_named() -> None:
    @dataclasses.dataclass
    class Result:
        value: torch.Tensor

    class Returns(nn.Module):
        def forward(self, x: torch.Tensor) -> Result:
            return Result(x)

    message = refused(Returns(), torch.randn(4))
    assert "returns a Result" in message
    assert "register_dataclass" in message


def test_control_flow_operators_are_refused() -> None:
    class Cond(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    assert "cond, which is not an ATen operator" in refused(Cond(), torch.randn(4))


def test_numbers_taken_out_of_tensors_are_refused_at_their_line() -> None:
    class Item(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.max().item()

    message = refused(Item(), torch.randn(4))
    assert "Python number" in message
    assert line_of(Item.forward, "item") in message


def test_errors_of_the_forward_pass_name_their_line() -> None:
    message = refused(Net(), torch.randn(2, 4, 8, 8))
    assert "expected input" in message
    assert line_of(Net.forward, "return") in message


@pytest.mark.parametrize("value", [torch.float32, {1, 2}, object()])
def test_example_inputs_of_other_types_are_refused_by_path(value: object) -> None:
    class Takes(nn.Module):
        def forward(self, options, x):  # type: ignore[no-untyped-def]
            return x

    message = refused(Takes(), {"key": value}, torch.zeros(1))
    assert "['key']" in message
    assert "not a tensor or plain constant" in message


@pytest.mark.filterwarnings("ignore:.*quantize", "ignore:.*Lazy modules")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Parameter(torch.eye(3).to_sparse(), requires_grad=False), "a sparse_coo tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "a quantized tensor"),
        (lambda: nn.Parameter(torch.ones(3, device="meta")), "a Parameter on the meta device"),
        (lambda: nn.UninitializedParameter(), "a UninitializedParameter of its own class"),
    ],
)
def test_weights_without_plain_data_are_refused_by_name(make, reason: str) -> None:  # type: ignore[no-untyped-def]
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = make()
            if isinstance(weight, nn.Parameter):
                self.weight = weight
            else:
                self.register_buffer("weight", weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    message = refused(nn.Sequential(Holds()), torch.ones(3))
    assert "Weight '0.weight'" in message
    assert reason in message


def test_ops_that_raise_errors_as_they_run_stay_whole() -> None:
    class Inverse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x @ x.t() + torch.eye(4))

    program = capture(Inverse().eval(), (torch.randn(4, 4),))
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program(x), Inverse()(x))


class Pick(nn.Module):
    def forward(self, x: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x[i], x[:, i] + 1, x[1:, :, i]


@pytest.mark.parametrize("exported", [False, True])
def test_an_index_that_is_data_selects(exported: bool) -> None:
    x, i = torch.randn(3, 4, 5), torch.tensor(2)
    program = capture(torch.export.export(Pick(), (x, i))) if exported else checked(Pick(), x, i)
    assert ops(program).count("index.Tensor") == 3
    last = torch.tensor(-1)
    for got, want in zip(program(x, last), Pick()(x, last), strict=True):
        assert torch.equal(got, want)
