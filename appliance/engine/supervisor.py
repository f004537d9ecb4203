"""Keeps one engine running: start, health gate, self-check, watch, restart with back-off, drain, stop.

Comes in: :class:`~appliance.engine.settings.EngineSettings` and the engine environment's Python. Goes out: a
:class:`~appliance.engine.proxy.EngineClient` that works while the state is ``healthy``. Nothing reaches the engine
before it has answered a known prompt sanely, and nothing of it outlives this process, however this process ends.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import structlog

from appliance.engine.checks import EngineProbe, SelfCheck
from appliance.engine.errors import (
    EngineError,
    EngineStartError,
    EngineTimeoutError,
    EngineUnavailableError,
    SelfCheckError,
)
from appliance.engine.process import EngineProcess
from appliance.engine.proxy import EngineClient
from appliance.engine.state import EngineState, EngineStatus, StatusBoard, StatusCallback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.engine.counters import EngineCounters
    from appliance.engine.endpoint import Door, Endpoint
    from appliance.engine.settings import EngineSettings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When the supervisor loses patience. All in seconds except the counts.

    Attributes:
        start: From the process's start to the first good health check; large models load for minutes.
        poll: Between two checks (protocol specification, section 3.7).
        generate_every: Between two checks that make a token.
        failures: Checks in a row that may fail before the state is ``unhealthy``.
        give_up: Checks in a row that may fail before the engine is restarted.
        self_checks: Tries of the self-check.
        restarts: Restarts in a row without a stable run before the state is ``failed``.
        stable: A run this long forgives earlier restarts.
        back_off: Wait before the first restart; doubled for each further one.
        back_off_cap: Longest wait.
        grace: From SIGTERM to SIGKILL.
    """

    start: float = 1800.0
    poll: float = 1.5
    generate_every: float = 30.0
    failures: int = 2
    give_up: int = 8
    self_checks: int = 3
    restarts: int = 8
    stable: float = 300.0
    back_off: float = 1.0
    back_off_cap: float = 60.0
    grace: float = 10.0


