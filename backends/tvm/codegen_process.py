"""What runs in a worker process: PrimFuncs in, object files out, one kernel a module. Run by path.

frame(symbol, target, module) -> frame("ok", object) | frame("error", message)

Imports nothing of planish, so that a worker starts without it; `torch` is hidden, since `tvm_ffi` would import it.
stdin and stdout carry length-prefixed pickles of plain values; whatever LLVM prints goes to stderr.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import sys
import tempfile
import threading
from typing import Any, BinaryIO


def read_frame(stream: BinaryIO) -> Any:
    """The next value, or None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    return pickle.loads(stream.read(struct.unpack("<Q", head)[0]))


def write_frame(stream: BinaryIO, value: Any) -> None:
    """Send a value."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def compile_object(symbol: str, target: str, module: str) -> bytes:
    """The object file of one module (as TVM's JSON) for one target."""
    import tvm

    library = tvm.tirx.build(tvm.ir.load_json(module), target=tvm.target.Target(target))
    with tempfile.TemporaryDirectory(prefix="planish-codegen-") as folder:
        path = os.path.join(folder, f"{symbol}.o")
        library.write_to_file(path, "o")
        with open(path, "rb") as file:
            return file.read()


def end_with(parent: int) -> None:
    """Leave when the process `parent` has ended, even in the middle of a kernel that never does.

    The kernel's own signal for this (PR_SET_PDEATHSIG) is sent when the *thread* that started us ends.
    """
    descriptor = os.pidfd_open(parent)
    if os.getppid() != parent:
        os._exit(1)

    def wait() -> None:
        watched = select.poll()
        watched.register(descriptor, select.POLLIN)
        watched.poll()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def open_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Where requests come from and replies go to; what anything prints goes to stderr from now on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's business
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return requests, replies


def main() -> None:
    """Serve until stdin closes."""
    requests, replies = open_pipes()
    parent, sys.path[:] = read_frame(requests)
    end_with(parent)
    sys.modules["torch"] = None  # type: ignore[assignment]
    import tvm

    del tvm
    while (request := read_frame(requests)) is not None:
        try:
            reply = ("ok", compile_object(*request))
        except Exception as error:  # every failure of TVM becomes a message of the parent's CodegenError
            reply = ("error", f"{type(error).__name__}: {error}")  # type: ignore[assignment]
        write_frame(replies, reply)


if __name__ == "__main__":
    main()
