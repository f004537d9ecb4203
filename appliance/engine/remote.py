"""An engine that someone else runs: any server with OpenAI's API, behind the same interface as the supervisor.

Nothing about such an engine is attested; it is for development and for hosts whose engine is managed elsewhere. Its key
comes from a file, its health from the check of the protocol specification, section 3.7.
"""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from appliance.engine.checks import EngineProbe, SelfCheck
from appliance.engine.endpoint import Endpoint
from appliance.engine.errors import EngineError, EngineSettingsError, EngineStartError, EngineUnavailableError
from appliance.engine.proxy import EngineClient
from appliance.engine.state import EngineState, EngineStatus, StatusBoard, StatusCallback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.engine.counters import EngineCounters

_MAX_KEY_BYTES: Final = 4096
_POLL_S: Final = 1.5


class RemoteEngine:
    """Watches one server and sends requests to it; never starts or stops it.

    Args:
        url: ``http(s)://host[:port][/path]``; a ``/v1`` at its end is dropped.
        key: Its bearer key, if it wants one (see :func:`read_key`).
        self_check: A known prompt to ask when it comes up; None asks nothing.
        poll_s: Seconds between two checks.

    Raises:
        EngineSettingsError: The URL is not one.
    """

    def __init__(
        self, url: str, key: str | None = None, *, self_check: SelfCheck | None = None, poll_s: float = _POLL_S
    ) -> None:
        self._endpoint = Endpoint(base_url(url), key)
        self._self_check = self_check
        self._poll_s = poll_s
        self._board = StatusBoard()
        self._watcher: asyncio.Task[None] | None = None
        self._draining = False
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
        if self.status.state is not EngineState.HEALTHY:
            raise EngineUnavailableError(f"the engine is {self.status.state.value}: {self.status.reason}")
        return self._endpoint

    async def start(self) -> None:
        """Watch it and return when it is healthy; waits for as long as it is not.

        Raises:
            EngineStartError: It was stopped meanwhile.
        """
        watcher = self._watcher
        if watcher is None:
            self._change(EngineState.STARTING, "asking for its models")
            watcher = self._watcher = asyncio.create_task(self._watch(), name="remote-engine")
        up = asyncio.create_task(self.healthy.wait(), name="remote-engine-healthy")
        try:
            await asyncio.wait({up, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if not self.healthy.is_set():
            raise EngineStartError("the engine's watcher ended before the engine was healthy")

    async def counters(self) -> EngineCounters:
        """Its token counters, where it is an SGLang that shows them.

        Raises:
            EngineUnavailableError: They cannot be read.
            EngineTimeoutError: Not in time.
        """
        return await EngineProbe(self._endpoint).counters()

    async def drain(self, limit_s: float) -> bool:
        """Take no new requests and wait for the running ones, at most ``limit_s``; whether all had ended."""
        self._draining = True
        self._board.change(EngineState.DRAINING, f"{self.client.active} requests are still answered")
        try:
            async with asyncio.timeout(limit_s):
                await self.client.wait_idle()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Stop watching and close every connection; idempotent."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})
        await self.client.close()
        self._board.change(EngineState.STOPPED, "stopped")

    async def __aenter__(self) -> Self:
        """Start watching; return when it is healthy."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _watch(self) -> None:
        probe = EngineProbe(self._endpoint)
        while True:
            try:
                await probe.alive()
                if self._self_check is not None and self.status.state is not EngineState.HEALTHY:
                    await probe.self_check(self._self_check)
            except EngineError as error:
                self._change(EngineState.UNHEALTHY, error.message)
            else:
                self._change(EngineState.HEALTHY)
            await asyncio.sleep(self._poll_s)

    def _change(self, state: EngineState, reason: str = "") -> None:
        if not self._draining:
            self._board.change(state, reason)


def base_url(url: str) -> str:
    """A server's URL without ``/v1`` and without a slash at its end.

    Raises:
        EngineSettingsError: It is not an http or https URL with a host, or carries credentials, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError as error:
        raise EngineSettingsError(f"the engine's URL is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_number:
        raise EngineSettingsError(
            f"the engine's URL begins with {parts.scheme!r}, expected http://host or https://host"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise EngineSettingsError("the engine's URL holds credentials, a query or a fragment", hint="use a key file")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def read_key(path: Path) -> str:
    """The key in a file that only its owner can read.

    Raises:
        EngineSettingsError: It cannot be read, others can read it, or it holds anything but one word.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            content = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise EngineSettingsError(f"the engine's key file {path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise EngineSettingsError(f"{path} has mode {stat.S_IMODE(mode):04o}, expected 0600", hint=f"chmod 600 {path}")
    words = content.decode("ascii", errors="replace").split()
    if len(words) != 1 or len(content) > _MAX_KEY_BYTES or not words[0].isascii() or not words[0].isprintable():
        raise EngineSettingsError(f"{path} must hold one key of printable characters and nothing else")
    return words[0]
