"""Helpers that the tests of this room share."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation import claims, dcap, policy
from attestation.claims import WorkloadStatement
from attestation.rules import Subject
from attestation.tdx_log import RuntimeEvent, TdxLog
from measurements.eventlog import Event, EventLog, encode_tcg2

if TYPE_CHECKING:
    from pathlib import Path

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


def dstack_digest(event: dict[str, Any]) -> bytes:
    """Digest of one of dstack's RTMR3 events (attestation specification, section 2)."""
    name, payload = event["event"].encode(), bytes.fromhex(event["event_payload"])
    return hashlib.sha384(event["event_type"].to_bytes(4, "little") + b":" + name + b":" + payload).digest()


def dstack_log(events: list[dict[str, Any]]) -> TdxLog:
    """A dstack log as ours: their digests of RTMR0 to 2, and RTMR3 in their form of digest."""
    firmware = [(item["imr"], bytes.fromhex(item["digest"])) for item in events if item["imr"] < 3]
    runtime = [RuntimeEvent(dstack_digest(item), item["event"]) for item in events if item["imr"] == 3]
    return TdxLog(firmware_log(*firmware), tuple(runtime))


def automata_collateral(folder: Path, quote: bytes) -> bytes:
    """Collateral from the files as the vendor's service answers them; the authority's certificate is in the quote."""
    chain = x509.load_pem_x509_certificates(dcap_qvl.parse_quote(quote).cert_chain_pem_bytes().rstrip(b"\0"))
    issuers = b"".join(item.public_bytes(Encoding.PEM) for item in chain[1:]).decode()
    tcb_chain = (folder / "tcb_signing_cert.pem").read_text()
    tcb_info, tcb_signature = _signed(folder / "tcbinfov3_00806f050000.json", "tcbInfo")
    identity, identity_signature = _signed(folder / "qeidentityv2_apiv4.json", "enclaveIdentity")
    return json.dumps(
        {
            "pck_crl_issuer_chain": issuers,
            "root_ca_crl": (folder / "intel_root_ca_crl.der").read_bytes().hex(),
            "pck_crl": (folder / "pck_platform_crl.der").read_bytes().hex(),
            "tcb_info_issuer_chain": tcb_chain,
            "tcb_info": tcb_info,
            "tcb_info_signature": tcb_signature,
            "qe_identity_issuer_chain": tcb_chain,
            "qe_identity": identity,
            "qe_identity_signature": identity_signature,
        }
    ).encode()


def _signed(path: Path, name: str) -> tuple[str, str]:
    """The signed object, byte for byte, and its signature."""
    text = path.read_text()
    start = text.index("{", text.index(f'"{name}"'))
    _, length = json.JSONDecoder().raw_decode(text[start:])
    return text[start : start + length], json.loads(text)["signature"]
