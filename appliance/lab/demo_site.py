"""Where the demonstration's worker runs: what differs between a process of this machine and a booted image.

A site is asked in this order: ``model``, ``found``, ``start``, then what it knows while it runs, then ``stop``.
:class:`ProcessSite` is the worker as a process with a simulated TDX machine; the booted image is in
:mod:`appliance.lab.demo_guest`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import aiohttp

from appliance.engine.models import prepare
from appliance.lab.demo_evidence import keep_evidence
from appliance.lab.errors import LabError
from appliance.lab.processes import until_healthy
from appliance.lab.tee_service import collateral_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from appliance.engine.models import PreparedModel
    from appliance.engine.progress import ProgressCallback
    from appliance.lab.demo_result import Result
    from appliance.lab.processes import Processes
    from appliance.lab.world import World

ENGINE_START_S = 600.0


@dataclass(frozen=True, slots=True)
class Served:
    """The model as the worker serves it.

    Attributes:
        prepared: The checkpoint and the environment that made it; its own tokenizer counts tokens.
        name: The full name that is listed and paid for.
        engine: What the result says of the engine.
        settings: What the measured configuration says of the engine.
    """

    prepared: PreparedModel
    name: str
    engine: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def base_name(self) -> str:
        """The name before ``@``, which requests carry."""
        return self.name.partition("@")[0]


@dataclass(frozen=True, slots=True)
class Settled:
    """The worker's place in the network.

    Attributes:
        image: The image hash that its machine has to prove, 32 bytes.
        trust: What everybody else's trust configuration needs besides, to judge this machine.
    """

    image: bytes
    trust: Mapping[str, Any] = field(default_factory=dict)


class WorkerSite(Protocol):
    """A place for the worker.

    Attributes:
        sessions: Of processes that it started itself; none of them may be left in the end.
    """

    sessions: list[int]

    async def model(self, recipe: str, progress: ProgressCallback) -> Served:
        """Make or find the model."""

    async def found(self, world: World, served: Served, owner: Mapping[str, Any], ports: Mapping[str, int]) -> Settled:
        """Make the machine and the worker's configuration; ``ports`` are free ones, still held, by name."""

    async def start(self, processes: Processes, *, wait: bool) -> None:
        """Start the worker; with ``wait``, return when it is healthy."""

    async def status(self) -> dict[str, Any]:
        """Its status, as its owner sees it."""

    async def counters(self) -> dict[str, int]:
        """Its engine's own token counters."""

    async def objection(self, gateway: Mapping[str, Any]) -> str:
        """Why the worker will never serve, in the words of whoever refuses; empty while it still may.

        Args:
            gateway: The gateway's status.
        """

    async def prove(self, result: Result) -> dict[str, bool]:
        """Check what only this site can show, put it into the result, and return the checks by name."""

    def addresses(self) -> dict[str, str]:
        """Where the worker answers, by name."""

    async def stop(self) -> None:
        """End what the demonstration's processes do not hold."""


class ProcessSite:
    """The worker as a process of this machine, on a simulated TDX machine.

    Args:
        directory: The demonstration's.
        say: Told what happens.
    """

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say
        self._url = ""
        self._attested = ""
        self._image = b""
        self._root = b""
        self.sessions: list[int] = []

    async def model(self, recipe: str, progress: ProgressCallback) -> Served:
        """The recipe's checkpoint, served by SGLang."""
        prepared = await prepare(recipe, progress)
        engine = {"name": "sglang", "version": prepared.environment.sglang, "model": prepared.name}
        return Served(prepared, prepared.name, engine, engine_settings(prepared))

    async def found(self, world: World, served: Served, owner: Mapping[str, Any], ports: Mapping[str, int]) -> Settled:
        """A quoting service, and the worker's file."""
        measured = world.measured(served.name, served.settings)
        machine = await world.machine("worker", measured)
        attested = f"127.0.0.1:{world.ports.take()}"
        host = self._host(world, served, ports["worker"]) | {"attested": attested}
        world.write_config("worker", measured, owner, host)
        self._url = f"http://127.0.0.1:{ports['worker']}"
        self._attested = f"https://{attested}"
        self._image, self._root = machine.image, machine.root_der
        return Settled(machine.image)

    async def start(self, processes: Processes, *, wait: bool) -> None:
        """The program, on its production path."""
        config = str(self._directory / "worker.toml")
        child = await processes.start("worker", ["appliance.cli", "worker", "run", "--config", config])
        if wait:
            await until_healthy(child, self._url + "/health", timeout=ENGINE_START_S)

    async def status(self) -> dict[str, Any]:
        """The status page."""
        return await fetch("worker", self._url + "/status")

    async def counters(self) -> dict[str, int]:
        """The engine's counters by way of the status page."""
        return await fetch("worker", self._url + "/engine")

    async def objection(self, gateway: Mapping[str, Any]) -> str:
        """Its own reasons where the root contract's lists are one, then a gateway's words."""
        with contextlib.suppress(aiohttp.ClientError):
            return _refusal(await self.status())
        return ""

    async def prove(self, result: Result) -> dict[str, bool]:
        """Its fresh evidence, kept as files and judged by a policy's file."""
        return await keep_evidence(
            self._directory,
            self._attested,
            platform="tdx",
            roots=(self._root,),
            measurements={"images": [self._image.hex()]},
            say=self._say,
        )

    def addresses(self) -> dict[str, str]:
        """Its status page and its attested port."""
        return {"worker": self._url, "worker (attested)": self._attested}

    async def stop(self) -> None:
        """Nothing besides."""

    @staticmethod
    def _host(world: World, served: Served, port: int) -> dict[str, Any]:
        return {
            "status": f"127.0.0.1:{port}",
            "quote_source": str(world.quotes("worker")),
            "collateral": str(collateral_path(world.quotes("worker"))),
            "model_dir": str(served.prepared.directory),
        }


def engine_settings(model: PreparedModel) -> dict[str, Any]:
    """The measured settings of an engine for a model of the recipes."""
    settings: dict[str, Any] = {"max_tokens": 256, "max_active_requests": 8}
    if model.self_check_prompt is not None:
        settings |= {"self_check_prompt": model.self_check_prompt}
    if model.self_check_pattern is not None:
        settings |= {"self_check_pattern": model.self_check_pattern}
    return settings


async def fetch(
    name: str, url: str, headers: Mapping[str, str] | None = None, *, ssl: Literal[True, False] = True
) -> dict[str, Any]:
    """A program's JSON.

    Args:
        name: The program's.
        url: What is asked.
        headers: Sent with it.
        ssl: Whether a certificate of the address is judged; a guest's carries evidence instead of a name.

    Raises:
        LabError: Another status than 200.
        aiohttp.ClientError: It cannot be reached.
    """
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers, ssl=ssl) as answer:
        found: dict[str, Any] = await answer.json()
        if answer.status != 200:
            raise LabError(f"{name} answered {answer.status} to {url}: {found.get('error')}")
        return found


def _refusal(status: dict[str, Any]) -> str:
    own = [f"{item['text']} ({item['hint']})" for item in status.get("reasons", ()) if "delisted" in item["name"]]
    told = [text for text in status.get("troubles", {}).values() if "not listed" in text]
    return "; a gateway says: ".join([*own[:1], *told[:1]]) if told else ""
