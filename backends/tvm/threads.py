"""How many threads a call uses: TVM's pools, one for each calling thread, sized by whoever calls first in it.

in_pool(n, call) == call(), run by n threads

What TVM gives (0.27): a pool belongs to one OS thread and never grows; `runtime.config_threadpool` makes it and
later lowers or raises the number in use up to its size. It pins threads and moves its caller to the first cores
unless TVM_BIND_THREADS is 0, and idle workers spin for a tenth of a second unless TVM_THREAD_POOL_SPIN_COUNT says
less. After a fork the child's copy of a pool is dead. A call that needs more threads than its own thread's pool
has, or whose pool died, therefore runs on a helper thread, which makes a pool of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ...options import check_thread_count
from .cpu import available_threads

T = TypeVar("T")

_SETTINGS = {"TVM_BIND_THREADS": "0", "TVM_THREAD_POOL_SPIN_COUNT": "1000"}


class _Pools(threading.local):
    """This thread's pool: how large it was made, how much of it is in use, and helpers by their size."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.size = 0
        self.active = 0
        self.helpers: dict[tuple[int, int], ThreadPoolExecutor] = {}


_pools = _Pools()


def prepare() -> None:
    """Set what TVM reads from the environment, unless the user did; before the first pool is made."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def check_threads(threads: int | None) -> int:
    """The number of threads asked for; all cores of the process by default."""
    if threads is None:
        return available_threads()
    check_thread_count(threads)
    return threads


def in_pool(threads: int, configure: Callable[..., Any], size: Callable[[], int], call: Callable[[], T]) -> T:
    """Run `call` with `threads` threads; `configure` and `size` are TVM's functions."""
    if _pools.active == threads and _pools.owner == os.getpid():
        return call()
    if _fits(threads, configure, size):
        return call()
    return _helper(threads).submit(lambda: in_pool(threads, configure, size, call)).result()


def _fits(threads: int, configure: Callable[..., Any], size: Callable[[], int]) -> bool:
    """Set this thread's own pool to `threads`, if it can."""
    if _pools.owner != os.getpid():  # a forked child: its pool, if any, has no workers any more
        if _pools.size > 1:
            return False
        _pools.owner = os.getpid()
    if _pools.size and threads > _pools.size:
        return False
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    configure(-3, threads, [str(cores[i % len(cores)]) for i in range(threads)])
    _pools.active = size()
    _pools.size = max(_pools.size, _pools.active)
    return _pools.active >= threads  # less, if other code made this thread's pool before


def _helper(threads: int) -> ThreadPoolExecutor:
    """A thread of this thread's own, with a pool of that size; a forked child makes new ones."""
    key = (os.getpid(), threads)
    if key not in _pools.helpers:
        _pools.helpers[key] = ThreadPoolExecutor(1, "planish")
    return _pools.helpers[key]
