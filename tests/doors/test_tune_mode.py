"""ConvBN Tune mode: outputs and gradients of eval mode, for every kind of convolution; what is left alone, and why."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import find

import planish
from planish.backends import dynamo_tune as door
from planish.errors import OptionError
from planish.passes.convbn.tune import fold_weights


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trained(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In eval mode, with statistics and affines that are not the initial ones."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.to(dtype).eval()


def step(call: Callable[..., Tensor], model: nn.Module, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output and all gradients, the inputs' too."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    model.zero_grad()
    out = call(*leaves)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    (out * weights).sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return out.detach(), grads + [x.grad for x in leaves if x.grad is not None]


def check(model: nn.Module, *inputs: Tensor, folded: int, refused: int = 0) -> Any:
    """Same numbers to 1e-12, and so many sites folded and refused."""
    expected, wanted = step(model, model, *inputs)
    tuned = planish.tune_mode(model)
    actual, got = step(tuned, model, *inputs)
    assert len(got) == len(wanted)
    for a, e in zip([actual, *got], [expected, *wanted], strict=True):
        assert (a - e).abs().max() <= 1e-12 * max(1.0, float(e.abs().max()))
    reports: list[Any] = tuned.tune_reports  # type: ignore[assignment]
    assert sum(len(r.applied) for r in reports) == folded
    assert sum(len(r.refused) for r in reports) == refused
    return reports


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def pair(conv: nn.Module, norm: nn.Module) -> nn.Module:
    return trained(nn.Sequential(conv, norm))


CONVOLUTIONS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d, (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d, (2, 4, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 6, 2, dilation=2), nn.BatchNorm3d, (2, 2, 4, 5, 4)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d, (2, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d, (2, 6, 5, 5)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d, (2, 4, 5, 5)),
    "same": (lambda: nn.Conv2d(4, 6, 5, padding="same"), nn.BatchNorm2d, (2, 4, 5, 5)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d, (2, 4, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1), nn.BatchNorm2d, (2, 4, 5, 5)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 2, bias=False), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d, (2, 4, 5, 5)),
    "transposed depthwise": (lambda: nn.ConvTranspose2d(6, 6, 3, groups=6), nn.BatchNorm2d, (2, 6, 5, 5)),
    "linear": (lambda: nn.Linear(4, 6), nn.BatchNorm1d, (5, 4)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_output_and_gradients_are_those_of_eval_mode(name: str) -> None:
    conv, norm, shape = CONVOLUTIONS[name]
    check(pair(conv(), norm(6)), double(*shape), folded=1)


@pytest.mark.parametrize("name", ["conv2d", "transposed depthwise"])
def test_norms_without_an_affine(name: str) -> None:
    conv, norm, shape = CONVOLUTIONS[name]
    check(pair(conv(), norm(6, affine=False)), double(*shape), folded=1)


class Functional(nn.Module):
    """Arguments by keyword, the statistics alone, and torch's own batch_norm."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(6))
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        a = F.batch_norm(F.conv2d(x, self.w, bias=self.b, stride=2), mean, var)
        conv = F.conv2d(weight=self.w, input=x, stride=2)
        b = torch.batch_norm(conv, self.norm.weight, self.norm.bias, mean, var, False, 0.1, 1e-3, False)
        return a + b


def test_arguments_by_keyword_and_by_default() -> None:
    check(trained(Functional()), double(2, 4, 7, 7), folded=2)


class Reused(nn.Module):
    """One convolution under two norms, one norm over two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x)).relu())) + self.first(self.other(x))


def test_shared_modules_fold_call_by_call() -> None:
    reports = check(trained(Reused()), double(2, 4, 5, 5), folded=3)
    assert [site.layers for site in reports[0].applied] == [
        ("conv", "first"), ("conv@1", "second"), ("other", "first@1"),
    ]  # fmt: skip


class Odd(nn.Module):
    """Norms that are first, after a sum, without statistics: nothing to fold, nothing to refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.first, self.sum = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.batch(self.conv(self.sum(y + x)))


def test_norms_that_follow_no_convolution_stay() -> None:
    check(trained(Odd()), double(2, 4, 5, 5), folded=0)


class TwoUsers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) * y


class Written(TwoUsers):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        with torch.no_grad():
            self.norm.running_mean.add_(1.0).sub_(0.5)  # type: ignore[union-attr, operator]
        return self.norm(y)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class Unbatched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 5, 1), nn.BatchNorm1d(7)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [
        (TwoUsers, (2, 4, 5, 5), "the output of .* has other users"),
        (Tokens, (2, 6, 3), "3-D values scales positions, not features"),
        (Unbatched, (4, 7, 6), "3-D values scales rows of an image without a batch"),
    ],
)
def test_refused(model: type[nn.Module], shape: tuple[int, ...], reason: str, caplog: Any) -> None:
    reports = check(trained(model()), double(*shape), folded=0, refused=1)
    import re

    assert re.search(reason, reports[0].refused[0].reason)
    assert any("tune mode leaves batch_norm" in r.getMessage() for r in caplog.records)


def test_statistics_written_between_the_two() -> None:
    model, x = trained(Written()), double(2, 4, 5, 5)
    tuned = planish.tune_mode(copy.deepcopy(model))
    expected, actual = model(x), tuned(x)
    assert (expected - actual).abs().max() <= 1e-12
    reports: list[Any] = tuned.tune_reports  # type: ignore[assignment]
    assert not any(r.applied for r in reports)


