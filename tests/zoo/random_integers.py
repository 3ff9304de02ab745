"""Random integer programs: a seed decides the operators, their constants, how they are wired, and which values leave.

    random_integers(seed) -> (Program at stage QUANTIZED, inputs...)

Each step takes values made before and makes a new one, by running the reference. Sums are mostly requantized at once,
as in real networks; shapes stay small and odd, so small that no accumulator can leave 32 bits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from planish.ir.program import Program
from planish.ir.quantized.operators import OPERATORS
from planish.ir.text import parse_program

assert OPERATORS  # registered by their import
U8, S8, S16, S32 = torch.uint8, torch.int8, torch.int16, torch.int32
NAMES = {U8: "u8", S8: "i8", S16: "i16", S32: "i32", torch.int64: "i64", torch.float32: "f32", torch.bool: "b"}
SPANS = {U8: (0, 255), S8: (-128, 127), S16: (-(2**15), 2**15 - 1)}
MOST = 4000
"""Elements of a value."""


@dataclass(frozen=True)
class Value:
    """A value of the program: its name, and what the reference makes of the first input."""

    name: str
    tensor: Tensor


class Recorder:
    """Runs operators and writes down their calls."""

    def __init__(self, seed: int) -> None:
        """One or two inputs of 8 or 16 bits."""
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.lines: list[str] = []
        self.constants: dict[str, Tensor] = {}
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        for number in range(self.random.choice((1, 1, 2))):
            shape = (self.random.choice((1, 2)), self.random.choice((3, 5, 16, 19)), 7, self.random.choice((5, 8)))
            value = Value(f"x{number}", self.codes(shape, self.random.choice((U8, U8, S8, S16))))
            self.inputs.append(value)
            self.values.append(value)

    def codes(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Random codes over all of a dtype."""
        low, high = SPANS[dtype]
        return torch.randint(low, high + 1, shape, generator=self.generator).to(dtype)

    def call(self, operator: str, *args: Any) -> Value:
        """The value of an operator; tensors among the arguments are constants."""
        space, _, name = operator.rpartition("::")
        name, _, overload = name.partition(".")
        op = getattr(getattr(getattr(torch.ops, space or "aten"), name), overload or "default")
        result = op(*(_plain(arg) for arg in args))
        value = Value(f"v{len(self.lines)}", result)
        held = ", ".join(self.text(arg) for arg in args)
        self.lines.append(f"  %{value.name}: {_type(result)} = {operator}({held})")
        self.values.append(value)
        return value

    def text(self, arg: Any) -> str:
        """An argument as the text form has it."""
        if isinstance(arg, Value):
            return f"%{arg.name}"
        if isinstance(arg, Tensor):
            name = f"c{len(self.constants)}"
            self.constants[name] = arg
            return f"@{name}"
        if isinstance(arg, (list, tuple)):
            return f"[{', '.join(map(self.text, arg))}]"
        if isinstance(arg, torch.dtype):
            return NAMES[arg]
        return {None: "none", True: "true", False: "false"}.get(arg, repr(arg)) if not _number(arg) else repr(arg)

    def program(self, results: list[Value]) -> Program:
        """The program that returns these values."""
        inputs = ", ".join(f"%{v.name}: {_type(v.tensor)}" for v in self.inputs)
        constants = [f"  @{name}: {_type(tensor)}" for name, tensor in self.constants.items()]
        returned = ", ".join(f"%{v.name}" for v in results)
        text = "\n".join([f"program({inputs}) quantized {{", *constants, *self.lines, f"  return ({returned})", "}"])
        return parse_program(text, self.constants)


def random_integers(seed: int, steps: int = 9) -> tuple[Program, list[tuple[Tensor, ...]]]:
    """A program and several sets of inputs: random ones, the ends of their ranges, and an impulse."""
    r = Recorder(seed)
    while len(r.lines) < steps:
        step = r.random.choice(STEPS)
        value = r.values[max(r.random.randrange(len(r.values)) for _ in range(3))]
        if value.tensor.dtype == S32 and r.random.random() < 0.8:
            step = r.random.choice((requantize, requantize, add))
        step(r, value)
    results = sorted({len(r.values) - 1, *r.random.sample(range(len(r.inputs), len(r.values)), 2)})
    return r.program([r.values[i] for i in results]), list(_inputs(r))


