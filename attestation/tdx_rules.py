"""The rules about a TD and its platform; those that hold for every platform are in :mod:`attestation.rules`.

They close what the quote library leaves open: it reports a TCB status without judging it, and does not look at PERFMON,
key locker, PKS, LASS, XFAM, the owner fields and the launch configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attestation.rules import Finding, one, short
from attestation.tdx import TdAttribute, attribute_names
from attestation.verdict import Check

if TYPE_CHECKING:
    from attestation.rules import Subject

DAY = 86400.0
ZERO48 = bytes(48)
_STATUS_HINTS = {
    "OutOfDate": "update microcode, TDX module and firmware of the host, then register the platform again",
    "ConfigurationNeeded": "the host's firmware settings need the change that the advisories name",
    "SWHardeningNeeded": "the guest needs the mitigations that the advisories name; a policy may then allow the status",
    "TDRelaunchAdvised": "the TDX module was updated under the running guest: stop and start it",
}


@dataclass(frozen=True, slots=True)
class Register:
    """One register of the TD report has one of the given values (empty in a body that lacks it passes as zeros)."""

    name: str
    allowed: frozenset[bytes]
    hint: str = ""

    def appraise(self, subject: Subject) -> Finding:
        """Compare the register."""
        seen: bytes = getattr(subject.report, self.name) if subject.report else b""
        passed = seen in self.allowed or (
            subject.report is not None and not seen and any(not any(v) for v in self.allowed)
        )
        expected = " or ".join(sorted(short(value) for value in self.allowed))
        return one(self.name, passed, short(seen), expected, self.hint)


@dataclass(frozen=True, slots=True)
class TdAttributes:
    """TDATTRIBUTES is exactly one value; the bits that differ are named."""

    expected: int = 1 << TdAttribute.SEPT_VE_DISABLE

    def appraise(self, subject: Subject) -> Finding:
        """Compare all 64 bits."""
        raw = subject.report.td_attributes if subject.report else b""
        wanted = self.expected.to_bytes(8, "little")
        names = ", ".join(attribute_names(raw)) or "no bit set"
        return one(
            "td_attributes",
            raw == wanted,
            names,
            f"only {', '.join(attribute_names(wanted))}",
            "a TD with other bits can be looked into (DEBUG, PERFMON), moved (MIGRATABLE), or was launched differently",
        )


@dataclass(frozen=True, slots=True)
class Xfam:
    """XFAM holds what it must and nothing it may not: state components that the guest may use.

    The default allows x87, SSE, AVX, AVX-512, PKRU, CET and AMX (bits 0–2, 5–7, 9, 11, 12, 17, 18) and so refuses
    processor trace and last-branch records.
    """

    required: int = 0x3
    allowed: int = 0x61AE7

    def appraise(self, subject: Subject) -> Finding:
        """Compare with both masks."""
        value = int.from_bytes(subject.report.xfam, "little") if subject.report else 0
        passed = value & self.required == self.required and value & ~self.allowed == 0
        return one("xfam", passed, f"{value:#x}", f"{self.required:#x} within {self.allowed:#x}")


@dataclass(frozen=True, slots=True)
class ConfigBinding:
    """MRCONFIGID is zero or the digest of the measured configuration that the statement names.

    Without a statement only the image hash, which covers the register, can pin it; that is what the check then says.
    """

    def appraise(self, subject: Subject) -> Finding:
        """Compare with the statement, if there is one."""
        seen = subject.report.mr_config_id if subject.report else b""
        if subject.statement is None:
            return one("mr_config_id", len(seen) == 48, short(seen), "48 bytes, pinned by the image hash")
        wanted = subject.statement.measured_config + bytes(16)
        return one(
            "mr_config_id",
            seen in {ZERO48, wanted},
            short(seen),
            f"zeros or {short(wanted)}",
            "the machine was launched with another measured configuration than it states",
        )


@dataclass(frozen=True, slots=True)
class RootKey:
    """The chain ends in one of the given roots (SHA-384 of its public key)."""

    allowed: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Compare the root's key id."""
        seen = subject.claims.root_key_id if subject.claims else b""
        expected = " or ".join(sorted(short(value) for value in self.allowed))
        return one("root key", seen in self.allowed, short(seen), expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbStatus:
    """The TCB is up to date, or fell behind not longer ago than a stated grace.

    The grace counts from the date of the level that replaced the machine's, so that a TCB recovery event does not cut
    off every machine at once (protocol specification, section 8, item 18).

    Attributes:
        grace_days: Days for the statuses below; 0 for none.
        grace_statuses: Statuses that the grace covers; ``Revoked`` is never covered.
        grace_advisories: Advisories that the grace covers, ``None`` for all.
        min_evaluation_number: Smallest ``tcbEvaluationDataNumber``, against collateral that was kept back.
    """

    grace_days: int = 0
    grace_statuses: frozenset[str] = frozenset({"OutOfDate", "SWHardeningNeeded"})
    grace_advisories: frozenset[str] | None = None
    min_evaluation_number: int = 0

    def appraise(self, subject: Subject) -> Finding:
        """Judge status and evaluation number."""
        claims = subject.claims
        if claims is None:
            return one("tcb status", False, "no verified quote", "UpToDate")
        number = Check(
            "tcb evaluation number",
            claims.evaluation_number >= self.min_evaluation_number,
            str(claims.evaluation_number),
            f"at least {self.min_evaluation_number}",
            "the collateral is older than one already known: refresh it",
        )
        advisories = f" ({', '.join(claims.advisories)})" if claims.advisories else ""
        if claims.status == "UpToDate":
            return Finding((Check("tcb status", True, "UpToDate" + advisories, "UpToDate"), number))
        end = claims.superseded_at + self.grace_days * DAY
        covered = (
            claims.status in self.grace_statuses
            and claims.status != "Revoked"
            and (self.grace_advisories is None or self.grace_advisories.issuperset(claims.advisories))
            and subject.now < end
        )
        seen = f"{claims.status}{advisories} since {_day(claims.superseded_at)}"
        expected = "UpToDate" + (f", or a named status until {_day(end)}" if self.grace_days else "")
        hint = _STATUS_HINTS.get(claims.status, _STATUS_HINTS["OutOfDate"])
        return Finding((Check("tcb status", covered, seen, expected, hint), number), end if covered else math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFlags:
    """What the PCK certificate says of the platform; the defaults are those of a normal production machine."""

    allow_dynamic_platform: bool = True
    allow_cached_keys: bool = True
    allow_smt: bool = True

    def appraise(self, subject: Subject) -> Finding:
        """Compare the three flags."""
        claims = subject.claims
        if claims is None:
            return Finding((Check("platform", False, "no verified quote", "a verified quote"),))
        flags = (
            ("dynamic platform", claims.dynamic_platform, self.allow_dynamic_platform),
            ("cached keys", claims.cached_keys, self.allow_cached_keys),
            ("hyper-threading", claims.smt_enabled, self.allow_smt),
        )
        return Finding(
            tuple(
                Check(name, allowed or value is False, _yes_no(value), "allowed" if allowed else "no")
                for name, value, allowed in flags
            )
        )


@dataclass(frozen=True, slots=True)
class MachineListed:
    """The machine is on an allow-list by PPID: what helps against a leaked key or an interposer on the memory bus."""

    machines: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Look the machine up."""
        seen = subject.claims.ppid if subject.claims else b""
        return one("machine", seen in self.machines, seen.hex() or "unknown", f"one of {len(self.machines)} listed")


def _day(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).date().isoformat()


def _yes_no(value: bool | None) -> str:
    return "not said" if value is None else "yes" if value else "no"
