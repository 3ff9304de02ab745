"""Keeps torch from talking while planish asks it for a graph: what it says there is about its own insides.

with quiet(): export(model)      shows nothing that planish's own error does not say better

Only this thread's warnings and errors are dropped, so that TORCH_LOGS still shows what it is asked to show.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import torch


class _Mute(logging.Filter):
    """Drops one thread's warnings and errors."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a record."""
        return record.levelno < logging.WARNING or record.thread != self._thread


def _handlers() -> list[logging.Handler]:
    """Those of torch's loggers; many have their own."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith("torch")]
    return list({id(handler): handler for logger in loggers for handler in logger.handlers}.values())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings, without gradients; what is printed to standard error is lost if an error follows."""
    mute, said = _Mute(), io.StringIO()
    handlers = _handlers()
    for handler in handlers:
        handler.addFilter(mute)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(said):  # torch.export prints the graph so far before it raises
                yield
        sys.stderr.write(said.getvalue())  # the model's own prints
    finally:
        for handler in handlers:
            handler.removeFilter(mute)
