"""The worker's model server, from its configuration: one of our own, or one that somebody else runs.

In: the configuration. Out: an :class:`Engine`, not started; and its description for the workload statement.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from appliance.engine.checks import SelfCheck
from appliance.engine.errors import EngineUnavailableError
from appliance.engine.gpus import require_gpus
from appliance.engine.models import open_directory
from appliance.engine.proxy import EngineClient
from appliance.engine.remote import RemoteEngine, read_key
from appliance.engine.settings import EngineSettings
from appliance.engine.supervisor import EngineSupervisor
from appliance.errors import ConfigError
from attestation.gpu.nvml import inventory

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.config import EngineConfig, WorkerConfig
    from appliance.engine.counters import EngineCounters
    from appliance.engine.endpoint import Endpoint
    from appliance.engine.progress import Progress

log = structlog.get_logger(__name__)


class Engine(Protocol):
    """What the worker needs of a model server."""

    @property
    def client(self) -> EngineClient:
        """Requests go through it, at any time; it refuses them while the server is not ready."""

    def ready(self) -> bool:
        """Whether requests may be sent now."""

    @property
    def begun(self) -> int:
        """How often it became ready."""

    async def counters(self) -> EngineCounters:
        """Tokens since it started, by its own count; raises ``EngineError``."""

    async def start(self) -> None:
        """Return when it is ready; raises ``EngineError``."""

    async def stop(self) -> None:
        """End it; may be called at any time."""


class LocalEngine:
    """An engine that this worker starts and keeps running.

    Args:
        directory: The checkpoint.
        model: Its full name; the directory must be that model.
        settings: What the measured configuration says.
    """

    def __init__(self, directory: Path, model: str, settings: EngineConfig) -> None:
        self._directory = directory
        self._model = model
        self._settings = settings
        self._supervisor: EngineSupervisor | None = None
        self.client = EngineClient(self)

    def endpoint(self) -> Endpoint:
        """Where requests go now; raises ``EngineUnavailableError`` while there is nowhere."""
        if self._supervisor is None:
            raise EngineUnavailableError("the engine was not started yet")
        return self._supervisor.endpoint()

    def ready(self) -> bool:
        """Whether the engine is healthy."""
        return self._supervisor is not None and self._supervisor.healthy.is_set()

    @property
    def begun(self) -> int:
        """How often it became healthy."""
        return self._supervisor.begun if self._supervisor is not None else 0

    async def counters(self) -> EngineCounters:
        """The engine's own count."""
        if self._supervisor is None:
            raise EngineUnavailableError("the engine was not started yet")
        return await self._supervisor.counters()

    async def start(self) -> None:
        """Check the model, make the engine's environment if it is not there, start, and return when it is healthy."""
        settings = self._settings
        if settings.device == "cuda":
            found = await asyncio.to_thread(inventory)
            require_gpus(found, settings.tensor_parallel * settings.data_parallel)
        prepared = await open_directory(self._directory, self._model, _show)
        self._supervisor = EngineSupervisor(
            EngineSettings.of(settings, prepared.base_name, prepared.directory),
            prepared.environment.python,
        )
        await self._supervisor.start()

    async def stop(self) -> None:
        """End the engine and close its connections."""
        if self._supervisor is not None:
            await self._supervisor.stop()
        await self.client.close()


class ForeignEngine:
    """A server with OpenAI's API that somebody else runs: for development. Nothing about it is attested.

    Args:
        remote: The watched server.
    """

    def __init__(self, remote: RemoteEngine) -> None:
        self._remote = remote
        self.client = remote.client

    def ready(self) -> bool:
        """Whether its last check was good."""
        return self._remote.healthy.is_set()

    @property
    def begun(self) -> int:
        """How often its checks became good."""
        return self._remote.begun

    async def counters(self) -> EngineCounters:
        """The server's own count."""
        return await self._remote.counters()

    async def start(self) -> None:
        """Watch it; return when it is healthy."""
        await self._remote.start()

    async def stop(self) -> None:
        """Stop watching."""
        await self._remote.stop()


def open_engine(config: WorkerConfig) -> Engine:
    """The configured model server, not started.

    Raises:
        ConfigError: Neither a model directory nor an engine's address is given.
        EngineSettingsError: The address or the key file is wrong.
    """
    measured, host = config.measured, config.host
    settings, model = measured.engine, measured.model
    if settings is None or model is None:
        raise ConfigError("a worker's [measured] needs model and [measured.engine]")
    if host.engine_url is not None:
        if not measured.trust.development:
            raise ConfigError(
                "host.engine_url is set, but this is not a development configuration",
                hint="an engine that somebody else runs is outside what evidence covers",
            )
        key = read_key(host.engine_key_file) if host.engine_key_file is not None else None
        check = SelfCheck(measured.base_model, settings.self_check_prompt, settings.self_check_pattern)
        return ForeignEngine(RemoteEngine(host.engine_url, key, self_check=check))
    if settings.kind == "openai":
        raise ConfigError(f"engine kind {settings.kind!r} needs host.engine_url")
    if host.model_dir is None:
        raise ConfigError(
            "neither host.model_dir nor host.engine_url is set",
            hint="chrysalis setup makes one and says where",
        )
    return LocalEngine(host.model_dir, model, settings)


def describe_engine(settings: EngineConfig) -> dict[str, Any]:
    """The engine's part of the workload statement: every measured setting, by name."""
    return settings.model_dump(mode="json")


def _show(progress: Progress) -> None:
    log.info("engine is prepared", step=progress.step, count=progress.done, limit=progress.total)
