"""The verifier: evidence and policy in, verdict out. The same code in guests, gateways, clients and audits."""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING, Literal

from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation import claims, dcap
from attestation.certificate import RatlsCertificate, parse_certificate
from attestation.collateral import CollateralSource, FirstOf
from attestation.errors import AttestationError, CertificateError, CollateralError, EvidenceError
from attestation.evidence import Bundle, parse_bundle
from attestation.lru import BoundedCache
from attestation.policy import Appraisal
from attestation.verdict import NO_ATTESTATION, Check, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.claims import WorkloadStatement
    from attestation.policy import Policy

CACHE_LIMIT = 4096
PARSED_LIMIT = 512
"""Certificates whose parsed form is kept; one holds its quote, about 5 KiB."""

CLOCK_SKEW_S = 300.0
"""How far in the future evidence may be dated, in seconds."""

Role = Literal["server", "client"]
_USAGE = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH.dotted_string,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string,
}


class Verifier:
    """Appraises certificates and bundles under one policy.

    Args:
        policy: What is demanded.
        collateral: Where collateral comes from; ``None`` leaves only what a bundle carries.
        clock: Unix time.
        cache_limit: Number of appraisals of quotes that are kept. One is used until its collateral expires or is
            replaced; dates, keys and nonces are looked at every time.
    """

    def __init__(
        self,
        policy: Policy,
        collateral: CollateralSource | None = None,
        clock: Callable[[], float] = time.time,
        *,
        cache_limit: int = CACHE_LIMIT,
    ) -> None:
        self.policy = policy
        self._collateral = collateral or FirstOf(())
        self._clock = clock
        self._appraisals: BoundedCache[Appraisal] = BoundedCache(cache_limit)
        self._certificates: BoundedCache[RatlsCertificate] = BoundedCache(min(cache_limit, PARSED_LIMIT))
        self._platforms: BoundedCache[tuple[str, str]] = BoundedCache(cache_limit)

    async def verify_certificate(self, der: bytes, *, role: Role = "client") -> Verdict:
        """Appraise the certificate of a peer (protocol specification, sections 5.6 and 5.7).

        Args:
            der: The certificate as the peer sent it.
            role: What the peer is; a server's certificate has to name ``127.0.0.1``.

        Returns:
            A verdict; nothing is raised for a bad certificate.
        """
        now = self._clock()
        try:
            certificate = self._parse(der)
        except CertificateError as error:
            return self._refused((_failed("certificate", error, "an RA-TLS certificate"),), now)
        checks = _certificate_checks(certificate, role, now)
        if not all(check.passed for check in checks):
            return self._refused(checks, now, certificate.public_key)
        report_data = claims.certificate_report_data(certificate.public_key)
        appraisal = await self._appraise(certificate.quote, report_data, now)
        return self._verdict(checks, appraisal, certificate.public_key, not_after=certificate.not_after)

    async def verify_bundle(
        self,
        bundle: bytes,
        *,
        nonce: bytes,
        public_key: bytes,
        digest: bytes | None = None,
        block_known: Callable[[bytes], bool] | None = None,
    ) -> Verdict:
        """Appraise a fresh evidence bundle.

        Args:
            bundle: The bundle as it came.
            nonce: The 32 bytes that were asked for.
            public_key: The peer's TLS key (channel binding): a bundle of another key is a relayed one.
            digest: SHA-256 the bundle must have, when the peer's certificate named one.
            block_known: Says whether a block hash is a recent proven one; without it the hash is reported only.

        Returns:
            A verdict with the statement; nothing is raised for a bad bundle.
        """
        now = self._clock()
        try:
            parsed = parse_bundle(bundle)
        except EvidenceError as error:
            return self._refused((_failed("bundle", error, "an evidence bundle"),), now)
        checks = [
            _equal("nonce", parsed.nonce, nonce, "the bundle was made for another request: a replay"),
            _equal("channel key", parsed.keys["tls"], public_key, "the evidence is of another machine than the link"),
            Check(
                "bundle signature",
                parsed.signature_holds(),
                "checked",
                "the key in the bundle signed all of it",
                "the bundle was changed after it was made",
            ),
            Check("freshness path", parsed.path_holds(), f"{len(parsed.path)} steps", "the nonce is under the root"),
            Check(
                "made at",
                parsed.made_at <= now + CLOCK_SKEW_S,
                f"{parsed.made_at}",
                f"not after {now + CLOCK_SKEW_S:.0f}",
                "compare the clocks",
            ),
        ]
        devices = len(parsed.devices)
        checks.append(
            Check("gpu evidence", not devices, f"{devices} devices", "none: this version judges no GPU evidence")
        )
        if digest is not None:
            seen = hashlib.sha256(bundle).digest()
            checks.append(_equal("bundle digest", seen, digest, "the certificate names another bundle"))
        if block_known is not None:
            known = block_known(parsed.block_hash)
            checks.append(
                Check("block", known, parsed.block_hash.hex(), "a recent proven block", "evidence made too early")
            )
        if not all(check.passed for check in checks):
            return self._refused(tuple(checks), now, parsed.keys["tls"])
        appraisal = await self._appraise(
            parsed.quote, parsed.report_data(), now, statement=parsed.statement, stapled=parsed.collateral
        )
        return self._verdict(tuple(checks), appraisal, parsed.keys["tls"], bundle=parsed)

    async def _appraise(
        self,
        quote: bytes | None,
        report_data: bytes,
        now: float,
        *,
        statement: WorkloadStatement | None = None,
        stapled: bytes | None = None,
    ) -> Appraisal:
        collateral: bytes | None = None
        note: Check | None = None
        if quote is not None and self.policy.reader.needs_collateral:
            collateral, note = await self._find_collateral(quote, stapled)
            if note is not None and not note.passed:
                return Appraisal((note,), NO_ATTESTATION, now)
        key = _digest(quote, collateral, report_data, statement.to_cbor() if statement else None)
        appraisal = self._appraisals.get(key, now)
        if appraisal is None:
            appraisal = self.policy.appraise(quote, collateral, report_data=report_data, now=now, statement=statement)
            if all(check.passed for check in appraisal.checks):
                self._appraisals.put(key, appraisal, appraisal.expires_at)
        if note is not None:
            appraisal = appraisal.noting(note)
        return appraisal

    def _parse(self, der: bytes) -> RatlsCertificate:
        key = hashlib.sha256(der).digest()
        certificate = self._certificates.get(key)
        if certificate is None:
            certificate = parse_certificate(der)
            self._certificates.put(key, certificate)
        return certificate

    def _platform_of(self, quote: bytes) -> tuple[str, str]:
        key = hashlib.sha256(quote).digest()
        platform = self._platforms.get(key)
        if platform is None:
            platform = dcap.platform_of(quote)
            self._platforms.put(key, platform)
        return platform

    async def _find_collateral(self, quote: bytes, stapled: bytes | None) -> tuple[bytes | None, Check | None]:
        """Our own source first: a peer could staple collateral from before a TCB recovery.

        Returns:
            Collateral and a check that says whose it is or why there is none; neither if the quote names no platform.
        """
        expected = "collateral for the quote's platform"
        try:
            fmspc, authority = self._platform_of(quote)
        except EvidenceError:
            return None, None
        try:
            return await self._collateral.get(fmspc, authority), _passed("collateral", f"own, for {fmspc}", expected)
        except CollateralError as error:
            if stapled:
                return stapled, _passed("collateral", f"stapled, for {fmspc}", expected)
            return None, _failed("collateral", error, expected)

    def _verdict(
        self,
        checks: tuple[Check, ...],
        appraisal: Appraisal,
        public_key: bytes,
        *,
        not_after: float = math.inf,
        bundle: Bundle | None = None,
    ) -> Verdict:
        every = (*checks, *appraisal.checks)
        accepted = all(check.passed for check in every)
        return Verdict(
            accepted=accepted,
            assurance=self.policy.assurance if accepted else "none",
            policy=self.policy.name,
            image_hash=appraisal.image_hash,
            public_key=public_key,
            checks=every,
            expires_at=min(appraisal.expires_at, not_after),
            statement=bundle.statement if bundle else None,
            machine=appraisal.machine,
            report=appraisal.report,
            root_key_id=appraisal.root_key_id,
        )

    def _refused(self, checks: tuple[Check, ...], now: float, public_key: bytes | None = None) -> Verdict:
        return Verdict(False, "none", self.policy.name, NO_ATTESTATION, public_key, checks, now)


