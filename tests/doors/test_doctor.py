"""What `planish doctor` finds: versions against ranges, what is absent, what is broken."""

from __future__ import annotations

from importlib import metadata

import pytest

from planish import doctor
from planish.doctor import Check, examine, satisfies
from planish.errors import PlanishError


@pytest.mark.parametrize(
    ("version", "ranges", "inside"),
    [
        ("2.13.0", "==2.13.0", True),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("0.27.0.post1", ">=0.27.0.post1,<0.28", True),
        ("0.27.0", ">=0.27.0.post1,<0.28", False),
        ("0.28", ">=0.27.0.post1,<0.28", False),
        ("0.28.0.post2", "<0.28", False),
        ("3.6.1", ">=3.3,<4", True),
        ("10.0", ">=9,<11", True),
        ("4", ">3", True),
        ("1.0", "", True),
    ],
)
def test_satisfies(version: str, ranges: str, inside: bool) -> None:
    assert satisfies(version, ranges) is inside


def find(name: str) -> Check:
    return next(check for check in examine() if check.name == name)


def test_what_only_compiling_needs_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version

    def without_tvm(name: str) -> str:
        if name == "apache-tvm":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(doctor.metadata, "version", without_tvm)
    checks = {check.name: check for check in examine()}
    assert checks["apache-tvm"].ok is None
    assert "planish[compile]" in checks["apache-tvm"].todo
    assert "compile" not in checks
    assert all(check.ok is not False for check in checks.values())


def test_an_untested_version_fails_with_the_tested_range(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.15.2" if "ffi" in name else installed(name))
    monkeypatch.setattr(doctor, "_can_compile", lambda: False)
    check = find("apache-tvm-ffi")
    assert check.ok is False
    assert "0.15.2" in check.said
    assert "<0.1.15" in check.todo


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def planish_error() -> str:
        raise PlanishError("no good", "mend it")

    def other_error() -> str:
        raise OSError("gone")

    assert list(doctor._guarded("a", planish_error)) == [Check("a", False, "no good", "mend it")]
    (found,) = doctor._guarded("b", other_error)
    assert found.ok is False
    assert "OSError: gone" in found.said


def test_development_tools_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_can_compile", lambda: False)
    names = {check.name for check in examine()}
    assert {"numpy", "torch", "ziglang"} <= names
    assert not {"pytest", "mypy", "planish"} & names


def test_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", missing)
    monkeypatch.setattr(doctor, "_can_compile", lambda: False)
    assert find("planish").ok is None
