"""MetaSchedule's kernels: the generic scheduler's formulas in blocks, and schedules that are proposed and replayed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from kernel_case import HOST, Built, aten, build, loops, make_task, randn
from little_search import PLENTY, little_search
from torch import nn

import planish
from planish.backends.tvm.compat import s_tir, structural_equal, tvm
from planish.backends.tvm.generic import metaschedule
from planish.backends.tvm.generic.blocks import LARGEST, write_blocks
from planish.backends.tvm.generic.metaschedule import MetaSchedule
from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.objects import ObjectCache
from planish.backends.tvm.template import Lowered, Refused, Task
from planish.backends.tvm.tune import evolution
from planish.backends.tvm.tune.candidate import Candidate, Failed, Subject, Timing, compile_candidates
from planish.backends.tvm.tune.database import Database, Record
from planish.backends.tvm.tune.differences import beyond, difference
from planish.backends.tvm.tune.evolution import BATCH, Evolution
from planish.backends.tvm.tune.measure import LocalMeasurer
from planish.backends.tvm.tune.measure_process import Limits
from planish.backends.tvm.tune.reference import bar
from planish.backends.tvm.worker import Pool
from planish.errors import TuningError


def norm(x: torch.Tensor) -> torch.Tensor:
    return aten.layer_norm.default(x, [48], None, None, 1e-5, False)


def largest(x: torch.Tensor) -> torch.Tensor:
    return aten.max_pool2d.default(x, [3, 3], [2, 2], [1, 1], [1, 1], False)


def bins(x: torch.Tensor) -> torch.Tensor:
    return aten._adaptive_avg_pool3d.default(x, [3, 5, 5])


def border(x: torch.Tensor) -> torch.Tensor:
    return aten.pad.default(x, [1, 2, 2, 1], "reflect")


def gelu(x: torch.Tensor) -> torch.Tensor:
    return aten.gelu.default(x, approximate="none")


def swish(x: torch.Tensor) -> torch.Tensor:
    return aten.mul.Tensor(aten.silu.default(x), aten.amax.default(x, [1], True))


def whole(x: torch.Tensor) -> torch.Tensor:
    return aten.sum.default(x)


CASES: list[tuple[Callable[..., Any], tuple[int, ...]]] = [
    (norm, (7, 48)),
    (largest, (1, 20, 9, 11)),
    (bins, (1, 6, 7, 9, 8)),
    (border, (2, 3, 8, 9)),
    (gelu, (3, 100)),
    (swish, (2, 30, 5)),
    (whole, (3, 5)),
]


def scheduled(task: Task, lowered: Lowered) -> Built:
    return Built(task, lowered, tvm.compile(tvm.IRModule({"main": lowered.func}), target=task.target.tvm_target()))


def large(fn: Callable[..., Any] = largest) -> Task:
    return make_task(fn, [randn(1, 24, 30, 31)])


@pytest.mark.parametrize(("fn", "shape"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_blocks_compute_what_loops_compute(fn: Callable[..., Any], shape: tuple[int, ...]) -> None:
    x = randn(*shape)
    task = make_task(fn, [x], external=True)
    blocks = write_blocks(task)
    assert not isinstance(blocks, Refused)
    result, loop = build(MetaSchedule(), task).run([x]), build(Generic(), task).run([x])
    assert_close_to_reference(result, fn(x.double()), fn(x))
    assert blocks.exact == (fn in (largest, border))
    if blocks.exact:
        np.testing.assert_array_equal(result, loop)


def test_strange_numbers_stay_where_they_are() -> None:
    x = randn(2, 20, 9, 11)
    x[0, 3, 4, 5], x[1, 7, 0, 0], x[1, 8, 8, 10] = torch.nan, torch.inf, -torch.inf
    for fn in (largest, gelu, swish):
        blocks, loop = (build(template, make_task(fn, [x])).run([x]) for template in (MetaSchedule(), Generic()))
        assert difference(blocks, loop, "float32") == ""
        assert np.isnan(blocks).any()


def test_what_is_not_below_zero_may_be_no_number() -> None:
    """TVM's algebra takes "not x < 0" for "x >= 0"."""
    x = torch.tensor([1.0, -1.0, torch.nan, 0.0])
    task = make_task(lambda x: aten.logical_not.default(aten.lt.Scalar(x, 0.0)), [x])
    assert build(MetaSchedule(), task).run([x]).tolist() == [True, False, True, True]


@pytest.mark.parametrize("layout", [f"c{HOST.block}"])
def test_blocked_layouts_and_channels_that_fill_no_block(layout: str) -> None:
    x = randn(1, HOST.block + 3, 9, 11)
    task = make_task(largest, [x], layouts={0: layout}, hint=layout)
    np.testing.assert_array_equal(build(MetaSchedule(), task).run([x]), largest(x))


