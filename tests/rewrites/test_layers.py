"""What torch.export really makes of torch.nn: captured, normalized, verified; same bits where nothing is reordered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import assert_close_to_reference
from rewriting import op_names
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from planish.ir.capture import capture
from planish.ir.interpret import eager, reference
from planish.ir.program import Stage
from planish.passes.manager import run_passes
from planish.passes.pipelines import NORMALIZE


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Call it."""
        return self.function(*inputs)


class Each(nn.Module):
    """Several layers on one input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> list[Any]:
        """The results, in order."""
        return [layer(x) for layer in self.layers]


Tensors = tuple[torch.Tensor, ...]


def normalized(model: nn.Module, *inputs: torch.Tensor) -> tuple[Tensors, Tensors, list[str]]:
    """Flat outputs before and after, compared; and the ops that are left."""
    generator = torch.Generator().manual_seed(0)
    for parameter in [*model.parameters(), *model.buffers()]:
        if parameter.is_floating_point():
            parameter.data = torch.rand(parameter.shape, generator=generator) + 0.25
    captured = capture(model.eval(), inputs)
    program = run_passes(captured, NORMALIZE, verify=True)
    assert program.stage == Stage.NORMALIZED
    before, after = eager(captured, inputs), eager(program, inputs)
    assert_close_to_reference(after, reference(captured, inputs), tuple(tree_leaves(model(*inputs))))
    return before, after, sorted(set(op_names(program)))


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


X, TOKENS = image(2, 4, 8, 8), image(2, 5, 6)

BITS = {
    "convolutions": (
        Each(
            nn.Conv2d(4, 6, 3, padding=1, stride=2),
            nn.Conv2d(4, 4, 3, groups=4, padding="same", bias=False),
            nn.Conv2d(4, 4, 4, padding="same", dilation=1),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        ),
        X,
        ["cat", "constant_pad_nd", "convolution", "pad", "slice"],
    ),
    "lines": (
        Each(
            nn.Conv1d(5, 4, 3), nn.ConvTranspose1d(5, 4, 3), nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1)
        ),
        TOKENS,
        ["avg_pool1d", "convolution", "max_pool1d", "mean"],
    ),
    "volumes": (
        Each(nn.Conv3d(2, 2, 3), nn.MaxPool3d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(1), nn.ReplicationPad3d(1)),
        image(1, 2, 4, 4, 4),
        ["avg_pool3d", "convolution", "max_pool3d", "mean", "pad"],
    ),
    "norms": (
        Each(
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4, affine=False),
            nn.InstanceNorm2d(4, track_running_stats=True),
            nn.GroupNorm(2, 4),
            nn.LayerNorm(8),
            nn.RMSNorm(8),
        ),
        X,
        ["batch_norm", "group_norm", "layer_norm", "rms_norm"],
    ),
    "pools": (
        Each(
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            nn.AdaptiveAvgPool2d(1),
            nn.AdaptiveAvgPool2d(4),
            nn.AdaptiveAvgPool2d(3),
            nn.AdaptiveMaxPool2d(2),
            nn.AdaptiveMaxPool2d(1),
        ),
        X,
        ["adaptive_avg_pool2d", "amax", "avg_pool2d", "max_pool2d", "mean"],
    ),
    "shapes": (
        Each(
            nn.PixelShuffle(2),
            nn.PixelUnshuffle(2),
            nn.ChannelShuffle(2),
            nn.Flatten(),
            nn.Unflatten(1, (2, 2)),
            nn.ZeroPad2d((1, 0, 2, 0)),
            nn.ConstantPad2d((1, -1, 0, 0), 2.0),
            nn.CircularPad2d(1),
            nn.Dropout2d(),
            nn.AlphaDropout(),
            nn.Identity(),
        ),
        X,
        ["cat", "constant_pad_nd", "permute", "reshape", "slice"],
    ),
    "activations": (
        Each(
            *(nn.ReLU(), nn.ReLU6(), nn.Hardtanh(), nn.LeakyReLU(), nn.RReLU(), nn.PReLU(), nn.Threshold(0.1, 2.0)),
            *(nn.ELU(), nn.CELU(2.0), nn.SELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Hardswish()),
            *(nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.Tanhshrink(), nn.Softsign(), nn.Softplus(), nn.GLU()),
            *(nn.Softshrink(), nn.Hardshrink(), nn.Softmax(-1), nn.Softmin(-1), nn.LogSoftmax(1)),
        ),
        TOKENS,
        None,
    ),
    "transformer": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, activation="gelu"), 2),
        TOKENS,
        [
            "add",
            "gelu",
            "layer_norm",
            "linear",
            "permute",
            "reshape",
            "scaled_dot_product_attention",
            "slice",
        ],
    ),
    "embedding": (nn.Embedding(10, 3, padding_idx=0), torch.tensor([[1, 2], [0, 9]]), ["embedding"]),
}


@pytest.mark.parametrize("name", BITS)
def test_layers_that_keep_their_bits(name: str) -> None:
    model, x, ops = BITS[name]
    before, after, left = normalized(model, x)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert ops is None or left == ops


ROUNDS = {
    "statistics of the batch": (
        Each(nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4, affine=True)),
        (X,),
        {"batch_norm", "instance_norm"},
    ),
    "attention with weights": (
        nn.MultiheadAttention(6, 2, batch_first=True),
        (TOKENS, TOKENS, TOKENS),
        {"bmm", "softmax"},
    ),
    "recurrent": (nn.LSTM(6, 4, bidirectional=True, batch_first=True), (TOKENS,), {"lstm", "getitem", "zeros"}),
    "bilinear": (nn.Bilinear(6, 6, 3), (TOKENS, TOKENS), {"bilinear", "_trilinear"}),
    "norms of vectors": (
        Function(lambda x: (F.normalize(x, dim=-1), x.norm(dim=1), F.cosine_similarity(x, x.flip(0)), x.std(-1))),
        (TOKENS,),
        {"linalg_vector_norm", "norm", "std", "cosine_similarity"},
    ),
    "resizing": (
        Each(
            nn.Upsample(scale_factor=2),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Upsample(size=5, mode="bicubic"),
        ),
        (X,),
        {"upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d"},
    ),
    "products": (
        Function(
            lambda a, b: (
                *(a @ b, a @ b[0], torch.mm(a[0], b[0]), torch.baddbmm(a @ b, a, b, beta=2, alpha=3)),
                *(torch.addmm(a[0] @ b[0], a[0], b[0]), a[0, 0] @ b[0], a[0, 0] @ b[0, :, 0]),
                *(torch.einsum("bij,bjk->bik", a, b), torch.outer(a[0, 0], b[0, :, 0])),
            )
        ),
        (image(2, 3, 4), image(2, 4, 3)),
        {"mm", "bmm", "baddbmm", "addmm", "mv", "dot", "einsum", "outer"},
    ),
    "log sigmoid": (nn.LogSigmoid(), (TOKENS,), {"log_sigmoid", "log_sigmoid_forward"}),
    "a weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), (TOKENS,), {"_weight_norm"}),
}


@pytest.mark.parametrize("name", ROUNDS)
def test_layers_that_round_otherwise(name: str) -> None:
    model, inputs, gone = ROUNDS[name]
    _, _, left = normalized(model, *inputs)
    assert gone.isdisjoint(left)


def writes(x: torch.Tensor) -> torch.Tensor:
    """In-place writes into parts."""
    y = x.clone()
    y[:, 1:3] = 0
    y[:, :, 0] = x[:, :, 1]
    y[..., ::2] += 1
    y[:, torch.tensor([0, -1])] = 2
    return y


def masked(x: torch.Tensor) -> torch.Tensor:
    """A causal mask made in the forward pass."""
    allowed = torch.ones(5, 5).tril().bool()
    scores = (x @ x.transpose(1, 2)).masked_fill(~allowed, float("-inf"))
    return scores.softmax(-1) @ x


def numbers(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Numbers on either side, as Python numbers and as tensors."""
    half = torch.tensor(0.5)
    return (1 - x, 1 / x, 2 * x, x + half, half * x, half - x, x / half, x**2, x // 2, x % 2, x * 1, x + 0, x - 0.0)


def parts(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Splitting, stacking, repeating."""
    left, right = x.chunk(2, -1)
    again = torch.stack([left, right], 1).unbind(1)
    both = torch.hstack([again[0], again[1]])
    return both.repeat(1, 2, 1), x.repeat_interleave(2, 1), x.unfold(2, 3, 2), x.movedim(0, -1), torch.cat([x, x[:0]])


@pytest.mark.parametrize("function", [writes, numbers, parts])
def test_functions_that_keep_their_bits(function: Callable[..., Any]) -> None:
    before, after, _ = normalized(Function(function), TOKENS)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_mask_made_in_the_forward_pass() -> None:
    _, _, left = normalized(Function(masked), TOKENS)
    assert {"masked_fill", "softmax", "bmm", "zeros", "ones"}.isdisjoint(left)
