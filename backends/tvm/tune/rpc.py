"""Measuring on a device elsewhere: TVM's tracker lends a server there, planish compiles here and runs there.

examine("host:port/key", target) -> what the device says of itself, or RpcError for the hop that fails
RemoteMeasurer("host:port/key", target) measures like `LocalMeasurer`, one session a candidate
"""

from __future__ import annotations

import contextlib
import ctypes
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ....errors import OptionError, RpcError
from .. import cpu
from ..compat import IRBuilder, T, save_module, tirx
from ..link import link
from ..process import Child, Died, TookTooLong
from ..target import Target, parse_target
from ..worker import Job, Pool
from .keys import cpu_model
from .measure import ProcessMeasurer
from .measure_process import Limits, command, greeting
from .rpc_network import Whole
from .rpc_process import CHUNK, CHUNKS, PROBE, SESSION, Address, Device, last_line

WAIT = 20.0
"""Seconds to wait for a server to be free."""


@dataclass(frozen=True)
class Examined:
    """A device that can measure: its CPU, and how many threads its server uses."""

    address: Address
    model: str
    flags: frozenset[str]
    threads: int


def parse_address(text: str) -> Address:
    """`host:port/key`."""
    place, slash, key = text.partition("/")
    host, colon, port = place.rpartition(":")
    if not (slash and colon and host and key and port.isdecimal() and 0 < int(port) < 65536):
        raise OptionError(f"rpc={text!r} is not host:port/key.", "Give a tracker and a key, as in 10.0.0.5:9190/board.")
    return Address(host.strip("[]"), int(port), key)


def examine(text: str, target: Target, pool: Pool, wait: float = WAIT) -> Examined:
    """Try every hop to the device once, and whether it can run code for `target`."""
    child = _child()
    try:
        return _examine(child, parse_address(text), target, probe_library(target, pool), wait)
    finally:
        child.stop()


class RemoteMeasurer(ProcessMeasurer):
    """Measures on a device elsewhere."""

    def __init__(self, text: str, target: Target, pool: Pool, limits: Limits | None = None, wait: float = WAIT) -> None:
        """Reach the device and examine it; raises RpcError."""
        super().__init__(target, limits, _child())
        self._address = parse_address(text)
        self._probe = probe_library(target, pool)
        self._wait = wait
        self._start()

    def compare(self, first: Whole, second: Whole, seconds: float) -> list[tuple[float, float]]:
        """Seconds of runs of two networks on the device, in alternation; raises RpcError."""
        self._start()
        try:
            status, value = self._child.ask(("compare", first, second, seconds), seconds + 4 * SESSION + self._wait)
        except (Died, TookTooLong) as error:
            status, value = "failed", ("crash", str(error))
        if status == "refused":
            raise value
        if status == "failed":
            raise RpcError(
                f"The network does not run on the device {self._address}: {last_line(value[1])}",
                "Look at the server's output; start it again if it is gone.",
            )
        return list(value)

    def _welcome(self) -> None:
        self.machine = _examine(self._child, self._address, self.target, self._probe, self._wait).model

    def _alone(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()  # the tracker lends a server to one client at a time

    def _patience(self, known: float | None) -> float:
        return 2 * SESSION


def probe_library(target: Target, pool: Pool) -> bytes:
    """A library for every CPU of the target's architecture, with one function that reads what it runs on."""
    plain = parse_target(f"{target.arch}:{'x86-64' if target.arch == 'x86_64' else 'cortex-a53'}", target.threads)
    job = Job(PROBE, str(plain.tvm_target()), save_module(PROBE, _probe()))
    return link({PROBE: pool.submit(job).result()}, plain)


def _probe() -> Any:
    """probe(text, counts): what read() gave of /proc/cpuinfo, chunk by chunk, and the version of TVM's FFI."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(PROBE)
        text = T.match_buffer(T.arg("text", T.handle()), (CHUNKS, CHUNK), "uint8", align=1)
        counts = T.match_buffer(T.arg("counts", T.handle()), (CHUNKS + 3,), "int32", align=4)
        file = T.alloc_buffer((1,), "int32")
        T.buffer_store(file, T.call_extern("int32", "open", "/proc/cpuinfo", 0), [0])
        with T.serial(0, CHUNKS) as i:
            size = tirx.const(CHUNK, "int64")
            T.buffer_store(counts, T.call_extern("int32", "read", file[0], T.address_of(text[i, 0]), size), [i])
        T.evaluate(T.call_extern("int32", "close", file[0]))
        T.evaluate(T.call_extern("void", "TVMFFIGetVersion", T.address_of(counts[CHUNKS])))
    return builder.get()


def _child() -> Child:
    """The process that talks to the device: it may hang in a read that never ends."""
    from . import rpc_process

    return Child(lambda: command(rpc_process.__name__), greeting, "the connection to the device", stalled=1.0)


def _examine(child: Child, address: Address, target: Target, probe: bytes, wait: float) -> Examined:
    """Connect, and compare the device with what planish needs."""
    try:
        status, value = child.ask(("connect", address, probe, wait), seconds=wait + SESSION)
    except (Died, TookTooLong) as error:
        raise RpcError(
            f"The device {address} cannot be examined: {error}.",
            "Look at the server's output; start it again if its last client crashed.",
        ) from None
    if status == "refused":
        raise value
    if status != "ok":
        raise RpcError(
            f"The server with key {address.key!r} does not load code for {target.arch}: {last_line(value[1])}",
            "Give the target of the device, as in target='aarch64:cortex-a76'.",
        )
    return _judge(address, target, Device(*value))


def _judge(address: Address, target: Target, device: Device) -> Examined:
    """Refuse a device on which kernels would not run, or not as they will."""
    here = ffi_version()
    if device.version != here:
        raise RpcError(
            f"The server with key {address.key!r} has TVM FFI {_dotted(device.version)}, this machine {_dotted(here)}.",
            "Install the same versions of apache-tvm and apache-tvm-ffi there and here.",
        )
    flags = cpu.machine_flags(device.cpuinfo)
    if missing := cpu.missing(target.arch, target.features, flags):
        raise RpcError(
            f"The CPU of the server with key {address.key!r} ({cpu_model(device.cpuinfo)}) lacks what code for "
            f"{target.cpu} needs: {', '.join(missing)}.",
            "Give the target of the device.",
        )
    if device.threads < target.threads:
        raise RpcError(
            f"The server with key {address.key!r} runs kernels with {device.threads} thread(s), not {target.threads}.",
            f"Start it with TVM_NUM_THREADS={target.threads} TVM_BIND_THREADS=0 in its environment, or give threads=.",
        )
    return Examined(address, cpu_model(device.cpuinfo), flags, device.threads)


def ffi_version() -> tuple[int, int, int]:
    """The version of TVM's FFI library in this process."""
    import tvm_ffi

    version = (ctypes.c_uint32 * 3)()
    ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi()).TVMFFIGetVersion(version)
    return version[0], version[1], version[2]


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
