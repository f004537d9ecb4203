"""The rules about an SEV-SNP machine; those that hold for every platform are in :mod:`attestation.rules`.

A signed report proves little on its own: the same signature covers machines whose host may read their memory, that run
below another program's privilege level, or whose patch level has known holes. What a production machine has to be is
said here, one thing a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.rules import Finding, one, short
from attestation.snp.machine_rules import (
    SnpGuestPolicy,
    SnpMigrationAgent,
    SnpPlatform,
    SnpPrivilege,
    SnpTcbMinimum,
)
from attestation.snp.report import PlatformInfo, SigningKey
from attestation.snp.tcb import Product, Tcb
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.rules import Rule, Subject

ZERO32, ZERO48 = bytes(32), bytes(48)
_NOTHING = "no verified report"
_UNCHECKED = "by policy: unchecked"


@dataclass(frozen=True, slots=True)
class SnpReportData:
    """Report data is what the peer's key or evidence demands: the binding of everything else."""

    def appraise(self, subject: Subject) -> Finding:
        """Compare all 64 bytes."""
        seen = subject.snp.report.report_data if subject.snp else b""
        return one(
            "report data",
            seen == subject.report_data,
            short(seen),
            short(subject.report_data),
            "the report was made for another key, nonce or statement: a replay",
            why="it ties the report to this conversation, its keys and what the machine says it runs",
        )


@dataclass(frozen=True, slots=True)
class SnpProducts:
    """The processor is of a product line whose attestation can still be relied on.

    Milan is left out by default: the seed that its signing keys are derived from can be read out by software, so that
    whoever once had such a chip forges reports of every patch level for ever.
    """

    allowed: frozenset[Product] = frozenset({Product.GENOA, Product.TURIN})

    def appraise(self, subject: Subject) -> Finding:
        """Look the product up."""
        seen = subject.snp.product if subject.snp else None
        milan = seen is Product.MILAN
        return one(
            "product",
            seen in self.allowed,
            f"EPYC {seen}" if seen else _NOTHING,
            " or ".join(f"EPYC {product}" for product in sorted(self.allowed)),
            "Milan's key seed can be extracted by software and its reports forged: use Genoa or Turin"
            if milan
            else "the policy does not allow this product line",
            why="a product whose signing keys can be stolen proves nothing, however well its signature verifies",
        )


@dataclass(frozen=True, slots=True)
class SnpHostData:
    """Host data is zero or the digest of the measured configuration that the statement names.

    Without a statement only the image hash, which covers it, can pin it; that is what the check then says.
    """

    def appraise(self, subject: Subject) -> Finding:
        """Compare with the statement, if there is one."""
        seen = subject.snp.report.host_data if subject.snp else b""
        why = "the host chose it at launch: it must not smuggle in another configuration"
        if subject.statement is None:
            return one("host data", len(seen) == 32, short(seen), "32 bytes, pinned by the image hash", why=why)
        wanted = subject.statement.measured_config
        return one(
            "host data",
            seen in {ZERO32, wanted},
            short(seen),
            f"zeros or {short(wanted)}",
            "the machine was launched with another measured configuration than it states",
            why=why,
        )


@dataclass(frozen=True, slots=True)
class SnpIdKeys:
    """Whoever signed the guest's ID block is nobody, or listed.

    Attributes:
        id_keys: SHA-384 of the keys that may sign it, 48 bytes each.
        author_keys: SHA-384 of the keys that may certify those, 48 bytes each.
        required: Whether there has to be one.
    """

    id_keys: frozenset[bytes] = frozenset()
    author_keys: frozenset[bytes] = frozenset()
    required: bool = False

    def appraise(self, subject: Subject) -> Finding:
        """Compare both digests."""
        if subject.snp is None:
            return one("id key", False, _NOTHING, "none or a listed one")
        report = subject.snp.report
        return Finding(
            (
                self._check("id key", report.id_key_digest, self.id_keys),
                self._check("author key", report.author_key_digest, self.author_keys),
            )
        )

    def _check(self, name: str, seen: bytes, listed: frozenset[bytes]) -> Check:
        none_is_fine = not (self.required and listed)
        expected = " or ".join(filter(None, ("none" if none_is_fine else "", f"one of {len(listed)} listed"
                                             if listed else "")))  # fmt: skip
        return Check(
            name,
            seen in listed or (none_is_fine and seen == ZERO48),
            "none" if seen == ZERO48 else short(seen),
            expected,
            "a stranger signed for this guest's identity",
            why="a signed identity counts for as much as the key that signed it",
        )


@dataclass(frozen=True, slots=True)
class SnpMeasurements:
    """The launch digest is one of those given."""

    allowed: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Look it up."""
        seen = subject.snp.report.measurement if subject.snp else b""
        return one(
            "measurement",
            seen in self.allowed,
            seen.hex() or "nothing",
            f"one of {len(self.allowed)} listed",
            "another image, firmware, number of processors or kind of processor was launched than the listed ones",
            why="it is the digest of everything that was in memory when the guest began",
        )


@dataclass(frozen=True, slots=True)
class SnpMachines:
    """The chip is on an allow-list by CHIP_ID: what helps against a leaked key or an interposer on the memory bus."""

    machines: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Look the chip up; an identifier may be listed without its trailing zeros."""
        seen = subject.snp.machine if subject.snp else b""
        listed = {machine.ljust(64, b"\0") for machine in self.machines}
        return one(
            "machine",
            seen in listed,
            seen.hex() or "hidden by its host",
            f"one of {len(listed)} listed",
            why="whoever holds a machine in hand can attack it; a list says whose hands those are",
        )


