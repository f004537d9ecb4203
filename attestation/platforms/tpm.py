"""A machine with a TPM: quotes of its registers by an attestation key that an authority certified for this boot.

The key is made in the TPM at boot and dies with it. Its certificate comes from an authority that checked, by credential
activation, that the key is in the TPM with a certified endorsement key. (Clouds whose TPMs come with a key that is
vouched for are platforms of their own: :mod:`~attestation.platforms.azure`, :mod:`~attestation.platforms.gcp`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation.errors import CollectionError, EvidenceError
from attestation.platforms.base import check_report_data
from attestation.tpm import logs as boot_logs
from attestation.tpm.enrol import AttestationAuthority
from attestation.tpm.evidence import MAX_CHAIN, REGISTERS, TpmEvidence, qualifying_data
from attestation.tpm.keys import parse_public
from attestation.tpm.tools import TpmTools

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.tpm.logs import BootLogs, LogFiles

_log = structlog.get_logger(__name__)
CHAIN_FILE = "attestation-key.pem"
SHARED_CHAIN = Path("/run/chrysalis/tpm") / CHAIN_FILE
"""Where a guest leaves the certificates of this boot's key for its other services."""

_RENEW_SHARE = 1 / 3
"""A certificate is renewed when less than this share of its life is left."""


@dataclass(frozen=True, slots=True)
class _EndorsementKey:
    """Where a TPM keeps an endorsement key and its certificate (TCG EK Credential Profile 2.5, section 2.2).

    Attributes:
        index: NV index of the certificate.
        handle: Persistent handle of the key.
        kind: How ``tpm2_createek`` makes it where it is not persistent; empty if it cannot.
        by_policy: Whether its template demands a policy session.
    """

    index: int
    handle: int
    kind: str
    by_policy: bool


_ENDORSEMENT_KEYS = (
    _EndorsementKey(0x01C00002, 0x81010001, "rsa", by_policy=True),  # L-1: RSA 2048
    _EndorsementKey(0x01C0000A, 0x81010002, "ecc", by_policy=True),  # L-2: P-256
    _EndorsementKey(0x01C00016, 0x81010016, "", by_policy=False),  # H-3: P-384
)


@dataclass(frozen=True, slots=True)
class _Key:
    """This boot's attestation key, certified."""

    context: Path
    public: bytes
    chain: tuple[bytes, ...]
    renew_at: float


