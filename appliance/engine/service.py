"""The program of ``chrysalis-engine.service``: keeps the guest's model server running on its fixed port.

In: the configuration that the boot checked and wrote down, the key that it made (this user's copy), the model that it
opened and mounted. Out: an OpenAI-compatible server at ``127.0.0.1:30000`` which wants that key on every route; the
worker of the same guest watches it, asks it the known prompt and tells the machine's stages. Nothing of a request is
logged; a server that ends or hangs is started again with a growing wait, for ever.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import uvloop
from pydantic import ValidationError

from appliance import logs
from appliance.boot.image import read_image
from appliance.boot.stages import write_atomically
from appliance.boot.system import System
from appliance.boot.unit import run_unit
from appliance.config.guest import ENGINE_PORT
from appliance.config.models import WorkerConfig
from appliance.engine.endpoint import Door
from appliance.engine.errors import EngineSettingsError
from appliance.engine.remote import read_key
from appliance.engine.settings import EngineSettings
from appliance.engine.state import EngineState
from appliance.engine.supervisor import EngineSupervisor, Timing
from appliance.model.volume import find_damage

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.config.models import EngineConfig
    from appliance.engine.state import EngineStatus

log = structlog.get_logger(__name__)

MACHINE: Final = "/run/chrysalis/config/machine.json"
KEY: Final = "/run/chrysalis/engine.key"
MODEL: Final = "/run/chrysalis/model"
PYTHON: Final = "/usr/lib/chrysalis-engine/bin/python"
TROUBLE: Final = "/run/chrysalis-engine/trouble"
"""Why the engine could not be started last time, for the worker's stage; gone while it runs. Never holds content."""
TIMING: Final = Timing(back_off_cap=120.0, restarts=sys.maxsize)
"""A machine without an engine serves nothing anyway, so it is never given up."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is to run.

    Attributes:
        settings: The engine.
        python: Its environment's interpreter.
        door: Its port and key.
        log_level: The lowest that is logged.
    """

    settings: EngineSettings
    python: Path
    door: Door
    log_level: str

    @classmethod
    def read(cls, system: System) -> Service:
        """What the boot and the image say.

        Raises:
            EngineSettingsError: Something is missing, or the image carries another kind of engine.
            StageError: The image does not describe itself.
        """
        path = system.path(MACHINE)
        try:
            config = WorkerConfig.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise EngineSettingsError(
                f"{path}: {type(error).__name__}", hint="see /v1/stages of the status port"
            ) from None
        measured = config.measured
        assert measured.engine is not None  # noqa: S101 -- a worker's configuration has one; narrows the type
        require_kind(measured.engine, image_engine(system))
        return cls(
            settings=EngineSettings.of(measured.engine, measured.base_model, system.path(MODEL)),
            python=system.path(PYTHON),
            door=Door(ENGINE_PORT, read_key(system.path(KEY))),
            log_level=config.host.log_level,
        )


def image_engine(system: System) -> str | None:
    """The kind of engine that the image carries, as its manifest names it; None where it carries none."""
    engine = read_image(system).engine
    return engine.name if engine is not None else None


def require_kind(config: EngineConfig, carried: str | None) -> None:
    """Check that the image carries what the measured configuration asks for.

    Raises:
        EngineSettingsError: It carries another kind of engine, or none.
    """
    if config.kind != carried:
        raise EngineSettingsError(
            f"the measured configuration asks for engine {config.kind!r}, the image carries {carried or 'none'}",
            hint="change engine.kind in measured.toml, or use an image that carries that engine",
        )


class Trouble:
    """Keeps the file that says why the engine does not start; a model whose bytes are not its own is named.

    Args:
        path: The file.
        model: Where the model is mounted.
    """

    def __init__(self, path: Path, model: Path) -> None:
        self._path = path
        self._model = model
        self._looking: asyncio.Task[None] | None = None

    def follow(self, status: EngineStatus) -> None:
        """A change of the engine's state."""
        if status.state is EngineState.HEALTHY:
            self._path.unlink(missing_ok=True)
        elif status.state is EngineState.UNHEALTHY and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(status.reason), name="engine-trouble")

    async def _look(self, reason: str) -> None:
        damage = await asyncio.to_thread(find_damage, self._model)
        write_atomically(self._path, (damage or reason).encode(), 0o644)


async def run(service: Service, timing: Timing = TIMING, *, trouble: Trouble | None = None) -> None:
    """Keep the engine running until SIGTERM or SIGINT. The worker, which is told first, has let its answers end.

    Args:
        service: What is to run.
        timing: When patience ends.
        trouble: Told of each change of state.

    Raises:
        EngineError: It was given up.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    supervisor = EngineSupervisor(service.settings, service.python, timing=timing, door=service.door)
    if trouble is not None:
        supervisor.subscribe(trouble.follow)
    stopped = asyncio.create_task(stop.wait(), name="engine-service-stop")
    started = asyncio.create_task(supervisor.start(), name="engine-service-start")
    try:
        await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            started.result()
            await stopped
    finally:
        stopped.cancel()
        started.cancel()
        await supervisor.stop()
        await asyncio.wait({started, stopped})


def work() -> None:
    """Run until SIGTERM.

    Raises:
        EngineError: The engine cannot be started as configured, or was given up.
        StageError: The image does not describe itself.
    """
    system = System()
    service = Service.read(system)
    logs.configure(service.log_level, as_json=True)
    uvloop.run(run(service, trouble=Trouble(system.path(TROUBLE), system.path(MODEL))))


if __name__ == "__main__":
    sys.exit(run_unit("the engine's service", work))
