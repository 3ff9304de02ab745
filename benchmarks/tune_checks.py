"""Gradients of Tune mode and of inductor's own pass against eval mode, in float64: right, wrong, or no answer.

error = max over parameters of max|g - eval's g| / max|eval's g|
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Check:
    """What became of one network's gradients under both passes: the error, or what was raised."""

    name: str
    own: str
    tune: str

    def to_json(self) -> dict[str, str]:
        """A plain dict."""
        return asdict(self)


def whole_network(case: Case) -> Check:
    """The case's model at batch 2."""
    model, args, _ = replace(case, batch=2).sample()
    return check(f"{case.model}, batch 2", model.double(), [a.double() for a in args])


def hard_networks() -> list[Check]:
    """Those that inductor's pass gets wrong or stops at."""
    found = []
    for name, (make, shape) in HARD.items():
        torch.manual_seed(0)
        model = _shaken(make())
        found.append(check(name, model, [torch.randn(shape, dtype=torch.float64)]))
    return found


def check(name: str, model: nn.Module, inputs: Sequence[Tensor]) -> Check:
    """Both passes on one model in eval mode."""
    import planish

    expected = gradients(copy.deepcopy(model), lambda m: m, inputs)
    ways: list[Callable[[Any], Any]] = [lambda m: torch.compile(m, backend=own_pass), planish.tune_mode]
    return Check(name, *(_outcome(model, way, inputs, expected) for way in ways))


def _outcome(model: nn.Module, way: Callable[[Any], Any], inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> str:
    torch._dynamo.reset()
    try:
        return f"{error(gradients(copy.deepcopy(model), way, inputs), expected):.1e}"
    except Exception as raised:  # whatever a pass does to a graph; the table says it
        return f"{type(raised).__name__}"
    finally:
        torch._dynamo.reset()


def own_pass(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
    """A torch.compile backend: what inductor's pass makes of the graph, run by eager."""
    from torch._inductor import config
    from torch._inductor.fx_passes.pre_grad import pre_grad_passes

    with config.patch(efficient_conv_bn_eval_fx_passes=True):
        return torch.fx.Interpreter(pre_grad_passes(gm, example_inputs)).run  # its nodes have no text form


def gradients(model: nn.Module, way: Callable[[Any], Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The output, and the gradient of every parameter that has one."""
    out = way(model)(*inputs)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    (out * weights).sum().backward()
    return [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst tensor's largest difference over its scale."""
    pairs = zip(found, expected, strict=True)
    return max(
        float((a.double() - e.double()).abs().max() / e.double().abs().max().clamp(min=1e-300)) for a, e in pairs
    )


def _shaken(model: nn.Module) -> nn.Module:
    """In eval mode, in float64, with statistics and affines that are not the initial ones."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return model.double().eval()


class ByKeyword(nn.Module):
    """A convolution whose arguments have names."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(6))
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        """Stride 2."""
        return self.norm(F.conv2d(x, self.weight, bias=self.bias, stride=2))


class Written(nn.Module):
    """Statistics that change between the convolution and the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """The mean moves."""
        y = self.conv(x)
        with torch.no_grad():
            self.norm.running_mean.add_(1.0).mul_(0.5)  # type: ignore[union-attr, operator]
        return self.norm(y)


HARD: dict[str, tuple[Make, tuple[int, ...]]] = {
    "conv, norm": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), (2, 4, 7, 7)),
    "transposed conv of 2 groups": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 5, 5),
    ),
    "transposed depthwise conv": (
        lambda: nn.Sequential(nn.ConvTranspose2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)), (2, 6, 5, 5),
    ),
    "linear, norm over positions": (lambda: nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6)), (2, 6, 3)),
    "linear, norm over fewer positions": (lambda: nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(5)), (2, 5, 3)),
    "arguments by keyword": (ByKeyword, (2, 4, 7, 7)),
    "statistics written between": (Written, (2, 4, 7, 7)),
}  # fmt: skip
