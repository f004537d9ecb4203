"""The verifier: evidence and policy in, verdict out. The same code in guests, gateways, clients and audits."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation import claims
from attestation.certificate import RatlsCertificate, parse_certificate
from attestation.collateral.sources import Sources
from attestation.errors import AttestationError, CertificateError, EvidenceError
from attestation.evidence import Bundle, parse_bundle
from attestation.freshness import Asked, bundle_checks
from attestation.lru import BoundedCache
from attestation.material import MaterialFinder
from attestation.policy import Appraisal, Fresh
from attestation.verdict import NO_ATTESTATION, Check, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.collateral import CollateralSource
    from attestation.policy import Policy

CACHE_LIMIT = 4096
PARSED_LIMIT = 512
"""Certificates whose parsed form is kept; one holds its quote, about 5 KiB."""

Role = Literal["server", "client"]
_USAGE = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH.dotted_string,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string,
}


class Verifier:
    """Appraises certificates and bundles under one policy.

    Args:
        policy: What is demanded.
        collateral: Where collateral comes from, of TDX machines alone or of all kinds; ``None`` leaves only what a
            bundle carries.
        clock: Unix time.
        cache_limit: Number of appraisals of quotes that are kept. One is used until its collateral expires or is
            replaced; dates, keys and nonces are looked at every time, and so is everything where a policy asks a
            registry.
    """

    def __init__(
        self,
        policy: Policy,
        collateral: CollateralSource | Sources | None = None,
        clock: Callable[[], float] = time.time,
        *,
        cache_limit: int = CACHE_LIMIT,
    ) -> None:
        self.policy = policy
        if not isinstance(collateral, Sources):
            collateral = Sources() if collateral is None else Sources(tdx=collateral)
        self._finder = MaterialFinder(collateral)
        self._clock = clock
        self._appraisals: BoundedCache[Appraisal] = BoundedCache(cache_limit)
        self._certificates: BoundedCache[RatlsCertificate] = BoundedCache(min(cache_limit, PARSED_LIMIT))

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
            return self._refused((_failed("certificate", error, "an RA-TLS certificate").within("certificate"),), now)
        checks = tuple(check.within("certificate") for check in _certificate_checks(certificate, role, now))
        if not all(check.passed for check in checks):
            return self._refused(checks, now, certificate.public_key)
        report_data = claims.certificate_report_data(certificate.public_key)
        appraisal = await self._appraise_quote(certificate.quote, report_data, now)
        verdict = self._verdict(checks, appraisal, now, certificate.public_key, not_after=certificate.not_after)
        return replace(verdict, bundle_digest=certificate.bundle_digest)

    async def verify_bundle(
        self,
        bundle: bytes,
        *,
        nonce: bytes | None,
        public_key: bytes | None,
        digest: bytes | None = None,
        block_known: Callable[[bytes], bool] | None = None,
        at: float | None = None,
        anchored_at: float | None = None,
    ) -> Verdict:
        """Appraise a fresh evidence bundle, or a kept one.

        Args:
            bundle: The bundle as it came.
            nonce: The 32 bytes that were asked for; ``None`` for a bundle that nobody here asked for.
            public_key: The peer's TLS key (channel binding): a bundle of another key is a relayed one. ``None`` where
                there is no link, or somebody else holds its far end.
            digest: SHA-256 the bundle must have, when the peer's certificate named one.
            block_known: Says whether a block hash is a recent proven one; without it the hash is reported only.
            at: Unix time as of which to judge, now by default. For a kept bundle the time that it states
                (:attr:`~attestation.evidence.Bundle.made_at`): what was stapled then goes before our sources now.
            anchored_at: Unix time since when the chain holds the bundle's digest, if the caller found it there.

        Returns:
            A verdict with the statement; nothing is raised for a bad bundle.
        """
        now = self._clock() if at is None else at
        try:
            parsed = parse_bundle(bundle)
        except EvidenceError as error:
            hint = error.hint or "this is another file than a bundle, it was cut, or another release made it"
            return self._refused(
                (Check("bundle", False, error.message, "an evidence bundle", hint, group="bundle"),), now
            )
        asked = Asked(
            now=now,
            stated=at is not None,
            nonce=nonce,
            public_key=public_key,
            digest=digest,
            block_known=block_known,
            anchored_at=anchored_at,
        )
        checks = bundle_checks(bundle, parsed, asked)
        if not all(check.passed for check in checks):
            return self._refused(checks, now, parsed.keys["tls"])
        appraisal = await self._appraise_bundle(parsed, now, kept=at is not None, anchored_at=anchored_at)
        return self._verdict(checks, appraisal, now, parsed.keys["tls"], bundle=parsed, anchored_at=anchored_at)

    async def _appraise_bundle(self, parsed: Bundle, now: float, *, kept: bool, anchored_at: float | None) -> Appraisal:
        """Quote, devices and statement.

        Args:
            parsed: The bundle.
            now: Unix time.
            kept: Whether ``now`` is a time in the past: nothing of the present is used then, and nothing is remembered.
            anchored_at: Unix time since when the chain holds the bundle's digest.
        """
        judge = self.policy.devices
        found = await self._finder.find(
            parsed.quote,
            self.policy.reader.forms,
            devices=parsed.devices if judge.judges else (),
            staple=parsed.collateral,
            stapled_first=kept,
        )
        if not found.complete:
            return Appraisal(found.notes, NO_ATTESTATION, now)
        collateral, references = found.platform, found.references
        report_data, statement = parsed.report_data(), parsed.statement
        key = _digest(
            parsed.quote,
            collateral,
            report_data,
            parsed.log,
            parsed.made_at.to_bytes(8),
            None if anchored_at is None else str(anchored_at).encode(),
            len(references.rims).to_bytes(4),
            *(part for item in sorted(references.rims.items()) for part in (item[0].encode(), item[1])),
            *(part for item in sorted(references.ocsp.items()) for part in item),
        )
        appraisal = None if kept else self._appraisals.get(key, now)
        if appraisal is None:
            devices = judge.judge(parsed.devices, parsed.device_nonce, references, now)
            fresh = Fresh(statement, parsed.made_at, parsed.log, devices, anchored_at)
            appraisal = self.policy.appraise(parsed.quote, collateral, report_data=report_data, now=now, fresh=fresh)
            if not kept and appraisal.keepable:
                self._appraisals.put(key, appraisal, appraisal.expires_at)
        return appraisal.noting(found.notes)

    async def _appraise_quote(self, quote: bytes | None, report_data: bytes, now: float) -> Appraisal:
        """The quote of a certificate."""
        found = await self._finder.find(quote, self.policy.reader.forms)
        if not found.complete:
            return Appraisal(found.notes, NO_ATTESTATION, now)
        collateral = found.platform
        key = _digest(quote, collateral, report_data)
        appraisal = self._appraisals.get(key, now)
        if appraisal is None:
            appraisal = self.policy.appraise(quote, collateral, report_data=report_data, now=now)
            if appraisal.keepable:
                self._appraisals.put(key, appraisal, appraisal.expires_at)
        return appraisal.noting(found.notes)

    def _parse(self, der: bytes) -> RatlsCertificate:
        key = hashlib.sha256(der).digest()
        certificate = self._certificates.get(key)
        if certificate is None:
            certificate = parse_certificate(der)
            self._certificates.put(key, certificate)
        return certificate

    def _verdict(
        self,
        checks: tuple[Check, ...],
        appraisal: Appraisal,
        now: float,
        public_key: bytes,
        *,
        not_after: float = math.inf,
        bundle: Bundle | None = None,
        anchored_at: float | None = None,
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
            platform=appraisal.platform,
            devices=appraisal.devices,
            judged_at=now,
            made_at=bundle.made_at if bundle else None,
            anchored_at=anchored_at,
        )

    def _refused(self, checks: tuple[Check, ...], now: float, public_key: bytes | None = None) -> Verdict:
        return Verdict(False, "none", self.policy.name, NO_ATTESTATION, public_key, checks, now, judged_at=now)


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


def _failed(name: str, error: AttestationError, expected: str) -> Check:
    return Check(name, False, error.message, expected, error.hint)


def _yes(value: bool) -> str:
    return "issued by itself" if value else "issued by another"