def test_bfloat16_is_computed_in_float32_and_rounded_once() -> None:
    x = randn(8, 48).bfloat16()
    for fn in (norm, gelu):
        made, loop = (build(t, make_task(fn, [x])).run([x]) for t in (MetaSchedule(), Generic()))
        assert difference(made.view(torch.uint16).numpy(), loop.view(torch.uint16).numpy(), "bfloat16") == ""


def sines(x: torch.Tensor) -> torch.Tensor:
    return aten.sin.default(x)


def running(x: torch.Tensor) -> torch.Tensor:
    return aten.cumsum.default(x, 1)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (make_task(running, [randn(4, 9)]), "running sums are made in order"),
        (make_task(sines, [randn(4, 9)]), f"its formula has more than {LARGEST} operations as one expression"),
        (
            replace(make_task(gelu, [randn(4, 9)]), within=frozenset({0})),
            "its result is stored in the place of an operand",
        ),
    ],
    ids=["running", "sines", "within"],
)
def test_what_has_no_blocks_is_refused_with_the_reason(task: Task, why: str) -> None:
    assert MetaSchedule().wants(task) == Refused(why)
    with pytest.raises(TuningError, match=why):
        MetaSchedule().emit(task)


def test_proposals_are_kernels_that_a_trace_makes_again() -> None:
    """The trace is all that a database keeps; every schedule of a maximum has the bits of the loops."""
    task = large()
    x = randn(1, 24, 30, 31)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    options = Evolution(task).propose(BATCH, {})
    assert 1 < len(options) == len({option.name for option in options})
    assert options == Evolution(task).propose(BATCH, {})
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    for option in options[:3]:
        first, second = (option.template.emit(task, json.loads(option.name[1])) for _ in range(2))
        assert structural_equal(first.func, second.func)
        assert first.agreement == "exact"
        assert "parallel" in {kind for kind, _ in loops(first.func)}
        np.testing.assert_array_equal(scheduled(task, first).run([x]), largest(x))


def test_a_search_that_begins_again_knows_what_was_tried() -> None:
    task = large(bins_of_large)
    first = Evolution(task).propose(BATCH, {})
    known = {option.name: float(number + 1) for number, option in enumerate(first)}
    again = Evolution(task).propose(BATCH, {**known, ("generic", "{}"): 1.0})
    assert again
    assert not known.keys() & {option.name for option in again}


def bins_of_large(x: torch.Tensor) -> torch.Tensor:
    return aten.sum.dim_IntList(x, [1], False)


def test_a_batch_follows_when_all_of_it_was_tried() -> None:
    search, times = Evolution(large(bins_of_large)), {}
    for _ in range(2):
        batch = search.propose(3, times)
        assert search.propose(3, times) == batch
        times |= dict.fromkeys((option.name for option in batch), 1.0)
    whole_batch = search.propose(100, times)
    times |= dict.fromkeys((option.name for option in whole_batch), None)
    assert not times.keys() & {option.name for option in search.propose(100, times)}


def test_a_defect_of_tvm_ends_proposals_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: Any) -> Any:
        raise RuntimeError("Traceback: ...\nInternalError: Check failed: odd")

    monkeypatch.setattr(evolution, "tune_context", defect)
    broken = Evolution(large())
    assert broken.propose(3, {}) == []
    assert broken.failed == "InternalError: Check failed: odd"
    assert broken.propose(3, {}) == []


def trace_of(steps: Sequence[Any]) -> dict[str, str]:
    return {"trace": json.dumps([list(steps), []])}


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"trace": "no trace"}, "does not fit"),
        (trace_of([["UnsafeHideBufferAccess", [], [], []]]), "UnsafeHideBufferAccess is nothing"),
        (trace_of([["Annotate", [], ["pragma_import_llvm", 1], []]]), "pragma_import_llvm is nothing"),
        (trace_of([["GetSBlock", [], ["elsewhere", "main"], ["b0"]]]), "does not fit"),
    ],
    ids=["text", "step", "note", "block"],
)
def test_a_trace_that_is_none_of_this_kernel_is_refused(choice: dict[str, str], said: str) -> None:
    with pytest.raises(TuningError, match=said):
        MetaSchedule().emit(large(), choice)


def test_what_adds_nothing_up_has_to_have_the_same_bits() -> None:
    one, other = np.array([1.0, np.nan], np.float32), np.array([1.0 + 2**-23, np.nan], np.float32)
    assert difference(other, one, "float32") == ""
    assert difference(other, one, "float32", exact=True) == "1 of 2 elements differ from the default's"
    assert difference(one, one, "float32", exact=True) == ""


def total(x: torch.Tensor) -> torch.Tensor:
    return aten.sum.dim_IntList(x, [1], False)


