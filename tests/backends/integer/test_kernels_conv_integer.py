"""The blocked integer convolution: the bits of the reference on every kind of CPU, with every epilogue it knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integer_case import S8, S16, S32, U8, codes, exact, hostile, planish
from kernel_case import HOST, make_task

from planish.backends.tvm.kernels.borders import Classes, corrections
from planish.backends.tvm.kernels.conv_integer import ConvInteger
from planish.backends.tvm.kernels.dot import Halves, Single, Vnni, products
from planish.backends.tvm.kernels.narrowing import narrows
from planish.backends.tvm.kernels.requantize import read_head
from planish.backends.tvm.kernels.window import Axis
from planish.backends.tvm.target import parse_target
from planish.backends.tvm.template import Refused
from planish.errors import CodegenError

CPUS = {"vnni": HOST, "int16": parse_target("haswell", 2), "bytes": parse_target("x86-64", 2)}
PAIRS = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]] = {
    "3x3 of three channels": ((2, 3, 7, 9), (33, 3, 3, 3), PAIRS),
    "pads wider than the image": ((1, 20, 3, 2), (16, 20, 5, 5), ([1, 1], [4, 3], [1, 1], False, [0, 0], 1)),
    "stride and dilation": ((1, 36, 9, 8), (18, 36, 3, 2), ([2, 1], [2, 1], [1, 3], False, [0, 0], 1)),
    "groups of eight": ((1, 16, 5, 5), (24, 8, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 2)),
    "groups of four": ((1, 16, 5, 5), (16, 4, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 4)),
    "1x1": ((2, 33, 4, 5), (40, 33, 1, 1), ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
    "one pixel": ((1, 40, 1, 1), (24, 40, 1, 1), ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
    "long rows of many taps": ((1, 8, 1, 70), (16, 8, 1, 40), ([1, 1], [0, 17], [1, 1], False, [0, 0], 1)),
    "1d": ((2, 5, 11), (16, 5, 3), ([2], [1], [1], False, [0], 1)),
    "3d": ((1, 4, 4, 5, 4), (8, 4, 2, 3, 2), ([1, 1, 2], [1, 0, 1], [1, 1, 1], False, [0, 0, 0], 1)),
}


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_sums(name: str, cpu: str) -> None:
    """All codes at either end, too, where products of two bytes that are added in 16 bits would saturate."""
    x, weight, geometry = GEOMETRIES[name]
    if cpu == "bytes" and name not in ("3x3 of three channels", "groups of four", "1x1"):
        return
    bias = codes(weight[0], dtype=S16).to(S32)
    w = codes(*weight, dtype=S8)
    ends = torch.full(weight, 127, dtype=S8)
    sets = [(v, k, bias) for v, k in zip(hostile(x), (w, w, ends, -ends, w), strict=True)]

    def fn(v: torch.Tensor, k: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.convolution.default(v, k, b, 131, *geometry)
        return result

    _exact(fn, *sets, constants=(1, 2), target=CPUS[cpu])


def _exact(fn: Any, *sets: Any, **options: Any) -> None:
    anchor = planish.convolution.default
    exact(fn, *sets, layouts=("c16",), template=ConvInteger(), kind="conv", anchor=anchor, **options)


def test_without_a_bias_and_without_a_zero_point() -> None:
    x, weight, geometry = GEOMETRIES["3x3 of three channels"]
    for zero in (0, 7):
        for bias in ((), (codes(weight[0], dtype=S16).to(S32),)):
            _exact(
                lambda v, k, b=None, z=zero: planish.convolution.default(v, k, b, z, *geometry),
                (codes(*x), codes(*weight, dtype=S8), *bias),
                constants=(1, 2)[: 1 + len(bias)],
            )


def _numbers(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Multipliers and shifts at the ends of what the upper half of a product is enough for."""
    many = torch.Size(shape).numel()
    m = torch.tensor([2**30, 2**31 - 1, 1518500250, 2**30 + 1]).repeat(many)[:many]
    return m.reshape(shape), torch.arange(33, 33 + many).clamp(max=62).reshape(shape)


