"""What every test shares: hypothesis profiles (`HYPOTHESIS_PROFILE=nightly` for the long one), and who may use TVM."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=50)
settings.register_profile(
    "nightly", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

os.environ.setdefault("PLANISH_CACHE_DIR", str(Path(__file__).resolve().parent.parent / "build" / "cache"))
"""Objects compiled by tests stay in the checkout, out of the user's own cache."""

WITHOUT_TVM = ("ir", "passes", "quantize")
"""Folders whose tests run where TVM is not installed."""


@pytest.fixture(autouse=True)
def _hide_tvm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an import of TVM fail in the tests of these folders, whatever ran before them."""
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    if folder in WITHOUT_TVM:
        for name in ("tvm", "tvm_ffi", "planish.backends.tvm.compat"):
            monkeypatch.setitem(sys.modules, name, None)