def test_what_adds_up_has_to_be_as_near_to_float64_as_every_kernel() -> None:
    """Ones have an exact sum: eight units in the last place of 4 are left. The other row is 1 + 2^-24 + ..."""
    reference, error = bar(make_task(total, [torch.ones(2, 4)]), [np.ones((2, 4), np.float32)])
    assert (reference.tolist(), error) == ([4.0, 4.0], 8 * 2.0**-21)
    row = np.array([[1.0, 2.0**-24, 2.0**-25, 0.0]], np.float32)  # PyTorch loses all but the 1
    reference, error = bar(make_task(total, [torch.from_numpy(row)]), [row])
    assert reference.tolist() == [1.0 + 1.5 * 2.0**-24]
    assert error <= 4 * 1.5 * 2.0**-24 + 8 * 2.0**-23
    near, far = np.float32([1.0 + 2.0**-20]), np.float32([1.0 + 2.0**-18])
    assert beyond(near, reference, "float32", error) == ""
    assert "where rounding explains" in beyond(far, reference, "float32", error)
    assert difference(far, np.float32([1.0]), "float32") == ""  # two right kernels might be so far apart


def test_a_candidate_that_is_near_the_default_but_not_near_enough_is_wrong(pool: Pool) -> None:
    """Half of what may be between two kernels is far more than a sum of 48 numbers loses."""
    task = make_task(total, [randn(40, 48)])
    honest = Generic().emit(task)
    asked = {}
    with LocalMeasurer(task.target, Limits(seconds=0.02, samples=3, spread=1.0)) as measurer:
        subject = Subject.of(task)
        for agreement in ("near", "bar"):
            off = replace(Generic().emit(shifted(task)), agreement=agreement)
            made = compile_candidates([(task, honest), (task, off)], pool, ObjectCache(None, {}))
            _, asked[agreement] = measurer.measure(subject, [c for c in made if isinstance(c, Candidate)])
    assert isinstance(asked["near"], Timing)
    assert isinstance(asked["bar"], Failed)
    assert "where rounding explains" in asked["bar"].why


def shifted(task: Task) -> Task:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return aten.add.Scalar(total(x), 1e-4)

    return replace(make_task(fn, [randn(40, 48)]), output=task.output)


def test_a_schedule_says_nothing_of_its_own() -> None:
    """Without a trace, loops are as they are written."""
    task = large()
    module = tvm.IRModule({"main": metaschedule.blocks_of(task).func})
    assert metaschedule.trace_text(s_tir.Schedule(module)) == "[[],[]]"


class Frame(nn.Module):
    """A convolution, which has a template, and what the generic scheduler does: a mirrored border, running sums."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 24, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return nn.functional.pad(y, (1, 2, 2, 1), mode="reflect"), y.cumsum(1)


def image() -> torch.Tensor:
    return randn(1, 3, 24, 23)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A database, and a network that was tuned with it: each task tries the default, one of its space, one proposal."""
    path = tmp_path_factory.mktemp("metaschedule") / "tuning.sqlite"
    with little_search(2):
        options = {"tune": PLENTY, "tuning_db": path, "metaschedule": True, "threads": 2}
        return path, planish.compile(Frame().eval(), image(), **options)


def test_a_search_on_request_says_what_it_did_and_what_it_cannot_take(searched: tuple[Path, Any]) -> None:
    path, model = searched
    told = model.manifest["tuning"]["metaschedule"]
    assert told["tasks"] == 1
    assert [(entry["why"], entry["task"].split(" ")[0]) for entry in told["refused"]] == [
        ("running sums are made in order", "cumsum")
    ]
    with Database(path) as database:
        tried = [(key, a) for key, a in database.all_attempts() if a.template == "metaschedule"]
    assert len(tried) == 1
    assert_right(model)


def assert_right(model: Any) -> None:
    x, own = image(), Frame().eval()
    with torch.no_grad():
        assert_close_to_reference(model(x), own.double()(x.double()), Frame().eval()(x))


def test_a_known_schedule_is_used_at_any_thread_count_with_the_same_bits(searched: tuple[Path, Any]) -> None:
    path, _ = searched
    with Database(path) as database:
        ((key, attempt),) = [(k, a) for k, a in database.all_attempts() if a.template == "metaschedule"]
        database.record(key, Record("metaschedule", attempt.choice, 1e-9, 1e-6), replace=True)
    model = planish.compile(Frame().eval(), image(), tuning_db=path, threads=2)
    kernels = [k for k in model.manifest["calls"]["kernels"].values() if k["template"] == "metaschedule"]
    assert [k["choice"] for k in kernels] == [attempt.choice]
    assert kernels[0]["tuned"] == {"seconds": 1e-9, "default_seconds": 1e-6}
    assert_right(model)
    model.save(path.with_name("frame.planish"))
    one = planish.load(path.with_name("frame.planish"), threads=1)
    for a, b in zip(model(image()), one(image()), strict=True):
        assert torch.equal(a, b)
    assert "trace=#" in str(model.profile(image(), runs=1))
