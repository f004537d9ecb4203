"""What the light engine may say: the names of exceptions, nothing else.

Messages and arguments may quote what was asked or answered, so once requests are served no formatter, traceback or
warning of any library reaches the output; of a log record only the logger's name and an exception's class remain.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


def report(error: BaseException) -> None:
    """Say that something failed, by its class."""
    _say(type(error))


def _say(kind: type[BaseException] | None) -> None:
    if kind is not None:
        sys.stderr.write(f"{kind.__name__}\n")
        sys.stderr.flush()


class _NamesOnly(logging.Handler):
    """Writes the class of a record's exception; a record without one is dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.exc_info, tuple):
            _say(record.exc_info[0])


def silence() -> None:
    """From now on, no library's words: replaces every handler and hook of this process."""
    for name in (None, *logging.Logger.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    root = logging.getLogger()
    root.addHandler(_NamesOnly())
    root.setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    sys.excepthook = _excepthook
    threading.excepthook = _threading_hook
    sys.unraisablehook = _unraisable_hook


def _excepthook(kind: type[BaseException], _value: BaseException, _traceback: TracebackType | None) -> None:
    _say(kind)


def _threading_hook(arguments: Any) -> None:
    _say(arguments.exc_type)


def _unraisable_hook(arguments: Any) -> None:
    _say(arguments.exc_type)
