"""Tables of the benchmarks: medians, factors, who loses beyond the spread, pages and plots."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.benchmarks import costs, figures, growth, page, throughput
from planish.benchmarks.case import Case
from planish.benchmarks.command import Command
from planish.benchmarks.engines import ENGINES, PEERS, engine
from planish.benchmarks.figures import best_peer, factor, geometric_mean, latency, peak_share, slower
from planish.benchmarks.measure import Measured
from planish.benchmarks.plot import factors
from planish.benchmarks.worker import error, read_sample, times


def measured(name: str, *ms: float, model: str = "m", **extra: float) -> Measured:
    return Measured(Case(model, name), [list(ms)] if ms else [], dict(extra))


# Quartiles of five values are the second, third and fourth.
OURS = measured("planish", 1, 2, 4, 6, 9, flops=8.0)
FAST = measured("openvino", 1, 4, 5, 6, 9)
SLOW = measured("onnxruntime", 6, 7, 8, 9, 9)
PEAK = measured("peak", 1, 1, 1, 1, 1, flops=4.0)
FAILED = Measured(Case("m", "inductor"), failed="no | compiler")


def test_quartiles() -> None:
    assert OURS.quartiles == (2, 4, 6)
    assert OURS.median == 4
    assert FAILED.median == 0


def test_the_fastest_peer_counts_and_the_machine_is_none() -> None:
    assert best_peer([PEAK, OURS, SLOW, FAST, FAILED]) is FAST
    assert factor([PEAK, OURS, SLOW, FAST]) == 1.25
    assert factor([OURS, FAILED]) is None
    assert factor([measured("planish"), FAST]) is None


@pytest.mark.parametrize(("ours", "loses"), [((6, 7, 8, 9, 10), True), ((4, 5.9, 7, 8, 9), False)])
def test_losing_is_beyond_the_spread(ours: tuple[float, ...], loses: bool) -> None:
    assert slower([measured("planish", *ours), FAST]) is loses  # FAST's upper quartile is 6


def test_integers_count_if_they_are_as_exact_as_nncfs() -> None:
    nncf = measured("openvino", 6, 7, 8, 9, 9, sqnr=20.0)
    worse, equal = (measured("onnxruntime", 1, 4, 5, 6, 9, sqnr=sqnr) for sqnr in (19.9, 20.0))
    ours = measured("planish", 1, 2, 4, 6, 9, sqnr=20.1)
    assert best_peer([ours, worse, nncf]) is nncf
    assert factor([ours, worse, nncf]) == 2
    assert factor([ours, equal, nncf]) == 1.25
    assert factor([ours, worse]) == 1.25  # nobody says how exact NNCF's would be
    assert factor([measured("planish", 1, 2, 4, 6, 9, sqnr=19.9), nncf]) is None
    row = latency([[ours, worse, nncf]]).splitlines()[2]
    assert row == (
        "| m | 4.00 (2.00 to 6.00), 20.1 dB | 5.00 (4.00 to 6.00), 19.9 dB, less exact than NNCF's "
        "| 8.00 (7.00 to 9.00), 20.0 dB | 2.00 | - |"
    )


def test_share_of_the_peak() -> None:
    assert peak_share([PEAK, OURS]) == 0.5  # 8 in 4 ms, where 4 in 1 ms are possible
    assert peak_share([OURS]) is None


def test_the_latency_table() -> None:
    two = [measured("planish", 2, 2, 2, 2, 2, model="n"), measured("openvino", 10, 10, 10, 10, 10, model="n")]
    lines = latency([[PEAK, OURS, FAST], two]).splitlines()
    assert lines[0] == "| model | planish | openvino | fastest peer / planish | of peak |"
    assert lines[2] == "| m | 4.00 (2.00 to 6.00) | 5.00 (4.00 to 6.00) | 1.25 | 50 % |"
    assert lines[3] == "| n | 2.00 (2.00 to 2.00) | 10.00 (10.00 to 10.00) | 5.00 | - |"
    assert lines[4] == "| geometric mean |  |  | **2.50** |  |"  # sqrt(1.25 * 5)
    assert geometric_mean([2, 8]) == pytest.approx(4)


def test_reasons_stand_in_the_table() -> None:
    refused = Measured(Case("m", "onnxruntime"), refused="has no bfloat16")
    row = latency([[OURS, refused, FAILED]]).splitlines()[2]
    assert "| has no bfloat16 | no / compiler | - |" in row


def test_throughput_adds_instances() -> None:
    case = Case("m", "planish", batch=2)
    ours = Measured(case, [[4.0, 4.0], [8.0, 8.0]])
    assert ours.per_second == 750  # 2 images in 4 ms, and in 8 ms
    peer = Measured(Case("m", "openvino", batch=2), [[8.0, 8.0], [8.0, 8.0]])
    assert throughput.table([[ours, peer]]).splitlines()[2] == "| m | 750.0 | 500.0 | 1.50 |"


def test_costs() -> None:
    known = {"peak_kb": 4096.0, "before_kb": 1024.0, "export_s": 7.0, "tune_s": 5.0, "load_s": 0.25, "error": 1e-6}
    row = costs.table([[measured("planish", 1, 1, **known)]]).splitlines()[2]
    assert row == "| m | planish | 4 | 3 | 2.0 | 5 | 0.25 | 1.0e-06 |"
    assert "no / compiler" in costs.table([[FAILED]])


def test_growth() -> None:
    ours = Measured(Case("m", "planish", batch=4), [[2.0, 2.0]])
    row = growth.table([[ours, FAST]], "batch").splitlines()[2]
    assert row == "| m | 4 | 2.00 (2.00 to 2.00) | 5.00 (4.00 to 6.00) | 2.50 | 2000.0 |"


def test_blocks_of_a_page() -> None:
    text = "# Title\n\n<!-- a -->\nold\n<!-- end of a -->\n\nkept\n"
    assert page.replace(text, "a", r"new \1") == "# Title\n\n<!-- a -->\nnew \\1\n<!-- end of a -->\n\nkept\n"
    added = page.replace(text, "b", "more")
    assert added.endswith("kept\n\n<!-- b -->\nmore\n<!-- end of b -->\n")
    assert page.replace(added, "b", "less").count("<!-- b -->") == 1


def test_plots_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    for name in ("x.svg", "y.svg"):
        factors([[OURS, FAST, SLOW, FAILED]], tmp_path / name, "title")
    assert (tmp_path / "x.svg").read_bytes() == (tmp_path / "y.svg").read_bytes()
    assert "openvino" in (tmp_path / "x.svg").read_text()


def test_every_engine_is_there() -> None:
    assert set(PEERS) == set(ENGINES) - {"planish", "merged", "peak"}
    for name in ENGINES:
        assert engine(name).refuses(Case("m", name)) is None
    assert "bfloat16" in str(engine("onnxruntime").refuses(Case("m", "onnxruntime", precision="bfloat16")))
    refusing = {name for name in ENGINES if engine(name).refuses(Case("m", name, precision="int8"))}
    assert refusing == {"eager"}


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Command("x")
    command.parse(["--models", "resnet18,vgg16", "--against", "eager", "--json", str(tmp_path / "x"), "--batch", "3"])
    assert [(case.model, case.batch) for case in command.cases()] == [("resnet18", 3), ("vgg16", 3)]
    assert command.engines == ("planish", "eager")
    assert command.typed.endswith("--models resnet18,vgg16 --against eager --batch 3")
    with pytest.raises(SystemExit):
        Command("x").parse(["--against", "nobody"])
    assert "no engine nobody" in capsys.readouterr().err
    other = Command("x")
    other.parse(["--models", "nothing"])
    with pytest.raises(SystemExit):
        other.cases()


def test_cases_survive_their_text() -> None:
    case = Case("m", "planish", 1, 4, 160, "bfloat16", "small", 2.5)
    assert Case.from_json(case.to_json()) == case
    assert Case("m", "peak", batch=2).name == Case("n", "peak", batch=4).name
    ranges = {name: Case("m", name, observer="minmax").name == Case("m", name).name for name in ("planish", "openvino")}
    assert ranges == {"planish": False, "openvino": True}  # a peer's model is the same and is kept


def test_errors_are_relative_to_each_outputs_scale() -> None:
    import numpy as np

    wanted = [np.array([0.0, 10.0]), np.array([0.5])]
    assert error([np.array([1.0, 10.0]), np.array([0.5])], wanted) == pytest.approx(0.1)
    assert error([np.array([0.0, 10.0]), np.array([0.75])], wanted) == pytest.approx(0.5)


def test_samples_are_read_in_order(tmp_path: Path) -> None:
    import numpy as np

    arrays = {f"input{i:03d}": np.array([i]) for i in (1, 0)} | {"output000": np.array([7])}
    np.savez(tmp_path / "x.npz", **arrays)
    inputs, outputs = read_sample(tmp_path / "x.npz")
    assert [int(a[0]) for a in inputs] == [0, 1]
    assert [int(a[0]) for a in outputs] == [7]


def test_a_slice_has_at_least_three_calls() -> None:
    calls: list[int] = []
    found = times(lambda: calls.append(1), 0.0)
    assert len(found) == 3
    assert len(calls) >= 3


def test_a_line_while_others_are_measured() -> None:
    assert figures.line([OURS, FAILED]) == "m: planish 4.00 (2.00 to 6.00), inductor no | compiler"
