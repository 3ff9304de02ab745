"""What runs in a worker process: PrimFuncs in, object files out, one kernel a module. Run by path.

frame(symbol, target, module) -> frame("ok", object) | frame("error", message)

A PrimFunc with the attribute WITHOUT_DIVISION becomes machine code that divides nothing: how many iterations of a
parallel loop a thread takes is the one quotient by a variable, ceil(n / threads), and gets a loop of subtractions.

Imports nothing of planish, so that a worker starts without it; `torch` is hidden, since `tvm_ffi` would import it.
stdin and stdout carry length-prefixed pickles of plain values; whatever LLVM prints goes to stderr.
"""

from __future__ import annotations

import os
import pickle
import re
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


WITHOUT_DIVISION = "planish.without_division"

_SHARE = re.compile(r"\bsdiv i32 (%[\w.]+), (%num_task[\w.]*)")
"""How LLVM IR says by what TVM divides the iterations of a parallel loop; the sum that it divides is positive."""

_QUOTIENT = """
define private i32 @planish.quotient(i32 %n, i32 %d) {
entry:
  br label %step
step:
  %bit = phi i32 [ 31, %entry ], [ %below, %step ]
  %rest = phi i32 [ 0, %entry ], [ %kept, %step ]
  %found = phi i32 [ 0, %entry ], [ %more, %step ]
  %shifted = lshr i32 %n, %bit
  %digit = and i32 %shifted, 1
  %twice = shl i32 %rest, 1
  %now = or i32 %twice, %digit
  %fits = icmp uge i32 %now, %d
  %less = sub i32 %now, %d
  %kept = select i1 %fits, i32 %less, i32 %now
  %one = zext i1 %fits to i32
  %double = shl i32 %found, 1
  %more = or i32 %double, %one
  %below = add i32 %bit, -1
  %last = icmp eq i32 %bit, 0
  br i1 %last, label %end, label %step
end:
  ret i32 %more
}
"""
"""n // d by long division in base 2: some 30 ns a launch, which takes a microsecond."""


def build_library(target: str, module: str) -> Any:
    """The machine code of one module (as TVM's JSON) for one target."""
    import tvm

    functions = tvm.ir.load_json(module)
    library = tvm.tirx.build(functions, target=tvm.target.Target(target))
    if not any(func.attrs and WITHOUT_DIVISION in func.attrs for func in functions.functions.values()):
        return library
    text, shares = _SHARE.subn(r"call i32 @planish.quotient(i32 \1, i32 \2)", library.inspect_source("ll"))
    if not shares:
        return library
    with tempfile.TemporaryDirectory(prefix="planish-codegen-") as folder:
        path = os.path.join(folder, "kernel.ll")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + _QUOTIENT)
        return tvm.get_global_func("ffi.Module.load_from_file.ll")(path, "ll")


def compile_object(symbol: str, target: str, module: str) -> bytes:
    """The object file of one module (as TVM's JSON) for one target."""
    library = build_library(target, module)
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
