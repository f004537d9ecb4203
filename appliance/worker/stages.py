"""The stages of a worker's start, as the status page shows them: name, state, time, and the reason of a failure."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog

from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = structlog.get_logger(__name__)

StageState = Literal["waiting", "running", "done", "failed"]


@dataclass(slots=True)
class Stage:
    """One stage. ``seconds`` it has taken, or took."""

    name: str
    state: StageState = "waiting"
    seconds: float = 0.0
    reason: str = ""


class Stages:
    """The stages of one start, in order.

    Args:
        names: All of them.
        report: Told of each change, where somebody else shows the stages too.
    """

    def __init__(self, *names: str, report: Callable[[Stage], None] | None = None) -> None:
        self._stages = {name: Stage(name) for name in names}
        self._report = report or _nobody

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages.values())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around the work of a stage; an error of our tree is noted with its hint and goes on to the caller."""
        stage = self._stages[name]
        stage.state, stage.reason = "running", ""
        self._report(stage)
        began = time.monotonic()
        try:
            yield
        except ChrysalisError as error:
            stage.state, stage.reason = "failed", str(error)
            log.error("stage failed", stage=name, error=type(error).__name__, reason=error.message, hint=error.hint)
            raise
        except BaseException as error:
            stage.state, stage.reason = "failed", type(error).__name__
            raise
        else:
            stage.state, stage.reason = "done", ""
            log.info("stage done", stage=name, duration_s=round(time.monotonic() - began, 3))
        finally:
            stage.seconds = time.monotonic() - began
            self._report(stage)

    def note(self, name: str, reason: str) -> None:
        """Say why a running stage has not ended yet."""
        self._stages[name].reason = reason
        self._report(self._stages[name])


def _nobody(_stage: Stage) -> None:
    """Nobody else shows them."""
