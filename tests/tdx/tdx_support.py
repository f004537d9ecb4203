"""Helpers that the tests of this room share."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

from attestation import claims, dcap, policy
from attestation.claims import WorkloadStatement
from attestation.rules import Subject
from attestation.tdx_log import TdxLog
from measurements.eventlog import Event, EventLog, encode_tcg2

if TYPE_CHECKING:
    from appliance.lab.tee import SyntheticTdx
    from attestation.rules import Finding, Rule
    from attestation.tdx import BodyType, TdReport
    from attestation.verdict import Check

NOW = 1_795_000_000.0
"""A fixed clock (November 2026) for everything that need not be real."""

REPORT_DATA = bytes(range(64))
STATEMENT = WorkloadStatement(image=bytes(32), measured_config=bytes(32))
DAY = 86400.0


def digest(text: str) -> bytes:
    return hashlib.sha384(text.encode()).digest()


def firmware_log(*events: tuple[int, bytes], banks: tuple[str, ...] = ("sha384",)) -> bytes:
    """A log of events given by RTMR and digest."""
    made = tuple(Event(register + 1, 6, dict.fromkeys(banks, value), b"data") for register, value in events)
    return encode_tcg2(EventLog(banks, made), register=1)


def table(*, signature: bytes = b"CCEL", kind: int = 2, length: int = 0x10000, good: bool = True) -> bytes:
    """A CCEL table with the right checksum, or the wrong one."""
    made = bytearray(struct.pack("<4sI28sBBHQQ", signature, 56, bytes(28), kind, 0, 0, length, 0xBEDB_F000))
    made[9] = -(sum(made) + (not good)) % 256
    return bytes(made)


def subject_of(
    world: SyntheticTdx, *, log: TdxLog | None = None, fresh: bool = True, body: BodyType | None = None
) -> Subject:
    """What rules look at: a verified quote of the machine, and the log that it shows."""
    found = dcap.verify_quote(
        world.quote(REPORT_DATA, body=body), world.collateral_json(), root_der=world.root_der, now=NOW
    )
    report = found.quote.report
    return Subject(
        report,
        found,
        claims.image_hash(report.measurements),
        REPORT_DATA,
        NOW,
        statement=STATEMENT if fresh else None,
        log=log if log is not None else TdxLog.parse(world.event_log()) if fresh else None,
    )


def judge(world: SyntheticTdx, *rules: Rule, now: float = NOW, **options: Any) -> tuple[Check, ...]:
    """Every check of the simulated policy on a quote of the machine; ``quote`` replaces it."""
    quote = options.pop("quote", None) or world.quote(REPORT_DATA)
    collateral = options.pop("collateral", None) or world.collateral_json()
    chosen = policy.for_name("simulated", simulated_roots=(world.root_der,), **options).demanding(*rules)
    return chosen.appraise(quote, collateral, report_data=REPORT_DATA, now=now).checks


def failed(checks: tuple[Check, ...] | Finding) -> list[str]:
    """The names of the checks that did not pass."""
    return [item.name for item in (checks if isinstance(checks, tuple) else checks.checks) if not item.passed]


def rtmrs(report: TdReport) -> tuple[bytes, ...]:
    return report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3
