"""The algebra of linear operators over one input, in float64: convolutions, linear layers, affines, averages, pads.

    y[o, p]  =  bias[o, p] + sum over c, u of  weight[o, c, u] * x[c, stride * p + dilation * u - low]

x counts as zero outside its extents. Operators add, compose, scale and stack; each result is again of this form, or
a string that says why it is not. A bias that zero padding cuts at the border becomes a map over positions, so that
composition stays exact. A linear layer is the case of rank 0: no positions, one tap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .taps import Ints, convolved, laid, lattice


@dataclass(frozen=True, eq=False)
class Linear:
    """One operator; `weight` is [O, C/groups, *K], `bias` [O, *1] or [O, *target], both float64."""

    weight: Tensor
    bias: Tensor
    stride: Ints
    low: Ints
    dilation: Ints
    groups: int
    source: Ints
    """Extents of x."""
    target: Ints
    """Extents of y."""

    @property
    def rank(self) -> int:
        """How many axes of positions there are."""
        return len(self.stride)

    @property
    def outputs(self) -> int:
        """Channels of y."""
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        """Channels of x."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def taps(self) -> Ints:
        """Extents of the kernel."""
        return tuple(self.weight.shape[2:])

    @property
    def work(self) -> int:
        """Multiply-adds for one sample."""
        return self.weight.numel() * math.prod(self.target)

    @property
    def high(self) -> Ints:
        """How far beyond the end of x it reads; negative where it stops before the end."""
        axes = zip(self.target, self.stride, self.dilation, self.taps, self.low, self.source, strict=True)
        return tuple((out - 1) * s + d * (k - 1) + 1 - low - size for out, s, d, k, low, size in axes)

    @property
    def padded(self) -> tuple[bool, ...]:
        """For each axis, whether it reads anything outside x."""
        return tuple(low > 0 or high > 0 for low, high in zip(self.low, self.high, strict=True))

    @property
    def pointwise(self) -> bool:
        """Whether each element of y is made of the one element of x at its place: an affine map."""
        alone = self.weight.shape[1] == 1 and self.outputs == self.groups
        still = all(s == 1 for s in self.stride) and not any(self.low) and self.source == self.target
        return alone and still and math.prod(self.taps) == 1

    def uniform(self, eps: float) -> bool:
        """Whether the bias is the same at every position, up to `eps` of its largest value."""
        if self.bias[0].numel() == 1:
            return True
        flat = self.bias.reshape(self.outputs, -1)
        spread = (flat.amax(1) - flat.amin(1)).max()
        return bool(spread <= eps * flat.abs().max())

    def flat_bias(self) -> Tensor:
        """The bias [O] of a uniform operator: its value in the middle."""
        middle = self.bias.reshape(self.outputs, -1)
        return middle[:, middle.shape[1] // 2]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to float64 x of shape [N, C, *source] ([N, C] for rank 0)."""
        return _correlate(x, self) + self.bias


def identity(channels: int, extents: Sequence[int]) -> Linear:
    """y = x."""
    one = torch.ones(channels, dtype=torch.float64)
    return affine(one, torch.zeros_like(one), extents)


def affine(scale: Tensor, shift: Tensor, extents: Sequence[int]) -> Linear:
    """y[c] = scale[c] x[c] + shift[c]."""
    rank, size = len(extents), tuple(extents)
    weight = scale.to(torch.float64).reshape(-1, 1, *[1] * rank)
    bias = shift.to(torch.float64).reshape(-1, *[1] * rank)
    return Linear(weight, bias, (1,) * rank, (0,) * rank, (1,) * rank, len(weight), size, size)


def convolution(
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    extents: Sequence[int],
) -> Linear:
    """A convolution that pads with zeros; a linear layer when all the sequences are empty."""
    taps = weight.shape[2:]
    axes = zip(extents, padding, dilation, taps, stride, strict=True)
    target = tuple((size + 2 * pad - d * (k - 1) - 1) // s + 1 for size, pad, d, k, s in axes)
    wide = weight.detach().to(torch.float64)
    offset = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().to(torch.float64)
    offset = offset.reshape(-1, *[1] * len(taps))
    return Linear(wide, offset, tuple(stride), tuple(padding), tuple(dilation), groups, tuple(extents), target)


def average(
    channels: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], extents: Sequence[int]
) -> Linear:
    """Average pooling that counts the zeros of its padding and drops partial windows."""
    weight = torch.full((channels, 1, *kernel), 1.0 / math.prod(kernel), dtype=torch.float64)
    return convolution(weight, None, stride, padding, (1,) * len(extents), channels, extents)


def pad(
    channels: int, low: Sequence[int], high: Sequence[int], extents: Sequence[int], value: Tensor | None = None
) -> Linear:
    """x with a frame around it, of zeros or of one `value` for each channel; negative widths cut."""
    same = identity(channels, extents)
    target = tuple(size + a + b for size, a, b in zip(extents, low, high, strict=True))
    framed = replace(same, low=tuple(low), target=target)
    if value is None or not bool(value.any()):
        return framed
    inside = framed(torch.ones(1, channels, *extents, dtype=torch.float64))[0]
    return replace(framed, bias=(1 - inside) * value.to(torch.float64).reshape(-1, *[1] * len(target)))


def scale(op: Linear, factor: Tensor, shift: Tensor) -> Linear:
    """factor * op(x) + shift, per output channel."""
    factor, shift = (v.to(torch.float64).reshape(-1, *[1] * op.rank) for v in (factor, shift))
    return replace(op, weight=op.weight * factor.unsqueeze(1), bias=op.bias * factor + shift)


def regroup(op: Linear, groups: int) -> Linear:
    """The same operator with fewer groups (a divisor): blocks of the weight filled up with zeros."""
    merge = op.groups // groups
    if merge == 1:
        return op
    out, per = op.outputs // op.groups, op.weight.shape[1]
    blocks = op.weight.reshape(groups, merge, out, per, *op.taps)
    dense = blocks.new_zeros(groups, merge, out, merge, per, *op.taps)
    for i in range(merge):
        dense[:, i, :, i] = blocks[:, i]
    return replace(op, weight=dense.reshape(op.outputs, merge * per, *op.taps), groups=groups)


def add(a: Linear, b: Linear, sign: float = 1.0) -> Linear | str:
    """a(x) + sign * b(x): both kernels laid on the lattice that holds their taps."""
    if (a.inputs, a.outputs, a.source, a.target) != (b.inputs, b.outputs, b.source, b.target):
        return "their inputs or outputs differ in size"
    if a.stride != b.stride:
        return f"their strides {list(a.stride)} and {list(b.stride)} differ"
    groups = math.gcd(a.groups, b.groups)
    a, b = regroup(a, groups), regroup(b, groups)
    merged = [lattice((x.low[i], x.dilation[i], x.taps[i]) for x in (a, b)) for i in range(a.rank)]
    low, step, taps = (tuple(axis[i] for axis in merged) for i in range(3))
    weight = _laid(a, low, step, taps) + sign * _laid(b, low, step, taps)
    return replace(a, weight=weight, bias=a.bias + sign * b.bias, low=low, dilation=step)


def compose(second: Linear, first: Linear) -> Linear | str:
    """second(first(x)); exact, or the reason why it is no single operator."""
    if (first.outputs, first.target) != (second.inputs, second.source):
        return "the second does not read what the first makes"
    for axis, outside in enumerate(second.padded):
        ends = first.stride[axis] * first.target[axis] >= first.source[axis]
        if outside and (first.taps[axis] != 1 or first.low[axis] != 0 or not ends):
            return "the second pads what the first computes, where a kernel that spans both would see more of the input"
    axes = zip(first.stride, second.stride, first.low, second.low, strict=True)
    stride, low = zip(*((s1 * s2, l1 + s1 * l2) for s1, s2, l1, l2 in axes), strict=True) if first.rank else ((), ())
    groups = math.gcd(first.groups, second.groups)
    one, two = regroup(first, groups), regroup(second, groups)
    steps = tuple(_step(one, two, axis) for axis in range(first.rank))
    weight = _convolved(one, two, steps)
    bias = _through(second, first.bias) + second.bias
    return Linear(weight, bias, stride, low, steps, groups, first.source, second.target)


def stack(ops: Sequence[Linear]) -> Linear | str:
    """The outputs of several operators over one x, one after the other: a cat along the channels."""
    first = ops[0]
    for op in ops[1:]:
        same = (op.stride, op.low, op.dilation, op.taps, op.source, op.target)
        if same != (first.stride, first.low, first.dilation, first.taps, first.source, first.target):
            return "their kernels, strides, paddings or dilations differ"
        if (op.groups, op.inputs) != (1, first.inputs) or first.groups != 1:
            return "they have groups"
    shape = [max(op.bias.shape[i] for op in ops) for i in range(1, first.bias.dim())]
    bias = torch.cat([op.bias.expand(-1, *shape) for op in ops])
    return replace(first, weight=torch.cat([op.weight for op in ops]), bias=bias)


def rows(op: Linear, picked: slice) -> Linear | str:
    """The part of the outputs that a slice of the channels keeps."""
    indices = range(op.outputs)[picked]
    per = op.outputs // op.groups
    blocks = sorted({i // per for i in indices})
    if op.groups == 1:
        return replace(op, weight=op.weight[picked], bias=op.bias[picked])
    whole = list(indices) == list(range(blocks[0] * per, (blocks[-1] + 1) * per))
    if not whole or len(blocks) != op.groups:
        return "it keeps parts of groups"
    return op


def _laid(op: Linear, low: Ints, step: Ints, taps: Ints) -> Tensor:
    """The weight on a lattice that holds its taps."""
    starts = [(here - own) // hop for here, own, hop in zip(low, op.low, step, strict=True)]
    hops = [max(own // hop, 1) for own, hop in zip(op.dilation, step, strict=True)]
    return laid(op.weight, starts, hops, taps)


def _step(first: Linear, second: Linear, axis: int) -> int:
    """Dilation of the composed kernel along one axis."""
    hops = [first.dilation[axis]] if first.taps[axis] > 1 else []
    hops += [first.stride[axis] * second.dilation[axis]] if second.taps[axis] > 1 else []
    return math.gcd(*hops) or 1


def _convolved(first: Linear, second: Linear, steps: Ints) -> Tensor:
    """The kernel of second after first, its taps `steps` apart."""
    axes = zip(first.dilation, first.stride, second.dilation, steps, strict=True)
    hops = [(max(one // step, 1), max(stride * two // step, 1)) for one, stride, two, step in axes]
    return convolved(first.weight, second.weight, first.groups, hops)


def _through(op: Linear, bias: Tensor) -> Tensor:
    """What a bias of the input adds to the output: a number per channel, or a map where padding cuts it."""
    if not bool(bias.any()):
        return torch.zeros_like(op.bias)
    if bias[0].numel() == 1 and not any(op.padded):
        sums = op.weight.reshape(op.groups, -1, op.weight.shape[1], math.prod(op.taps)).sum(3)
        moved = torch.einsum("goc,gc->go", sums, bias.reshape(op.groups, -1))
        return moved.reshape(-1, *[1] * op.rank)
    return _correlate(bias.expand(-1, *op.source).unsqueeze(0), op)[0]


_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {
    1: torch.nn.functional.conv1d,
    2: torch.nn.functional.conv2d,
    3: torch.nn.functional.conv3d,
}


def _correlate(x: Tensor, op: Linear) -> Tensor:
    """The operator without its bias."""
    if op.rank == 0:
        grouped = x.reshape(len(x), op.groups, -1)
        weight = op.weight.reshape(op.groups, -1, op.weight.shape[1])
        return torch.einsum("ngc,goc->ngo", grouped, weight).reshape(len(x), -1)
    frame = [width for pair in zip(reversed(op.low), reversed(op.high), strict=True) for width in pair]
    framed = torch.nn.functional.pad(x, frame)
    return _CONVOLUTIONS[op.rank](framed, op.weight, None, op.stride, 0, op.dilation, op.groups)
