"""What the `planish` command prints: tables for people, JSON for machines. No torch.

Only this file and `progress.py` know rich.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import ledger
from .arrays import Array
from .backends.tvm.profile_text import choice_text
from .doctor import Check
from .ir.report import saved
from .ledger import reports

if TYPE_CHECKING:
    from .backends.tvm.profile import Profile

Manifest = Mapping[str, Any]


def print_json(data: Any) -> None:
    """Print JSON on standard output."""
    print(json.dumps(data, indent=2))


def show_compiled(file: str, manifest: Manifest, as_json: bool) -> None:
    """What `compile` wrote: sizes, and how many sites each pass changed and refused."""
    size = os.path.getsize(file)
    if as_json:
        print_json({"file": file, "bytes": size, **_summary(manifest)})
        return
    out = _console()
    out.print(f"{escape(file)}: {_bytes(size)}, {len(_steps(manifest))} kernel calls, made for {_target(manifest)}")
    _print_tuning(out, manifest)
    _print_passes(out, manifest)


def show_manifest(file: str, manifest: Manifest, as_json: bool) -> None:
    """All that a file says of itself."""
    size = os.path.getsize(file)
    if as_json:
        print_json({"file": file, "bytes": size, **manifest, "saved": saved(reports(manifest))})
        return
    out = _console()
    members = ", ".join(f"{name} {_bytes(entry['length'])}" for name, entry in manifest["members"].items())
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    out.print(f"[bold]{escape(manifest['name'])}[/bold], {escape(file)}, {_bytes(size)}: {members}")
    out.print(f"made by planish {manifest['planish']} with {versions}")
    out.print(f"for {_target(manifest)}; needs {', '.join(manifest['target']['features'])}")
    _print_tuning(out, manifest)
    for direction in ("inputs", "outputs"):
        for spec in manifest["signature"][direction]:
            out.print(f"{direction[:-1]:<6} {escape(_spec(spec))}")
    _print_passes(out, manifest)
    _print_sites(out, manifest)
    _print_steps(out, manifest)


def show_tuning(manifest: Manifest, as_json: bool) -> None:
    """What tuning found: the kernels that are not the default ones, and what they gain."""
    if as_json:
        print_json({"name": manifest["name"], "tuning": manifest["tuning"], "kernels": manifest["calls"]["kernels"]})
        return
    out = _console()
    _print_tuning(out, manifest)
    _print_steps(out, manifest)


def show_import(file: str, merged: Any, as_json: bool) -> None:
    """What an import of tuning records did."""
    if as_json:
        print_json({"file": file, **merged._asdict()})
        return
    kept = merged.records - merged.taken
    known = f"; {kept} were known already, as fast or faster" if kept else ""
    _console().print(
        f"{escape(file)}: {merged.taken} of {merged.records} kernels taken{known}, {merged.attempts} attempts"
    )


def show_database(path: str, records: Any, attempts: Any, as_json: bool) -> None:
    """What a tuning database knows: for each task the kernel, its time, and what it gains over the default."""
    failed = [(key, attempt) for key, attempt in attempts if attempt.seconds is None]
    if as_json:
        entries = [{"key": key, **vars(record)} for key, record in records]
        failures = [{"key": key, **vars(attempt)} for key, attempt in failed]
        print_json({"file": path, "records": entries, "attempts": len(attempts), "failed": failures})
        return
    out = _console()
    table = _table("task", "kernel", "choice", "µs", "default", "gain")
    for _, r in sorted(records, key=lambda pair: pair[1].what):
        times = (f"{1e6 * r.seconds:.1f}", f"{1e6 * r.default_seconds:.1f}", f"{r.default_seconds / r.seconds:.2f}")
        table.add_row(escape(r.what), r.template, escape(choice_text(r.choice)), *times)
    out.print(table)
    out.print(f"{escape(path)}: {len(records)} kernels of {len(attempts)} tried, {len(failed)} failed")
    for why, count in Counter(attempt.why for _, attempt in failed).most_common(5):
        out.print(f"    {count} x {escape(why)}", soft_wrap=True)


def show_outputs(outputs: Mapping[str, Array], written: list[str], as_json: bool) -> None:
    """Each output's type and range, and where it was written."""
    paths: list[Any] = written if len(written) == len(outputs) else written * len(outputs)
    rows = [_describe(name, array) for name, array in outputs.items()]
    if as_json:
        files = paths or [None] * len(rows)
        print_json({"outputs": [{**row, "file": path} for row, path in zip(rows, files, strict=True)]})
        return
    table = _table("output", "type", "min", "max", "mean", *(["file"] if written else []))
    for row, path in zip(rows, paths or [""] * len(rows), strict=True):
        kind = f"{row['dtype']}[{', '.join(map(str, row['shape']))}]"
        figures = ["" if row[key] is None else f"{row[key]:.6g}" for key in ("min", "max", "mean")]
        table.add_row(escape(row["name"]), escape(kind), *figures, *([escape(str(path))] if written else []))
    _console().print(table)


def show_bench(
    file: str, threads: int, result: Mapping[str, float | int], profile: Profile | None, as_json: bool
) -> None:
    """Latencies, and where the time goes."""
    if as_json:
        calls = {} if profile is None else {"profile": profile.to_json()}
        print_json({"file": file, "threads": threads, **result, **calls})
        return
    out = _console()
    out.print(
        f"{escape(file)}: median {result['median_ms']:.3f} ms, min {result['min_ms']:.3f}, max {result['max_ms']:.3f}, "
        f"spread {100 * result['spread']:.1f} % (p10 to p90), {result['per_second']:.1f} a second "
        f"({result['calls']} calls, {threads} thread(s))"
    )
    if profile is not None:
        print(profile)


