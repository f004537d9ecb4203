"""What the vendor of a synthetic world states: TCB info and quoting enclave identity, as JSON (Intel's API, version 4).

:class:`Faults` holds one knob for each way in which a platform or its collateral can be bad.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass

COMPONENT_SVNS = (3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 11
QE_ISV_SVN = 6
MODULE_SVN = 3
_LEVEL_AGE = dt.timedelta(days=390)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong with the world; the defaults describe a healthy one. Times are seconds.

    Attributes:
        tcb_status: Status that the TCB info gives to the machine's level.
        advisories: Advisory ids of that level.
        newer_level_age_s: When not ``None``, a newer level that is UpToDate exists for so long.
        qe_status: Status that the QE identity gives to the quoting enclave.
        module_status: Status that the TCB info gives to the TDX module.
        collateral_age_s: How long ago collateral was issued; negative for collateral from the future.
        collateral_lifetime_s: From issue to next update.
        revoke_pck: The machine's certificate is on the revocation list.
        revoke_platform_ca: The intermediate authority is on the root's list.
        numbered_crls: Whether revocation lists carry CRLNumber and the authority key identifier.
        collateral_fmspc: FMSPC the TCB info speaks of, when it is another one.
        forge_tcb_info: TCB info is signed by a key outside the chain.
        sgx_type: Kind of platform in the PCK certificate.
        dynamic_platform: Flag in the PCK certificate.
        cached_keys: Flag in the PCK certificate.
        smt_enabled: Flag in the PCK certificate.
    """

    tcb_status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    newer_level_age_s: float | None = None
    qe_status: str = "UpToDate"
    module_status: str = "UpToDate"
    collateral_age_s: float = 3600.0
    collateral_lifetime_s: float = 30 * 86400.0
    revoke_pck: bool = False
    revoke_platform_ca: bool = False
    numbered_crls: bool = True
    collateral_fmspc: bytes | None = None
    forge_tcb_info: bool = False
    sgx_type: int = 1
    dynamic_platform: bool = True
    cached_keys: bool = True
    smt_enabled: bool = True


def tcb_info(faults: Faults, fmspc: bytes, issued: dt.datetime, following: dt.datetime, now: float) -> str:
    """TCB info for a platform: the machine's level and, if a fault says so, a newer one above it."""
    components = [{"svn": svn} for svn in COMPONENT_SVNS]
    tdx = [{"svn": svn} for svn in (5, 0, 2) + (0,) * 13]
    level_date = utc(now) - _LEVEL_AGE
    levels = []
    if faults.newer_level_age_s is not None:
        newer = [{"svn": COMPONENT_SVNS[0] + 1}, *components[1:]]
        date = utc(now - faults.newer_level_age_s)
        levels.append(_level({"sgxtcbcomponents": newer, "pcesvn": PCE_SVN, "tdxtcbcomponents": tdx}, date))
    own = {"sgxtcbcomponents": components, "pcesvn": PCE_SVN, "tdxtcbcomponents": tdx}
    levels.append(_level(own, level_date, faults.tcb_status, faults.advisories))
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    module_levels = [_level({"isvsvn": MODULE_SVN}, level_date, faults.module_status)]
    return json.dumps(
        {
            "id": "TDX",
            "version": 3,
            "issueDate": _stamp(issued),
            "nextUpdate": _stamp(following),
            "fmspc": fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 17,
            "tdxModule": module,
            "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": module_levels}],
            "tcbLevels": levels,
        }
    )


def qe_identity(faults: Faults, signer: bytes, issued: dt.datetime, following: dt.datetime, now: float) -> str:
    """The quoting enclave's identity; ``signer`` is its MRSIGNER, 32 bytes."""
    return json.dumps(
        {
            "id": "TD_QE",
            "version": 2,
            "issueDate": _stamp(issued),
            "nextUpdate": _stamp(following),
            "tcbEvaluationDataNumber": 17,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": signer.hex().upper(),
            "isvprodid": 2,
            "tcbLevels": [_level({"isvsvn": 4}, utc(now) - _LEVEL_AGE, faults.qe_status)],
        }
    )


def utc(unix: float) -> dt.datetime:
    """Unix time as a moment."""
    return dt.datetime.fromtimestamp(unix, dt.UTC)


def _level(
    tcb: dict[str, object], date: dt.datetime, status: str = "UpToDate", advisories: tuple[str, ...] = ()
) -> dict[str, object]:
    level: dict[str, object] = {"tcb": tcb, "tcbDate": _stamp(date), "tcbStatus": status}
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return level


def _stamp(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
