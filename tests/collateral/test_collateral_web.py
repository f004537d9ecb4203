"""The one HTTP client: what each fault of a service becomes, and that none of them holds it."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import ipaddress
import ssl
from typing import TYPE_CHECKING

import pytest
from collateral_support import NOW, Answering, Asked, always, http, in_turn, serving
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from attestation.collateral.errors import (
    MalformedAnswerError,
    NotServedError,
    ServiceRefusedError,
    ServiceUnreachableError,
)
from attestation.collateral.exchange import Question
from attestation.collateral.proxy import Proxies
from attestation.collateral.web import Patience, WebClient, together
from attestation.errors import CollateralError

if TYPE_CHECKING:
    from pathlib import Path

BRISK = Patience(silence=20.0, deadline=30.0)


class Pauses:
    """Records what would have been waited."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def client(patience: Patience = BRISK, pauses: Pauses | None = None) -> WebClient:
    return WebClient(Proxies("off"), patience, sleep=pauses or Pauses(), clock=lambda: NOW)


def question(address: str, limit: int = 1000) -> Question:
    return Question(address + "/thing?a=b", "the thing", limit)


async def test_an_answer_comes_whole() -> None:
    async with serving(always(http(200, b"x" * 1000, {"X-Chain": "a", "x-chain": "b"}))) as service:
        reply = await client().ask(question(service.address))
    assert (reply.status, reply.body, reply.headers["x-chain"]) == (200, b"x" * 1000, "a")
    asked = service.asked[0]
    assert (asked.method, asked.target, asked.headers["host"]) == ("GET", "/thing?a=b", f"127.0.0.1:{service.port}")
    assert asked.headers["accept-encoding"] == "identity"


async def test_what_is_posted_arrives() -> None:
    async with serving(always(http(200, b"ok"))) as service:
        posted = Question(service.address, "status", 10, body=b"\x00\xff", content_type="application/ocsp-request")
        assert (await client().ask(posted)).body == b"ok"
    assert (service.asked[0].method, service.asked[0].target, service.asked[0].body) == ("POST", "/", b"\x00\xff")
    assert service.asked[0].headers["content-type"] == "application/ocsp-request"


