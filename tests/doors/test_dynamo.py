"""torch.compile(model, backend="planish"): the numbers of eager, and one line for whatever runs in eager."""

from __future__ import annotations

import copy
import gc
import logging
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compare import assert_close_to_reference
from torch import Tensor, nn
from zoo import find
from zoo.common import reference, sample
from zoo.hostile import HOSTILE, floats

from planish.backends import dynamo
from planish.errors import OptionError

MODELS = ["mobilenet_v3_small", "vit_small", "bert_base", "gpt2"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What planish said, line by line; the same list grows."""
    caplog.set_level(logging.WARNING, logger="planish")

    class Lines(list[str]):
        def __init__(self) -> None:
            super().__init__()

        def __iter__(self) -> Iterator[str]:
            return iter([r.getMessage() for r in caplog.records if r.name == "planish"])

        def __len__(self) -> int:
            return len(list(iter(self)))

        def __repr__(self) -> str:
            return repr(list(iter(self)))

    return Lines()


@pytest.fixture
def compiled_graphs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each graph that was compiled."""
    made: list[str] = []
    original = dynamo._Frozen._compile

    def counting(self: Any, args: Any) -> Any:
        made.append("compiled")
        return original(self, args)

    monkeypatch.setattr(dynamo._Frozen, "_compile", counting)
    return made


@pytest.fixture(params=["eager", "tvm"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"engine": request.param}


class Small(nn.Module):
    """Convolution and norm with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.register_buffer("offset", torch.linspace(-1, 1, 4).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x))) + self.offset


def small(seed: int = 0) -> tuple[Small, Tensor]:
    model, (x,), _ = sample(Small(), floats(3, 8, 8), seed=seed)
    return model, x  # type: ignore[return-value]


def check(model: nn.Module, fast: Any, *args: Any, **kwargs: Any) -> None:
    """`fast` gives what `model` gives, and leaves the inputs alone."""
    before = copy.deepcopy((args, kwargs))
    with torch.no_grad():
        actual, eager = fast(*args, **kwargs), model(*args, **kwargs)
    assert_close_to_reference(actual, reference(model, *before), eager)
    assert_close_to_reference((args, kwargs), before, before)


@pytest.mark.parametrize("name", MODELS)
def test_zoo_models_equal_eager(name: str, options: dict[str, Any], lines: list[str]) -> None:
    model, args, kwargs = find(name).small()
    check(model, torch.compile(model, backend="planish", options=options), *args, **kwargs)
    assert not lines


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_hostile_modules_equal_eager(case: Any, lines: list[str]) -> None:
    model, args, kwargs = case.small(batch=2)
    check(model, torch.compile(model, backend="planish", options={"engine": "eager"}), *args, **kwargs)
    assert not lines


@pytest.mark.parametrize("name", ["tied_weights", "many_inputs", "named_outputs", "in_place"])
def test_odd_inputs_and_outputs_compiled(name: str, lines: list[str]) -> None:
    (case,) = (case for case in HOSTILE if case.name == name)
    model, args, kwargs = case.small(batch=2)
    check(model, torch.compile(model, backend="planish"), *args, **kwargs)
    assert not lines


def test_inference_mode_and_inference_inputs(options: dict[str, Any], lines: list[str]) -> None:
    model, x = small()
    fast = torch.compile(model, backend="planish", options=options)
    with torch.inference_mode():
        y = fast(x.clone())
        assert_close_to_reference(y, reference(model, (x,), {}), model(x))
    check(model, fast, x)
    assert not lines


def test_a_function_over_tensors(options: dict[str, Any], lines: list[str]) -> None:
    weight = torch.randn(5, 6)

    def f(x: Tensor, scale: float) -> dict[str, Tensor]:
        return {"y": F.linear(x, weight).softmax(-1) * scale}

    x = torch.randn(4, 6)
    fast = torch.compile(f, backend="planish", options=options)
    torch.testing.assert_close(fast(x, 2.5)["y"], f(x, 2.5)["y"])
    weight.mul_(-1)  # not a module's parameter: an input, read anew at each call
    torch.testing.assert_close(fast(x, 2.5)["y"], f(x, 2.5)["y"])
    assert not lines


def test_outputs_are_fresh(options: dict[str, Any]) -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            y = x + 1
            return x.clone(), y, y.clone(), self.weight.clone(), self.weight * 1, y.t().t()

    model, x = Returns().eval(), torch.randn(3, 4)
    fast = torch.compile(model, backend="planish", options=options)
    with torch.no_grad():
        first, second = fast(x), fast(x)
    places = [t.untyped_storage().data_ptr() for t in (*first, *second, x, model.weight)]
    assert len(set(places)) == len(places)
    kept = [t.clone() for t in second]
    for tensor in first:
        tensor.fill_(7)
    for tensor, expected in zip(second, kept, strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("change", ["transposed", "strided", "offset", "expanded"])
def test_inputs_of_any_layout(change: str, options: dict[str, Any], lines: list[str]) -> None:
    model, x = small()
    if change == "transposed":
        x = torch.randn(1, 8, 8, 3).permute(0, 3, 1, 2)
    elif change == "strided":
        x = torch.randn(1, 3, 16, 24)[:, :, ::2, 1::3]
    elif change == "offset":
        x = torch.randn(1 + x.numel())[1:].view(x.shape)
    else:
        x = torch.randn(1, 1, 8, 1).expand(1, 3, 8, 8)
    check(model, torch.compile(model, backend="planish", options=options), x)
    assert not lines


WRITES = {
    "copied into": lambda m: m.conv.weight.copy_(torch.randn_like(m.conv.weight)),
    "loaded": lambda m: m.load_state_dict({k: v + 0.5 for k, v in m.state_dict().items()}),
    "written through .data": lambda m: m.conv.weight.data.mul_(3),
    "given other data": lambda m: setattr(m.conv.weight, "data", torch.randn_like(m.conv.weight)),
    "replaced": lambda m: setattr(m.conv, "weight", nn.Parameter(torch.randn_like(m.conv.weight))),
    "buffer written": lambda m: m.norm.running_mean.add_(2),
    "buffer replaced": lambda m: setattr(m, "offset", m.offset * 4),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_written_weights_are_compiled_again(write: Any, options: dict[str, Any], lines: list[str]) -> None:
    model, x = small()
    fast = torch.compile(model, backend="planish", options=options)
    check(model, fast, x)
    before = model(x).detach()
    with torch.no_grad():
        write(model)
    assert not torch.allclose(model(x), before)
    check(model, fast, x)
    assert len(lines) == 1
    line = next(iter(lines))
    assert re.fullmatch(
        r"planish: weight '\w+(\.\w+)*' (was written|is another tensor).*; compiling its graph again", line
    )


def test_unchanged_weights_are_not_compiled_again(compiled_graphs: list[str]) -> None:
    model, x = small()
    fast = torch.compile(model, backend="planish", options={"engine": "eager"})
    for _ in range(3):
        check(model, fast, x)
    assert len(compiled_graphs) == 1


def test_instances_of_one_class_keep_their_own_weights(options: dict[str, Any], compiled_graphs: list[str]) -> None:
    (a, x), (b, _) = small(0), small(1)
    fast_a, fast_b = (torch.compile(m, backend="planish", options=options) for m in (a, b))
    for _ in range(3):
        check(a, fast_a, x)
        check(b, fast_b, x)
    assert len(compiled_graphs) == 2


def test_no_second_set_of_weights_is_kept(options: dict[str, Any]) -> None:
    """Weights of a replaced version are freed, and the model's own are not held by what was compiled."""
    model, x = small()
    fast = torch.compile(model, backend="planish", options=options)
    check(model, fast, x)
    old = weakref.ref(model.conv.weight)
    model.conv.weight = nn.Parameter(torch.randn_like(model.conv.weight))
    check(model, fast, x)
    gc.collect()
    assert old() is None


def test_gradients_run_in_eager_with_one_line(lines: list[str]) -> None:
    model, x = small()
    fast = torch.compile(model, backend="planish", options={"engine": "eager"})
    check(model, fast, x)
    assert not lines
    for _ in range(2):
        model.zero_grad()
        fast(x).sum().backward()
    expected = torch.autograd.grad(model(x).sum(), model.conv.weight)[0]
    torch.testing.assert_close(model.conv.weight.grad, expected)
    assert list(lines) == [
        "planish: a graph runs in eager: gradients are needed; "
        "call the model under torch.inference_mode() or torch.no_grad()"
    ]


def test_an_input_that_requires_grad_runs_in_eager(lines: list[str]) -> None:
    model, x = small()
    model.requires_grad_(False)
    fast = torch.compile(model, backend="planish", options={"engine": "eager"})
    assert not fast(x).requires_grad
    assert not lines, "grad mode alone needs no gradients"
    x.requires_grad_(True)
    fast(x).sum().backward()
    assert x.grad is not None
    assert len(lines) == 1


def test_train_mode_runs_in_eager_with_one_line(lines: list[str]) -> None:
    model, x = small()
    model.train()
    twin = copy.deepcopy(model)
    fast = torch.compile(model, backend="planish", options={"engine": "eager"})
    with torch.no_grad():
        assert torch.equal(fast(x), twin(x))
    assert torch.equal(model.norm.running_mean, twin.norm.running_mean)
    assert len(lines) == 1
    assert "train" in next(iter(lines))
    model.eval()
    check(model, fast, x)
    assert len(lines) == 1


def test_dropout_in_train_mode_drops(lines: list[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 512), nn.Dropout(0.5))
    with torch.no_grad():
        y = torch.compile(model, backend="planish", options={"engine": "eager"})(torch.ones(1, 4))
    assert 100 < (y == 0).sum() < 412
    assert len(lines) == 1


def test_dynamic_shapes_run_in_eager_with_one_line(lines: list[str]) -> None:
    model, x = small()
    fast = torch.compile(model, backend="planish", dynamic=True, options={"engine": "eager"})
    check(model, fast, x)
    check(model, fast, torch.randn(1, 3, 11, 10))
    assert len(lines) == 1
    assert re.match(r"planish: a graph runs in eager: .*input 'x'.* symbolic .*dynamic=False", next(iter(lines)))


def test_a_new_shape_under_automatic_dynamic_shapes(lines: list[str]) -> None:
    model, x = small()
    fast = torch.compile(model, backend="planish", options={"engine": "eager"})
    check(model, fast, x)
    assert not lines
    check(model, fast, torch.randn(1, 3, 9, 8))
    check(model, fast, x)
    assert len(lines) == 1
    assert "dimension 2 of input 'x'" in next(iter(lines))


def test_without_dynamic_shapes_each_shape_is_compiled(
    options: dict[str, Any], lines: list[str], compiled_graphs: list[str]
) -> None:
    model, _ = small()
    fast = torch.compile(model, backend="planish", dynamic=False, options=options)
    for size in (8, 9, 8, 10):
        check(model, fast, torch.randn(2, 3, size, 8))
    assert len(compiled_graphs) == 3
    assert not lines


_calls: list[tuple[int, ...]] = []


@torch.library.custom_op("planish_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    """An operator that no backend knows."""
    _calls.append(tuple(x.shape))
    return x / 2


@halve.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Halves(nn.Module):
    """The unknown operator between two networks, and beside a third."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.middle, self.b, self.c = nn.Conv2d(3, 4, 1), Halve(), nn.Conv2d(4, 5, 1), nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu(self.a(x))
        z = self.middle(y)
        return self.b(z) + self.c(x), y


class Halve(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return halve(x)


def test_an_unsupported_operator_in_the_middle(
    options: dict[str, Any], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[Any] = []
    original = dynamo.partition
    monkeypatch.setattr(dynamo, "partition", lambda *a: pieces.append(original(*a)) or pieces[-1])
    model, (x,), _ = sample(Halves(), floats(3, 6, 6))
    fast = torch.compile(model, backend="planish", options=options)
    check(model, fast, x)
    _calls.clear()
    check(model, fast, torch.randn_like(x))
    assert (1, 4, 6, 6) in _calls
    (parts,) = pieces
    assert [piece.compiled for piece in parts.pieces] == [True, False, True]
    assert [len(parts.pieces[i].outputs) for i in (0, 1)] == [2, 1], "a's output and c's, then the halved one"
    (line,) = lines
    assert line.startswith("planish: planish_tests.halve.default runs in eager in middle: ")


def test_nothing_but_an_unsupported_operator(options: dict[str, Any], lines: list[str]) -> None:
    model = Halve().eval()
    check(model, torch.compile(model, backend="planish", options=options), torch.randn(2, 3))
    assert len(lines) == 1


def test_an_operator_with_several_outputs_between_two_networks(options: dict[str, Any]) -> None:
    class Decomposes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            values = torch.linalg.svd(self.a(x), full_matrices=False)[1]
            ordered, order = torch.sort(values, dim=-1)
            return self.b(ordered), order

    model, args, _ = sample(Decomposes(), floats(5, 6))
    check(model, torch.compile(model, backend="planish", options=options), *args)


def test_graph_breaks(options: dict[str, Any], lines: list[str]) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            torch._dynamo.graph_break()
            return self.b(y * 2)

    model, args, _ = sample(Breaks(), floats(6))
    check(model, torch.compile(model, backend="planish", options=options), *args)
    assert not lines


def test_data_dependent_shapes_break_the_graph(options: dict[str, Any]) -> None:
    class Selects(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return torch.unique(y.round()).sum() + y[y > 0].mean()

    model, args, _ = sample(Selects(), floats(5, 6))
    fast = torch.compile(model, backend="planish", options=options)
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), model(*args))


def test_random_numbers_stay_random(options: dict[str, Any]) -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + torch.rand(4)

    model, (x,), _ = sample(Noise(), floats(4))
    fast = torch.compile(model, backend="planish", options=options)
    with torch.no_grad():
        first, second = fast(x), fast(x)
        assert not torch.equal(first, second)
        torch.manual_seed(3)
        seeded = fast(x)
        torch.manual_seed(3)
        assert torch.equal(seeded, fast(x))
    assert ((first - model.linear(x)) >= -1e-6).all()
    assert ((first - model.linear(x)) <= 1 + 1e-6).all()


@pytest.mark.parametrize("context", ["no_grad", "autocast off", "autocast"])
def test_contexts_inside_forward(context: str, options: dict[str, Any]) -> None:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            off = {"autocast off": False, "autocast": True}
            manager = torch.no_grad() if context == "no_grad" else torch.autocast("cpu", enabled=off[context])
            with manager:
                y = self.linear(x)
            return y.float() * 2

    model, (x,), _ = sample(Guarded(), floats(4))
    fast = torch.compile(model, backend="planish", options=options)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-6)


def test_control_flow_inside_the_graph_runs_in_eager(lines: list[str]) -> None:
    def f(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    fast = torch.compile(f, backend="planish", options={"engine": "eager"})
    for x in (torch.ones(3), -torch.ones(3)):
        assert torch.equal(fast(x), f(x))
    (line,) = lines
    assert "cond" in line


def test_a_written_buffer_runs_in_eager_with_one_line(lines: list[str]) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return self.linear(x) * self.count

    model, x = Counts().eval(), torch.randn(2, 3)
    fast = torch.compile(model, backend="planish", options={"engine": "eager"})
    with torch.no_grad():
        for turn in (1, 2, 3):
            torch.testing.assert_close(fast(x), model.linear(x) * turn)
    assert model.count == 3
    assert len(lines) == 1
    assert "'count'" in next(iter(lines))


def test_a_written_input_runs_in_eager_with_one_line(lines: list[str]) -> None:
    def f(x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2

    x = torch.zeros(3)
    fast = torch.compile(f, backend="planish", options={"engine": "eager"})
    assert torch.equal(fast(x), torch.full((3,), 2.0))
    assert torch.equal(x, torch.ones(3))
    assert len(lines) == 1


def test_weights_whose_writes_cannot_be_seen(lines: list[str]) -> None:
    with torch.inference_mode():
        model, x = small()
    fast = torch.compile(model, backend="planish", options={"engine": "eager"})
    with torch.inference_mode():
        fast(x)
        model.conv.weight.mul_(2)
        torch.testing.assert_close(fast(x), model(x))
    (line,) = lines
    assert "weight 'conv.weight' was made under torch.inference_mode()" in line


def test_sparse_inputs_run_in_eager_with_one_line(lines: list[str]) -> None:
    fast = torch.compile(lambda x, y: x @ y, backend="planish", options={"engine": "eager"})
    x, y = torch.eye(3), torch.randn(3, 2)
    assert torch.equal(fast(x.to_sparse(), y), y)
    assert all("torch.sparse_coo tensor" in line for line in lines)


def test_threads_share_a_compiled_model(options: dict[str, Any]) -> None:
    model, x = small()
    fast = torch.compile(model, backend="planish", options=options)
    inputs = [torch.randn_like(x) for _ in range(6)]
    with torch.no_grad():
        fast(x)
        expected = [fast(i) for i in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(fast(inputs[index]), expected[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_index_that_is_data_is_compiled(options: dict[str, Any], lines: list[str]) -> None:
    class Pick(nn.Module):
        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            return x[i] * 2 + x[:3, i]

    fast, x = torch.compile(Pick(), backend="planish", options=options), torch.randn(5, 3)
    with torch.no_grad():
        for i in (2, 0, -1):
            assert torch.equal(fast(x, torch.tensor(i)), x[i] * 2 + x[:3, i])
    assert not lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"presision": "int8"}}, "presision"),
        ({"options": {"engine": "relay"}}, "relay"),
        ({"options": {"engine": "eager", "threads": 2}}, "threads"),
        ({"options": {"precision": "int8"}}, "int8"),
        ({"options": {"target": "no-such-cpu"}}, "no-such-cpu"),
        ({"mode": "max-autotune"}, "max-autotune"),
    ],
)
def test_wrong_options_raise(arguments: dict[str, Any], message: str) -> None:
    model, x = small()
    with pytest.raises(OptionError, match=message), torch.no_grad():
        torch.compile(model, backend="planish", **arguments)(x)


def test_the_line_is_visible_by_default(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "fast = torch.compile(torch.nn.Linear(2, 2), backend='planish', options={'engine': 'eager'})\n"
        "fast(torch.ones(1, 2)); fast(torch.ones(1, 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.count("planish: a graph runs in eager: gradients are needed") == 1


def test_a_line_is_said_once_until_reset(lines: list[str]) -> None:
    dynamo.say("something\n  over two lines")
    dynamo.say("something over two lines")
    assert list(lines) == ["planish: something over two lines"]
    torch._dynamo.reset()
    dynamo.planish_backend.reset()  # type: ignore[attr-defined]
    dynamo.say("something over two lines")
    assert len(lines) == 2
