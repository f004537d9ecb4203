"""Evidence from a running machine: a fresh nonce, one TLS connection, and the key of that connection in the evidence.

::

    verdict = attestation.verify_worker("worker.example:9443", policy="release")

In: the address of an attested port. Out: a bundle with the key that its TLS ended at, or a verdict on it. The port's
certificate is not looked at by TLS: what a name says does not matter here, what the evidence says of the key does.
Only the standard library is needed.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import secrets
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.collateral import open_collateral
from attestation.errors import AttestationError, HandshakeError
from attestation.evidence import MAX_BUNDLE
from attestation.policy import Policy
from attestation.policy_file import load_policy
from attestation.report import visible
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path

    from attestation.collateral import CollateralSource, Sources
    from attestation.rules import RegistryView
    from attestation.verdict import Verdict

PATH: Final = "/v1/attestation"
PORT: Final = 9443
TIMEOUT_S: Final = 60.0
MAX_REASON: Final = 4096
_TARGET = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An attested port: where it is, and the page that gives evidence."""

    host: str
    port: int
    path: str = PATH

    @property
    def name(self) -> str:
        """Host and port, for a person."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """Evidence as a machine gave it.

    Attributes:
        bundle: The bytes as they came; nothing in them is verified.
        nonce: The 32 bytes that were asked for.
        public_key: The raw Ed25519 key at the other end of the connection, 32 bytes.
        endpoint: Who was asked.
    """

    bundle: bytes
    nonce: bytes
    public_key: bytes
    endpoint: Endpoint


class NotTlsError(HandshakeError):
    """The port does not speak TLS at once; the network's own ports ask for proof of work first."""


def parse_endpoint(text: str) -> Endpoint:
    """Read ``host:port`` or an ``https`` URL.

    Raises:
        AttestationError: Neither, or plain HTTP.
    """
    if text.startswith("http://"):
        raise AttestationError(
            f"{visible(text)}: evidence over plain HTTP does not say who answers",
            hint="an attested port speaks TLS: name it with https:// or as host:port",
        )
    path = PATH
    if text.startswith("https://"):
        try:
            parts = urlsplit(text)
            named, host, port = parts.port, parts.hostname or "", parts.port or PORT
        except ValueError as error:
            raise AttestationError(f"{visible(text)} is no address: {error}") from None
        if parts.query or parts.username or parts.password or not host or named == 0:
            raise AttestationError(f"{visible(text)} is no plain https address", hint="https://host:port")
        return Endpoint(host, port, parts.path if parts.path not in {"", "/"} else path)
    match = _TARGET.fullmatch(text)
    if match is None or not 0 < int(match["port"] or PORT) < 2**16:
        raise AttestationError(f"{visible(text)} is no address", hint="host:port, or https://host:port")
    return Endpoint(match["host"].strip("[]"), int(match["port"] or PORT), path)


def fetch(endpoint: Endpoint, nonce: bytes, *, timeout: float = TIMEOUT_S) -> Fetched:
    """Ask an attested port for evidence over a nonce.

    Args:
        endpoint: Who is asked.
        nonce: 32 bytes that nobody could know before.
        timeout: Seconds for each step.

    Raises:
        NotTlsError: The port answers in another protocol.
        HandshakeError: It is out of reach, refuses, or answers with too much or something else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the evidence speaks for the key; a certificate's name would prove nothing
    connection = http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=timeout, context=context)
    try:
        connection.request("GET", f"{endpoint.path}?nonce={nonce.hex()}", headers={"Accept": "application/cbor"})
        certificate = connection.sock.getpeercert(binary_form=True)
        answer = connection.getresponse()
        body = answer.read(MAX_BUNDLE + 1)
    except ssl.SSLError as error:
        raise NotTlsError(f"{endpoint.name} does not speak TLS 1.3: {error.reason or error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise HandshakeError(
            f"{endpoint.name} does not answer: {visible(str(error)) or type(error).__name__}",
            hint="is the machine running, and is this the address of its attested port?",
        ) from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        reason, hint = _reason(body)
        raise HandshakeError(f"{endpoint.name} gives no evidence: status {answer.status}, {reason}", hint=hint)
    if len(body) > MAX_BUNDLE:
        raise HandshakeError(f"{endpoint.name} answers with more than {MAX_BUNDLE} bytes")
    return Fetched(body, nonce, _public_key(certificate, endpoint), endpoint)


async def appraise(verifier: Verifier, fetched: Fetched) -> Verdict:
    """Judge what was fetched: the nonce has to be ours, and the key the one at the other end of the connection."""
    return await verifier.verify_bundle(fetched.bundle, nonce=fetched.nonce, public_key=fetched.public_key)


def verify_worker(
    address: str,
    policy: Policy | str | Path = "release",
    *,
    collateral: CollateralSource | Sources | str | None = None,
    registry: RegistryView | None = None,
    timeout: float = TIMEOUT_S,
) -> Verdict:
    """Ask a running worker for fresh evidence and judge it.

    Args:
        address: ``host:port`` of its attested port, or an ``https`` URL.
        policy: What is demanded: a policy, the name of a built-in one, or a TOML or JSON file.
        collateral: Sources, one for TDX alone, or a text: an exported file, which may serve every machine and its GPUs,
            a directory, a service's address or ``vendors``; without it, what the worker staples.
        registry: A proven view of the root contract, for policies that ask it.
        timeout: Seconds for each step of the connection.

    Returns:
        The verdict with every check; ``verdict.require()`` raises unless it accepts. Nothing is raised for bad
        evidence.

    Raises:
        AttestationError: The worker cannot be asked, or the policy cannot be read.
    """
    if _in_a_loop():
        raise AttestationError(
            "verify_worker was called where an event loop runs",
            hint="await asyncio.to_thread(attestation.verify_worker, address, policy)",
        )
    demanded = policy if isinstance(policy, Policy) else load_policy(policy, registry=registry)
    sources = open_collateral(collateral) if isinstance(collateral, str) or collateral is None else collateral
    fetched = fetch(parse_endpoint(address), secrets.token_bytes(32), timeout=timeout)
    return asyncio.run(appraise(Verifier(demanded, sources), fetched))


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _public_key(certificate: bytes | None, endpoint: Endpoint) -> bytes:
    try:
        key = x509.load_der_x509_certificate(certificate or b"").public_key()
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise HandshakeError(
            f"{endpoint.name} shows a certificate without an Ed25519 key",
            hint="something else ends TLS there: a proxy, or another program",
        )
    return key.public_bytes_raw()


def _reason(body: bytes) -> tuple[str, str]:
    """The machine's words for a refusal, bounded and harmless."""
    try:
        value = json.loads(body[:MAX_REASON])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return "no reason given", ""
    return visible(str(value.get("error", "no reason given"))[:400]), visible(str(value.get("hint", ""))[:400])
