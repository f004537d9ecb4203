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
_UPDATE = "update microcode, TDX module and firmware of the host, then register the platform again"
_SETTINGS = "the host's firmware settings need the change that the advisories name"
_MITIGATIONS = "the guest needs the mitigations that the advisories name; a policy may then allow the status"
_RELAUNCH = "the TDX module was updated under the running guest: stop and start it"
_STATUS_HINTS = {
    "OutOfDate": _UPDATE,
    "OutOfDateConfigurationNeeded": f"{_UPDATE}; {_SETTINGS}",
    "ConfigurationNeeded": _SETTINGS,
    "SWHardeningNeeded": _MITIGATIONS,
    "ConfigurationAndSWHardeningNeeded": f"{_SETTINGS}; {_MITIGATIONS}",
    "TDRelaunchAdvised": _RELAUNCH,
    "TDRelaunchAdvisedConfigurationNeeded": f"{_RELAUNCH}; {_SETTINGS}",
    "Revoked": "this level is broken for good, no grace covers it: use another machine, or update this one",
}
_WHY_REGISTER = {
    "mr_seam": "The TDX module stands between the guest and its host; one that is not known may look into the guest.",
    "mr_signer_seam": "Whoever signs the TDX module may look into every guest; zeros stand for Intel.",
    "seam_attributes": "A module made for debugging protects nothing.",
    "mr_owner": "The field names who launched the machine; nobody but the operator's own launch may use it.",
    "mr_owner_config": "The field configures the machine by its owner, beside what is measured elsewhere.",
    "mr_service_td": "A service TD can take a machine's memory out in order to move it.",
    "mr_td": "It holds the firmware that the machine started with.",
}
_WHY_ATTRIBUTES = "Some of these bits let the host read the guest, watch it or move it."
_WHY_XFAM = "State that the guest may use is state that its host has to save for it; tracing units leak what it does."
_WHY_CONFIG = "Settings that the host hands over count only if the processor measured them."
_WHY_TCB = "Flaws that are known and mended elsewhere are open on a machine that is behind."
_WHY_NUMBER = "Whoever keeps new collateral back hides that a machine fell behind."
_WHY_ROOT = "Anybody can make a root; only the processor's maker speaks for the processor."
_WHY_MACHINE = (
    "A machine on the list stands where somebody watches it: nothing else helps against a tap on its memory bus "
    "or a key taken out of another one."
)
_WHY_KIND = "Kinds of platforms differ in what their hardware defends against."


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
        return one(self.name, passed, short(seen), expected, self.hint, why=_WHY_REGISTER.get(self.name, ""))


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
            why=_WHY_ATTRIBUTES,
        )


@dataclass(frozen=True, slots=True)
class Xfam:
    """XFAM holds what it must and nothing it may not: state components that the guest may use.

    The default allows x87, SSE, AVX, AVX-512, PKRU, CET and AMX (bits 0–2, 5–7, 9, 11, 12, 17, 18) and so refuses
    processor trace and last-branch records.

    Attributes:
        required: Bits that have to be set.
        allowed: Bits that may be set.
        exactly: The only values that are taken, whatever the masks say; any when there is none.
    """

    required: int = 0x3
    allowed: int = 0x61AE7
    exactly: tuple[int, ...] = ()

    def appraise(self, subject: Subject) -> Finding:
        """Compare with the values or with both masks."""
        value = int.from_bytes(subject.report.xfam, "little") if subject.report else 0
        passed = value in self.exactly
        expected = " or ".join(f"{item:#x}" for item in self.exactly)
        if not self.exactly:
            passed = value & self.required == self.required and value & ~self.allowed == 0
            expected = f"{self.required:#x} within {self.allowed:#x}"
        hint = "the machine was launched with other state components: compare the host's launch settings"
        return one("xfam", subject.report is not None and passed, f"{value:#x}", expected, hint, why=_WHY_XFAM)


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
            why=_WHY_CONFIG,
        )


@dataclass(frozen=True, slots=True)
class RootKey:
    """The chain ends in one of the given roots (SHA-384 of its public key)."""

    allowed: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Compare the root's key id."""
        seen = subject.claims.root_key_id if subject.claims else b""
        expected = " or ".join(sorted(short(value) for value in self.allowed))
        return one("root key", seen in self.allowed, short(seen), expected, why=_WHY_ROOT)


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
            why=_WHY_NUMBER,
        )
        advisories = f" ({', '.join(claims.advisories)})" if claims.advisories else ""
        if claims.status == "UpToDate":
            return Finding((Check("tcb status", True, "UpToDate" + advisories, "UpToDate", why=_WHY_TCB), number))
        end = claims.superseded_at + self.grace_days * DAY
        covered = (
            claims.status in self.grace_statuses
            and claims.status != "Revoked"
            and (self.grace_advisories is None or self.grace_advisories.issuperset(claims.advisories))
            and subject.now < end
        )
        seen = f"{claims.status}{advisories} since {_day(claims.superseded_at)}"
        expected = "UpToDate" + (f", or a named status until {_day(end)}" if self.grace_days else "")
        hint = _STATUS_HINTS.get(claims.status, _UPDATE)
        check = Check("tcb status", covered, seen, expected, hint, why=_WHY_TCB)
        return Finding((check, number), end if covered else math.inf)


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
    """The machine is on an allow-list by PPID: what helps against a leaked key or an interposer on the memory bus.

    Attributes:
        machines: PPIDs, 16 bytes each.
    """

    machines: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Look the machine up; one whose PPID is not known is on no list."""
        seen = subject.claims.ppid if subject.claims else b""
        passed = bool(seen) and seen in self.machines
        hint = "list the machine if it is yours; evidence from another one may be a relay"
        return one(
            "machine", passed, seen.hex() or "unknown", f"one of {len(self.machines)} listed", hint, why=_WHY_MACHINE
        )


@dataclass(frozen=True, slots=True)
class PlatformKind:
    """The platform is of an allowed kind.

    Attributes:
        allowed: FMSPCs, 6 bytes each.
    """

    allowed: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Compare the FMSPC of the PCK certificate."""
        seen = subject.claims.fmspc if subject.claims else b""
        expected = " or ".join(sorted(value.hex().upper() for value in self.allowed)) or "none"
        hint = "the quote comes from another generation of processors or boards than the policy lists"
        return one(
            "platform kind", seen in self.allowed, seen.hex().upper() or "unknown", expected, hint, why=_WHY_KIND
        )


def _day(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).date().isoformat()


def _yes_no(value: bool | None) -> str:
    return "not said" if value is None else "yes" if value else "no"
