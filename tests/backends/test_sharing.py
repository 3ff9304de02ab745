"""Shared memory keeps every value whole until its last reader: small machines that run random steps on real cells."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from planish.backends.tvm.arena import Span, bound, pack
from planish.backends.tvm.sharing import ALIGNMENT, Shares, Use, share


@dataclass
class Steps:
    """Random steps; `pieces[cat]` are all parts of a concatenation in order, offered for sharing or not."""

    uses: list[Use]
    sizes: dict[str, int]
    fixed: set[str]
    results: set[str]
    pieces: dict[str, tuple[str, ...]]

    def content(self, name: str) -> list[object]:
        """What a value is, cell by cell."""
        use = next((u for u in self.uses if u.output == name), None)
        if use is not None and use.view:
            return self.content(use.reads[0])
        if name in self.pieces:
            return [cell for part in self.pieces[name] for cell in self.content(part)]
        return [(name, cell) for cell in range(self.sizes[name] // ALIGNMENT)]

    def run(self, shares: Shares) -> None:
        """Run on memory that is shared as `shares` says; whatever is read must be whole."""
        memory: dict[tuple[str, int], object] = {}

        def cells(name: str, offset: int = 0) -> list[tuple[str, int]]:
            root, inside = shares.root(name)
            return [(root, inside + offset + at) for at in range(0, self.sizes[name], ALIGNMENT)]

        def check(name: str) -> None:
            assert [memory.get(cell) for cell in cells(name)] == self.content(name), name

        for name in self.fixed:
            memory |= zip(cells(name), self.content(name), strict=True)
        for use in self.uses:
            for name in use.reads:
                check(name)
            offset = 0
            for part in self.pieces.get(use.output, ()):
                if part not in shares.placed.get(use.output, ()):
                    root, inside = shares.root(use.output)
                    copies = [memory[cell] for cell in cells(part)]
                    memory |= {(root, inside + offset + 64 * i): cell for i, cell in enumerate(copies)}
                offset += self.sizes[part]
            if use.output not in self.pieces and not use.view:
                memory |= zip(cells(use.output), self.content(use.output), strict=True)
        for name in self.results:
            check(name)


def random_steps(seed: int) -> Steps:
    """Up to 14 steps over values of few sizes: views, sums that may overwrite, and concatenations of any of them."""
    r = random.Random(seed)
    sizes, uses, pieces = {"in0": 128, "in1": 64}, [], {}
    fixed = set(sizes)
    for number in range(r.randint(2, 14)):
        name, values = f"v{number}", list(sizes)
        kind = r.choice(["sum", "sum", "view", "cat", "cat"])
        if kind == "view":
            source = r.choice(values)
            uses.append(Use(name, (source,), view=True))
            sizes[name] = sizes[source]
        elif kind == "sum":
            reads = tuple(dict.fromkeys(r.choices(values, k=r.randint(1, 3))))
            sizes[name] = r.choice([sizes[reads[0]], 64, 128])
            may = tuple(n for n in reads if sizes[n] == sizes[name] and r.random() < 0.8)
            uses.append(Use(name, reads, overwrites=may))
        else:
            pieces[name] = tuple(r.choices(values, k=r.randint(1, 4)))
            places, end = [], 0
            for part in pieces[name]:
                places.append((part, end))
                end += sizes[part]
            sizes[name] = end
            parts = tuple(p for p in places if pieces[name].count(p[0]) == 1 and r.random() < 0.9)
            uses.append(Use(name, tuple(dict.fromkeys(pieces[name])), parts=parts))
    results = {uses[-1].output, r.choice(uses).output}
    return Steps(uses, sizes, fixed, results, pieces)


@pytest.mark.parametrize("block", range(6))
def test_every_value_is_whole_when_it_is_read(block: int) -> None:
    overwritten = placed = 0
    for seed in range(500 * block, 500 * (block + 1)):
        steps = random_steps(seed)
        shares = share(steps.uses, steps.sizes, steps.fixed, steps.results)
        steps.run(shares)
        kept = {shares.root(name)[0] for name in steps.results}
        for name, root in ((name, shares.root(name)[0]) for name in steps.sizes):
            assert root not in kept or steps.sizes[name] == steps.sizes[root], "a result has memory of its own size"
        overwritten += len(shares.overwritten)
        placed += sum(map(len, shares.placed.values()))
    assert overwritten > 100
    assert placed > 100


def decided(*uses: Use, sizes: dict[str, int], results: set[str]) -> Shares:
    return share(uses, sizes, {"x"}, results)


def test_a_residual_sum_takes_the_place_of_its_operand() -> None:
    shares = decided(
        Use("a", ("x",)), Use("b", ("a",)), Use("c", ("b", "a"), overwrites=("a",)), Use("d", ("c",)),
        sizes=dict.fromkeys("xabcd", 64), results={"d"},
    )  # fmt: skip
    assert shares.overwritten == {"c": "a"}
    assert shares.root("c") == ("a", 0)


@pytest.mark.parametrize(
    ("why", "last"),
    [
        ("it is read later", Use("d", ("c", "a"))),
        ("a view of it is read later", Use("d", ("c", "v"))),
        ("it is a result", Use("a2", ("c",))),
    ],
)
def test_an_operand_is_left_alone(why: str, last: Use) -> None:
    steps = [
        Use("a", ("x",)), Use("v", ("a",), view=True), Use("b", ("v",)), Use("c", ("b", "a"), overwrites=("a",)), last
    ]  # fmt: skip
    names = ["x", "v", *(use.output for use in steps)]
    shares = decided(*steps, sizes=dict.fromkeys(names, 64), results={last.output, *(["a"] if "result" in why else [])})
    assert not shares.overwritten, why


def test_what_the_caller_owns_is_never_overwritten() -> None:
    steps = [Use("v", ("x",), view=True), Use("c", ("v",), overwrites=("v",)), Use("d", ("x",), overwrites=("x",))]
    assert not decided(*steps, sizes=dict.fromkeys("xvcd", 64), results={"c", "d"}).overwritten


def test_an_operand_that_the_step_reads_under_another_name_is_left_alone() -> None:
    steps = [Use("a", ("x",)), Use("v", ("a",), view=True), Use("c", ("v", "a"), overwrites=("a",)), Use("d", ("c",))]
    assert not decided(*steps, sizes=dict.fromkeys("xavcd", 64), results={"d"}).overwritten


def cat(name: str, *parts: str) -> Use:
    """A concatenation of parts of 64 bytes each."""
    return Use(name, parts, parts=tuple((part, 64 * i) for i, part in enumerate(parts)))


def test_growing_concatenations_lie_in_the_last_one() -> None:
    """ab is the front of abc: all three parts are made in abc's memory, and nothing is copied."""
    sizes = {**dict.fromkeys("xabcd", 64), "ab": 128, "abc": 192}
    steps = [Use("a", ("x",)), Use("b", ("x",)), cat("ab", "a", "b"), Use("c", ("ab",))]
    steps += [Use("abc", ("ab", "c"), parts=(("ab", 0), ("c", 128))), Use("d", ("abc",))]
    shares = decided(*steps, sizes=sizes, results={"d"})
    assert shares.placed == {"ab": ("a", "b"), "abc": ("ab", "c")}
    assert [shares.root(n) for n in ("a", "b", "c")] == [("abc", 0), ("abc", 64), ("abc", 128)]


