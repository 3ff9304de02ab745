"""Layouts of whole graphs: against every choice on small graphs, and the conversions that the zoo cannot do without."""

from __future__ import annotations

import random
from itertools import chain, combinations, product
from math import inf
from typing import Any

import pytest
import torch
from kernel_case import HOST, make_task
from torch import fx
from zoo import find

from planish.backends.tvm.alternatives import Alternative, alternatives, conversion_seconds
from planish.backends.tvm.kernels.templates import TEMPLATES
from planish.backends.tvm.layouts import Assignment, assign
from planish.backends.tvm.lower import lower
from planish.backends.tvm.plan import PLAIN, Layout, Plan, value_of
from planish.ir.capture import capture
from planish.passes.manager import run_passes
from planish.passes.pipelines import COMPILE

BLOCKED = f"c{HOST.block}"
LAYOUTS = (PLAIN, BLOCKED)
aten = torch.ops.aten


def random_graph(seed: int) -> tuple[fx.Graph, dict[fx.Node, list[Alternative]]]:
    """Up to ten regions over one or two values each, with up to four ways; costs about those of a conversion."""
    r = random.Random(seed)
    graph = fx.Graph()
    nodes = [graph.placeholder(f"x{i}") for i in range(r.randint(1, 2))]
    ways: dict[fx.Node, list[Alternative]] = {}
    for number in range(r.randint(1, 10)):
        args = tuple(dict.fromkeys(r.choices(nodes[-4:], k=r.randint(1, 2))))
        node = graph.create_node("call_module", f"r{number}", args)
        ways[node] = [
            Alternative(None, r.choice(LAYOUTS), {i: _reads(r) for i in range(len(args))}, r.choice([0, 2e-6]))
            for _ in range(r.randint(1, 4 if number < 5 else 2))
        ]
        nodes.append(node)
    for node in nodes:
        shape = r.choice([(1, 64, 28, 28), (1, 20, 9, 9), (2, 16, 1, 1)])
        node.meta["val"] = torch.empty(shape, device="meta")
    graph.output((nodes[-1], r.choice(nodes)))
    return graph, ways


def _reads(r: random.Random) -> dict[Layout, float]:
    taken = r.choice([(PLAIN,), (BLOCKED,), LAYOUTS])
    return {layout: r.choice([0.0, 1e-6, 4e-6]) for layout in taken}


def total(graph: fx.Graph, chosen: dict[fx.Node, Alternative]) -> float:
    """The least cost of a graph whose regions do as chosen, value by value."""
    cost = sum(way.seconds for way in chosen.values())
    results = graph.output_node().all_input_nodes
    for node in graph.nodes:
        if node.op == "output":
            continue
        home = chosen[node].output if node in chosen else PLAIN
        best = inf
        for layouts in chain.from_iterable(combinations(LAYOUTS, n) for n in (1, 2)):
            if home in layouts and (node not in results or PLAIN in layouts):
                here = sum(conversion_seconds(value_of(node), home, layout) for layout in layouts if layout != home)
                for user in node.users:
                    if user in chosen:
                        reads = chosen[user].reads[user.args.index(node)]
                        here += min((reads[layout] for layout in layouts if layout in reads), default=inf)
                best = min(best, here)
        cost += best
    return cost


@pytest.mark.parametrize("block", range(4))
def test_no_choice_of_ways_is_cheaper(block: int) -> None:
    for seed in range(60 * block, 60 * (block + 1)):
        graph, ways = random_graph(seed)
        best = min(total(graph, dict(zip(ways, choice, strict=True))) for choice in product(*ways.values()))
        found = assign(graph, ways, HOST)
        assert total(graph, dict(found.chosen)) == pytest.approx(best, rel=1e-9), seed
        check_readable(graph, found)


def check_readable(graph: fx.Graph, found: Assignment) -> None:
    """Every read finds a layout that its region takes."""
    for node, way in found.chosen.items():
        assert way.output in found.layouts[node]
        for position, source in enumerate(node.args):
            assert isinstance(source, fx.Node)
            assert found.read(node, position, source) in way.reads[position]


def offered(fn: Any, shapes: list[tuple[int, ...]], constants: tuple[int, ...] = (), **options: Any) -> list[Any]:
    """(template, output, what is read) of each alternative."""
    task = make_task(fn, [torch.empty(shape) for shape in shapes], constants, **options)
    return [
        (a.template.name if a.template else "alias", a.output, {i: tuple(r) for i, r in a.reads.items()})
        for a in alternatives(task, TEMPLATES)
    ]


def test_a_convolution_is_blocked() -> None:
    def fn(x: Any, w: Any) -> Any:
        return aten.convolution.default(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)

    found = offered(fn, [(1, 32, 8, 8), (32, 32, 3, 3)], (1,), anchor=aten.convolution.default)
    assert {(output, reads[0]) for _, output, reads in found} == {(BLOCKED, (BLOCKED,))}


def test_pointwise_regions_take_and_make_anything() -> None:
    found = offered(lambda a, b: aten.add.Tensor(a, b), [(1, 32, 8, 8)] * 2, kind="pointwise")
    assert found == [("generic", output, {0: LAYOUTS, 1: LAYOUTS}) for output in LAYOUTS]


