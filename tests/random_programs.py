"""Random NORMALIZED programs, as text: branches, shared weights, groups, strides, paddings, several users.

Values are images [N, C, H, W] until a `linear` tail; every value may be read again later or returned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hypothesis import strategies as st

Shape = tuple[int, ...]


@dataclass
class Writer:
    """Collects declarations and statements; remembers the shape of every value."""

    draw: st.DrawFn
    dtype: str = "f64"
    weights: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def weight(self, shape: Shape, positive: bool = False) -> str:
        """A constant: a new one, or one of the same type that is there already (a tied weight)."""
        suffix = " = positive(1)" if positive else ""
        spec = f"{self.type(shape)}{suffix}"
        same = [name for name, other in self.weights.items() if other == spec]
        if same and self.draw(st.booleans()):
            return f"@{self.draw(st.sampled_from(same))}"
        name = f"w{len(self.weights)}"
        self.weights[name] = spec
        return f"@{name}"

    def call(self, shape: Shape, text: str) -> str:
        """A statement; returns its name."""
        name = f"%v{len(self.lines)}"
        layer = self.draw(st.sampled_from(["", "   # block", "   # block.conv"]))
        self.lines.append(f"{name}: {self.type(shape)} = {text}{layer}")
        self.shapes[name] = shape
        return name

    def type(self, shape: Shape) -> str:
        """`f64[1, 2]`."""
        return f"{self.dtype}[{', '.join(map(str, shape))}]"


def convolution(w: Writer, x: str) -> str:
    """Grouped, strided, padded (also more than a side of the kernel), with or without bias; or transposed."""
    n, c, h, width = w.shapes[x]
    groups = w.draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0]))
    out = groups * w.draw(st.integers(1, 2))
    k, stride, pad = w.draw(st.integers(1, 3)), w.draw(st.integers(1, 2)), w.draw(st.sampled_from([0, 0, 1, 1, 2]))
    transposed = w.draw(st.sampled_from([False, False, False, True]))
    if transposed:
        size = [(e - 1) * stride - 2 * pad + k for e in (h, width)]
    else:
        size = [(e + 2 * pad - k) // stride + 1 for e in (h, width)]
    if min(size) < 1 or max(size) > 12 or min(h, width) + 2 * pad < k:
        k, stride, pad, size, transposed = 1, 1, 0, [h, width], False
    weight = w.weight((c, out // groups, k, k) if transposed else (out, c // groups, k, k))
    bias = w.weight((out,)) if w.draw(st.booleans()) else "none"
    flag = str(transposed).lower()
    rest = f"[{stride}, {stride}], [{pad}, {pad}], [1, 1], {flag}, [0, 0], {groups}"
    return w.call((n, out, *size), f"convolution({x}, {weight}, {bias}, {rest})")


def batch_norm(w: Writer, x: str) -> str:
    """In eval mode, affine or not."""
    c = (w.shapes[x][1],)
    scale, shift = (w.weight(c) if w.draw(st.booleans()) else "none" for _ in range(2))
    rest = f"{w.weight(c)}, {w.weight(c, positive=True)}, false, 0.1, 1e-05, false"
    return w.call(w.shapes[x], f"batch_norm({x}, {scale}, {shift}, {rest})")


def by_constant(w: Writer, x: str) -> str:
    """An affine op, or one that only looks like it (along the width, or full size)."""
    shape = w.shapes[x]
    operand = w.draw(st.sampled_from(["channel", "channel", "number", "width", "full"]))
    constants = {"channel": (shape[1], 1, 1), "width": shape[-1:], "full": shape[1:]}
    text = "1.5" if operand == "number" else w.weight(constants[operand], positive=True)
    order = w.draw(st.sampled_from([(x, text), (x, text), (text, x)])) if operand != "number" else (x, text)
    op = w.draw(st.sampled_from(["mul", "add", "sub"] + (["div"] if order[0] == x else [])))
    return w.call(shape, f"{op}.Tensor({order[0]}, {order[1]})")


def unary(w: Writer, x: str) -> str:
    """A non-linear op, or neg."""
    return w.call(w.shapes[x], f"{w.draw(st.sampled_from(['relu', 'sigmoid', 'neg', 'abs']))}({x})")


def binary(w: Writer, x: str) -> str:
    """A sum or product with another value of the same shape, perhaps with itself."""
    others = [y for y, shape in w.shapes.items() if shape == w.shapes[x]]
    return w.call(
        w.shapes[x], f"{w.draw(st.sampled_from(['add', 'sub', 'mul']))}.Tensor({x}, {w.draw(st.sampled_from(others))})"
    )


def concatenation(w: Writer, x: str) -> str:
    """On the channels, with another value, perhaps with itself."""
    n, c, *size = w.shapes[x]
    others = [y for y, s in w.shapes.items() if (s[0], *s[2:]) == (n, *size) and s[1] + c <= 12]
    if not others:
        return x
    other = w.draw(st.sampled_from(others))
    return w.call((n, c + w.shapes[other][1], *size), f"cat([{x}, {other}], 1)")


def view(w: Writer, x: str) -> str:
    """A slice, a swap of the image's axes, a flip, a channel shuffle, or one way and back through [N, C, H*W]."""
    n, c, h, width = w.shapes[x]
    kind = w.draw(st.sampled_from(["slice", "swap", "flip", "shuffle", "flat"]))
    if kind == "slice":
        dim = w.draw(st.sampled_from([1, 2, 3]))
        size = w.shapes[x][dim]
        start = w.draw(st.integers(0, size - 1))
        end = w.draw(st.integers(start + 1, size))
        shape = tuple(end - start if d == dim else s for d, s in enumerate(w.shapes[x]))
        return w.call(shape, f"slice.Tensor({x}, {dim}, {start}, {end}, 1)")
    if kind == "swap":
        return w.call((n, c, width, h), f"permute({x}, [0, 1, 3, 2])")
    if kind == "flip":
        return w.call(w.shapes[x], f"flip({x}, [{w.draw(st.sampled_from([1, 2, 3]))}])")
    if kind == "shuffle" and c % 2 == 0:
        a = w.call((n, 2, c // 2, h, width), f"reshape({x}, [{n}, 2, {c // 2}, {h}, {width}])")
        b = w.call((n, c // 2, 2, h, width), f"permute({a}, [0, 2, 1, 3, 4])")
        for name in (a, b):
            del w.shapes[name]
        return w.call((n, c, h, width), f"reshape({b}, [{n}, {c}, {h}, {width}])")
    flat = w.call((n, c, h * width), f"reshape({x}, [{n}, {c}, {h * width}])")
    del w.shapes[flat]
    return w.call((n, c, h, width), f"reshape({flat}, [{n}, {c}, {h}, {width}])")


def pad(w: Writer, x: str) -> str:
    """Zeros, or another number, more on one side than on the other."""
    n, c, h, width = w.shapes[x]
    left, right, top, bottom = (w.draw(st.integers(0, 2)) for _ in range(4))
    if max(h + top + bottom, width + left + right) > 12:
        return x
    number = w.draw(st.sampled_from(["0", "0", "1.5"]))
    shape = (n, c, h + top + bottom, width + left + right)
    return w.call(shape, f"constant_pad_nd({x}, [{left}, {right}, {top}, {bottom}], {number})")


def chain(w: Writer, x: str) -> str:
    """One to three linear layers or 1x1 convolutions in a row, perhaps with norms between, perhaps around a sum."""
    n, c, h, width = w.shapes[x]
    y = x
    for _ in range(w.draw(st.integers(1, 3))):
        y = _pointwise_layer(w, y, w.draw(st.sampled_from([c, c, 2])))
        y = batch_norm(w, y) if w.draw(st.integers(0, 3)) == 0 else y
    same = w.shapes[y] == (n, c, h, width)
    return w.call(w.shapes[y], f"add.Tensor({x}, {y})") if same and w.draw(st.booleans()) else y


def _pointwise_layer(w: Writer, x: str, out: int) -> str:
    n, c, h, width = w.shapes[x]
    bias = w.weight((out,)) if w.draw(st.booleans()) else "none"
    if w.draw(st.booleans()):
        rest = "[1, 1], [0, 0], [1, 1], false, [0, 0], 1"
        return w.call((n, out, h, width), f"convolution({x}, {w.weight((out, c, 1, 1))}, {bias}, {rest})")
    rows = w.call((n, h, width, c), f"permute({x}, [0, 2, 3, 1])")
    made = w.call((n, h, width, out), f"linear({rows}, {w.weight((out, c))}, {bias})")
    for name in (rows, made):
        del w.shapes[name]
    return w.call((n, out, h, width), f"permute({made}, [0, 3, 1, 2])")


def norm(w: Writer, x: str) -> str:
    """A layer norm or an RMS norm over the channels, with weights or without."""
    n, c, h, width = w.shapes[x]
    rows = w.call((n, h, width, c), f"permute({x}, [0, 2, 3, 1])")
    scale = w.weight((c,)) if w.draw(st.booleans()) else "none"
    shift = w.weight((c,)) if w.draw(st.booleans()) else "none"
    kinds = f"layer_norm({rows}, [{c}], {scale}, {shift}, 0.001, true)", f"rms_norm({rows}, [{c}], {scale}, 0.001)"
    made = w.call((n, h, width, c), w.draw(st.sampled_from(kinds)))
    for name in (rows, made):
        del w.shapes[name]
    return w.call((n, c, h, width), f"permute({made}, [0, 3, 1, 2])")


def pool(w: Writer, x: str) -> str:
    """Max or average, padded or not, or the global mean."""
    n, c, h, width = w.shapes[x]
    kind = w.draw(st.sampled_from(["max", "average", "mean"]))
    if kind == "mean" or min(h, width) < 2:
        return w.call((n, c, 1, 1), f"mean.dim({x}, [2, 3], true)")
    pad = w.draw(st.integers(0, 1))
    shape = (n, c, *((e + 2 * pad - 2) // 2 + 1 for e in (h, width)))
    where = f"[2, 2], [2, 2], [{pad}, {pad}]"
    if kind == "max":
        return w.call(shape, f"max_pool2d({x}, {where}, [1, 1], false)")
    return w.call(shape, f"avg_pool2d({x}, {where}, false, {w.draw(st.sampled_from(['true', 'false']))}, none)")


def constant_weight(w: Writer, x: str) -> str:
    """A 1x1 convolution whose weight is an expression of weights."""
    n, c, h, width = w.shapes[x]
    a, b = w.weight((3, c, 1, 1)), w.weight((3, 1, 1, 1), positive=True)
    weight = w.call((3, c, 1, 1), f"mul.Tensor({a}, {b})")
    del w.shapes[weight]
    return w.call((n, 3, h, width), f"convolution({x}, {weight}, none, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)")


def tail(w: Writer, x: str) -> str:
    """Flattened tokens into a linear layer, perhaps normalized on the way."""
    n, c, h, width = w.shapes[x]
    p = w.call((n, h, width, c), f"permute({x}, [0, 2, 3, 1])")
    y = w.call((n * h * width, c), f"reshape({p}, [{n * h * width}, {c}])")
    if w.draw(st.booleans()):
        y = batch_norm(w, y)
    bias = w.weight((4,)) if w.draw(st.booleans()) else "none"
    y = w.call((n * h * width, 4), f"linear({y}, {w.weight((4, c))}, {bias})")
    if w.draw(st.booleans()):
        y = batch_norm(w, y)
    return y


STEPS = (
    convolution,
    batch_norm,
    by_constant,
    chain,
    unary,
    binary,
    concatenation,
    view,
    pool,
    pad,
    norm,
    constant_weight,
)
WEIGHTS = (6, 6, 5, 3, 2, 2, 2, 2, 1, 1, 1, 1)


@st.composite
def programs(draw: st.DrawFn, dtype: str = "f64", length: int = 14) -> str:
    """The text of a program."""
    w = Writer(draw, dtype)
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from([2, 4])), 6, 5)
    w.shapes["%x"] = shape
    choices = [step for step, weight in zip(STEPS, WEIGHTS, strict=True) for _ in range(weight)]
    last = "%x"
    for _ in range(draw(st.integers(1, length))):
        source = last if draw(st.integers(0, 3)) else draw(st.sampled_from(sorted(w.shapes)))
        last = draw(st.sampled_from(choices))(w, source)
    if draw(st.booleans()):
        tail(w, last)
    read = set(re.findall(r"%\w+", " ".join(line.split(" = ")[1] for line in w.lines)))
    unread = [name for name in w.shapes if name not in read]
    results = unread[-3:] + draw(st.lists(st.sampled_from(sorted(w.shapes)), max_size=1))
    declarations = [f"@{name}: {spec}" for name, spec in w.weights.items()]
    used = " ".join(w.lines)
    declarations = [d for d in declarations if f"{d.split(':')[0]}," in used or f"{d.split(':')[0]})" in used]
    body = "\n  ".join([*declarations, *w.lines, f"return ({', '.join(results)},)"])
    return f"program(%x: {w.type(shape)}) normalized {{\n  {body}\n}}"