async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
    """More bytes for as long as anybody reads."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def drip(_: Asked, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, never the end: no single read is long enough to be given up."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless_headers(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"y" * 1000 + b"\r\n")
        await writer.drain()


async def endless_chunks(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"100\r\n" + b"z" * 256 + b"\r\n")
        await writer.drain()


async def silent(_: Asked, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def hang_up(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize(
    ("answering", "error", "message"),
    [
        (endless, MalformedAnswerError, "with too much: over 1000 bytes"),
        (endless_chunks, MalformedAnswerError, "with too much: over 1000 bytes"),
        (endless_headers, ServiceUnreachableError, "HTTPException"),
        (always(http(200, b"x" * 1001)), MalformedAnswerError, "with too much: 1001 bytes, at most 1000"),
        (always(http(200, b"x", length=10**15)), MalformedAnswerError, "with too much: 1000000000000000 bytes"),
        (always(http(200, b"x" * 90, length=100)), MalformedAnswerError, "stops 10 bytes before its end"),
        (
            always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc"),
            ServiceUnreachableError,
            "IncompleteRead",
        ),
        (
            always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc"),
            ServiceUnreachableError,
            "does not answer the thing",
        ),
        (
            always(http(200, b"\x1f\x8b", {"Content-Encoding": "gzip"})),
            MalformedAnswerError,
            "encoded as 'gzip', which was not asked for",
        ),
        (always(b"\x16\x03\x01 this is no HTTP\r\n\r\n"), ServiceUnreachableError, "BadStatusLine"),
        (hang_up, ServiceUnreachableError, "does not answer the thing"),
        (always(b""), ServiceUnreachableError, "hangs up without an answer"),
    ],
)
async def test_faults_of_a_service_are_bounded_and_named(
    answering: Answering, error: type[CollateralError], message: str
) -> None:
    async with serving(answering) as service:
        with pytest.raises(error, match=message) as caught:
            await client().ask(question(service.address))
    assert caught.value.hint


async def test_silence_is_given_up() -> None:
    async with serving(silent) as service:
        with pytest.raises(ServiceUnreachableError, match=r"silent for 0\.2 s"):
            await client(Patience(silence=0.2, deadline=20)).ask(question(service.address))


async def test_a_drip_ends_with_the_time_for_it_and_its_connection_with_it() -> None:
    left = asyncio.Event()

    async def watched(asked: Asked, writer: asyncio.StreamWriter) -> None:
        try:
            await drip(asked, writer)
        except ConnectionError:
            left.set()
            raise

    async with serving(watched) as service:
        with pytest.raises(ServiceUnreachableError, match=r"not within 0\.4 s"):
            await client(Patience(silence=60, deadline=0.4)).ask(question(service.address))
        await left.wait()  # the thread that read it is gone while the service still drips


async def test_who_stops_waiting_leaves_no_connection() -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def watched(asked: Asked, writer: asyncio.StreamWriter) -> None:
        begun.set()
        try:
            await drip(asked, writer)
        except ConnectionError:
            left.set()
            raise

    async with serving(watched) as service:
        task = asyncio.create_task(client(Patience(silence=60, deadline=60)).ask(question(service.address)))
        await begun.wait()
        task.cancel()
        await left.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("status", "headers", "error", "message", "hint"),
    [
        (404, {}, NotServedError, "with status 404", "404"),
        (
            404,
            {"Error-Code": "-404", "Error-Message": "no FMSPC"},
            NotServedError,
            "'-404 no FMSPC'",
            "does not know",
        ),
        (301, {"Location": "http://other.example/x"}, ServiceRefusedError, "points to 'other.example'", "not followed"),
        (302, {}, ServiceRefusedError, "points to 'the same host'", "final address"),
        (401, {}, ServiceRefusedError, "with status 401", "rights"),
        (500, {}, ServiceRefusedError, "with status 500", "another service"),
        (204, {}, ServiceRefusedError, "with status 204", "address"),
    ],
)
async def test_refusals_say_why_and_what_helps(
    status: int, headers: dict[str, str], error: type[CollateralError], message: str, hint: str
) -> None:
    async with serving(always(http(status, b"", headers))) as service:
        with pytest.raises(error, match=message) as caught:
            await client().ask(question(service.address))
    assert hint in caught.value.hint
    assert len(service.asked) == 1  # refusals are not asked twice


async def test_a_busy_service_is_asked_again_after_what_it_asks_for() -> None:
    pauses = Pauses()
    later = email.utils.format_datetime(dt.datetime.fromtimestamp(NOW + 9, dt.UTC), usegmt=True)
    answers = (
        http(429, b"", {"Retry-After": "7"}),
        http(503, b"", {"Retry-After": later}),
        http(503, b"", {"Retry-After": "soon"}),
        http(200, b"at last"),
    )
    async with serving(in_turn(*answers)) as service:
        assert (await client(pauses=pauses).ask(question(service.address))).body == b"at last"
    assert len(service.asked) == 4
    assert pauses.seconds[:2] == [7.0, 9.0]
    assert 1.0 <= pauses.seconds[2] <= 2.0  # its own back-off: 0.5 s, doubled twice, less up to a half


async def test_a_busy_service_is_not_asked_for_ever_nor_waited_for_long() -> None:
    pauses = Pauses()
    async with serving(always(http(503))) as service:
        with pytest.raises(ServiceRefusedError, match="status 503") as caught:
            await client(pauses=pauses).ask(question(service.address))
    assert (len(service.asked), len(pauses.seconds)) == (BRISK.attempts, BRISK.attempts - 1)
    assert "overloaded" in caught.value.hint
    async with serving(always(http(429, b"", {"Retry-After": "3600"}))) as service:
        with pytest.raises(ServiceRefusedError, match="left alone for 3600 s"):
            await client(pauses=pauses).ask(question(service.address))
    assert len(service.asked) == 1


async def test_the_time_for_a_question_holds_over_its_pauses() -> None:
    impatient = WebClient(Proxies("off"), Patience(deadline=0.3, first_pause=30, longest_pause=60))
    async with serving(always(http(503))) as service:
        with pytest.raises(ServiceUnreachableError, match=r"not within 0\.3 s"):
            await impatient.ask(question(service.address))


async def test_a_service_with_another_clock_is_noticed() -> None:
    asking = client()
    assert asking.skew is None
    date = email.utils.format_datetime(dt.datetime.fromtimestamp(NOW + 4000, dt.UTC), usegmt=True)
    async with serving(always(http(200, b"", {"Date": date}))) as service:
        await asking.ask(question(service.address))
    assert asking.skew == 4000.0
    async with serving(always(http(200, b"", {"Date": "yesterday"}))) as service:
        await asking.ask(question(service.address))
    assert asking.skew == 4000.0


async def test_nobody_listens_and_nobody_has_that_name() -> None:
    with pytest.raises(ServiceUnreachableError, match="the connection is refused") as caught:
        await client().ask(question("http://127.0.0.1:9"))
    assert "nothing listens" in caught.value.hint
    with pytest.raises(ServiceUnreachableError, match="its name cannot be resolved") as caught:
        await client().ask(question("http://service.invalid"))
    assert "DNS" in caught.value.hint


@pytest.mark.parametrize(
    "address",
    ["ftp://host/x", "http://", "file:///etc/passwd", "http://user:secret@host/", "http://h:99999/", "http://ho st/x"],
)
async def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(CollateralError, match="collateral service"):
        await client().ask(Question(address, "the thing", 10))


async def test_together_the_first_failure_ends_the_others() -> None:
    async with serving(silent) as slow, serving(always(http(404))) as wrong:
        asking = client(Patience(silence=60, deadline=60))
        with pytest.raises(NotServedError):
            await together(asking.ask(question(slow.address)), asking.ask(question(wrong.address)))


def authority(folder: Path, *, ends_in: float) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate of its own for 127.0.0.1, and the file a client would trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=10))
        .not_valid_after(now + dt.timedelta(days=ends_in))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "local.pem"
    path.write_bytes(
        built.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path


@pytest.mark.parametrize(
    ("ends_in", "trusted", "message", "hint"),
    [
        (10, True, "", ""),
        (-1, True, "out of date by this machine's clock", "skewed clock"),
        (10, False, "is not trusted", "SSL_CERT_FILE"),
    ],
)
async def test_tls_says_whether_it_is_the_clock_or_the_authority(
    tmp_path: Path, ends_in: float, trusted: bool, message: str, hint: str
) -> None:
    context, path = authority(tmp_path, ends_in=ends_in)

    asking = client()
    if trusted:
        asking.tls = ssl.create_default_context(cafile=str(path))
    async with serving(always(http(200, b"over TLS")), tls=context) as service:
        if not message:
            assert (await asking.ask(question(service.address))).body == b"over TLS"
            return
        with pytest.raises(ServiceUnreachableError, match=message) as caught:
            await asking.ask(question(service.address))
    assert hint in caught.value.hint