def _inputs(r: Recorder) -> Iterator[tuple[Tensor, ...]]:
    yield tuple(v.tensor for v in r.inputs)
    for pick in (0, 1):
        yield tuple(torch.full_like(v.tensor, SPANS[v.tensor.dtype][pick]) for v in r.inputs)
    impulse = tuple(torch.zeros_like(v.tensor) for v in r.inputs)
    for tensor in impulse:
        tensor.view(-1)[tensor.numel() // 3] = SPANS[tensor.dtype][1]
    yield impulse


def zero(r: Recorder, value: Value) -> int:
    """A zero point for a value."""
    return 0 if value.tensor.dtype == S32 else r.random.choice((0, r.random.randint(*SPANS[value.tensor.dtype])))


def bounds(r: Recorder) -> tuple[int, int, int, torch.dtype]:
    """zero, low, high, dtype of a result."""
    dtype = r.random.choice((U8, U8, U8, S8, S16))
    low, high = SPANS[dtype]
    middle = r.random.randint(low, high)
    return (middle, r.random.choice((low, middle)), r.random.choice((high, max(middle, high - 40))), dtype)


def channels(r: Recorder, value: Value) -> tuple[int, ...]:
    """The shape of a constant: one, or one a channel."""
    rank = value.tensor.dim()
    return () if rank < 3 or r.random.random() < 0.3 else (value.tensor.shape[1], *(1,) * (rank - 2))


def numbers(r: Recorder, shape: tuple[int, ...], low: int, high: int) -> Tensor:
    """int64 constants."""
    return torch.randint(low, high, shape, generator=r.generator)


def requantize(r: Recorder, x: Value) -> None:
    """To about 8 bits, by any shifts or by those of real networks."""
    shape = channels(r, x)
    size = max(int(x.tensor.to(torch.int64).abs().max()), 1).bit_length()
    least = max(30 + size - 8, 1)
    shifts = numbers(r, shape, *r.random.choice(((least, least + 3), (max(33, least), max(33, least) + 2), (20, 66))))
    r.call("planish::requantize", x, numbers(r, shape, 2**30, 2**31), shifts, zero(r, x), *bounds(r))


def add(r: Recorder, a: Value) -> None:
    """With a value of its shape, or what broadcasts to it."""
    others = [v for v in r.values if _broadcasts(v, a)]
    b, shape = r.random.choice(others), channels(r, a)
    factors = [numbers(r, shape, -(2**k), 2**k) for k in r.random.choice(((29, 29), (25, 30), (30, 20)))]
    shift = numbers(r, shape, *r.random.choice(((28, 40), (33, 36), (29, 63))))
    r.call("planish::add", a, b, *factors, shift, zero(r, a), zero(r, b), *bounds(r))


def convolution(r: Recorder, x: Value) -> None:
    """Of images: dense, grouped, depthwise or transposed."""
    c = x.tensor.shape[1] if x.tensor.dim() == 4 else 0
    if c == 0 or min(x.tensor.shape[2:]) < 3 or not _sums_fit(x, 9 * c):
        return
    kind = r.random.choice(("dense", "dense", "pointwise", "depthwise", "transposed"))
    out = r.random.choice((4, 16, 21))
    kernel = [1, 1] if kind == "pointwise" else r.random.choice(([3, 3], [3, 2]))
    groups, turned = (c if kind == "depthwise" else 1), kind == "transposed"
    shape = (c, out, *kernel) if turned else (c if groups > 1 else out, c // groups, *kernel)
    bias = r.random.choice((None, numbers(r, (out if groups == 1 else c,), -5000, 5000).to(S32)))
    stride, pad = r.random.choice(([1, 1], [2, 2], [2, 1])), [min(k // 2, r.random.randint(0, 1)) for k in kernel]
    geometry = (stride, pad, [1, 1], turned, [0, 0], groups)
    r.call("planish::convolution", x, r.codes(shape, S8), bias, zero(r, x), *geometry)


def linear(r: Recorder, x: Value) -> None:
    """Along the last axis."""
    if x.tensor.dim() > 1 and _sums_fit(x, x.tensor.shape[-1]):
        w = r.codes((r.random.choice((5, 16, 18)), x.tensor.shape[-1]), S8)
        r.call("planish::linear", x, w, numbers(r, (len(w),), -9000, 9000).to(S32), zero(r, x))


def matmul(r: Recorder, a: Value) -> None:
    """With the transposition of an int8 value of as long rows."""
    last = a.tensor.shape[-1]
    others = [v for v in r.values if v.tensor.dtype == S8 and v.tensor.dim() == 4 and v.tensor.shape[-1] == last]
    if a.tensor.dim() == 4 and others and _sums_fit(a, last):
        b = r.random.choice(others)
        if a.tensor.shape[:2] == b.tensor.shape[:2]:
            r.call("planish::matmul", a, r.call("permute", b, [0, 1, 3, 2]), zero(r, a))


def mul(r: Recorder, a: Value) -> None:
    """By a value of its shape, or what broadcasts to it."""
    others = [v for v in r.values if _broadcasts(v, a) and v.tensor.dtype != S32]
    if a.tensor.dtype != S32 and others:
        b = r.random.choice(others)
        r.call("planish::mul", a, b, zero(r, a), 0)


def mean(r: Recorder, x: Value) -> None:
    """The sum over an image, requantized."""
    if x.tensor.dim() == 4 and x.tensor.dtype != S32:
        requantize(r, r.call("planish::sum", x, r.random.choice(([2, 3], [1], [3])), True, zero(r, x)))


def pool(r: Recorder, x: Value) -> None:
    """Largest codes or sums of windows."""
    if x.tensor.dim() != 4 or x.tensor.dtype == S32 or min(x.tensor.shape[2:]) < 3:
        return
    window = ([3, 2], r.random.choice(([1, 1], [2, 2])), [1, 1])
    if r.random.random() < 0.5:
        r.call("planish::max_pool", x, *window, [1, 1], r.random.random() < 0.5)
    else:
        r.call("planish::sum_pool", x, zero(r, x), *window, r.random.random() < 0.5)


def function(r: Recorder, x: Value) -> None:
    """By a table or a curve."""
    if x.tensor.dtype in (U8, S8):
        r.call("planish::lookup", x, r.codes((256,), r.random.choice((U8, S8, S16))))
    elif x.tensor.dtype == S16:
        table = torch.stack([numbers(r, (512,), -(2**k), 2**k) for k in (29, 20, 12)], 1).to(S32)
        r.call("planish::curve", x, table, 14, -20000, 30000, S16)


def rows(r: Recorder, x: Value) -> None:
    """Softmax, or a norm of the last axis."""
    kind = r.random.choice(("softmax", "layer_norm", "rms_norm"))
    if kind == "softmax" or x.tensor.dtype == S32:
        dim = r.random.randrange(x.tensor.dim())
        bits, dtype = r.random.choice(((8, U8), (15, S16)))
        r.call(
            "planish::softmax", x, None, r.random.randint(2**30, 2**31 - 1), r.random.choice((9, 12)), dim, bits, dtype
        )
    else:
        count = (x.tensor.shape[-1],)
        gain, offset = numbers(r, count, -(2**25), 2**25), numbers(r, count, -(2**40), 2**40)
        r.call(f"planish::{kind}", x, gain, offset, 1, zero(r, x), 1 << 20, 44, *bounds(r))


def resize(r: Recorder, x: Value) -> None:
    """Any two places of an axis, weighted."""
    if x.tensor.dtype != S32:
        dim = r.random.randrange(1, x.tensor.dim())
        places = numbers(r, (2, 2 * x.tensor.shape[dim] - 1), 0, x.tensor.shape[dim])
        if 2 * x.tensor.numel() <= MOST:
            r.call("planish::resize", x, places, numbers(r, tuple(places.shape), -9, 99).to(S32), dim, zero(r, x))


def move(r: Recorder, x: Value) -> None:
    """ATen's operators on codes."""
    rank = x.tensor.dim()
    if rank != 4:
        return
    pads = [1, 1, 0, 1]
    name, *args = r.random.choice(
        (
            ("permute", [0, 2, 3, 1]),
            ("permute", [0, 1, 3, 2]),
            ("reshape", [x.tensor.shape[0], x.tensor[0].numel()]),
            ("slice.Tensor", 1, 1, x.tensor.shape[1], 2),
            ("flip", [3]),
            ("constant_pad_nd", pads, 5),
            ("clamp", 3, 90),
        )
    )
    if x.tensor.shape[1] > 1:
        r.call(name, x, *args)


def concat(r: Recorder, x: Value) -> None:
    """With values of its dtype that differ in channels alone."""
    if x.tensor.dim() == 4:
        like = (x.tensor.dtype, x.tensor.shape[0], x.tensor.shape[2:])
        same = [
            v
            for v in r.values
            if v.tensor.dim() == 4 and like == (v.tensor.dtype, v.tensor.shape[0], v.tensor.shape[2:])
        ]
        parts = [x, *r.random.sample(same, min(len(same), 2))]
        if sum(v.tensor.numel() for v in parts) <= MOST:
            r.call("cat", parts, 1)


STEPS: tuple[Callable[[Recorder, Value], None], ...] = (
    convolution, convolution, convolution, linear, matmul, mul, mean, pool, function, rows, resize, move, concat, add,
    requantize,
)  # fmt: skip


def _sums_fit(x: Value, count: int) -> bool:
    """Whether no sum of `count` products with int8 can leave 32 bits."""
    return x.tensor.dtype != S32 and count * (SPANS[x.tensor.dtype][1] - SPANS[x.tensor.dtype][0]) * 128 < 2**31 - 2**20


def _broadcasts(v: Value, to: Value) -> bool:
    try:
        return torch.broadcast_shapes(v.tensor.shape, to.tensor.shape) == to.tensor.shape
    except RuntimeError:
        return False


def _plain(arg: Any) -> Any:
    return [_plain(a) for a in arg] if isinstance(arg, list) else arg.tensor if isinstance(arg, Value) else arg


def _number(arg: Any) -> bool:
    return isinstance(arg, (int, float)) and not isinstance(arg, bool)


def _type(tensor: Tensor) -> str:
    return f"{NAMES[tensor.dtype]}[{', '.join(map(str, tensor.shape))}]"
