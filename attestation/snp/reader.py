"""Reading SNP evidence: bytes and roots in, verified claims out, with the checks that belong to it.

What is verified here: that a key certified under a trusted AMD root signed the report, and that the report and the
certificate speak of one chip, one product and one patch level. The patch level that counts is the certificate's: AMD
derives the key from it, while what the firmware says of itself is its own word. What the report has to say is the
rules' business (:mod:`attestation.snp.rules`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation import claims
from attestation.errors import EvidenceError
from attestation.snp.chain import RevokedError, verify_chain
from attestation.snp.collateral import SnpCollateral
from attestation.snp.evidence import SnpEvidence
from attestation.snp.report import SigningKey, parse_report
from attestation.snp.tcb import Tcb
from attestation.verdict import Check

if TYPE_CHECKING:
    from attestation.snp.chain import Chain
    from attestation.snp.report import SnpReport
    from attestation.snp.tcb import Product
    from attestation.snp.vek import Vek

PLATFORM = "snp"
_SIGNERS = {SigningKey.VCEK: "a chip's key (VCEK)", SigningKey.VLEK: "a cloud's key (VLEK)", SigningKey.NONE: "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpClaims:
    """What verified evidence says.

    Attributes:
        report: The report; its signature holds.
        product: Of chip, certificates and report.
        tcb: The patch levels that the signing key was derived for.
        provider: The cloud whose key signed, empty if a chip's did.
        revocation_checked: Whether the root's revocation list was at hand.
        root_key_id: SHA-384 of the root's public key (DER), 48 bytes.
        expires_at: Unix time at which the first certificate or the revocation list expires.
    """

    report: SnpReport
    product: Product
    tcb: Tcb
    provider: str
    revocation_checked: bool
    root_key_id: bytes
    expires_at: float

    @property
    def image_hash(self) -> bytes:
        """Identity of what was booted, 32 bytes.

        :func:`attestation.claims.platform_image_hash` of ``measurement`` (the launch digest, 48 bytes) and
        ``host_data`` (32 bytes): host data carries the digest of the measured configuration, as MRCONFIGID does.
        """
        parts = {"measurement": self.report.measurement, "host_data": self.report.host_data}
        return claims.platform_image_hash(PLATFORM, parts)

    @property
    def report_data_seen(self) -> bytes:
        """The report data, 64 bytes."""
        return self.report.report_data

    @property
    def machine(self) -> bytes:
        """The chip's identifier, 64 bytes; empty where the host masks it."""
        return self.report.chip_id if any(self.report.chip_id) else b""


def read(
    evidence: bytes, collateral: bytes | None, roots: frozenset[bytes], now: float
) -> tuple[SnpClaims | None, tuple[Check, ...]]:
    """Verify evidence under the given roots.

    Args:
        evidence: :class:`attestation.snp.evidence.SnpEvidence`, encoded.
        collateral: :class:`attestation.snp.collateral.SnpCollateral`, encoded; without it the host's certificates are
            used, if there are enough of them.
        roots: Key ids of trusted roots, 48 bytes each (:data:`attestation.snp.roots.AMD_ROOTS`, or those of a run:
            :func:`attestation.snp.roots.root_key_id`).
        now: Unix time.

    Returns:
        Claims, ``None`` unless every check passed, and the checks.
    """
    try:
        shown = SnpEvidence.parse(evidence)
        parse_report(shown.report)
    except EvidenceError as error:
        return None, (_failed("snp evidence", error, "the evidence of an SEV-SNP machine"),)
    try:
        certificates = SnpCollateral.parse(collateral) if collateral is not None else shown.collateral()
    except EvidenceError as error:
        return None, (_failed("snp collateral", error, "certificates up to AMD's root"),)
    if certificates is None:
        return None, (
            Check(
                "snp collateral",
                False,
                f"{', '.join(sorted(shown.certificates)) or 'no certificate'} from the host",
                "certificates up to AMD's root",
                "configure a source, or let peers staple",
                why="without AMD's certificates nobody can say which chip signed the report",
            ),
        )
    return verify(shown.report, certificates, roots, now)