def show_checks(checks: Iterable[Check], as_json: bool) -> bool:
    """Print each finding as it is made; whether none failed."""
    found = []
    out = _console()
    for check in checks:
        found.append(check)
        if not as_json:
            word, color = {True: ("ok", "green"), False: ("failed", "red"), None: ("absent", "yellow")}[check.ok]
            out.print(f"[{color}]{word:<7}[/{color}] {escape(check.name)}: {escape(check.said)}", soft_wrap=True)
            if check.todo:
                out.print(f"        {escape(check.todo)}", soft_wrap=True)
    healthy = all(check.ok is not False for check in found)
    if as_json:
        print_json({"healthy": healthy, "checks": [check.to_json() for check in found]})
    return healthy


def _summary(manifest: Manifest) -> dict[str, Any]:
    """What a machine wants to know of a compilation."""
    keys = ("name", "planish", "versions", "target", "signature")
    report = reports(manifest)
    passes = [
        {"name": entry.name, "applied": len(entry.applied), "refused": len(entry.refused), "saved": saved([entry])}
        for entry in report
    ]
    known = {key: manifest[key] for key in (*keys, *({"fidelity"} & manifest.keys()))}
    return {**known, "kernel_calls": len(_steps(manifest)), "passes": passes, "saved": saved(report)}


def _print_tuning(out: Console, manifest: Manifest) -> None:
    """One or two sentences, if the model was tuned."""
    tuning = manifest.get("tuning")
    if tuning is None:
        return
    if not tuning["budget"]:
        out.print(f"the tuning database knows {tuning['known']} of {tuning['tasks']} kernels; nothing was measured")
        return
    early = ", interrupted" if tuning["interrupted"] else ""
    out.print(
        f"tuned for {tuning['seconds']:.0f} s{early}: {tuning['tried']} candidates for {tuning['tasks']} kernels,"
        f" {tuning['known']} of them known before; {tuning['kept']} replaced,"
        f" {tuning['put_back']} put back because they are not faster inside the network"
    )
    if tuning["untuned_ms"] is not None:
        gain = tuning["untuned_ms"] / tuning["tuned_ms"]
        out.print(f"{tuning['untuned_ms']:.3f} ms untuned, {tuning['tuned_ms']:.3f} ms tuned: {gain:.2f} times as fast")
    if (schedules := tuning.get("metaschedule")) is not None:
        out.print(f"MetaSchedule searched for {schedules['tasks']} kernels, {schedules['kept']} of its own were kept")
        for refused in schedules["refused"]:
            out.print(f"    not {escape(refused['task'])}: {escape(refused['why'])}", soft_wrap=True)


def _print_passes(out: Console, manifest: Manifest) -> None:
    """What each pass found and saved."""
    table = _table(*ledger.COLUMNS)
    for row in ledger.rows(reports(manifest)):
        table.add_row(*row)
    out.print(table)
    for line in ledger.totals(reports(manifest)):
        out.print(line)


def _print_sites(out: Console, manifest: Manifest) -> None:
    """What happened at each site, by rule."""
    for rule, verdict, lines in ledger.sites(reports(manifest)):
        out.print(f"[bold]{escape(rule)}[/bold] {escape(verdict)}", soft_wrap=True)
        for line in lines:
            out.print(f"    {escape(line)}", soft_wrap=True)


def _print_steps(out: Console, manifest: Manifest) -> None:
    """The call table."""
    table = _table("call", "kind", "kernel", "choice", "gain", "output", "layout", "MFLOP", "layers")
    kernels = manifest["calls"]["kernels"]
    for number, step in enumerate(_steps(manifest)):
        shape = "×".join(map(str, step["shape"]))
        work = f"{step['flops'] / 1e6:.1f}"
        kernel = kernels[step["symbol"]]
        choice = choice_text(kernel["choice"])
        layers = escape(", ".join(step["layers"]))
        table.add_row(
            str(number), step["kind"], kernel["template"], choice, _gain(kernel), shape, step["layout"], work, layers
        )
    out.print(table)


def _gain(kernel: Mapping[str, Any]) -> str:
    """How many times as fast as the default a measured kernel is."""
    tuned = kernel.get("tuned")
    return "" if tuned is None else f"{tuned['default_seconds'] / tuned['seconds']:.2f}"


def _steps(manifest: Manifest) -> list[dict[str, Any]]:
    """The calls that run a kernel (views run none)."""
    return [step for step in manifest["calls"]["steps"] if step["symbol"]]


def _describe(name: str, array: Array) -> dict[str, Any]:
    """An output in numbers."""
    known = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    if array.size == 0 or array.dtype.kind not in "fiub":
        return {**known, "min": None, "max": None, "mean": None}
    wide = array.astype(np.float64)
    return {**known, **{key: _finite(getattr(wide, key)()) for key in ("min", "max", "mean")}}


def _finite(value: Any) -> float | None:
    """A number that JSON has."""
    return float(value) if np.isfinite(value) else None


def _target(manifest: Manifest) -> str:
    target = manifest["target"]
    return f"{target['cpu']} ({target['triple']}), planned for {target['threads']} thread(s)"


def _spec(spec: Mapping[str, Any]) -> str:
    return f"{spec['name']}: {spec['dtype']}[{', '.join(map(str, spec['shape']))}]"


def _bytes(count: int) -> str:
    """A size as people read it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in (
            "applied",
            "refused",
            "seconds",
            "min",
            "max",
            "mean",
            "MFLOP",
            "call",
            "gain",
            "µs",
            "default",
        )
        table.add_column(column, justify="right" if numeric else "left")
    return table


def _console() -> Console:
    """Standard output; wide where nobody looks, so that no cell is cut."""
    return Console() if sys.stdout.isatty() else Console(width=200, highlight=False)
