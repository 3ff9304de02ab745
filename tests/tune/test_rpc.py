"""Measuring over TVM's tracker and server on the loopback, and the check that names the hop that fails."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from little_search import PLENTY, little_search
from tune.test_measure import QUICK, aborting, compiled, kernel, product, scaled, sum_instead

import planish
from planish.backends.tvm.compat import rpc as rpc_client
from planish.backends.tvm.compat import virtual_machine
from planish.backends.tvm.target import parse_target
from planish.backends.tvm.tune import rpc
from planish.backends.tvm.tune.candidate import Failed, Subject, Timing
from planish.backends.tvm.tune.confirm import LEAST
from planish.backends.tvm.tune.keys import cpu_model
from planish.backends.tvm.tune.rpc import RemoteMeasurer, examine, parse_address
from planish.backends.tvm.tune.rpc_network import Whole, place, whole_of
from planish.backends.tvm.tune.rpc_process import Address, Device
from planish.backends.tvm.worker import Pool, shared_pool
from planish.errors import OptionError, RpcError

HOST = "127.0.0.1"


class Service:
    """A process of TVM's in a group of its own: its children outlive it otherwise."""

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        code = (
            "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
            "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, module, "--host", HOST, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    limit = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.fixture(scope="module")
def tracker() -> Iterator[int]:
    port = free_port()
    service = Service("tvm.exec.rpc_tracker", "--port", str(port), "--port-end", str(port + 1))
    wait_for(port)
    yield port
    service.end()


@contextlib.contextmanager
def serving(tracker: int, key: str, threads: int = 2) -> Iterator[str]:
    """A server with a key of its own; the address by which it is asked for."""
    port = free_port()
    service = Service(
        "tvm.exec.rpc_server",
        *("--port", str(port), "--port-end", str(port + 1), "--tracker", f"{HOST}:{tracker}", "--key", key),
        *("--custom-addr", HOST),
        TVM_NUM_THREADS=str(threads),
        TVM_BIND_THREADS="0",
    )
    try:
        yield f"{HOST}:{tracker}/{key}"
    finally:
        service.end()


@pytest.fixture(scope="module")
def device(tracker: int) -> Iterator[str]:
    with serving(tracker, "board") as address:
        yield address


def test_candidates_are_measured_and_compared_on_the_device(device: str, pool: Pool) -> None:
    task = scaled()
    made = compiled(pool, task, [kernel(product), kernel(sum_instead), kernel(lambda x, w, y, i: product(w, x, y, i))])
    with RemoteMeasurer(device, task.target, pool, QUICK) as measurer:
        default, wrong, right = measurer.measure(Subject.of(task), made)
        assert measurer.machine == cpu_model()
    assert isinstance(default, Timing)
    assert 1e-8 < default.seconds < 1e-2
    assert isinstance(wrong, Failed)
    assert wrong.kind == "wrong"
    assert isinstance(right, Timing)


def test_the_device_is_examined(device: str, pool: Pool) -> None:
    found = examine(device, parse_target("native", 2), pool)
    assert found.model == cpu_model()
    assert found.threads == 2
    assert "fpu" in found.flags or "fp" in found.flags


def test_a_network_is_tuned_for_the_device_and_what_was_found_is_used_again(device: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU()).eval()
    x = torch.randn(1, 16, 12, 12)
    options: dict[str, Any] = {"rpc": device, "tuning_db": tmp_path / "db.sqlite", "threads": 2, "progress": False}
    with little_search():
        tuned = planish.compile(net, (x,), tune=PLENTY, **options)
    with torch.no_grad():
        assert torch.allclose(tuned(x), net(x), atol=1e-4)
    told = tuned.manifest["tuning"]
    assert told["tried"] >= 2
    assert told["kept"] + told["put_back"] <= 1
    assert (told["untuned_ms"] is not None) == bool(told["kept"] or told["put_back"])  # the network ran over there
    again = planish.compile(net, (x,), **options)
    assert again.manifest["tuning"]["known"] == 1
    assert again.manifest["calls"]["kernels"].keys() == tuned.manifest["calls"]["kernels"].keys()


def two_layers() -> tuple[Any, torch.Tensor]:
    """A network with weights that are derived, and values that an arena holds."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(64, 8, 1))
    return body.eval(), torch.randn(1, 64, 28, 28)


def test_networks_run_on_the_device(device: str, pool: Pool) -> None:
    net, x = two_layers()
    made = planish.compile(net, (x,), threads=2)
    whole = whole_of(made)
    kinds = {"derived" if v.symbol else "array" if v.array is not None else "memory" for v in whole.values}
    assert kinds == {"derived", "array", "memory"}
    with RemoteMeasurer(device, parse_target("native", 2), pool) as measurer:
        pairs = measurer.compare(whole, whole, 0.0)
        assert len(pairs) == LEAST
        assert all(1e-7 < seconds < 10 for pair in pairs for seconds in pair)
        with pytest.raises(RpcError, match="measures kernels, but does not run the network"):
            measurer.compare(whole, whole._replace(library=b"no library"), 0.0)


def run_elsewhere(device: str, whole: Whole) -> np.ndarray:
    """What a network computes on a device; the session ends with what this function holds."""
    address = parse_address(device)
    session = rpc_client().connect_tracker(address.host, address.port).request(address.key, session_timeout=60)
    session.upload(bytearray(whole.library), "net.so")
    module, cpu = session.load_module("net.so"), session.cpu()
    machine = virtual_machine(module, cpu)
    machine.set_input("main", *(place(value, module, cpu) for value in whole.values))
    machine.invoke_stateful("main")
    (result,) = machine.get_outputs("main")
    return np.array(result.numpy())


def test_what_a_network_computes_elsewhere_is_what_it_computes_here(tracker: int) -> None:
    """Over there each value has memory of its own, and weights are derived by the code that came along."""
    net, x = two_layers()
    made = planish.compile(net, (x,), threads=2)
    ((here, _, _),) = made._run(made.seeded_arguments())
    with serving(tracker, "guest") as device:  # its own: a session in this process may live on for a while
        examine(device, parse_target("native", 2), shared_pool())  # waits for a server that is free
        there = run_elsewhere(device, whole_of(made))
        gc.collect()  # the session is held in cycles, and should end before its server does
    np.testing.assert_array_equal(there, np.from_dlpack(here))


def test_a_candidate_that_crashes_the_server_fails_alone_if_the_server_is_started_again(
    tracker: int, pool: Pool
) -> None:
    task = scaled()
    made = compiled(pool, task, [kernel(product), kernel(aborting), kernel(sum_instead)])
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(serving(tracker, "fragile"))
        measurer = stack.enter_context(RemoteMeasurer(address, task.target, pool, QUICK, wait=30.0))
        results = measurer.measure(Subject.of(task), made)
        assert isinstance(next(results), Timing)
        crash = next(results)
        assert isinstance(crash, Failed)
        assert crash.kind == "crash"
        stack.enter_context(serving(tracker, "fragile"))
        wrong = next(results)
        assert isinstance(wrong, Failed)
        assert wrong.kind == "wrong"


def test_a_server_that_is_gone_is_no_candidates_fault(tracker: int, pool: Pool) -> None:
    task = scaled()
    made = compiled(pool, task, [kernel(product)])
    with contextlib.ExitStack() as stack:
        with serving(tracker, "leaving") as address:
            measurer = stack.enter_context(RemoteMeasurer(address, task.target, pool, QUICK, wait=20.0))
        measurer._wait = 0.0
        measurer._child.stop()
        with pytest.raises(RpcError, match="has no server with key 'leaving'") as error:
            list(measurer.measure(Subject.of(task), made))
        assert "started again" in error.value.todo


def test_no_tracker(pool: Pool) -> None:
    with pytest.raises(RpcError, match=r"No tracker answers at 127\.0\.0\.1:\d+: Connection refused") as error:
        examine(f"{HOST}:{free_port()}/board", parse_target("native", 2), pool)
    assert "rpc_tracker" in error.value.todo


def test_something_else_than_a_tracker(pool: Pool) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RpcError, match="is no tracker of TVM"):
            examine(f"{HOST}:{listener.getsockname()[1]}/board", parse_target("native", 2), pool)
        thread.join()


def test_no_server_with_that_key(device: str, tracker: int, pool: Pool) -> None:
    examine(device, parse_target("native", 2), pool)  # waits for the server; which comes back soon after
    with pytest.raises(RpcError, match="has no server with key 'bord'; it has board"):
        examine(f"{HOST}:{tracker}/bord", parse_target("native", 2), pool, wait=2.0)


def test_a_server_with_too_few_threads(device: str, pool: Pool) -> None:
    with pytest.raises(RpcError, match=r"runs kernels with 2 thread\(s\), not 3") as error:
        examine(device, parse_target("native", 3), pool)
    assert "TVM_NUM_THREADS=3" in error.value.todo


def test_code_for_another_architecture_is_not_loaded(device: str, pool: Pool) -> None:
    with pytest.raises(RpcError, match=r"does not load code for aarch64: .*planish\.so: cannot open"):
        examine(device, parse_target("aarch64:neoverse-v1", 2), pool)


CPUINFO = "processor : 0\nmodel name : Tiny\nflags : sse sse2\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": (0, 1, 2)}, r"has TVM FFI 0\.1\.2, this machine \d+\.\d+\.\d+"),
        ({"cpuinfo": CPUINFO}, r"\(model name=Tiny\) lacks what code for haswell needs: .*avx2"),
    ],
)
def test_a_device_that_does_not_fit(change: dict[str, Any], said: str) -> None:
    target = parse_target("haswell", 1)
    good = Device(Path("/proc/cpuinfo").read_text(), rpc.ffi_version(), 1)
    assert rpc._judge(Address(HOST, 1, "k"), target, good).threads == 1
    with pytest.raises(RpcError, match=said):
        rpc._judge(Address(HOST, 1, "k"), target, good._replace(**change))


@pytest.mark.parametrize(
    "text", ["", "host", "host:9190", "host/key", "host:x/key", "host:0/key", "host:99999/k", ":1/k", "h:1/"]
)
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(OptionError, match="is not host:port/key"):
        parse_address(text)


def test_addresses() -> None:
    assert parse_address("10.0.0.5:9190/rack/board") == Address("10.0.0.5", 9190, "rack/board")
    assert parse_address("[::1]:9190/k") == Address("::1", 9190, "k")
