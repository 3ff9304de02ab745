"""The only file that edits a graph. Rules are pure: they look at a node and return what should stand there.

    rule(node, program) -> Replacement | Refused | None        (None: this node is no candidate)

A rule (`rules`) describes new nodes as expressions (`Call`, `Weight`, existing `fx.Node`s); `apply_rules` makes them,
fills `meta["val"]` with fake tensors and `meta["origins"]` with the union of the replaced nodes' origins,
redirects users, erases what became dead, and drops weights nobody reads any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ..errors import VerifyError
from .balance import Balance
from .boundary import BoundaryCheck
from .cost import node_flops
from .fake import Fakes
from .names import WeightNames
from .program import Origin, Program, Region
from .report import Site
from .rules import Call, Expr, Refused, Replacement, Rule, Weight, parts_of, reads_of, resolve
from .worklist import Worklist

MAX_GENERATIONS = 1000
"""A node that descends from this many rewrites in a row comes from rules that undo each other."""


def apply_rules(
    program: Program, rules: Sequence[tuple[str, Rule]], *, limit: int | None = None, verify: bool = False
) -> tuple[Program, list[Site], list[Site]]:
    """Apply the named rules until none fires; returns (new program, sites applied, sites refused).

    The program given is left untouched. Nodes are visited in graph order and new nodes are visited too.
    A refusal is reported once for each node and rule, and only if that node is still there at the end.
    `limit` stops after that many rewrites (bisecting). With `verify`, each site is run in float64 before
    and after, at its boundary, on what the program makes of random inputs; a difference raises `RewriteMismatch`.
    """
    quiet = _refusals(program, rules) if limit != 0 else []
    if quiet is not None:
        return program, [], quiet
    editor = _Editor(program)
    check = BoundaryCheck(editor.program) if verify else None
    applied: list[Site] = []
    refused: dict[tuple[fx.Node, str], Site] = {}
    work = Worklist(editor.graph, editor.erased)
    while (limit is None or len(applied) < limit) and (node := work.pop()) is not None:
        if not node.users or node.op in ("placeholder", "output"):
            continue
        for name, rule in rules:
            verdict = rule(node, editor.program)
            refused.pop((node, name), None)
            if isinstance(verdict, Refused):
                refused[node, name] = _site(name, verdict.at, [verdict.at], verdict.reason)
            elif verdict is not None:
                site, work_left = editor.apply(name, node, verdict, check)
                applied.append(site)
                work.push(work_left)
                break
    standing = [site for (node, _), site in refused.items() if node not in editor.erased]
    return editor.finish(), applied, standing


def _refusals(program: Program, rules: Sequence[tuple[str, Rule]]) -> list[Site] | None:
    """What the rules refuse where none fires, so that most passes need no copy of the graph; None if one fires."""
    refused: list[Site] = []
    for node in program.graph.nodes:
        for name, rule in rules if node.users and node.op != "placeholder" else ():
            verdict = rule(node, program)
            if isinstance(verdict, Replacement):
                return None
            if verdict is not None:
                refused.append(_site(name, verdict.at, [verdict.at], verdict.reason))
    return refused


def erase_dead(program: Program, static: Collection[Any] = ()) -> tuple[Program, list[Site]]:
    """Drop every call and constant whose value nobody uses; ops with side effects stay, but those in `static`."""
    editor = _Editor(program, static)
    calls = [n for n in editor.graph.nodes if n.op in ("call_function", "call_module")]
    sites = {n: replace(_site("remove_dead_code", n, [n]), flops=node_flops(n, program.regions)) for n in calls}
    reads = {n: [str(o.target) for o in n.all_input_nodes if o.op == "get_attr"] for n in calls}
    editor.erase([n for n in editor.graph.nodes if not n.users])
    done = [editor.balance.charge(site, reads[n]) for n, site in sites.items() if n in editor.erased]
    return editor.finish(), done


class _Editor:
    """One private copy of a program's graph, and the edits on it."""

    def __init__(self, program: Program, static: Collection[Any] = ()) -> None:
        self.static = static
        self.graph = copy_graph(program.graph)
        self.program = program.evolve(graph=self.graph, weights=dict(program.weights), regions=dict(program.regions))
        self.fakes = Fakes(self.graph)
        self.names = WeightNames(self.program.weights)
        self.readers = {n.target: n for n in reversed(self.graph.nodes) if n.op == "get_attr"}
        self.generation: dict[fx.Node, int] = {}
        self.erased: dict[fx.Node, None] = {}
        self.balance = Balance(self.program)

    def apply(
        self, rule: str, node: fx.Node, replacement: Replacement, check: BoundaryCheck | None
    ) -> tuple[Site, list[fx.Node]]:
        """Carry out one replacement; returns its site and the nodes to look at again."""
        olds = sorted(replacement.values)
        if not olds:
            raise VerifyError(f"rule {rule} returned an empty Replacement at {node.name}", "Return None instead.")
        site_nodes = list(dict.fromkeys([*olds, *replacement.covers]))
        site = _site(rule, node, site_nodes)
        made = _Maker(self, rule, _union_origins(site_nodes))
        news = [made.make(replacement.values[old], old) for old in olds]
        for old, new in zip(olds, news, strict=True):
            _same_value(rule, old, new)
        error = check.compare(site, self.program, made.created, olds, news) if check else None
        created = set(made.created)
        for old, new in zip(olds, news, strict=True):
            old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in created)
            if any(user < new for user in new.users):
                raise VerifyError(f"rule {rule} at {old.name} needs a value before it exists", "Replace later nodes.")
        self._grow_old(rule, [node, *site_nodes], made.created)
        touched = self.erase([*site_nodes, *made.created])
        if check:
            check.forget(self.erased)
        near = {user for n in [*news, *touched] if len(n.users) < 16 for user in n.users}
        return (
            self.balance.close(replace(site, error=error)),
            [n for n in {node, *made.created, *news, *touched, *near} if n not in self.erased],
        )

    def erase(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Erase these if unused, then what only they used; returns the nodes that lost a user and stay."""
        stack, touched = list(nodes), set()
        while stack:
            node = stack.pop()
            touched.discard(node)
            if node in self.erased:
                continue
            if node.users or not (node.target in self.static or _pure(node)):
                touched.add(node)
                continue
            operands = list(node.all_input_nodes)
            self.balance.remove(node)
            self.graph.erase_node(node)
            self.erased[node] = None
            if self.readers.get(node.target) is node:
                del self.readers[node.target]
            stack += operands
        return touched

    def read_weight(self, weight: Weight) -> tuple[fx.Node, bool]:
        """The `get_attr` of a constant, made among the first nodes of the graph; True when it is new."""
        name = self.names.add(weight.name, weight.tensor)
        if name in self.readers:
            return self.readers[name], False
        first = next(n for n in self.graph.nodes if n.op not in ("placeholder", "get_attr"))
        with self.graph.inserting_before(first):
            node = self.graph.create_node("get_attr", name)
        node.meta["val"] = self.fakes.of(self.program.weights[name])
        self.readers[name] = node
        self.balance.add(node)
        return node, True

    def finish(self) -> Program:
        """The edited program without the weights and regions that nobody reads."""
        read = {n.target for n in self.graph.nodes if n.op in ("get_attr", "call_module")}
        weights = {name: tensor for name, tensor in self.program.weights.items() if name in read}
        regions = {name: region for name, region in self.program.regions.items() if name in read}
        return self.program.evolve(weights=weights, regions=regions)

    def _grow_old(self, rule: str, nodes: list[fx.Node], created: list[fx.Node]) -> None:
        """Count generations, so that rules which undo each other end in an error and not in a hang."""
        age = 1 + max(self.generation.get(n, 0) for n in nodes)
        self.generation.update(dict.fromkeys([*nodes, *created], age))
        if age > MAX_GENERATIONS:
            raise VerifyError(
                f"rule {rule} at {nodes[0].name} does not end: its nodes come from {age} rewrites in a row",
                "Make the rule return None for its own result.",
            )


class _Maker:
    """Makes the nodes of one replacement; each expression object becomes one node."""

    def __init__(self, editor: _Editor, rule: str, origins: tuple[Origin, ...]) -> None:
        self.editor = editor
        self.rule = rule
        self.origins = origins
        self.created: list[fx.Node] = []
        self.memo: dict[int, fx.Node] = {}

    def make(self, root: Expr, old: fx.Node) -> fx.Node:
        """The node of an expression, placed just before `old` unless an operand comes later."""
        stack: list[Call | Weight] = [] if isinstance(root, fx.Node) else [root]
        while stack:
            expr = stack[-1]
            missing = [part for part in parts_of(expr) if id(part) not in self.memo]
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            if id(expr) not in self.memo:
                self.memo[id(expr)] = self._weight(expr) if isinstance(expr, Weight) else self._call(expr, old)
        return root if isinstance(root, fx.Node) else self.memo[id(root)]

    def _weight(self, weight: Weight) -> fx.Node:
        node, new = self.editor.read_weight(weight)
        if new:
            self._register(node, self.origins)
        return node

    def _call(self, call: Call, old: fx.Node) -> fx.Node:
        graph = self.editor.graph
        args, kwargs = resolve(call.args, self.memo), resolve(dict(call.kwargs), self.memo)
        late = [n for n in reads_of((args, kwargs)) if not n < old]
        with graph.inserting_after(max(late)) if late else graph.inserting_before(old):
            if isinstance(call.op, Region):
                self.editor.program.regions[call.op.name] = call.op
                node = graph.create_node("call_module", call.op.name, args, kwargs)
            else:
                node = graph.create_node("call_function", call.op, args, kwargs, name=_base_name(call.op))
        try:
            node.meta["val"] = self.editor.fakes.run(call.op, node.args, node.kwargs)
        except Exception as error:
            what = f"rule {self.rule} at {old.name} made a call that does not run: {node.format_node()}: {error}"
            raise VerifyError(what, "Mend the rule.") from error
        self.editor.balance.add(node)
        self._register(node, _union_origins(call.of) if call.of else self.origins)
        return node

    def _register(self, node: fx.Node, origins: tuple[Origin, ...]) -> None:
        node.meta["origins"] = origins
        self.created.append(node)


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy that shares no node with the original; names and metadata stay."""
    copy = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = copy.node_copy(node, copies.__getitem__)
    return copy


def _pure(node: fx.Node) -> bool:
    """Whether erasing an unused node changes nothing."""
    if node.op in ("get_attr", "call_module"):
        return True
    return node.op == "call_function" and not node.is_impure(impure_random=False)


def _base_name(op: Any) -> str:
    packet = getattr(op, "_overloadpacket", op)
    return str(packet.__name__)


def _union_origins(nodes: Iterable[fx.Node]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(origin for node in nodes for origin in node.meta.get("origins", ())))


def _site(rule: str, node: fx.Node, nodes: Iterable[fx.Node], reason: str | None = None) -> Site:
    layers = tuple(dict.fromkeys(origin.layer for origin in _union_origins(nodes)))
    return Site(rule, node.name, str(node.target), layers, reason)


def _same_value(rule: str, old: fx.Node, new: fx.Node) -> None:
    """A replacement keeps shape and dtype."""
    was, now = _shapes(old.meta.get("val")), _shapes(new.meta.get("val"))
    if was is not None and was != now:
        raise VerifyError(f"rule {rule} at {old.name} changes the value from {was} to {now}", "Mend the rule.")


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (str(value.dtype).removeprefix("torch."), list(value.shape))
    if isinstance(value, list | tuple):
        return [_shapes(item) for item in value]
    return value