def test_low_precision_weights_are_not_scaled_by_float32_statistics() -> None:
    model = trained(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), torch.float32)
    model[0].to(torch.bfloat16)  # type: ignore[index]
    x = torch.randn(2, 4, 5, 5, dtype=torch.bfloat16)
    tuned = planish.tune_mode(model)
    assert torch.equal(tuned(x), model(x))
    assert "lose their precision" in tuned.tune_reports[0].refused[0].reason  # type: ignore[index, union-attr]


def test_the_mode_of_each_norm_is_looked_up_at_each_call() -> None:
    model, x = trained(Reused()), double(4, 4, 5, 5)
    tuned = planish.tune_mode(model)
    means = model.first.running_mean.clone()  # type: ignore[operator, union-attr]
    tuned(x)
    assert torch.equal(model.first.running_mean, means)  # type: ignore[arg-type]
    twin = copy.deepcopy(model)
    model.first.train(), twin.first.train()  # type: ignore[operator, union-attr]
    assert (tuned(x) - twin(x)).abs().max() <= 1e-12
    assert not torch.equal(model.first.running_mean, means)  # type: ignore[arg-type]
    assert torch.equal(model.first.running_mean, twin.first.running_mean)  # type: ignore[arg-type, union-attr]
    assert len(tuned.tune_reports[-1].applied) == 1  # type: ignore[index, union-attr, arg-type]
    model.eval(), twin.eval()
    assert (tuned(x) - twin(x)).abs().max() <= 1e-12


def test_parameters_keys_and_optimizer_steps_are_the_models() -> None:
    model, x = trained(Reused()), double(2, 4, 5, 5)
    twin = copy.deepcopy(model)
    tuned = planish.tune_mode(model)
    assert list(tuned.state_dict()) == list(twin.state_dict())
    assert all(a is b for a, b in zip(tuned.parameters(), model.parameters(), strict=True))
    for net, call in ((twin, twin), (model, tuned)):
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            call(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-12


def test_second_derivatives() -> None:
    model, x = pair(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), double(2, 3, 5, 5)
    found = []
    for call in (model, planish.tune_mode(model)):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(call(leaf).pow(3).sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), list(model.parameters()), materialize_grads=True))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 1e-12 * max(1.0, float(b.abs().max()))


def test_autocast() -> None:
    model = trained(nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)), torch.float32)
    x = torch.randn(2, 8, 9, 9)
    tuned = planish.tune_mode(model)
    exact = model.double()(x.double()).detach()
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        expected, actual = model(x), tuned(x)
    assert actual.dtype == expected.dtype
    assert (actual.double() - exact).abs().max() <= 2 * (expected.double() - exact).abs().max()


def test_less_is_kept_for_the_backward_pass() -> None:
    """Half of what eval mode keeps: x of each convolution, but no output of one."""
    model = trained(nn.Sequential(*[m for _ in range(4) for m in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))]))
    x = double(4, 8, 32, 32)
    assert kept(planish.tune_mode(model), model, x) <= 0.55 * kept(model, model, x)


def kept(call: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> int:
    """Bytes saved for the backward pass: storages that are no parameters, each once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = call(x)
    total = sum(found.values())
    del out
    return total


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "inception_v3"])
def test_whole_networks(name: str) -> None:
    model, args, _ = find(name).small()
    model = trained(model)
    convs = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    check(model, *(a.double() for a in args), folded=convs)


@pytest.mark.skipif(not door.compiler_found(), reason="there is no C++ compiler for Inductor")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # Inductor imports it
def test_inductor_runs_the_folded_graph() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), torch.float32)
    x = torch.randn(2, 3, 6, 6)
    reports: list[Any] = []
    compiled = torch.compile(model, backend="planish", options={"mode": "tune", "report": reports.append})
    expected, wanted = step(model, model, x)
    actual, got = step(compiled, model, x)
    for a, e in zip([actual, *got], [expected, *wanted], strict=True):
        assert (a - e).abs().max() <= 1e-5 * max(1.0, float(e.abs().max()))
    assert len(reports[0].applied) == 1


def test_without_a_compiler_inductor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "compiler_found", lambda: False)
    with pytest.raises(OptionError, match="needs a C\\+\\+ compiler"):
        planish.tune_mode(nn.Linear(1, 1), inner="inductor")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "train"}, "There is no mode 'train'"),
        ({"mode": "tune", "inner": "tvm"}, "There is no inner backend 'tvm'"),
        ({"mode": "tune", "inner": "eager", "tune": 3}, "Tune mode has no option 'tune'"),
        ({"mode": "tune", "inner": "eager", "report": 3}, "report=3 is not a function"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        torch.compile(nn.Linear(2, 2), backend="planish", options=options)(torch.zeros(1, 2))


def test_only_modules_are_tuned() -> None:
    with pytest.raises(OptionError, match=r"takes an nn\.Module, not a function"):
        planish.tune_mode(lambda x: x)  # type: ignore[arg-type]


def test_folded_weights_by_hand() -> None:
    """Scales 2 and 1/2 of two output channels; the bias is beta + c (b - mean)."""
    weight = torch.tensor([[[1.0]], [[3.0]]])
    mean, var = torch.tensor([1.0, -1.0]), torch.tensor([0.25, 4.0])
    w, b = fold_weights(weight, torch.tensor([3.0, 1.0]), mean, var, None, torch.tensor([10.0, 20.0]), 0.0, None)
    assert w.flatten().tolist() == [2.0, 1.5]
    assert b.tolist() == [14.0, 21.0]
    transposed, _ = fold_weights(weight.reshape(1, 2, 1), None, mean, var, None, None, 0.0, 1)
    assert transposed.flatten().tolist() == [2.0, 1.5]