def _certificate_checks(certificate: RatlsCertificate, role: Role, now: float) -> tuple[Check, ...]:
    usage = _USAGE[role]
    names = ", ".join(certificate.dns_names) or certificate.common_name
    checks = [
        Check(
            "certificate dates",
            certificate.not_before <= now <= certificate.not_after,
            f"{certificate.not_before:.0f} to {certificate.not_after:.0f}",
            f"to hold at {now:.0f}",
            "compare the clocks; the peer has to refresh its certificate",
        ),
        Check("certificate issuer", certificate.self_issued, _yes(certificate.self_issued), "issued by itself"),
        Check(
            "certificate purpose",
            certificate.signs
            and not certificate.is_authority
            and (certificate.usages is None or usage in certificate.usages),
            ", ".join(sorted(certificate.usages or ())) or "not limited",
            f"signatures as {role}",
        ),
    ]
    if role == "server":
        checks.append(Check("certificate name", certificate.names_server, names, "dNSName 127.0.0.1"))
    return tuple(checks)


def _digest(*parts: bytes | None) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        state.update(b"\0" if part is None else b"\1" + hashlib.sha256(part).digest())
    return state.digest()


def _equal(name: str, seen: bytes, wanted: bytes, hint: str) -> Check:
    return Check(name, seen == wanted, seen.hex(), wanted.hex(), hint)


def _passed(name: str, seen: str, expected: str) -> Check:
    return Check(name, True, seen, expected)


def _failed(name: str, error: AttestationError, expected: str) -> Check:
    return Check(name, False, error.message, expected, error.hint)


def _yes(value: bool) -> str:
    return "issued by itself" if value else "issued by another"