class EngineSupervisor:
    """One engine, kept running. Use as ``async with`` or with :meth:`start` and :meth:`stop`.

    Args:
        settings: What to start.
        python: The engine environment's interpreter.
        timing: Its patience.
        door: Its port and key, where another process must know them.
    """

    def __init__(
        self, settings: EngineSettings, python: Path, *, timing: Timing | None = None, door: Door | None = None
    ) -> None:
        self._settings = settings
        self._python = python
        self._timing = timing or Timing()
        self._door = door
        self._board = StatusBoard()
        self._process: EngineProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._draining = False
        self._settled = asyncio.Event()
        self.client = EngineClient(self)

    @property
    def status(self) -> EngineStatus:
        """State and reason now."""
        return self._board.status

    @property
    def healthy(self) -> asyncio.Event:
        """Set while requests may be sent."""
        return self._board.healthy

    @property
    def begun(self) -> int:
        """How often it became healthy: more than once, and it has been restarted or was out of sight."""
        return self._board.begun

    def subscribe(self, callback: StatusCallback) -> Callable[[], None]:
        """Be told of each change of state; call the result to end that."""
        return self._board.subscribe(callback)

    def endpoint(self) -> Endpoint:
        """Where requests go now.

        Raises:
            EngineUnavailableError: The state is not ``healthy``.
        """
        status = self._board.status
        if self._process is None or status.state is not EngineState.HEALTHY:
            raise EngineUnavailableError(f"the engine is {status.state.value}: {status.reason}")
        return self._process.endpoint

    @property
    def base_url(self) -> str:
        """The engine's URL without ``/v1``; raises like :meth:`endpoint`."""
        return self.endpoint().base_url

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate us; raises like :meth:`endpoint`."""
        return dict(self.endpoint().headers)

    @property
    def pid(self) -> int | None:
        """The engine's process (and group) id while it runs."""
        return self._process.pid if self._process is not None and self._process.status is None else None

    async def start(self) -> None:
        """Start the engine and return when it is healthy.

        Raises:
            EngineStartError: It did not get healthy within all its restarts.
        """
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="engine-supervisor")
            self._keeper.add_done_callback(self._keeper_ended)
        await self._settled.wait()
        if self._board.status.state is EngineState.FAILED:
            raise EngineStartError(f"the engine cannot be started: {self._board.status.reason}")

    async def counters(self) -> EngineCounters:
        """The engine's token counters since its process started.

        Raises:
            EngineUnavailableError: They cannot be read now.
            EngineTimeoutError: Not in time.
        """
        if self._process is None:
            raise EngineUnavailableError("the engine is not running")
        return await EngineProbe(self._process.endpoint).counters()

    async def drain(self, limit_s: float) -> bool:
        """Take no new requests and wait for the running ones, at most ``limit_s``; whether all had ended."""
        self._draining = True
        self._board.change(EngineState.DRAINING, f"{self.client.active} requests are still answered")
        try:
            async with asyncio.timeout(limit_s):
                await self.client.wait_idle()
        except TimeoutError:
            _log.warning("engine_drain_limit", count=self.client.active, limit=limit_s)
            return False
        return True

    async def stop(self) -> None:
        """End the engine and everything it started; idempotent. Answers under way break off: drain first."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        await self.client.close()
        self._board.change(EngineState.STOPPED, "stopped")
        self._settled.set()

    async def __aenter__(self) -> Self:
        """Start it."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _keep(self) -> None:
        restarts = 0
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            reason = await self._run_once()
            if clock() - began >= self._timing.stable:
                restarts = 0
            restarts += 1
            if restarts > self._timing.restarts:
                self._board.change(EngineState.FAILED, f"{reason} (after {restarts - 1} restarts)")
                self._settled.set()
                return
            wait = back_off(restarts, self._timing)
            self._change(EngineState.UNHEALTHY, f"{reason}; restart {restarts} in {wait:.1f} s")
            await asyncio.sleep(wait)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        """Whatever ended the keeper, whoever waits for the engine hears of it."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            self._board.change(EngineState.FAILED, f"the supervisor ended with {type(error).__name__}")
        self._settled.set()

    async def _run_once(self) -> str:
        """One life of the engine: the reason of its end."""
        self._change(EngineState.STARTING, "the engine loads")
        process = None
        try:
            process = self._process = await EngineProcess.start(self._settings, self._python, self._door)
            await self._get_ready(process)
            process.output.serving()
            self._change(EngineState.HEALTHY)
            self._settled.set()
            return await self._watch(process)
        except EngineError as error:
            return error.message
        finally:
            if process is not None:
                await process.end(self._timing.grace if self._draining else 0.0)
                named = ", ".join(f"{count} {name}" for name, count in process.output.exceptions.most_common())
                _log.info("engine_ended", status=process.status, error=named)

    async def _get_ready(self, process: EngineProcess) -> None:
        probe = EngineProbe(process.endpoint)
        try:
            async with asyncio.timeout(self._timing.start):
                await self._until_it_generates(process, probe)
                await self._self_check(probe)
        except TimeoutError as error:
            raise EngineStartError(f"the engine was not ready within {self._timing.start:g} s") from error

    async def _until_it_generates(self, process: EngineProcess, probe: EngineProbe) -> None:
        while True:
            if process.status is not None:
                said = await process.last_words()
                raise EngineStartError(f"the engine ended with status {process.status}: {said}")
            try:
                await probe.generates()
            except EngineError:
                await asyncio.sleep(self._timing.poll / 3)
            else:
                return

    async def _self_check(self, probe: EngineProbe) -> None:
        settings = self._settings
        check = SelfCheck(settings.model_name, settings.self_check_prompt, settings.self_check_pattern)
        for attempt in range(1, self._timing.self_checks + 1):
            self._change(EngineState.STARTING, f"self-check, try {attempt}")
            try:
                await probe.self_check(check)
            except (SelfCheckError, EngineTimeoutError, EngineUnavailableError):
                if attempt == self._timing.self_checks:
                    raise
            else:
                return

    async def _watch(self, process: EngineProcess) -> str:
        """Check a healthy engine until it must be ended: the reason."""
        ended = asyncio.create_task(process.wait(), name="engine-exit")
        try:
            return await self._check_until(process, ended)
        finally:
            ended.cancel()

    async def _check_until(self, process: EngineProcess, ended: asyncio.Task[int]) -> str:
        probe = EngineProbe(process.endpoint)
        clock = asyncio.get_running_loop().time
        next_generation = clock() + self._timing.generate_every
        failures = 0
        while True:
            await asyncio.wait({ended}, timeout=self._timing.poll)
            if ended.done():
                return f"the engine ended with status {ended.result()}"
            try:
                if clock() >= next_generation:
                    await probe.generates()
                    next_generation = clock() + self._timing.generate_every
                else:
                    await probe.alive()
            except EngineError as error:
                failures += 1
                if failures >= self._timing.give_up and not ended.done():
                    return f"{failures} health checks failed: {error.message}"
                if failures >= self._timing.failures:
                    self._change(EngineState.UNHEALTHY, error.message)
            else:
                failures = 0
                self._change(EngineState.HEALTHY)

    def _change(self, state: EngineState, reason: str = "") -> None:
        """Change the state, unless the engine drains: then it stays so until it is stopped."""
        if not self._draining:
            self._board.change(state, reason)


def back_off(attempt: int, timing: Timing) -> float:
    """Seconds before restart number ``attempt`` (from 1): doubled each time up to the cap, then 75 to 100 % of it."""
    wait = min(timing.back_off * 2.0 ** min(attempt - 1, 30), timing.back_off_cap)
    return wait * random.uniform(0.75, 1.0)  # noqa: S311 -- spreads restarts, guards nothing
