"""What runs in the process that asks a device elsewhere to measure, over TVM's tracker and servers.

tracker --key--> server --session--> upload library, arrays; run, compare, time        one session a candidate

A session ends with its candidate, and the server ends a session that lasts too long. A candidate that crashes ends
TVM's server too: the next one says so, unless somebody started a new server by then. Before each timed call the server
drops its caches of all parameters but the first: weights come from memory, as in a network. Answers the same requests
as `measure_process`.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ....errors import RpcError
from ..codegen_process import end_with, open_pipes, read_frame
from .differences import junk
from .layouts import from_layout
from .measure_process import CUT, FEW, Order, Parameter, Result, judged, serve, spread
from .rpc_network import Whole, compare

SESSION = 30.0
"""Seconds after which a server ends a session."""

REACH = 5.0
"""Seconds to reach a tracker."""

BATCH = 5
"""Timed calls in one request."""

FLUSH = "cache_flush_cpu_non_first_arg"
PROBE = "planish_probe"
CHUNKS, CHUNK = 64, 4096


class Address(NamedTuple):
    """A tracker, and the key of the servers that are wanted."""

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.host}:{self.port}/{self.key}"


class Device(NamedTuple):
    """What a server says of itself."""

    cpuinfo: str
    version: tuple[int, int, int]
    threads: int


class Remote:
    """One tracker and key."""

    def __init__(self) -> None:
        """Nothing is reached before `connect`."""
        self._address = Address("", 0, "")
        self._wait = 0.0
        self._library = b""
        self._arrays: dict[str, np.ndarray] = {}

    def connect(self, address: Address, probe: bytes, patience: float) -> Device:
        """Go through every hop once; raises RpcError for the one that fails.

        `probe` is a library with a function that reads what CPU it runs on; `patience` is how long to wait for a
        server to be free.
        """
        self._address, self._wait = address, patience
        _check_tracker(address)
        _wait_for_server(address, patience)
        session = self._session()
        module = _upload(session, probe, address)
        try:
            return _ask_probe(session, module)
        except Exception as error:
            raise RpcError(
                f"The server with key {address.key!r} took a library, but does not run it: {last_line(error)}",
                "Its operating system or C library may be another than Linux with glibc.",
            ) from None

    def load(self, library: bytes) -> None:
        """Keep the library for the sessions to come."""
        self._library = library

    def keep(self, key: str, array: np.ndarray) -> None:
        """Keep an array for the sessions to come."""
        self._arrays[key] = array

    def forget(self) -> None:
        """Let all arrays go."""
        self._arrays.clear()

    def measure(self, order: Order) -> Result:
        """Run, compare and time one candidate in a session of its own."""
        _wait_for_server(self._address, self._wait)
        session = self._session()
        module = _upload(session, self._library, self._address)
        session.get_function("runtime.config_threadpool")(1, order.threads)
        place = _Place(session, module, self._arrays)
        arguments = [place.parameter(parameter) for parameter in order.parameters]
        out = place.put(junk(order.output.physical, order.output.memory))
        module[order.symbol](*arguments, out)
        first = from_layout(out.numpy(), order.output.logical, order.output.layout)
        if order.expected is not None and (wrong := judged(first, order, self._arrays)):
            return Result(0.0, 0.0, 0, False, None, wrong)
        samples, cut = _time(module, session, order, [*arguments, out])
        if not np.array_equal(
            from_layout(out.numpy(), order.output.logical, order.output.layout), first, equal_nan=True
        ):
            return Result(0.0, 0.0, 0, False, None, "two runs on the same inputs gave different results")
        logical = None if order.expected is not None else first
        return Result(float(np.median(samples)), spread(samples), len(samples), cut, logical, "")

    def compare(self, first: Whole, second: Whole, seconds: float) -> list[tuple[float, float]]:
        """Seconds of runs of two networks, in alternation."""
        _wait_for_server(self._address, self._wait)
        session = self._session(seconds + 2 * SESSION)
        try:
            return compare(session, first, second, seconds)
        except Exception as error:
            raise RpcError(
                f"The server with key {self._address.key!r} measures kernels, but does not run the network: "
                f"{last_line(error)}",
                "Look for memory on the device. What was found is in the database: compile with rpc, without tune.",
            ) from None

    def _session(self, seconds: float = SESSION) -> Any:
        """A new session with a free server, which ends it after some seconds."""
        from ..compat import rpc

        address = self._address
        try:
            tracker = rpc().connect_tracker(address.host, address.port)
            return tracker.request(address.key, session_timeout=seconds, max_retry=1)
        except Exception as error:
            raise RpcError(
                f"The tracker at {address.host}:{address.port} knows a server with key {address.key!r}, but that "
                f"cannot be reached from here: {last_line(error)}",
                "Start the server with --custom-addr and an address that this machine can reach; look for a firewall.",
            ) from None


class _Place:
    """Arrays of one session."""

    def __init__(self, session: Any, module: Any, arrays: dict[str, np.ndarray]) -> None:
        self._device = session.cpu()
        self._module = module
        self._arrays = arrays

    def put(self, array: np.ndarray) -> Any:
        """The array over there."""
        from ..compat import tvm

        return tvm.runtime.tensor(np.ascontiguousarray(array), self._device)

    def parameter(self, parameter: Parameter) -> Any:
        """What the kernel gets, derived there where loading would derive it."""
        stored = self.put(self._arrays[parameter.key])
        if parameter.derive is None:
            return stored
        symbol, shape, dtype = parameter.derive
        made = self.put(np.zeros(shape, dtype))
        self._module[symbol](stored, made)
        return made


def _time(module: Any, session: Any, order: Order, arguments: Sequence[Any]) -> tuple[list[float], bool]:
    """Samples of one call each, until their spread is small or the time is over; whether that was cut short."""
    limits = order.limits
    timer = module.time_evaluator(order.symbol, session.cpu(), number=1, repeat=BATCH, f_preproc=FLUSH)
    begin = time.perf_counter()
    samples: list[float] = []
    while True:
        samples += [float(s) for s in timer(*arguments).results]
        if order.known is not None and len(samples) >= FEW and min(samples) > CUT * order.known:
            return samples, True
        steady = len(samples) >= limits.samples and spread(samples) <= limits.spread
        if steady or time.perf_counter() - begin >= limits.seconds:
            return samples, False


def _check_tracker(address: Address) -> None:
    """Reach the tracker, and see that it is one."""
    base = _base()
    where = f"{address.host}:{address.port}"
    try:
        with socket.create_connection((address.host, address.port), REACH) as connection:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            magic = struct.unpack("<i", base.recvall(connection, 4))[0]
    except OSError as error:
        raise RpcError(
            f"No tracker answers at {where}: {error.strerror or error}.",
            "Start it there: python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port PORT; look for a firewall.",
        ) from None
    if magic != base.RPC_TRACKER_MAGIC:
        raise RpcError(f"What answers at {where} is no tracker of TVM.", "Give the tracker's port, not a server's.")


def _wait_for_server(address: Address, patience: float) -> None:
    """Wait until a server with the key is free."""
    limit = time.monotonic() + patience
    while True:
        keys = _summary(address)
        total, free = keys.get(address.key, (0, 0))
        if free:
            return
        if time.monotonic() >= limit:
            known = ", ".join(sorted(key for key, (count, _) in keys.items() if count)) or "none"
            where = f"The tracker at {address.host}:{address.port}"
            if not total:
                raise RpcError(
                    f"{where} has no server with key {address.key!r}; it has {known}.",
                    "Start one on the device: python -m tvm.exec.rpc_server --tracker HOST:PORT --key KEY; "
                    "a server whose client crashed has to be started again.",
                )
            raise RpcError(
                f"{where} has {total} server(s) with key {address.key!r}, and none was free for {patience:.0f} s.",
                "Wait for those who use them, or start the server again if it hangs.",
            )
        time.sleep(0.2)


def _summary(address: Address) -> dict[str, tuple[int, int]]:
    """By key, how many servers the tracker has and how many are free."""
    base = _base()
    with socket.create_connection((address.host, address.port), REACH) as connection:
        connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        base.recvall(connection, 4)
        base.sendjson(connection, [base.TrackerCode.SUMMARY])
        summary = base.recvjson(connection)[1]
    found: dict[str, tuple[int, int]] = {}
    for server in summary["server_info"]:
        key = server["key"].partition(":")[2]
        found[key] = (found.get(key, (0, 0))[0] + 1, int(summary["queue_info"].get(key, {}).get("free", 0)))
    return found


def _upload(session: Any, library: bytes, address: Address) -> Any:
    """Send a library and load it there."""
    try:
        session.upload(bytearray(library), "planish.so")
    except Exception as error:
        raise RpcError(
            f"The server with key {address.key!r} answers, but takes no file: {last_line(error)}",
            "Look for room and permissions in its folder for temporary files.",
        ) from None
    return session.load_module("planish.so")


def _ask_probe(session: Any, module: Any) -> Device:
    """Run the probe: the CPU as the device's system describes it, the version of TVM's library, and threads."""
    from ..compat import tvm

    text = tvm.runtime.tensor(np.zeros((CHUNKS, CHUNK), np.uint8), session.cpu())
    counts = tvm.runtime.tensor(np.zeros(CHUNKS + 3, np.int32), session.cpu())
    module[PROBE](text, counts)
    chunks, sizes = text.numpy(), counts.numpy()
    said = b"".join(bytes(chunks[i, : sizes[i]]) for i in range(CHUNKS) if sizes[i] > 0).decode(errors="replace")
    whole, separator, _ = said.rpartition("\n\n")  # the last core may be cut off
    version = (int(sizes[-3]), int(sizes[-2]), int(sizes[-1]))
    return Device(whole if separator else said, version, int(session.get_function("runtime.NumThreads")()))


def _base() -> Any:
    from ..compat import rpc

    return rpc().base


def last_line(said: object) -> str:
    """The line of an error of TVM's that tells something."""
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return lines[-1] if lines else type(said).__name__


def main() -> None:
    """Serve until stdin closes."""
    requests, replies = open_pipes()
    parent = read_frame(requests)
    end_with(parent)
    sys.modules["torch"] = None  # type: ignore[assignment]  # `tvm_ffi` would import it
    serve(Remote(), requests, replies)