def verify(
    report: bytes, collateral: SnpCollateral, roots: frozenset[bytes], now: float
) -> tuple[SnpClaims | None, tuple[Check, ...]]:
    """Verify a bare report, as other platforms carry one inside their own evidence.

    Args:
        report: 1184 bytes.
        collateral: Its certificates.
        roots: Key ids of trusted roots, 48 bytes each.
        now: Unix time.

    Returns:
        As :func:`read`.
    """
    try:
        parsed = parse_report(report)
    except EvidenceError as error:
        return None, (_failed("snp evidence", error, "the evidence of an SEV-SNP machine"),)
    try:
        chain = verify_chain(collateral, roots, now)
    except RevokedError as error:
        return None, (_failed("revocation", error, "no certificate of the chain revoked, by a list of today"),)
    except EvidenceError as error:
        return None, (_failed("certificate chain", error, "a chain to a trusted root of AMD"),)
    checks = (
        Check(
            "certificate chain",
            True,
            f"{chain.product}, under root {chain.root_key_id.hex()[:16]}",
            "a chain to a trusted root of AMD",
            why="AMD certifies the keys of genuine chips; anybody else's key proves nothing",
        ),
        _signature(parsed, chain.vek),
        _signing_key(parsed, chain.vek),
        _reported_tcb(parsed, chain),
        _chip_id(parsed, chain.vek),
        _product(parsed, chain),
    )
    if not all(check.passed for check in checks):
        return None, checks
    found = SnpClaims(
        report=parsed,
        product=chain.product,
        tcb=chain.vek.tcb,
        provider=chain.vek.provider,
        revocation_checked=chain.revocation_checked,
        root_key_id=chain.root_key_id,
        expires_at=chain.expires_at,
    )
    return found, checks


def _signature(report: SnpReport, vek: Vek) -> Check:
    try:
        vek.key.verify(encode_dss_signature(*report.signature), report.signed, ec.ECDSA(hashes.SHA384()))
        holds = True
    except (InvalidSignature, ValueError):
        holds = False
    return Check(
        "report signature",
        holds,
        "holds" if holds else "does not hold",
        "the endorsement key signed the report",
        "the report was altered, another chip made it, or the host forbids its key (mask_chip_key)"
        if report.mask_chip_key
        else "the report was altered, or the certificate belongs to another chip or patch level",
        why="the signature is what makes the report the processor's word rather than the host's",
    )


def _signing_key(report: SnpReport, vek: Vek) -> Check:
    certified = SigningKey.VLEK if vek.is_vlek else SigningKey.VCEK
    return Check(
        "signing key",
        report.signing_key is certified,
        _SIGNERS[report.signing_key],
        _SIGNERS[certified],
        "the certificate is for another kind of key than the report says",
        why="a cloud's key is shared by its machines, a chip's key is one machine's",
    )


def _reported_tcb(report: SnpReport, chain: Chain) -> Check:
    seen = Tcb(chain.product, report.reported_tcb)
    return Check(
        "reported tcb",
        seen == chain.vek.tcb,
        f"{seen} (raw {seen.raw.hex()})",
        f"{chain.vek.tcb} (raw {chain.vek.tcb.raw.hex()}), as certified",
        "the certificate is for another patch level: fetch the one that the report names",
        why="the patch level that counts is the one that AMD certified, not the one that firmware claims",
    )


def _chip_id(report: SnpReport, vek: Vek) -> Check:
    if vek.is_vlek:
        text = "not in a cloud's certificate"
        return Check("chip id", True, report.chip_id.hex()[:16], text, checked=False)
    wanted = vek.hardware_id + bytes(len(report.chip_id) - len(vek.hardware_id))
    return Check(
        "chip id",
        report.chip_id == wanted,
        report.chip_id.hex(),
        f"{wanted.hex()}, as certified",
        "the host hides the chip's identifier, or the certificate is another chip's",
        why="report and certificate have to speak of the same chip",
    )


def _product(report: SnpReport, chain: Chain) -> Check:
    if report.cpuid is None:
        text = "a report of version 2 does not say it"
        return Check("processor", True, f"{chain.product}, by its certificates", text, checked=False)
    family, model, stepping = report.cpuid
    return Check(
        "processor",
        report.product is chain.product,
        f"{report.product or 'unknown'} (family {family:#x}, model {model:#x}, stepping {stepping})",
        f"{chain.product}, as certified",
        why="the product decides how patch levels are read and which attacks are known",
    )


def _failed(name: str, error: EvidenceError, expected: str) -> Check:
    return Check(name, False, error.message, expected, error.hint)