@dataclass(frozen=True, slots=True)
class SnpSigner:
    """The report was signed by an allowed kind of key.

    Attributes:
        chips: Whether a chip's key may sign.
        providers: Clouds whose keys may sign, as their certificates call them; ``None`` for any.
    """

    chips: bool = True
    providers: frozenset[str] | None = None

    def appraise(self, subject: Subject) -> Finding:
        """Compare key and provider."""
        claims = subject.snp
        if claims is None:
            return one("signer", False, _NOTHING, "an allowed key")
        by_cloud = claims.report.signing_key is SigningKey.VLEK
        allowed = (self.providers is None or claims.provider in self.providers) if by_cloud else self.chips
        clouds = "any cloud's key" if self.providers is None else ", ".join(sorted(self.providers))
        return one(
            "signer",
            allowed,
            f"the key of {claims.provider}" if by_cloud else "the chip's key",
            " or ".join(filter(None, ("the chip's key" if self.chips else "", clouds))) or "none",
            why="a cloud's key is shared by its machines: with it the cloud is trusted too",
        )


@dataclass(frozen=True, slots=True)
class SnpRevocation:
    """The root's revocation list was looked at; a chain without one may have been revoked long ago."""

    required: bool = True

    def appraise(self, subject: Subject) -> Finding:
        """Say whether it was."""
        checked = subject.snp is not None and subject.snp.revocation_checked
        why = "AMD says by it which of its keys are no longer to be trusted"
        if checked or self.required:
            hint = "fetch AMD's revocation list for the product, or let peers staple it"
            seen = "nothing of this chain is revoked" if checked else "no list at hand"
            return one("revocation", checked, seen, "AMD's list, of today", hint, why=why)
        return Finding((Check("revocation", True, "no list at hand", _UNCHECKED, checked=False, why=why),))


@dataclass(frozen=True, slots=True)
class SnpUnchecked:
    """What nothing here judges, said in so many words."""

    def appraise(self, subject: Subject) -> Finding:
        """List what is left out, with what was seen."""
        if subject.snp is None:
            return Finding(())
        report = subject.snp.report
        seen = [
            ("firmware version", f"{report.current_version}, cannot go back from {report.committed_version}"),
            ("current tcb", str(Tcb(subject.snp.product, report.current_tcb))),
            ("id block", f"family {short(report.family_id)}, image {short(report.image_id)}, svn {report.guest_svn}"),
            ("trusted io", "on" if report.platform_info.has(PlatformInfo.TIO_EN) else "off"),
            ("iommu", "write safe" if report.platform_info.has(PlatformInfo.IOMMU_WRITE_SAFE) else "says nothing"),
        ]
        if report.launch_mitigations is not None:
            seen.append(
                ("mitigations", f"{report.current_mitigations:#x} now, {report.launch_mitigations:#x} at launch")
            )
        return Finding(tuple(Check(name, True, text, _UNCHECKED, checked=False) for name, text in seen))


def snp_rules(
    *,
    products: frozenset[Product] | None = None,
    tcb_minimum: Mapping[Product, Mapping[str, int]] | None = None,
    guest_policy: SnpGuestPolicy | None = None,
    platform: SnpPlatform | None = None,
    signer: SnpSigner | None = None,
    id_keys: SnpIdKeys | None = None,
    vmpl: int = 0,
    measurements: frozenset[bytes] | None = None,
    machines: frozenset[bytes] | None = None,
    require_revocation_list: bool = True,
) -> tuple[Rule, ...]:
    """The rules of a production SEV-SNP guest; those about statement and image are every platform's.

    Args:
        products: Product lines; Genoa and Turin by default (:class:`SnpProducts`).
        tcb_minimum: See :class:`SnpTcbMinimum`; without it the patch level is listed as unchecked.
        guest_policy: See :class:`SnpGuestPolicy`.
        platform: See :class:`SnpPlatform`.
        signer: See :class:`SnpSigner`.
        id_keys: See :class:`SnpIdKeys`.
        vmpl: See :class:`SnpPrivilege`.
        measurements: Launch digests; ``None`` leaves them to the image hash.
        machines: Chips by CHIP_ID; ``None`` for any.
        require_revocation_list: See :class:`SnpRevocation`.
    """
    rules: list[Rule] = [
        SnpReportData(),
        SnpProducts() if products is None else SnpProducts(products),
        SnpRevocation(require_revocation_list),
        signer or SnpSigner(),
        SnpTcbMinimum(tcb_minimum or {}),
        guest_policy or SnpGuestPolicy(),
        SnpMigrationAgent(),
        SnpPrivilege(vmpl),
        platform or SnpPlatform(),
        SnpHostData(),
        id_keys or SnpIdKeys(),
        SnpUnchecked(),
    ]
    if measurements is not None:
        rules.append(SnpMeasurements(measurements))
    if machines is not None:
        rules.append(SnpMachines(machines))
    return tuple(rules)
