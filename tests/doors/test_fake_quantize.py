"""planish.fake_quantize: a module that trains in integers, its state, and the artifact that is made of it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from written_codes import Written, qdq

import planish
from planish.errors import CaptureError, ModelError, NoIntegerForm, OptionError, PlanishError, QuantizationError
from planish.ir.interpret import eager
from planish.options import check_options

SETTINGS = planish.Quantization(measure=False)


class Residual(nn.Module):
    """Everything that rounds in its own way: a sum, a table, a gate, a mean; batch norms in all places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        y = nn.functional.hardswish(self.bn2(self.deep(x)))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head((x + y).mean((2, 3)))


class Tokens(nn.Module):
    """Attention, norms of their own operators, and a temperature that becomes a number."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.block = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.scale, self.head = nn.Parameter(torch.tensor(1.5)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.block(y, y, y, need_weights=False)[0]
        return self.head(nn.functional.gelu(x) * self.scale)


def data(batch: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def residual() -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    for norm in (model.bn1, model.bn2):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.running_mean, std=0.1)  # type: ignore[arg-type]
    return model.eval()


def tokens() -> nn.Module:
    torch.manual_seed(0)
    return Tokens().eval()


def make(model: nn.Module | None = None, **options: Any) -> Any:
    given = {"calibration": [data()], "precision": SETTINGS, **options}
    return planish.fake_quantize(model or residual(), data(), **given)


def step(module: nn.Module, x: Tensor, rate: float = 1e-2) -> None:
    optimizer = torch.optim.Adam((p for p in module.parameters() if p.requires_grad), rate)
    module(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def reference(module: Any, x: Tensor) -> Tensor:
    """What the integer program of the module gives by the references of its operators."""
    options = check_options({"precision": SETTINGS})
    (result,) = eager(module.planish_integers(x, None, options)[1].integer, [x])
    return result


@pytest.mark.parametrize("ranges", ["learned", "ema"])
def test_trained_module_and_its_artifact(ranges: str) -> None:
    """Of another batch size, after training; every parameter moves, and batch norms keep their statistics."""
    module = make(ranges=ranges).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for seed in range(3):
        step(module, data(seed=seed))
    module.eval()
    x = data(1, seed=9)
    y = module(x)
    assert torch.equal(y, reference(module, x))
    compiled = planish.compile(module, x, precision=planish.Quantization(measure=False), verify=True)
    assert torch.equal(compiled(x), y)
    assert not torch.equal(y, make().eval()(x))
    assert compiled.manifest["options"]["quantization"]["correct_bias"] is False
    after = module.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert moved >= {name for name, _ in residual().named_parameters()}
    assert "quantized_ranges.hardswish_range" in moved
    assert not any("running" in name for name in moved)


def test_untrained_it_is_what_calibration_alone_gives() -> None:
    how = planish.Quantization(correct_bias=False, measure=False)
    compiled = planish.compile(residual(), data(), precision=how, calibration=[data()])
    assert torch.equal(make(precision=how)(data(seed=5)), compiled(data(seed=5)))


def test_attention_and_a_parameter_that_is_a_number() -> None:
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
    module: Any = planish.fake_quantize(tokens(), x, calibration=[x], precision=SETTINGS)
    step(module, x)
    assert torch.equal(module(x), reference(module, x))
    assert module.frozen == {"scale"}
    before = module(x).detach()
    with torch.no_grad():
        module.scale.mul_(2)  # a checkpoint may have another one: then the graph is made anew
    assert torch.equal(module(x), reference(module, x))
    assert (module(x) - before).norm() > 0.3 * before.norm()


def test_state_and_copies() -> None:
    """The model's own names and ranges; a checkpoint goes back into the model, and into another module."""
    model = residual()
    module = make(model)
    step(module, data())
    state = module.state_dict()
    own = {name: tensor for name, tensor in state.items() if not name.startswith("quantized_ranges.")}
    assert own.keys() == model.state_dict().keys()
    assert all(name.endswith("_range") for name in state.keys() - own.keys())
    residual().load_state_dict(own)
    other = make()
    other.load_state_dict(state)
    for twin in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(data(seed=7)), module(data(seed=7)))
    step(copied := copy.deepcopy(module), data())
    assert not torch.equal(copied.stem.weight, module.stem.weight)
    assert torch.equal(module(data()), reference(module, data()))


