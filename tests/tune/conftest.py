"""What the tests of tuning share: a pool of code generators, and tasks with kernels made by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from planish.backends.tvm.worker import Pool


@pytest.fixture(scope="package")
def pool() -> Iterator[Pool]:
    """Two code generators for all tests of this folder."""
    pool = Pool(2)
    pool.warm()
    yield pool
    pool.close()