@pytest.mark.parametrize("cpu", ["vnni", "int16"])
@pytest.mark.parametrize("shape", [(19, 1, 1), (1, 19, 1, 1), (1,)], ids=str)
def test_requantized(shape: tuple[int, ...], cpu: str) -> None:
    m, c = _numbers(shape)
    sets = [(x, codes(19, 36, 3, 3, dtype=S8), m, c) for x in hostile((1, 36, 5, 6))]

    def fn(x: torch.Tensor, w: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        sums = planish.convolution.default(x, w, None, 9, *PAIRS)
        result: torch.Tensor = planish.requantize.default(sums, m, c, 0, 3, -100, 90, S8)
        return result

    for shifts in ({3: (33, 51)}, {3: (33, 62)}, {}):  # in 32 bits, also with the zero point; as nothing is known
        _exact(fn, *sets, constants=(1, 2, 3), shifts=shifts, target=CPUS[cpu])


@pytest.mark.parametrize(("shift", "together"), [(33, True), (53, True), (54, False), (55, False), (62, False)])
def test_where_the_zero_point_is_added(shift: int, together: bool) -> None:
    """To the half that rounds, as long as 256 · 2^(c-32) <= 2^29; at 55 the largest sum would leave 32 bits."""
    ends = torch.tensor([2**31 - 1, -(2**31), 0, 1]).repeat(4).to(S32)
    m, c = torch.full((16, 1, 1), 2**31 - 1), torch.full((16, 1, 1), shift)

    def fn(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        sums = planish.convolution.default(x, w, b, 0, [1, 1], [0, 0], *PAIRS[2:])
        result: torch.Tensor = planish.requantize.default(sums, m, c, 0, 255, 0, 255, U8)
        return result

    inputs = (codes(1, 4, 3, 5), torch.zeros(16, 4, 1, 1, dtype=S8), ends, m, c)
    task = make_task(fn, inputs, (1, 2, 3, 4), anchor=planish.convolution.default)
    task.region.placeholders[4].meta["shifts"] = (33, shift)
    head = read_head(task, task.region.anchor_node, "c16", 16)
    assert head is not None
    assert head.zero_fits is together
    _exact(fn, inputs, constants=(1, 2, 3, 4), shifts={4: (33, shift)})


@pytest.mark.parametrize(("dtype", "bounds"), [(U8, (0, 255)), (U8, (3, 200)), (S8, (-128, 127)), (S8, (-100, 127))])
@pytest.mark.parametrize("channels", [16, 19])
def test_stored_four_pixels_at_a_time(dtype: torch.dtype, bounds: tuple[int, int], channels: int) -> None:
    """Nine pixels are two times four and one more; sums far beyond 16 bits saturate as they should."""
    m, c = torch.full((channels, 1, 1), 2**31 - 1), torch.arange(33, 33 + channels).reshape(channels, 1, 1)

    def fn(x: torch.Tensor, w: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        sums = planish.convolution.default(x, w, None, 9, *PAIRS)
        result: torch.Tensor = planish.requantize.default(sums, m, c, 0, bounds[0] + 5, *bounds, dtype)
        return result

    sets = [(x, codes(channels, 36, 3, 3, dtype=S8), m, c) for x in hostile((2, 36, 3, 9))]
    _exact(fn, *sets, constants=(1, 2, 3), shifts={3: (33, 51)})


def test_which_codes_are_stored_together() -> None:
    """Bytes in vectors of 512 bits, on CPUs that pack these."""
    assert narrows(parse_target("skylake-avx512", 2), 16, "uint8")
    assert not narrows(parse_target("skylake-avx512", 2), 16, "int16")
    assert not narrows(parse_target("skylake-avx512", 2), 8, "uint8")
    assert not narrows(parse_target("haswell", 2), 16, "uint8")


@pytest.mark.parametrize("first", [True, False], ids=["sum first", "residual first"])
@pytest.mark.parametrize("dtype", [U8, S8, S16])
def test_added_to_a_residual_and_looked_up(first: bool, dtype: torch.dtype) -> None:
    small = torch.tensor([2**26 - 1, 1, -(2**26) + 1, 2**25]).repeat(5)[:19].reshape(19, 1, 1)
    large = torch.tensor([2**30 - 1, -(2**30) + 1, 2**29]).repeat(7)[:19].reshape(19, 1, 1)
    c, table = torch.arange(28, 47).reshape(19, 1, 1), codes(256)
    zero = 0 if dtype is S16 else 100

    def fn(x: torch.Tensor, r: torch.Tensor, *k: torch.Tensor) -> torch.Tensor:
        w, small, large, c, table = k
        sums = planish.convolution.default(x, w, None, 9, *PAIRS)
        sides = (sums, r, small, large, c, 0, zero) if first else (r, sums, large, small, c, zero, 0)
        result: torch.Tensor = planish.lookup.default(planish.add.default(*sides, 128, 3, 255, U8), table)
        return result

    w = codes(19, 5, 3, 3, dtype=S8)
    pairs = zip(hostile((2, 5, 6, 7)), hostile((2, 19, 6, 7), dtype), strict=True)
    sets = [(x, r, w, small, large, c, table) for x, r in pairs]
    known = {5: (28, 48) if first else (28, 57)}  # the zero point is added before the shift, or after it
    _exact(fn, *sets, constants=(2, 3, 4, 5, 6), shifts=known, small=(3,))


def test_which_heads_are_computed_in_32_bits() -> None:
    """Shifts of 33 and more; the others, and sums that two read, are left to the general formula."""

    def task(read_twice: bool, bounds: tuple[int, int]) -> Any:
        m, c = _numbers((16, 1, 1))

        def fn(x: Any, w: Any, m: Any, c: Any) -> Any:
            sums = planish.convolution.default(x, w, None, 9, *PAIRS)
            code = planish.requantize.default(sums, m, c, 0, 3, 0, 255, U8)
            return planish.mul.default(code, sums, 0, 0) if read_twice else code

        inputs = (codes(1, 4, 5, 5), codes(16, 4, 3, 3, dtype=S8), m, c)
        made = make_task(fn, inputs, (1, 2, 3), anchor=planish.convolution.default)
        made.region.placeholders[3].meta["shifts"] = bounds
        return made

    for read_twice, bounds, expected in ((False, (33, 62), True), (False, (1, 62), False), (True, (33, 62), False)):
        made = task(read_twice, bounds)
        assert (read_head(made, made.region.anchor_node, "c16", 16) is not None) is expected


def test_a_multiplier_that_does_not_fit_is_an_error() -> None:
    """None of those that `ir/dyadic.py` makes."""
    _, c = _numbers((19, 1, 1))

    def fn(x: torch.Tensor, w: torch.Tensor, m: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        sums = planish.convolution.default(x, w, None, 9, *PAIRS)
        result: torch.Tensor = planish.requantize.default(sums, m, c, 0, 3, -100, 90, S8)
        return result

    inputs = (codes(1, 4, 3, 3), codes(19, 4, 3, 3, dtype=S8), torch.full((19, 1, 1), 2**31), c)
    with pytest.raises(CodegenError, match="does not fit 32 bits: 2147483648"):
        _exact(fn, inputs, constants=(1, 2, 3), shifts={3: (33, 62)})


def test_ways_to_multiply() -> None:
    def kind(cpu: str, lanes: int) -> type:
        return type(products(parse_target(cpu, 1), lanes))

    assert [kind("icelake-server", lanes) for lanes in (16, 8, 4)] == [Vnni] * 3
    assert [kind("alderlake", lanes) for lanes in (8, 4)] == [Vnni] * 2
    assert [kind("skylake-avx512", lanes) for lanes in (16, 8, 4)] == [Halves, Halves, Single]
    assert [kind("haswell", 8), kind("x86-64", 8), kind("aarch64:neoverse-v1", 8)] == [Halves, Single, Single]


def test_classes_of_pixels() -> None:
    """Five pixels under five taps, two of them outside at either end."""
    axis = Axis(size=5, out=5, kernel=5, stride=1, pad=2)
    classes = Classes.of(axis)
    assert classes.starts == (0, 1, 2, 3, 4)
    assert classes.taps[0] == (2, 3, 4)
    inner = Classes.of(Axis(size=50, out=50, kernel=3, pad=1))
    assert (inner.starts, inner.taps) == ((0, 1, 49), ((1, 2), (0, 1, 2), (0, 1)))
    assert [inner.number(pixel) for pixel in (0, 1, 30, 48, 49)] == [0, 1, 1, 1, 2]
    one = Classes.of(Axis(1, 1))
    table = corrections(torch.tensor([[[[[1, 2, 4]]]], [[[[3, 0, 0]]]]]).numpy(), 10, (one, one, inner), 3)
    assert table.reshape(3, 3).tolist() == [[-60, 0, 0], [-70, -30, 0], [-30, -30, 0]]


@pytest.mark.parametrize(
    ("weight", "groups", "dtype", "reason"),
    [
        ((16, 2, 3, 3), 2, U8, "no whole quads"),
        ((16, 4, 3, 3), 1, S8, "codes of int8, int8"),
    ],
    ids=["pairs", "signed"],
)
def test_what_is_refused(weight: tuple[int, ...], groups: int, dtype: torch.dtype, reason: str) -> None:
    def fn(x: Any, w: Any) -> Any:
        return planish.convolution.default(x, w, None, 0, [1, 1], [1, 1], [1, 1], False, [0, 0], groups)

    task = make_task(
        fn, (codes(1, 4, 5, 5, dtype=dtype), codes(*weight, dtype=S8)), (1,), anchor=planish.convolution.default
    )
    answer = ConvInteger().wants(task)
    assert isinstance(answer, Refused)
    assert reason in answer.reason