def test_modes() -> None:
    """Ranges follow the data in train mode alone, a tenth of the way; learned ones only an optimizer moves."""
    x = 3 * data(seed=4)
    module = make(ranges="ema", precision=planish.Quantization(observer="minmax", measure=False)).train()
    least, most = module.quantized_ranges.x_range.tolist()
    assert (least, most) == (float(data().min()), float(data().max()))
    module(x)
    wanted = [0.9 * least + 0.1 * float(x.min()), 0.9 * most + 0.1 * float(x.max())]
    assert module.quantized_ranges.x_range.tolist() == pytest.approx(wanted, rel=1e-6)
    assert not list(module.quantized_ranges.parameters())
    for still in (module.eval(), make().train()):
        before = still.quantized_ranges.x_range.clone()
        still(x)
        assert torch.equal(still.quantized_ranges.x_range, before)
    with pytest.raises(QuantizationError, match=r"is NaN or infinite"):
        module.train()(torch.full_like(x, float("inf")))


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ((0.0, 0.0), r"0\.\.0, has shrunk to zero"),
        ((-1e-30, 1e-30), r"-1e-30\.\.1e-30, has shrunk to zero"),
        ((0.5, 0.25), r"0\.5\.\.0\.25, begins above its end"),
        ((-1.0, float("nan")), r"-1\.\.nan, is NaN or infinite"),
    ],
)
@pytest.mark.parametrize("ranges", ["learned", "ema"])
def test_ranges_that_training_brought_to_nothing(ranges: str, pair: tuple[float, float], says: str) -> None:
    """Named by layer, whether the module is called or compiled; layers that may be in float are no way out."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    how = planish.Quantization(integer_only=False, measure=False)
    module = make(model, precision=how, ranges=ranges)
    name = next(name for name, end in module.quantized_ranges.ends().items() if name.startswith("relu"))
    with torch.no_grad():
        module.quantized_ranges.ends()[name].copy_(torch.tensor(pair))
    for use in (lambda: module(data()), lambda: planish.compile(module, data(), precision=how)):
        with pytest.raises(QuantizationError, match=rf"^1 \({name}\): its range in training, {says}") as caught:
            use()
        assert ("ranges='ema'" in caught.value.todo) is (ranges == "learned")


def test_shared_parameters_and_gradients_of_inputs() -> None:
    """The module trains the model's own parameters; without grad mode nothing is kept for a backward pass."""
    model = residual()
    module = make(model)
    assert module.stem.weight is model.stem.weight
    x = data().requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
    with torch.no_grad():
        assert module(x).grad_fn is None
    assert not model.training


def test_layers_in_float() -> None:
    """What stays in float gets the gradients of float, and rounds nothing."""
    how = planish.Quantization(keep_float=("gate",), integer_only=False, measure=False)
    module = make(precision=how)
    step(module, data())
    options = check_options({"precision": how})
    (wanted,) = eager(module.planish_integers(data(), None, options)[1].integer, [data()])
    assert torch.equal(module(data()), wanted)
    assert {name for name in module.keep if name.startswith("convolution")}


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x @ x.transpose(2, 3) + torch.eye(6))


class Taken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quantized_ranges = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.quantized_ranges(x)
        return y


@pytest.mark.parametrize(
    ("model", "options", "error", "says"),
    [
        (Branches().eval(), {}, CaptureError, "branches on a value"),
        (Inverse().eval(), {}, NoIntegerForm, "linalg_inv"),
        (Taken().eval(), {}, ModelError, "'quantized_ranges' of its own"),
        (nn.Conv2d(3, 3, 1).eval(), {"calibration": None}, OptionError, "needs calibration data"),
        (nn.Conv2d(3, 3, 1).eval(), {"precision": "float32", "calibration": None}, OptionError, "no codes to train"),
        (nn.Conv2d(3, 3, 1).eval(), {"ranges": "fixed"}, OptionError, "'learned' nor 'ema'"),
        (nn.Conv2d(3, 3, 1).eval(), {"precision": planish.Quantization(evaluate=len)}, OptionError, "evaluate chooses"),
        (nn.Conv2d(3, 3, 1).eval(), {"precision": planish.Quantization(equalize=True)}, OptionError, "equalize"),
        ("model.pt2", {}, ModelError, "A str cannot be trained"),
        (Written(lambda m, x: m.conv(qdq(x, 0.02, 120))).eval(), {}, ModelError, "codes that others gave it"),
    ],
)
def test_refused(model: Any, options: dict[str, Any], error: type[PlanishError], says: str) -> None:
    with pytest.raises(error, match=says):
        make(model, **options)


def test_what_a_module_leaves_to_the_compiler() -> None:
    module = make(nn.Conv2d(3, 3, 1).eval())
    with pytest.raises(OptionError, match="calibration means nothing for a fake-quantized module"):
        planish.compile(module, data(), precision="int8", calibration=[data()])
    with pytest.raises(OptionError, match="trained for other integers"):
        planish.compile(module, data())
    with pytest.raises(ModelError, match="compiled to integers alone"):
        planish.rewrite(module, data())
    with pytest.raises(ModelError, match="cannot be trained in integers"):
        make(module)
