"""What an engine can be, and whoever wants to hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

_log = structlog.get_logger(__name__)


class EngineState(StrEnum):
    """The states of an engine."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A state and why it is so, for people. The reason never holds content."""

    state: EngineState
    reason: str = ""


StatusCallback = Callable[[EngineStatus], None]


class StatusBoard:
    """The present status; tells its subscribers of each change, and keeps an event in step with ``healthy``.

    Attributes:
        begun: How often the engine became healthy.
    """

    def __init__(self) -> None:
        self.status = EngineStatus(EngineState.STOPPED, "not started")
        self.healthy = asyncio.Event()
        self.begun = 0
        self._callbacks: list[StatusCallback] = []

    def subscribe(self, callback: StatusCallback) -> Callable[[], None]:
        """Have ``callback`` called at each change, from the event loop; call the result to end that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def change(self, state: EngineState, reason: str = "") -> None:
        """Take a new status; the same again is no change."""
        status = EngineStatus(state, reason)
        if status == self.status:
            return
        self.status = status
        _log.info("engine_state", state=state.value, reason=reason)
        if state is EngineState.HEALTHY:
            self.begun += 1
            self.healthy.set()
        else:
            self.healthy.clear()
        for callback in tuple(self._callbacks):
            callback(status)
