"""Asking a machine over TLS: what is refused before any evidence is judged, and whose key the evidence has to name."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from attest_cli_support import Site, TdxMachine, statement
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import attestation
from appliance.boot import tls
from attestation import remote
from attestation.certificate import build_certificate
from attestation.collateral.entry import Entry
from attestation.collateral.offline import OfflineBundle
from attestation.errors import AttestationError, HandshakeError, RefusedError
from attestation.evidence import MAX_BUNDLE, build_bundle
from attestation.ratls import Identity
from attestation.staple import Staple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@contextmanager
def serving(answer: Callable[[str], tuple[int, bytes]], context: ssl.SSLContext | None) -> Iterator[str]:
    """One port that answers GET; with a context over TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    class Quiet(HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is what some of these tests are about."""

    server = Quiet(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Machine:
    """An attested port over a machine of the synthetic world, in this process."""

    def __init__(self, site: Site, *, key: Ed25519PrivateKey | None = None, stapled: bool = True) -> None:
        self._site = site
        self._stapled = stapled
        self._key = key or Ed25519PrivateKey.generate()
        self._platform = TdxMachine(site.tdx)
        self.identity = asyncio.run(Identity.create(self._platform, key=self._key))

    def context(self, key: Ed25519PrivateKey | None = None) -> ssl.SSLContext:
        context = tls.server_context()
        shown = key or self._key
        certificate = build_certificate(shown, None, now=dt.datetime.now(dt.UTC).timestamp())
        tls.present(context, shown, certificate)
        return context

    def answer(self, path: str) -> tuple[int, bytes]:
        nonce = bytes.fromhex(path.partition("nonce=")[2])
        return 200, asyncio.run(self._bundle(nonce))

    async def _bundle(self, nonce: bytes) -> bytes:
        async def staple(_quote: bytes, _devices: Sequence[bytes]) -> Staple:
            return Staple(tdx=self._site.tdx.collateral_json()) if self._stapled else Staple()

        said = statement(self._site.image, engine={})
        return await build_bundle(self._platform, self.identity, said, nonce, b"", staple=staple)


@pytest.fixture(scope="module")
def machine(site: Site) -> Machine:
    return Machine(site)


def policy(site: Site) -> Path:
    return site.policy("remote", measurements={"images": [site.image.hex()]}, freshness={"max_age_s": 60})


def test_a_machine_is_verified_over_its_own_channel(site: Site, machine: Machine) -> None:
    with serving(machine.answer, machine.context()) as address:
        verdict = attestation.verify_worker(address, policy=policy(site))
    assert verdict.require().accepted
    assert verdict.public_key == machine.identity.public_key
    names = {check.name: check for check in verdict.checks}
    assert names["channel key"].checked
    assert names["nonce"].checked


def test_an_exported_file_is_collateral_where_nothing_is_stapled(site: Site, tmp_path: Path) -> None:
    exported = tmp_path / "collateral.cbor"
    now = dt.datetime.now(dt.UTC).timestamp()
    piece = Entry(
        kind="tdx",
        identity=f"{site.tdx.fmspc.hex().upper()}-platform",
        source="pcs",
        fetched=now - 60,
        issued=now - 60,
        expires=now + 86400,
        content=site.tdx.collateral_json(),
    )
    exported.write_bytes(OfflineBundle.of([piece]).encode())
    bare = Machine(site, stapled=False)
    with serving(bare.answer, bare.context()) as address:
        assert attestation.verify_worker(address, policy=policy(site), collateral=str(exported)).require().accepted
        alone = attestation.verify_worker(address, policy=policy(site))
    assert "collateral" in {check.name for check in alone.failed}


def test_good_evidence_of_another_machine_is_a_relay(site: Site, machine: Machine) -> None:
    """TLS ends at a key of the one in between; the evidence is genuine and names the other."""
    with serving(machine.answer, machine.context(Ed25519PrivateKey.generate())) as address:
        verdict = attestation.verify_worker(address, policy=policy(site))
    assert [check.name for check in verdict.failed] == ["channel key"]
    with pytest.raises(RefusedError, match="channel key"):
        verdict.require()


async def test_a_program_with_a_loop_is_told_what_to_call() -> None:
    with pytest.raises(AttestationError, match="to_thread"):
        attestation.verify_worker("127.0.0.1:1", policy="tdx")


def test_an_old_answer_is_a_replay(site: Site, machine: Machine) -> None:
    kept = machine.answer("nonce=" + "00" * 32)
    with serving(lambda _path: kept, machine.context()) as address:
        verdict = attestation.verify_worker(address, policy=policy(site))
    assert [check.name for check in verdict.failed] == ["nonce"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b'{"error": "no key yet", "hint": "wait"}', "status 503, no key yet"),
        (404, b"<html>", "status 404, no reason given"),
        (500, b'{"error": "\\u001b[2J"}', r"\x1b[2J"),
        (500, b"[" * 4096, "no reason given"),
        (200, bytes(MAX_BUNDLE + 1), "more than"),
    ],
)
def test_what_gives_no_evidence_is_told(machine: Machine, status: int, body: bytes, said: str) -> None:
    with serving(lambda _path: (status, body), machine.context()) as address, pytest.raises(HandshakeError) as found:
        attestation.verify_worker(address, policy="tdx")
    assert said in str(found.value)


def test_garbage_is_a_refused_verdict(site: Site, machine: Machine) -> None:
    with serving(lambda _path: (200, b"garbage"), machine.context()) as address:
        verdict = attestation.verify_worker(address, policy=policy(site))
    assert [check.name for check in verdict.failed] == ["bundle"]


def test_a_port_without_tls_is_told_apart() -> None:
    """The network's own ports ask for proof of work first: the command line then speaks that."""
    with serving(lambda _path: (200, b""), None) as address, pytest.raises(remote.NotTlsError):
        remote.fetch(remote.parse_endpoint(address), bytes(32))


def test_a_key_of_another_kind_is_something_else_s() -> None:
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, SHA256())
    )
    context = tls.server_context()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    _load(context, pem)
    with serving(lambda _path: (200, b""), context) as address, pytest.raises(HandshakeError, match="Ed25519"):
        attestation.verify_worker(address, policy="tdx")


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    import os

    descriptor = os.memfd_create("identity")
    os.write(descriptor, pem)
    context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("host:1", remote.Endpoint("host", 1)),
        ("host", remote.Endpoint("host", 9443)),
        ("[::1]:99", remote.Endpoint("::1", 99)),
        ("https://host", remote.Endpoint("host", 9443)),
        ("https://host:7/", remote.Endpoint("host", 7)),
        ("https://host:7/other", remote.Endpoint("host", 7, "/other")),
    ],
)
def test_addresses_are_read(text: str, endpoint: remote.Endpoint) -> None:
    assert remote.parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host:0",
        "host:70000",
        "host:x",
        "a b:1",
        "http://h",
        "https://",
        "https://u@h",
        "https://h?x=1",
        "https://h:0",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AttestationError):
        remote.parse_endpoint(text)


def test_the_public_names_load_when_they_are_asked_for() -> None:
    assert attestation.verify_worker is remote.verify_worker