def reading(fn: Any, shapes: list[tuple[int, ...]], output: Layout, read: Layout, **options: Any) -> float:
    """What reading the first input in a layout costs a region that makes another, per byte, in 1e-12 s."""
    task = make_task(fn, [torch.empty(shape, dtype=torch.float32) for shape in shapes], **options)
    way = next(a for a in alternatives(task, TEMPLATES) if a.output == output and read in a.reads[0])
    here = min(way.reads[0].values())
    return (way.reads[0][read] - here) / (torch.Size(shapes[0]).numel() * 4) * 1e12


def test_what_lies_across_costs_less_than_a_conversion_and_more_than_nothing() -> None:
    """Turned in registers, 50 bytes take 1e-9 s: two readers cost less than one conversion, three cost more."""
    shape, whole = (8, 64, 32, 32), 8 * 64 * 32 * 32 * 4
    for output, other in ((PLAIN, BLOCKED), (BLOCKED, PLAIN)):
        cost = reading(lambda a, b: aten.add.Tensor(a, b), [shape] * 2, output, other, kind="pointwise")
        assert cost == pytest.approx(20, rel=0.01)
    value = value_of_shape(shape)
    assert 2 * 20e-12 * whole < conversion_seconds(value, PLAIN, BLOCKED) < 3 * 20e-12 * whole


def value_of_shape(shape: tuple[int, ...]) -> Any:
    node = fx.Graph().placeholder("x")
    node.meta["val"] = torch.empty(shape, device="meta")
    return value_of(node)


def test_what_is_gathered_costs_more_than_what_is_turned() -> None:
    """Running sums keep their order: nothing is turned."""
    cost = reading(lambda x: aten.cumsum.default(x, 1), [(8, 64, 32, 32)], PLAIN, BLOCKED, kind="other")
    assert cost == pytest.approx(1e12 / 15e9, rel=0.01)


def test_a_mean_is_taken_as_it_lies() -> None:
    found = offered(lambda x: aten.mean.dim(x, [2, 3]), [(1, 32, 8, 8)], anchor=aten.mean.dim, kind="reduce")
    assert found == [("generic", PLAIN, {0: (PLAIN,)}), ("spatial_mean", PLAIN, {0: (BLOCKED,)})]


@pytest.mark.parametrize(
    ("view", "shape", "aliases"),
    [
        (lambda x: aten.reshape.default(x, [1, 32, 64]), (1, 32, 8, 8), {(PLAIN, PLAIN), (BLOCKED, BLOCKED)}),
        (lambda x: aten.reshape.default(x, [1, 2048]), (1, 32, 8, 8), {(PLAIN, PLAIN)}),
        (lambda x: aten.reshape.default(x, [1, 32]), (1, 32, 1, 1), {(PLAIN, PLAIN), (BLOCKED, PLAIN)}),
        (lambda x: aten.permute.default(x, [0, 2, 3, 1]), (1, 16, 8, 8), {(BLOCKED, PLAIN)}),
        (lambda x: aten.permute.default(x, [0, 2, 3, 1]), (1, 32, 8, 8), set()),
        (lambda x: aten.permute.default(x, [0, 2, 1]), (1, 1, 9), {(PLAIN, PLAIN)}),
        (lambda x: aten.flip.default(x, [2]), (1, 32, 8, 8), set()),
    ],
)
def test_views_that_move_nothing(view: Any, shape: tuple[int, ...], aliases: set[tuple[Layout, Layout]]) -> None:
    found = {(reads[0][0], output) for name, output, reads in offered(view, [shape], kind="view") if name == "alias"}
    assert found == aliases


MOVES = {
    "resnet18": (0, 0),
    "mobilenet_v2": (0, 0),
    "densenet121": (0, 0),
    "squeezenet1_1": (0, 0),
    "regnet_y_400mf": (0, 0),
    "convnext_tiny": (0, 0),
    "vgg11_bn": (1, 0),  # blocked channels to the rows of the classifier
    "deit_tiny": (0, 1),  # patches to tokens, which a concatenation takes
    "swin_tiny": (0, 4),  # the four slices of the patches that merge, which a concatenation takes
    "mixer_b16": (0, 0),
    "bert_base": (0, 0),
    "gpt2_manual": (0, 0),
}
"""(conversions of layouts, copies of views) of a small model with whole blocks of channels."""


def plan_of(name: str) -> Plan:
    model, args, kwargs = find(name).small()
    return lower(run_passes(capture(model, args, kwargs), COMPILE), HOST)


@pytest.mark.parametrize("name", MOVES)
def test_no_needless_transposes(name: str) -> None:
    moving = [step.kind for step in plan_of(name).steps if step.symbol]
    assert (moving.count("layout"), moving.count("view")) == MOVES[name]


def test_norms_among_convolutions_keep_their_layout() -> None:
    class LayerNorm2d(torch.nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def conv(channels: int) -> torch.nn.Module:
        return torch.nn.Conv2d(32, channels, 1)

    norms = [torch.nn.GroupNorm(8, 32), torch.nn.InstanceNorm2d(32), LayerNorm2d(32), torch.nn.GroupNorm(1, 32)]
    layers = [layer for norm in norms for layer in (conv(32), norm, torch.nn.SiLU())]
    model = torch.nn.Sequential(*layers, conv(16), torch.nn.AdaptiveAvgPool2d(1)).eval()
    program = capture(model, (torch.zeros(1, 32, 12, 12),), {})
    plan = lower(run_passes(program, COMPILE), HOST)
    kinds = [step.kind for step in plan.steps if step.symbol]
    assert kinds.count("layout") == 1  # the model's input
    assert sum(kernel.template == "norm" for kernel in plan.kernels.values()) == 4
