"""Structured logs that cannot carry content: an event's text and keys from an allow-list, one line each.

Every program calls :func:`configure` once. A key that is not on the list is dropped and counted in the line itself
(``dropped=2``), so that a mistake is visible without being harmful.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

# Names, states, numbers and addresses of the operator's own machines. Nothing of a request, an answer or a client.
ALLOWED_KEYS = frozenset({
    "address", "amount", "attempt", "balance", "block", "boundary", "bytes", "check", "code", "coefficient",
    "contract", "count", "data_dir", "delay_s", "detail", "disabled", "duration_s", "engine", "error", "event",
    "exit_code", "expected", "extensions", "gateway", "height", "hint", "image", "kind", "level", "limit", "lines",
    "listen", "lt", "model", "name", "network", "path", "peer", "pid", "port", "price", "process", "program",
    "protocol", "reason", "room", "root", "running", "seen", "seqno", "sequence", "server", "signal", "stage", "state",
    "status", "step", "timestamp", "tokens", "url", "version", "warning", "worker",
})  # fmt: skip
MAX_VALUE_CHARS = 300


def keep_allowed(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop every key that is not on the list, and cut long values."""
    kept: dict[str, Any] = {}
    dropped = 0
    for key, value in event.items():
        if key not in ALLOWED_KEYS:
            dropped += 1
        elif isinstance(value, str | bytes) or not isinstance(value, int | float | bool | type(None)):
            text = value if isinstance(value, str) else repr(value)
            kept[key] = text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"
        else:
            kept[key] = value
    if dropped:
        kept["dropped"] = dropped
    return kept


def configure(level: str = "info", *, as_json: bool = False) -> None:
    """Send this process's logs to standard error, one line each. Third-party loggers speak from WARNING up."""
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_no_traceback)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            keep_allowed,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries may put peers' bytes into their debug lines: only warnings, and only where they come from.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(levelname)s %(name)s", force=True)


def _no_traceback(sio: Any, _exc_info: Any) -> None:
    """Tracebacks may hold values of requests: print the fact, not the frames."""
    sio.write(" (an exception was logged; its frames are withheld)")
