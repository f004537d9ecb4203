"""TDX quote verification: quote and collateral in, verified claims out.

The cryptography (certificate chains, revocation lists, signatures, matching of TCB levels, dates of collateral) is the
dcap-qvl library's. It reports a TCB status without judging it, ignores bytes behind a quote and looks at few TD
attributes; what it leaves open is decided in :mod:`attestation.policy`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dcap_qvl

from attestation.errors import CollateralError, EvidenceError
from attestation.lru import BoundedCache
from attestation.tdx import TdxQuote, parse_quote

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_COLLATERAL = 1024 * 1024
"""Longest collateral that is read, in bytes; Intel's is about 20 KiB."""

MAX_KEPT = 16
"""Pieces of collateral whose parsed form is kept: one serves all machines of a kind."""

INTEL_ROOT_KEY_ID = bytes.fromhex(
    "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5dcf58eef31463613de1570d516200993"
)
"""SHA-384 of the Intel SGX root's public key (protocol specification, section 5.7)."""


@dataclass(frozen=True, slots=True)
class QuoteClaims:
    """What a verified quote says.

    Attributes:
        quote: The parsed quote.
        status: Merged TCB status of platform, TDX module and quoting enclave.
        advisories: Advisory ids that belong to the status.
        superseded_at: Unix time since when a level better than this machine's exists; meaningful unless UpToDate.
        evaluation_number: ``tcbEvaluationDataNumber`` of the TCB info.
        root_key_id: SHA-384 of the root's public key, 48 bytes.
        ppid: Identifier of the platform, 16 bytes.
        fmspc: Identifier of the platform's kind, 6 bytes.
        dynamic_platform: Whether packages may be added (``None``: not said).
        cached_keys: Whether Intel keeps the platform's root keys (``None``: not said).
        smt_enabled: Whether hyper-threading is on (``None``: not said).
        expires_at: Unix time at which the first piece of collateral expires.
    """

    quote: TdxQuote
    status: str
    advisories: tuple[str, ...]
    superseded_at: float
    evaluation_number: int
    root_key_id: bytes
    ppid: bytes
    fmspc: bytes
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None
    expires_at: float


def platform_of(quote: bytes) -> tuple[str, str]:
    """FMSPC (12 upper-case hex digits) and issuing authority (``platform`` or ``processor``) named in a quote.

    Raises:
        EvidenceError: The quote carries no readable PCK certificate.
    """
    try:
        parsed = dcap_qvl.parse_quote(quote)
        return str(parsed.fmspc()), str(parsed.ca())
    except ValueError as error:
        raise EvidenceError(f"quote without a readable PCK certificate: {_first_line(error)}") from None


@dataclass(frozen=True, slots=True)
class _Collateral:
    """Parsed collateral: the library's form, and the two signed statements of it that are looked into here."""

    whole: dcap_qvl.QuoteCollateralV3
    tcb_info: dict[str, Any]
    qe_identity: dict[str, Any]


class CollateralMemory:
    """Keeps collateral parsed, by its bytes; only such as a quote verified with.

    Nothing of what was verified is kept: every signature, date and revocation is looked at for each quote.

    Args:
        kept: How many pieces; 0 keeps none.
    """

    def __init__(self, kept: int = MAX_KEPT) -> None:
        self._parsed: BoundedCache[_Collateral] = BoundedCache(kept)
        self._lock = threading.Lock()

    def get(self, collateral: bytes) -> _Collateral | None:
        """What was parsed from these bytes, ``None`` if it is not kept."""
        with self._lock:
            return self._parsed.get(collateral)

    def put(self, collateral: bytes, parsed: _Collateral) -> None:
        """Keep it."""
        with self._lock:
            self._parsed.put(collateral, parsed)


