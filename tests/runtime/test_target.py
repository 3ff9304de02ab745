"""Targets through LLVM, CPU features without it."""

from __future__ import annotations

import os

import pytest

from planish.backends.tvm import cpu
from planish.backends.tvm.compat import TESTED, check_versions
from planish.backends.tvm.target import Target, parse_target
from planish.errors import MissingDependencyError, OptionError, TargetError


def test_host_is_what_the_kernel_says() -> None:
    target = Target.host()
    flags = cpu.machine_flags()
    for feature, flag in cpu.ARCHITECTURES[target.arch].items():
        if feature in ("avx2", "fma", "avx512f", "avx512vl", "avx512vnni", "neon", "dotprod", "bmi2"):
            assert (feature in target.features) == (flag in flags), feature
    assert not cpu.missing(target.arch, target.features)
    assert target.threads == len(os.sched_getaffinity(0))
    assert parse_target("native") == target


def test_native_target_never_asks_for_a_feature_the_machine_hides() -> None:
    """A virtual machine may call itself znver4 and have no AVX-512: the difference goes to LLVM."""
    target = Target("x86_64-linux-gnu", "znver4", frozenset({"avx2", "fma", "avx", "sse4.2"}), 1)
    mattr = set(target.tvm_target().attrs["mattr"])
    assert "-avx512f" in mattr
    assert not any(str(m).startswith("+") for m in mattr)
    assert (target.lanes, target.registers) == (8, 16)


@pytest.mark.parametrize(
    ("spec", "arch", "lanes", "registers", "block", "has", "lacks"),
    [
        ("haswell", "x86_64", 8, 16, 8, "fma", "avx512f"),
        ("x86-64-v3", "x86_64", 8, 16, 8, "avx2", "avx512f"),
        ("skylake-avx512", "x86_64", 16, 32, 16, "avx512bw", "avx512vnni"),
        ("x86_64:sapphirerapids", "x86_64", 16, 32, 16, "avx512vnni", "neon"),
        ("aarch64:neoverse-v1", "aarch64", 4, 32, 8, "i8mm", "avx2"),
        ("arm64:cortex-a76", "aarch64", 4, 32, 8, "dotprod", "i8mm"),
        ("x86-64-v2", "x86_64", 4, 16, 8, "sse4.2", "avx"),
    ],
)
def test_named_targets(spec: str, arch: str, lanes: int, registers: int, block: int, has: str, lacks: str) -> None:
    target = parse_target(spec, threads=3)
    assert (target.arch, target.lanes, target.registers, target.block) == (arch, lanes, registers, block)
    assert target.threads == 3
    assert has in target.features
    assert lacks not in target.features


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("skylake-avx51", "does not know a cpu named 'skylake-avx51'(.|\n)*skylake-avx512"),
        ("aarch64:haswell", "does not know a cpu named 'haswell' for aarch64"),
        ("riscv64:sifive-u74", "'riscv64' is none that planish makes code for"),
        ("pentium4m", "has no 64-bit mode"),
        ("", "does not know a cpu named ''"),
        ("aarch64:", "does not know a cpu named ''"),
    ],
)
def test_unknown_targets(spec: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        parse_target(spec)


def test_threads_must_be_positive() -> None:
    with pytest.raises(OptionError, match="threads=0"):
        parse_target("native", threads=0)


def test_threads_default_to_the_cores_of_the_process() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert parse_target("haswell").threads == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_missing_features_are_directional() -> None:
    flags = cpu.machine_flags(
        "processor : 0\nflags : sse4_2 avx avx2 fma bmi1\n\nprocessor : 1\nflags : avx avx2 fma bmi1\n"
    )
    assert flags == {"avx", "avx2", "fma", "bmi1"}  # what every core has
    assert cpu.missing("x86_64", ["avx2", "bmi"], flags) == []
    assert cpu.missing("x86_64", ["avx2", "avx512f", "sse4.2"], flags) == ["avx512f", "sse4.2"]
    assert cpu.missing("x86_64", ["feature-of-the-future"], flags) == ["feature-of-the-future"]
    assert cpu.missing("aarch64", ["neon"], cpu.machine_flags("Features : fp asimd\n")) == []


def test_versions_outside_the_tested_ones_are_refused() -> None:
    good = {name: releases[-1] for name, releases in TESTED.items()}
    assert check_versions(good.__getitem__) == good
    bad = {**good, "apache-tvm-ffi": "0.1.15"}
    with pytest.raises(MissingDependencyError, match=r"apache-tvm-ffi 0\.1\.15 is installed"):
        check_versions(bad.__getitem__)
