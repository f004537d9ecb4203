"""A Google machine: its vTPM's quote by the key that Google certified, beside a TDX quote where it is a TDX guest.

The TPM keeps the key's template and its certificate in NV indexes (google/go-tpm-tools, ``client/handles.go``); the key
is made again from the template each time. The certificates above it are published by Google at the addresses that the
certificates themselves name.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import AuthorityInformationAccessOID

from attestation.errors import CollectionError
from attestation.gcp.evidence import GcpEvidence
from attestation.platforms.base import EventLogPlatform, check_report_data
from attestation.tpm import logs as boot_logs
from attestation.tpm.attest import parse_quote
from attestation.tpm.evidence import MAX_CERTIFICATE, MAX_CHAIN, REGISTERS, TpmEvidence, qualifying_data
from attestation.tpm.primary import quote_by_template
from attestation.tpm.tools import TpmTools

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from attestation.platforms.base import Platform
    from attestation.tpm.logs import BootLogs, LogFiles

_log = structlog.get_logger(__name__)
ISSUERS_FILE = "gcp-issuers.pem"
_ATTEMPTS = 3
_FETCH_S = 15.0


@dataclass(frozen=True, slots=True)
class _NvKey:
    """Where the TPM keeps a key: indexes of its certificate and of its template."""

    certificate: int
    template: int


_KEYS = (_NvKey(0x01C10002, 0x01C10003), _NvKey(0x01C10000, 0x01C10001))
"""P-256 first, whose quotes are smaller; RSA is there on every machine."""


class Gcp:
    """A Google machine's vTPM.

    Args:
        tcti: The TPM as tpm2-tools name it; the kernel's resource manager by default.
        directory: This service's own, for the tools' files and for the certificates above the key's.
        tdx: Makes the TDX quote; ``None`` on a machine that is no TDX guest.
        snapshot: Logs that were gathered for this service; where the file does not exist, ``files`` are read.
        files: The machine's log files.
        fetch: Gets a certificate from an address.
    """

    name = "gcp"

    def __init__(
        self,
        tcti: str | None,
        directory: Path,
        *,
        tdx: Platform | None = None,
        snapshot: Path = boot_logs.SNAPSHOT,
        files: LogFiles | None = None,
        fetch: Callable[[str], bytes] | None = None,
    ) -> None:
        self._tools = TpmTools(tcti, directory)
        self._directory = directory
        self._tdx = tdx
        self._snapshot = snapshot
        self._files = files
        self._fetch = fetch or fetch_certificate
        self._known: tuple[bytes, tuple[bytes, ...]] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def collect(self, report_data: bytes) -> bytes:
        """Quote the registers, without logs: the form for certificates.

        Raises:
            CollectionError: No vTPM of Google's, no certificates above its key's, or no TDX quote.
        """
        return await self._evidence(report_data, None)

    async def collect_with_logs(self, report_data: bytes) -> bytes:
        """Quote the registers, with the logs that lead to them: the form for fresh evidence.

        Raises:
            CollectionError: As :meth:`collect`; or a log cannot be read.
        """
        logs = await asyncio.to_thread(boot_logs.of_this_boot, self._snapshot, self._files)
        return await self._evidence(report_data, logs)

    async def event_log(self) -> bytes | None:
        """The log of the TDX side, ``None`` where there is none; raises ``CollectionError``."""
        tdx = self._tdx
        if tdx is None or not isinstance(tdx, EventLogPlatform):
            return None
        return await tdx.event_log()

    async def _evidence(self, report_data: bytes, logs: BootLogs | None) -> bytes:
        check_report_data(report_data)
        async with self._one_at_a_time:
            template, chain = await self._key()
            tpm = await self._quoted(template, chain, report_data, logs)
        quote = await self._tdx.collect(report_data) if self._tdx is not None else None
        return GcpEvidence(tpm=tpm, tdx=quote).encode()

    async def _quoted(
        self, template: bytes, chain: tuple[bytes, ...], report_data: bytes, logs: BootLogs | None
    ) -> TpmEvidence:
        """A quote and the registers that it is over; made again if one was extended in between."""
        for _ in range(_ATTEMPTS):
            before = await self._tools.registers(REGISTERS)
            made = await asyncio.to_thread(
                quote_by_template, self._tools.tcti, template, REGISTERS, qualifying_data(report_data)
            )
            parse_quote(made.quote)
            if before == await self._tools.registers(REGISTERS):
                return TpmEvidence(
                    quote=made.quote, signature=made.signature, key=made.key, chain=chain, registers=before, logs=logs
                )
        raise CollectionError(f"registers were extended during each of {_ATTEMPTS} quotes")

    async def _key(self) -> tuple[bytes, tuple[bytes, ...]]:
        """Template and certificates of the key that Google certified."""
        if self._known is None:
            indexes = await self._tools.handles("handles-nv-index")
            found = next((key for key in _KEYS if {key.certificate, key.template} <= indexes), None)
            if found is None:
                wanted = ", ".join(f"{key.certificate:#x}" for key in _KEYS)
                raise CollectionError(
                    f"TPM without a key that Google certified ({wanted})",
                    hint="not a vTPM of Google's, or one that was turned off: start the machine with --shielded-vtpm",
                )
            leaf = await self._tools.read_certificate(found.certificate, as_owner=True)
            template = await self._tools.read_index(found.template, as_owner=True)
            self._known = (template, (leaf, *await asyncio.to_thread(self._issuers, leaf)))
        return self._known

    def _issuers(self, leaf: bytes) -> tuple[bytes, ...]:
        """The certificates above a key's, root included: those of an earlier start, or from where they are public."""
        path = self._directory / ISSUERS_FILE
        with contextlib.suppress(OSError, ValueError):
            kept = x509.load_pem_x509_certificates(path.read_bytes())[:MAX_CHAIN]
            if kept and _load(leaf).issuer == kept[0].subject:
                return tuple(item.public_bytes(serialization.Encoding.DER) for item in kept)
        chain: list[bytes] = []
        certificate = _load(leaf)
        while not _is_root(certificate):
            if len(chain) == MAX_CHAIN - 1:
                raise CollectionError(f"over {MAX_CHAIN - 1} certificates above the attestation key's")
            certificate = _load(self._fetch(_published_at(certificate)))
            chain.append(certificate.public_bytes(serialization.Encoding.DER))
        with contextlib.suppress(OSError):  # without it the next start fetches them again
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            pems = (_load(der).public_bytes(serialization.Encoding.PEM) for der in chain)
            partial = path.with_name(f".{ISSUERS_FILE}.partial")
            partial.write_bytes(b"".join(pems))
            partial.replace(path)
        _log.info("certificates above the attestation key's fetched", count=len(chain))
        return tuple(chain)