def verify_quote(
    data: bytes, collateral: bytes, *, root_der: bytes | None, now: float, memory: CollateralMemory | None = None
) -> QuoteClaims:
    """Verify a quote against a root.

    Args:
        data: The quote.
        collateral: JSON of ``dcap_qvl.QuoteCollateralV3``.
        root_der: The root certificate, ``None`` for Intel's.
        now: Unix time at which everything has to be valid.
        memory: Where parsed collateral is kept for the next quote.

    Raises:
        EvidenceError: The quote is malformed or does not verify.
        CollateralError: The collateral is malformed.
    """
    quote = parse_quote(data)
    if len(collateral) > MAX_COLLATERAL:
        raise CollateralError(f"collateral of {len(collateral)} bytes, at most {MAX_COLLATERAL} are read")
    kept = memory.get(collateral) if memory is not None else None
    whole = kept.whole if kept is not None else _parse(collateral)
    try:
        policy = dcap_qvl.QuotePolicy.claims_only(int(now))
        verified = dcap_qvl.QuoteVerifier(root_der).verify_with_policy(data, whole, int(now), policy)
    except ValueError as error:
        root = "of Intel" if root_der is None else hashlib.sha256(root_der).hexdigest()[:16]
        raise EvidenceError(
            f"quote does not verify under root certificate {root}: {_first_line(error)}",
            hint="quote and collateral have to be of that root, unaltered and in date: compare the trusted roots",
        ) from None
    if kept is None:
        kept = _Collateral(whole, json.loads(whole.tcb_info), json.loads(whole.qe_identity))
        if memory is not None:
            memory.put(collateral, kept)
    claims = json.loads(verified.to_json())
    platform, pck, qe = claims["platform"], claims["platform"]["pck"], claims["qe"]
    return QuoteClaims(
        quote=quote,
        status=claims["tcb"]["status"],
        advisories=tuple(claims["tcb"]["advisory_ids"]),
        superseded_at=_superseded_at(kept.tcb_info, kept.qe_identity, platform, qe, quote),
        evaluation_number=claims["tcb"]["eval_data_number"],
        root_key_id=bytes(platform["root_key_id"]),
        ppid=bytes(pck["ppid"]),
        fmspc=bytes(pck["fmspc"]),
        dynamic_platform=_flag(pck["dynamic_platform"]),
        cached_keys=_flag(pck["cached_keys"]),
        smt_enabled=_flag(pck["smt_enabled"]),
        expires_at=float(min(claims["earliest_expiration_date"], claims["qe_iden_earliest_expiration_date"])),
    )


def _parse(collateral: bytes) -> dcap_qvl.QuoteCollateralV3:
    try:
        return dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    except ValueError as error:
        raise CollateralError(f"collateral cannot be read: {_first_line(error)}") from None


def _superseded_at(
    tcb_info: dict[str, Any], qe_identity: dict[str, Any], platform: dict[str, Any], qe: dict[str, Any], quote: TdxQuote
) -> float:
    """The earliest moment at which platform, quoting enclave or module stopped being the newest; inputs are verified.

    A 1.5 body tells the TCB at launch and the one now (``TEE_TCB_SVN2``); both count.
    """
    moments = []
    report, current = quote.report, platform.get("current_tcb_level")
    for levels, own in (
        (tcb_info["tcbLevels"], platform["tcb_level"]),
        (qe_identity["tcbLevels"], qe["tcb_level"]),
        *([(tcb_info["tcbLevels"], current)] if current else []),
        *_module_levels(tcb_info, report.tee_tcb_svn),
        *_module_levels(tcb_info, report.tee_tcb_svn2 or report.tee_tcb_svn),
    ):
        if own["tcbStatus"] == "UpToDate":
            continue
        own_date = _unix(own["tcbDate"])
        newer = [_unix(level["tcbDate"]) for level in levels if level["tcbStatus"] == "UpToDate"]
        moments.append(min((date for date in newer if date > own_date), default=own_date))
    return min(moments, default=0.0)


def _module_levels(
    tcb_info: dict[str, Any], tee_tcb_svn: bytes
) -> Iterable[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """The TDX module's levels and the one that TEE_TCB_SVN selects: byte 1 is the version, byte 0 its ISVSVN."""
    name = f"TDX_{tee_tcb_svn[1]:02X}"
    for identity in tcb_info.get("tdxModuleIdentities", []):
        if identity["id"].upper() == name:
            for level in identity["tcbLevels"]:
                if tee_tcb_svn[0] >= level["tcb"]["isvsvn"]:
                    yield identity["tcbLevels"], level
                    return


def _unix(stamp: str) -> float:
    return dt.datetime.fromisoformat(stamp).timestamp()


def _flag(value: object) -> bool | None:
    return {"True": True, "False": False}.get(str(value))


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    detail = " ".join(" ".join(text).split())
    return detail.removeprefix("Verification failed: ")[:300]
