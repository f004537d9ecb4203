"""The quoting service: a process that holds a synthetic world and answers report data with a quote on a Unix socket.

A worker that asks it holds neither the machine's nor the root's key, as on real hardware. Beside the socket it
leaves ``<name>.collateral.json`` and ``<name>.root.der`` for verifiers, and ``<name>.log.cbor``, the machine's event
log, for the worker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from attestation import quoting
from attestation.errors import AttestationError
from attestation.platforms.simulated import log_path

if TYPE_CHECKING:
    from pathlib import Path

_log = structlog.get_logger(__name__)
_IDLE_S = 60.0


class World(Protocol):
    """What the service needs of a synthetic world."""

    @property
    def root_der(self) -> bytes:
        """The root certificate."""

    def quote(self, report_data: bytes) -> bytes:
        """A signed quote over 64 bytes."""

    def collateral_json(self) -> bytes:
        """Collateral as JSON."""

    def event_log(self) -> bytes:
        """The machine's event log as bundles carry it."""


def collateral_path(socket: Path) -> Path:
    """Where the service at ``socket`` leaves its collateral."""
    return socket.with_name(socket.name + ".collateral.json")


def root_path(socket: Path) -> Path:
    """Where the service at ``socket`` leaves its root certificate (DER)."""
    return socket.with_name(socket.name + ".root.der")


async def start(path: Path, world: World) -> asyncio.Server:
    """Leave collateral, root and event log beside ``path``, answer quote requests on a Unix socket there (mode 0600).

    Returns:
        The running server; the caller closes it.
    """
    await asyncio.to_thread(_prepare, path, world)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve_one(world, reader, writer)

    server = await asyncio.start_unix_server(handle, path=path, limit=4096)
    await asyncio.to_thread(path.chmod, 0o600)
    _log.info("quoting service listens")
    return server


async def serve(path: Path, world: World) -> None:
    """Run the service until cancelled; see :func:`start`."""
    server = await start(path, world)
    async with server:
        await server.serve_forever()


def _prepare(path: Path, world: World) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    for target, content in (
        (collateral_path(path), world.collateral_json()),
        (root_path(path), world.root_der),
        (log_path(path), world.event_log()),
    ):
        partial = target.with_name(target.name + ".partial")
        partial.write_bytes(content)
        partial.replace(target)


async def _serve_one(world: World, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            async with asyncio.timeout(_IDLE_S):
                request = await reader.readexactly(quoting.REQUEST_SIZE)
            try:
                answer = quoting.encode_answer(world.quote(quoting.decode_request(request)))
            except AttestationError as error:
                writer.write(quoting.encode_refusal(error.message))
                return
            writer.write(answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        return
    finally:
        writer.close()
