"""The attested status port as a program: it comes up with the machine and stays, whatever failed.

Its key is made here and dies with the process. Until the boot's ``keys`` stage has ended the certificate carries no
evidence; from then on it does, and bundles are made for whoever asks, at a limited rate. It also writes the worker's
changes of stage to the console, which the worker's user cannot reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import logs
from appliance.boot import tls
from appliance.boot.pages import Pages
from appliance.boot.stages import WORKER_STAGES, read_stages
from appliance.boot.system import System
from appliance.config.guest import ATTESTED_PORT
from attestation.ratls import Identity
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from appliance.boot.evidence import Prover
    from appliance.boot.stages import StageRecord

log = structlog.get_logger(__name__)

MAX_CONNECTIONS: Final = 256
HANDSHAKE_S: Final = 15.0
POLL_S: Final = 0.5
RETRY_S: Final = 10.0


class StatusPort:
    """The port and what keeps it current.

    Args:
        system: The machine.
        say: Shows a change of one of the worker's stages.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
    """

    def __init__(
        self,
        system: System,
        say: Callable[[StageRecord], None],
        *,
        host: str = "0.0.0.0",  # noqa: S104 - the one port that is for everybody
        port: int = ATTESTED_PORT,
    ) -> None:
        self._system = system
        self._say = say
        self._listen = (host, port)
        self._key = Ed25519PrivateKey.generate()
        self._context = tls.server_context()
        self._prover: Prover | None = None
        self.port = port

    async def run(self, stopped: asyncio.Event) -> None:
        """Serve until stopped."""
        async with contextlib.AsyncExitStack() as stack:
            plain = await Identity.create(None, key=self._key)
            tls.present(self._context, self._key, plain.certificate)
            await self._serve(stack, self._context)
            tasks = [asyncio.create_task(self._prove(stack)), asyncio.create_task(self._watch())]
            await stopped.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, stack: contextlib.AsyncExitStack, context: ssl.SSLContext) -> None:
        pages = Pages(
            self._system,
            lambda: self._prover.bundle if self._prover else None,
            lambda: self._prover.named if self._prover else b"",
        )
        runner = web.AppRunner(pages.application(), access_log=None, keepalive_timeout=30.0, shutdown_timeout=2.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        if runner.server is None:
            return
        server = await asyncio.get_running_loop().create_server(
            runner.server, *self._listen, ssl=context, ssl_handshake_timeout=HANDSHAKE_S, backlog=MAX_CONNECTIONS
        )
        stack.callback(server.close)
        self.port = server.sockets[0].getsockname()[1]
        log.info("status port", port=self.port)

    async def _prove(self, stack: contextlib.AsyncExitStack) -> None:
        """Wait for the keys, then show a certificate with evidence; try again for as long as that fails."""
        while not self._keys_ended():  # noqa: ASYNC110 - another process writes the record
            await asyncio.sleep(POLL_S)
        from appliance.boot.evidence import Prover  # noqa: PLC0415 - the port is open before all of this is loaded

        while True:
            try:
                prover = await Prover.open(self._system, self._key)
            except ChrysalisError as error:
                log.warning("no evidence", error=type(error).__name__, reason=error.message, hint=error.hint)
                await asyncio.sleep(RETRY_S)
                continue
            if prover is None:
                return
            stack.push_async_callback(prover.close)
            self._prover = prover
            await prover.keep(lambda certificate: tls.present(self._context, self._key, certificate))

    def _keys_ended(self) -> bool:
        return any(
            record.name == "keys" and record.state not in {"pending", "running"}
            for record in read_stages(self._system.stages)
        )

    async def _watch(self) -> None:
        """Show the worker's changes."""
        shown = dict.fromkeys(WORKER_STAGES, "pending")
        while True:
            for record in read_stages(self._system.stages):
                if record.name in shown and record.state != shown[record.name]:
                    shown[record.name] = record.state
                    self._say(record)
            await asyncio.sleep(POLL_S)


async def _serve_until_told() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await StatusPort(System(), _say).run(stopped)


def _say(record: StageRecord) -> None:
    # Standard output is the console; a full one must not stop the port.
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), record.console_line().encode() + b"\n")


def main() -> int:
    """Serve until SIGTERM."""
    logs.configure("info", as_json=True)
    asyncio.run(_serve_until_told())
    return 0


if __name__ == "__main__":
    sys.exit(main())