class Tpm:
    """A TPM 2.0 and the authority that certifies its keys.

    Args:
        tcti: The TPM as tpm2-tools name it; the kernel's resource manager by default.
        directory: This service's own, for the key's context and certificates.
        ca_url: The authority; without it only certificates found in ``directory`` or at :data:`SHARED_CHAIN` are used.
        snapshot: Logs that were gathered for this service (:meth:`attestation.tpm.logs.BootLogs.encode`); where the
            file does not exist, ``files`` are read.
        files: The machine's log files.
        clock: Unix time.
    """

    name = "tpm"

    def __init__(
        self,
        tcti: str | None,
        directory: Path,
        ca_url: str | None = None,
        *,
        snapshot: Path = boot_logs.SNAPSHOT,
        files: LogFiles | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tools = TpmTools(tcti, directory)
        self._directory = directory
        self._authority = AttestationAuthority(ca_url) if ca_url else None
        self._snapshot = snapshot
        self._files = files or boot_logs.LogFiles()
        self._clock = clock
        self._key: _Key | None = None
        self._one_at_a_time = asyncio.Lock()

    async def prepare(self) -> None:
        """Make the attestation key and have it certified, if that is still to be done.

        Raises:
            CollectionError: No TPM, no endorsement certificate, or the authority refuses; the reason is told.
        """
        async with self._one_at_a_time:
            await self._certified()

    async def collect(self, report_data: bytes) -> bytes:
        """Quote the registers, without logs: the form for certificates.

        Raises:
            CollectionError: As :meth:`prepare`.
        """
        return (await self._evidence(report_data, None)).encode()

    async def collect_with_logs(self, report_data: bytes) -> bytes:
        """Quote the registers, with the logs that lead to them: the form for fresh evidence.

        Raises:
            CollectionError: As :meth:`prepare`; or a log cannot be read.
        """
        return (await self._evidence(report_data, await asyncio.to_thread(self._logs))).encode()

    async def registers(self) -> dict[int, bytes]:
        """SHA-256 registers 0 to 15 as they are now; raises ``CollectionError``."""
        return dict(zip(REGISTERS, await self._tools.registers(REGISTERS), strict=True))

    async def extend(self, register: int, digest: bytes, text: str) -> None:
        """Extend a SHA-256 register and write it into this project's own log; raises ``CollectionError``."""
        event = boot_logs.SystemEvent(register, digest, text)
        await self._tools.extend(register, digest)
        await asyncio.to_thread(boot_logs.record, self._files.own, event)

    async def _evidence(self, report_data: bytes, logs: BootLogs | None) -> TpmEvidence:
        check_report_data(report_data)
        async with self._one_at_a_time:
            key = await self._certified()
            quote, signature, registers = await self._tools.quote(key.context, REGISTERS, qualifying_data(report_data))
        return TpmEvidence(
            quote=quote, signature=signature, key=key.public, chain=key.chain, registers=registers, logs=logs
        )

    def _logs(self) -> BootLogs:
        return boot_logs.of_this_boot(self._snapshot, self._files)

    async def _certified(self) -> _Key:
        if self._key is not None and self._clock() < self._key.renew_at:
            return self._key
        context = self._directory / "attestation-key.ctx"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        public = await self._tools.make_attestation_key(context)
        chain = self._stored(public)
        if chain is None:
            if self._authority is None:
                raise CollectionError(
                    f"attestation key without a certificate in {self._directory}",
                    hint="set host.attestation_ca to the authority that certifies it",
                )
            chain = await self._enrol(self._authority, context, public)
            self._store(chain)
            _log.info("attestation key certified")
        self._key = _Key(context, public, chain, _renewal(chain[0]))
        return self._key

    async def _enrol(self, authority: AttestationAuthority, context: Path, public: bytes) -> tuple[bytes, ...]:
        endorsement, certificate = await self._endorsement()
        challenge = await asyncio.to_thread(authority.enrol, certificate, public)
        present = await self._tools.handles("handles-persistent")
        parent: int | str = endorsement.handle if endorsement.handle in present else endorsement.kind
        if not parent:
            raise CollectionError(f"TPM without its endorsement key at {endorsement.handle:#x}")
        secret = await self._tools.activate(context, parent, challenge.credential, by_policy=endorsement.by_policy)
        chain = await asyncio.to_thread(authority.activate, challenge.session, secret)
        if _spki(chain[0]) != parse_public(public).spki:
            raise CollectionError("attestation authority certified another key than the one it was asked for")
        return chain

    async def _endorsement(self) -> tuple[_EndorsementKey, bytes]:
        indexes = await self._tools.handles("handles-nv-index")
        for key in _ENDORSEMENT_KEYS:
            if key.index in indexes:
                return key, await self._tools.read_certificate(key.index)
        wanted = ", ".join(f"{key.index:#x}" for key in _ENDORSEMENT_KEYS)
        raise CollectionError(
            f"TPM without an endorsement certificate at {wanted}",
            hint="a software TPM gets one from swtpm_setup --create-ek-cert",
        )

    def _stored(self, public: bytes) -> tuple[bytes, ...] | None:
        """Certificates that another service of this machine, or this one before, was given for the same key."""
        for path in (self._directory / CHAIN_FILE, SHARED_CHAIN):
            try:
                found = x509.load_pem_x509_certificates(path.read_bytes())[:MAX_CHAIN]
                chain = tuple(item.public_bytes(serialization.Encoding.DER) for item in found)
                if _spki(chain[0]) == parse_public(public).spki and self._clock() < _renewal(chain[0]):
                    return chain
            except (OSError, ValueError, CollectionError, EvidenceError):
                continue
        return None

    def _store(self, chain: tuple[bytes, ...]) -> None:
        path = self._directory / CHAIN_FILE
        partial = path.with_name(f".{CHAIN_FILE}.partial")
        with contextlib.suppress(OSError):  # without it the next service asks for itself
            pems = (x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in chain)
            partial.write_bytes(b"".join(pems))
            partial.replace(path)


def _spki(der: bytes) -> bytes:
    try:
        return (
            x509.load_der_x509_certificate(der)
            .public_key()
            .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    except ValueError as error:
        raise CollectionError(f"attestation key's certificate cannot be read: {error}") from None


def _renewal(der: bytes) -> float:
    certificate = x509.load_der_x509_certificate(der)
    start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return end - (end - start) * _RENEW_SHARE