def test_listed_again_the_parts_move_together() -> None:
    """As in DenseNet: each concatenation lists all its parts anew; where they lie in order, so they stay."""
    sizes = {**dict.fromkeys("xabcd", 64), "ab": 128, "abc": 192, "ac": 128}
    steps = [Use("a", ("x",)), Use("b", ("x",)), cat("ab", "a", "b"), Use("c", ("ab",)), cat("abc", "a", "b", "c")]
    shares = decided(*steps, Use("d", ("abc",)), sizes=sizes, results={"d"})
    assert shares.placed["abc"] == ("a", "b", "c")
    steps[-1] = cat("ac", "a", "c")  # b lies where c belongs: only c is made there
    shares = decided(*steps, Use("d", ("ac",)), sizes=sizes, results={"d"})
    assert shares.placed["ac"] == ("c",)


def test_a_result_takes_no_place_that_holds_parts() -> None:
    sizes = {"x": 128, "a": 64, "b": 64, "ab": 128, "sum": 128, "end": 128}
    steps = [Use("a", ("x",)), Use("b", ("x",)), cat("ab", "a", "b")]
    steps += [Use("sum", ("ab",), overwrites=("ab",)), Use("end", ("sum",), overwrites=("sum",))]
    shares = decided(*steps, sizes=sizes, results={"end"})
    assert shares.placed["ab"] == ("a", "b")
    assert shares.overwritten == {"sum": "ab"}


def test_parts_of_inputs_and_results_are_copied() -> None:
    sizes = {**dict.fromkeys("xab", 64), "xab": 192, "d": 64}
    steps = [Use("a", ("x",)), Use("b", ("x",)), cat("xab", "x", "a", "b"), Use("d", ("xab",))]
    assert decided(*steps, sizes=sizes, results={"d", "b"}).placed == {"xab": ("a",)}
    assert decided(*steps, sizes=sizes, results={"d", "xab"}).placed == {"xab": ()}


@pytest.mark.parametrize("seed", range(40))
def test_packing_keeps_apart_what_lives_at_one_time(seed: int) -> None:
    r = random.Random(seed)
    spans = [Span(r.choice([0, 64, 100, 640, 6400]), i, i + r.choice([0, 1, 1, 2, 9])) for i in range(r.randint(1, 40))]
    offsets, size = pack(spans)
    for i, a in enumerate(spans):
        assert offsets[i] % 64 == 0
        assert offsets[i] + a.size <= size
        for j, b in enumerate(spans[:i]):
            together = a.size and b.size and a.first <= b.last and b.first <= a.last
            assert not together or offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]
    busiest = max(sum(s.size for s in spans if s.first <= t <= s.last) for t in range(60))
    assert bound(spans) == busiest <= size


def test_a_chain_needs_two_buffers() -> None:
    offsets, size = pack([Span(640, i, i + 1) for i in range(9)])
    assert size == 1280
    assert offsets == [0, 640] * 4 + [0]


def test_nothing_needs_no_memory() -> None:
    assert pack([]) == ([], 0)
    assert bound([]) == 0
