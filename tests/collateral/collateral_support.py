"""A local HTTP service that does what a test says, well behaved or not, and counts what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    import ssl

NOW = 1_795_000_000.0
HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    reader: asyncio.StreamReader = field(repr=False, compare=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Answering = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class LocalService:
    """Where it is and what it was asked."""

    address: str = ""
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


def http(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, length: int = -1) -> bytes:
    """A whole answer; ``length`` says another length than the body has."""
    lines = [f"HTTP/1.1 {status} because", f"Content-Length: {len(body) if length < 0 else length}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def always(answer: bytes) -> Answering:
    """The same answer to everything."""

    async def answering(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return answering


def in_turn(*answers: bytes) -> Answering:
    """One answer after the other; the last one for ever."""
    left = list(answers)

    async def answering(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return answering


@contextlib.asynccontextmanager
async def serving(answering: Answering, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[LocalService]:
    """Serve on a free loopback port until the block ends, whatever hangs then."""
    service = LocalService()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        service.tasks.add(task)
        try:
            asked = await read_request(reader)
            service.asked.append(asked)
            await answering(asked, writer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            service.tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    service.port = server.sockets[0].getsockname()[1]
    service.address = f"{'https' if tls else 'http'}://127.0.0.1:{service.port}"
    try:
        yield service
    finally:
        server.close()
        for task in list(service.tasks):
            task.cancel()
        await asyncio.gather(*service.tasks, return_exceptions=True)
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> Asked:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body, reader)


def certificate(*, begins: float = NOW - DAY, ends: float = NOW + DAY, issuer: str = "root") -> bytes:
    """A certificate with these dates, DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "subject")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(begins))
        .not_valid_after(moment(ends))
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.DER)


def revocation_list(*, issued: float = NOW - HOUR, following: float = NOW + DAY) -> bytes:
    """A revocation list with these dates, DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    built = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .last_update(moment(issued))
        .next_update(moment(following))
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.DER)


def pem(*certificates: bytes) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in certificates
    )


def moment(unix: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(unix), dt.UTC)
