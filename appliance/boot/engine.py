"""The guest's model server as its worker sees it: a service of the same image on loopback, asked before it is trusted.

In: the configuration. Out: an :class:`appliance.worker.engine.Engine` that writes two stages: ``engine`` (the server
answers) and ``self-check`` (a known prompt gives a sane answer). Both follow the server for as long as it runs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from appliance.engine.checks import EngineProbe, SelfCheck
from appliance.engine.endpoint import Endpoint
from appliance.engine.errors import EngineError
from appliance.engine.remote import RemoteEngine, read_key
from appliance.engine.state import EngineState
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.boot.stages import StageTable
    from appliance.config import WorkerConfig
    from appliance.engine.counters import EngineCounters
    from appliance.engine.proxy import EngineClient
    from appliance.engine.state import EngineStatus

POLL_S: Final = 1.0
MAX_TROUBLE: Final = 1000


class GuestEngine:
    """The server on loopback.

    Args:
        config: Names it, its key and the known prompt.
        table: Where the two stages are told.
        trouble: The file in which the server's service says why it did not start.

    Raises:
        ConfigError: The configuration is not a guest's.
    """

    def __init__(self, config: WorkerConfig, table: StageTable, trouble: Path | None = None) -> None:
        settings, host = config.measured.engine, config.host
        if settings is None or host.engine_url is None or host.engine_key_file is None:
            raise ConfigError("a guest's configuration names its engine: the boot writes it")
        key = read_key(host.engine_key_file)
        check = SelfCheck(config.measured.base_model, settings.self_check_prompt, settings.self_check_pattern)
        self._probe = EngineProbe(Endpoint(host.engine_url, key))
        self._remote = RemoteEngine(host.engine_url, key, self_check=check)
        self._table = table
        self._trouble = trouble
        self._unsubscribe = self._remote.subscribe(self._follow)

    @property
    def client(self) -> EngineClient:
        """Requests go through it."""
        return self._remote.client

    def ready(self) -> bool:
        """Whether its last check was good."""
        return self._remote.healthy.is_set()

    @property
    def begun(self) -> int:
        """How often its checks became good."""
        return self._remote.begun

    async def counters(self) -> EngineCounters:
        """The server's own count; raises ``EngineError``."""
        return await self._remote.counters()

    async def start(self) -> None:
        """Wait for the server, ask it the known prompt, return when it is healthy."""
        self._table.begin("engine")
        await self._until_it_answers()
        self._table.done("engine")
        self._table.begin("self-check")
        await self._remote.start()

    async def stop(self) -> None:
        """Stop watching."""
        self._unsubscribe()
        await self._remote.stop()

    async def _until_it_answers(self) -> None:
        while True:
            try:
                await self._probe.alive()
            except EngineError as error:
                self._say_why(error.message)
                await asyncio.sleep(POLL_S)
            else:
                self._table.begin("engine")
                return

    def _say_why(self, waiting: str) -> None:
        """The service's own reason, once it has one: the stage has failed, though it is tried again."""
        try:
            reason = self._trouble.read_text(errors="replace")[:MAX_TROUBLE] if self._trouble is not None else ""
        except OSError:
            reason = ""
        if not reason:
            self._table.begin("engine", waiting)
        elif (record := self._table["engine"]).state != "failed" or record.reason != reason:
            self._table.begin("engine")
            self._table.fail("engine", reason, "the service starts it again with a growing wait")

    def _follow(self, status: EngineStatus) -> None:
        if status.state is EngineState.UNHEALTHY:
            self._table.begin("self-check")
            self._table.fail("self-check", status.reason, "it is asked again; the engine's own stage says more")
        elif status.state is EngineState.HEALTHY:
            self._table.begin("self-check")
            self._table.done("self-check")