def fetch_certificate(address: str) -> bytes:
    """Get a certificate, DER or PEM, from the address that another names; nothing is believed of it.

    Raises:
        CollectionError: Not an http or https address, no answer, or one that is too long.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CollectionError(f"certificate published at {address[:200]!r}, expected an http or https address")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_FETCH_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_FETCH_S)
    try:
        connection.request("GET", parts.path or "/", headers={"Connection": "close"})
        response = connection.getresponse()
        content = response.read(MAX_CERTIFICATE + 1)
    except (OSError, http.client.HTTPException) as error:
        raise CollectionError(
            f"certificate at {parts.hostname} cannot be fetched: {type(error).__name__}",
            hint=f"a machine without a way there takes the certificates above the key's from {ISSUERS_FILE}",
        ) from None
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK or len(content) > MAX_CERTIFICATE:
        raise CollectionError(f"certificate at {parts.hostname}: status {response.status}, {len(content)} bytes")
    return content


def _load(content: bytes) -> x509.Certificate:
    try:
        if content.startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except ValueError as error:
        raise CollectionError(f"certificate that cannot be read: {error}") from None


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _published_at(certificate: x509.Certificate) -> str:
    """Where the issuer's certificate is published (RFC 5280, section 4.2.2.1)."""
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        for item in access:
            location = item.access_location
            if item.access_method == AuthorityInformationAccessOID.CA_ISSUERS and isinstance(
                location, x509.UniformResourceIdentifier
            ):
                return location.value
    raise CollectionError(f"certificate of {certificate.subject.rfc4514_string()[:120]!r} does not say who issued it")
